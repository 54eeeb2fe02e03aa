/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "model/byte_tokenizer.h"

#include "base/memory.h"
#include "files/files.h"
#include "files/json.h"

/* Byte-level tokenizers write a byte as a character that can be seen: itself where it is a
 * printable character of Latin-1 other than the blank and the soft hyphen, else the next unused
 * character from U+0100 on. */

static bool shows_itself(int byte)
{
    return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

/* Bytes to their characters, as UTF-8 (at most two bytes each). */
static json_t *byte_vocabulary(void)
{
    json_t *vocabulary = json_object();
    int next = 0x100, bad = vocabulary == NULL;
    for (int byte = 0; byte < 256 && !bad; byte++) {
        int character = shows_itself(byte) ? byte : next++;
        char text[3] = {(char)character, '\0', '\0'};
        if (character >= 0x80) {
            text[0] = (char)(0xc0 | character >> 6);
            text[1] = (char)(0x80 | (character & 0x3f));
        }
        bad = json_object_set_new(vocabulary, text, json_integer(byte));
    }
    if (!bad) bad |= json_object_set_new(vocabulary, "<s>", json_integer(NPT_BYTE_TOKENIZER_BOS));
    if (!bad) bad |= json_object_set_new(vocabulary, "</s>", json_integer(NPT_BYTE_TOKENIZER_EOS));
    if (!bad) return vocabulary;
    json_decref(vocabulary);
    return NULL;
}

static json_t *special_token(const char *text, int id)
{
    return json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", id, "content", text,
                     "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special", 1);
}

static json_t *template(void)
{
    return json_pack(
        "{s:s, s:[{s:{s:s, s:i}}, {s:{s:s, s:i}}],"
        " s:[{s:{s:s, s:i}}, {s:{s:s, s:i}}, {s:{s:s, s:i}}],"
        " s:{s:{s:s, s:[i], s:[s]}}}",
        "type", "TemplateProcessing",
        /* a text */
        "single", "SpecialToken", "id", "<s>", "type_id", 0, "Sequence", "id", "A", "type_id", 0,
        /* two */
        "pair", "SpecialToken", "id", "<s>", "type_id", 0, "Sequence", "id", "A", "type_id", 0,
        "Sequence", "id", "B", "type_id", 1,
        /* what the token is */
        "special_tokens", "<s>", "id", "<s>", "ids", NPT_BYTE_TOKENIZER_BOS, "tokens", "<s>");
}

static json_t *byte_level(void)
{
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                     "trim_offsets", 1, "use_regex", 1);
}

static json_t *tokenizer(void)
{
    return json_pack("{s:s, s:n, s:n, s:[o, o], s:n, s:o, s:o, s:o,"
                     " s:{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o, s:[]}}",
                     "version", "1.0", "truncation", "padding", "added_tokens",
                     special_token("<s>", NPT_BYTE_TOKENIZER_BOS),
                     special_token("</s>", NPT_BYTE_TOKENIZER_EOS), "normalizer", "pre_tokenizer",
                     byte_level(), "post_processor", template(), "decoder", byte_level(), "model",
                     "type", "BPE", "dropout", "unk_token", "continuing_subword_prefix",
                     "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0, "ignore_merges", 0,
                     "vocab", byte_vocabulary(), "merges");
}

static json_t *tokenizer_config(void)
{
    return json_pack("{s:s, s:s, s:s, s:b, s:b}", "tokenizer_class", "PreTrainedTokenizerFast",
                     "bos_token", "<s>", "eos_token", "</s>", "add_bos_token", 1,
                     "clean_up_tokenization_spaces", 0);
}

/* Takes `root` over. */
static npt_status save(const char *directory, const char *name, json_t *root)
{
    char *path = npt_path_join(directory, name);
    npt_status status = NPT_E_NOMEM;
    if (root == NULL)
        status = npt_fail(NPT_E_NOMEM, "out of memory while writing %s", name);
    else if (path != NULL)
        status = npt_json_save(path, root);
    json_decref(root);
    npt_free(path);
    return status;
}

npt_status npt_byte_tokenizer_save(const char *directory)
{
    NPT_TRY(save(directory, "tokenizer.json", tokenizer()));
    return save(directory, "tokenizer_config.json", tokenizer_config());
}
