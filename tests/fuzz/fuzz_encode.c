/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

/* A text through two tokenizers made here. What is UTF-8 must be encoded and decoded; the
 * byte-level one must give the very text back; encoding twice (the second time from the cache) is
 * the same. */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static npt_tokenizer *byte_level, *pieces;

/* The byte alphabet of GPT-2 is U+0021–7E, U+00A1–AC, U+00AE–143. */
static void write_alphabet(FILE *out)
{
    int id = 0;
    for (uint32_t c = 0x21; c <= 0x143; c++) {
        char text[5] = {0};
        if ((c >= 0x7F && c <= 0xA0) || c == 0xAD) continue;
        npt_utf8_put(c, text);
        fprintf(out, "\"%s%s\":%d,", c == '"' || c == '\\' ? "\\" : "", text, id++);
    }
    fputs("\"th\":256,\"the\":257,\"Ġthe\":258,\"ĠĠ\":259,\"aa\":260,\"aaaa\":261", out);
}

static void write_byte_level(FILE *out)
{
    fputs("{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\","
          "\"pattern\":{\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?"
          "\\\\p{L}+|\\\\p{N}{1,3}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|"
          "\\\\s+(?!\\\\S)|\\\\s+\"},\"behavior\":\"Isolated\",\"invert\":false},"
          "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]},"
          "\"decoder\":{\"type\":\"ByteLevel\"},"
          "\"added_tokens\":[{\"id\":262,\"content\":\"<s>\",\"special\":true}],"
          "\"model\":{\"type\":\"BPE\",\"ignore_merges\":true,\"vocab\":{",
          out);
    write_alphabet(out);
    fputs("},\"merges\":[\"t h\",\"th e\",\"Ġ the\",\"Ġ Ġ\",\"a a\",\"aa aa\"]}}", out);
}

static void write_pieces(FILE *out)
{
    fputs(
        "{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":"
        "\"Replace\",\"pattern\":{\"String\":\"ab\"},\"content\":\"é\"}]},"
        "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Metaspace\","
        "\"replacement\":\"▁\",\"prepend_scheme\":\"first\",\"split\":true},{\"type\":\"Digits\","
        "\"individual_digits\":true}]},\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":"
        "\"ByteFallback\"},{\"type\":\"Metaspace\",\"replacement\":\"▁\"},{\"type\":\"Fuse\"},"
        "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":1}]},\"added_tokens\":["
        "{\"content\":\"<l>\",\"lstrip\":true,\"normalized\":false},"
        "{\"content\":\"<r>\",\"rstrip\":true,\"normalized\":true},"
        "{\"content\":\"  \",\"normalized\":false},"
        "{\"content\":\"<w>\",\"single_word\":true,\"normalized\":true}],"
        "\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"fuse_unk\":true,\"unk_token\":\"?\","
        "\"vocab\":{\"?\":0,\"▁\":1,\"a\":2,\"b\":3,\"▁a\":4,\"é\":5,\"aa\":6,\"▁aa\":7",
        out);
    for (int i = 0; i < 250; i++) fprintf(out, ",\"<0x%02X>\":%d", i, 10 + i); /* not all */
    fputs("},\"merges\":[\"a a\",\"▁ a\",\"▁ aa\",\"▁a a\"]}}", out);
}

static npt_tokenizer *make(void (*write)(FILE *out))
{
    char path[] = "/tmp/npt-fuzz-encode-XXXXXX";
    FILE *file = fdopen(mkstemp(path), "w");
    npt_tokenizer *tokenizer = NULL;

    if (file == NULL) abort();
    write(file);
    fclose(file);
    if (npt_tokenizer_open(&tokenizer, path) != NPT_OK) {
        fprintf(stderr, "%s\n", npt_error_message());
        abort();
    }
    remove(path);
    return tokenizer;
}

static void close_all(void)
{
    npt_tokenizer_close(byte_level);
    npt_tokenizer_close(pieces);
}

static void set_up(void)
{
    if (byte_level != NULL) return;
    byte_level = make(write_byte_level);
    pieces = make(write_pieces);
    atexit(close_all);
}

static void run(npt_tokenizer *tokenizer, const char *text, size_t length, bool exact)
{
    npt_ids ids = {0}, again = {0};
    char *back = NULL;
    size_t back_length = 0;

    if (npt_tokenizer_encode(tokenizer, text, length, true, &ids) != NPT_OK) abort();
    if (npt_tokenizer_encode(tokenizer, text, length, true, &again) != NPT_OK) abort();
    if (ids.count != again.count) abort();
    if (ids.count > 0 && memcmp(ids.data, again.data, ids.count * sizeof(*ids.data)) != 0) abort();
    if (npt_tokenizer_decode(tokenizer, ids.data, ids.count, false, &back, &back_length) != NPT_OK)
        abort();
    if (npt_utf8_valid_prefix(back, back_length) != back_length) abort();
    if (exact && (back_length != length || (length > 0 && memcmp(back, text, length) != 0)))
        abort();
    npt_free(back);
    npt_ids_fini(&ids);
    npt_ids_fini(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    npt_ids ids = {0};

    set_up();
    if (npt_utf8_valid_prefix(text, size) != size) {
        if (npt_tokenizer_encode(byte_level, text, size, true, &ids) != NPT_E_DATA) abort();
        return 0;
    }
    run(byte_level, text, size, true);
    run(pieces, text, size, false);
    return 0;
}
