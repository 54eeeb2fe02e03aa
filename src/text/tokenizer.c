/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "text/tokenizer.h"

#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "files/files.h"
#include "files/json.h"
#include "text/tokenizer_impl.h"
#include "text/utf8.h"

/* Opens a tokenizer.json and drives a text through the stages. The ids are those of Hugging Face
 * tokenizers for the same file: where its behaviour is odd (a Prepend runs once per stretch between
 * added tokens, an added token's id is the vocabulary's), the oddity is kept. */

/* ---- Added tokens ---------------------------------------------------------------------------- */

static npt_status grow_tokens(npt_tokenizer *t, int32_t size)
{
    npt_token_name *tokens;

    if (size <= t->size) return NPT_OK;
    tokens = npt_realloc(t->tokens, (size_t)size, sizeof(*tokens));
    if (tokens == NULL) return NPT_E_NOMEM;
    memset(tokens + t->size, 0, (size_t)(size - t->size) * sizeof(*tokens));
    t->tokens = tokens;
    t->size = size;
    return NPT_OK;
}

static npt_status name_token(npt_tokenizer *t, int32_t id, const char *name, size_t length)
{
    size_t offset = t->names.count;
    NPT_TRY(npt_bytes_append(&t->names, name, length));
    t->tokens[id].offset = offset;
    t->tokens[id].length = (uint32_t)length;
    t->tokens[id].used = true;
    return NPT_OK;
}

static npt_status name_vocab(npt_tokenizer *t)
{
    const npt_vocab *v = &t->vocab;
    int32_t size = 0;

    for (size_t i = 0; i < v->capacity; i++)
        if (v->slots[i].id >= size) size = v->slots[i].id + 1;
    NPT_TRY(grow_tokens(t, size));
    for (size_t i = 0; i < v->capacity; i++)
        if (v->slots[i].id >= 0)
            NPT_TRY(name_token(t, v->slots[i].id, v->names.data + v->slots[i].offset,
                               v->slots[i].length));
    return NPT_OK;
}

/* A token that the model knows has the model's id; a new one the next free number. Files agree with
 * this; the "id" that one of them gives can only be wrong. */
static npt_status added_id(npt_tokenizer *t, npt_vocab *seen, const char *content, int32_t *next,
                           int32_t *id)
{
    size_t length = strlen(content);
    *id = npt_vocab_get(seen, content, length);
    if (*id < 0) *id = npt_vocab_get(&t->vocab, content, length);
    if (*id < 0) *id = (*next)++;
    if (*id >= NPT_TOKEN_LIMIT) return npt_fail(NPT_E_FORMAT, "too many added tokens");
    return npt_vocab_put(seen, content, length, *id);
}

static npt_status load_added(npt_tokenizer *t, const json_t *json, npt_vocab *seen, int32_t *next,
                             const char *what)
{
    npt_added_token token = {0};
    bool special, normalized;
    char shown[NPT_SHOW_BYTES];
    const char *content;
    int64_t said;

    if (!json_is_object(json))
        return npt_fail(NPT_E_FORMAT, "%s: an added token is not an object", what);
    NPT_TRY(npt_json_string(json, "content", what, "", &content));
    if (content[0] == '\0') return NPT_OK;
    NPT_TRY(npt_json_int(json, "id", what, -1, 0, NPT_TOKEN_LIMIT - 1, &said));
    NPT_TRY(npt_json_bool(json, "special", what, false, &special));
    NPT_TRY(npt_json_bool(json, "normalized", what, !special, &normalized));
    NPT_TRY(npt_json_bool(json, "single_word", what, false, &token.single_word));
    NPT_TRY(npt_json_bool(json, "lstrip", what, false, &token.lstrip));
    NPT_TRY(npt_json_bool(json, "rstrip", what, false, &token.rstrip));
    NPT_TRY(added_id(t, seen, content, next, &token.id));
    if (said >= 0 && said != token.id)
        npt_log(NPT_LOG_WARNING, "%s: the added token \"%s\" says id %d, but it has id %d", what,
                npt_show(content, shown), (int)said, (int)token.id);
    NPT_TRY(grow_tokens(t, token.id + 1));
    t->tokens[token.id].special |= special;
    if (!normalized) {
        NPT_TRY(name_token(t, token.id, content, strlen(content)));
        return npt_added_set_put(&t->raw_added, content, strlen(content), token);
    }
    NPT_TRY(npt_normalize(t, content, strlen(content)));
    NPT_TRY(name_token(t, token.id, t->normal.data, t->normal.count));
    return npt_added_set_put(&t->normalized_added, t->normal.data, t->normal.count, token);
}

static npt_status load_all_added(npt_tokenizer *t, const json_t *root, const char *what)
{
    const json_t *list = json_object_get(root, "added_tokens"), *item;
    int32_t next = (int32_t)t->vocab.count;
    npt_vocab seen = {0};
    npt_status status = NPT_OK;
    size_t at;

    if (list == NULL || json_is_null(list)) return NPT_OK;
    if (!json_is_array(list))
        return npt_fail(NPT_E_FORMAT, "%s: \"added_tokens\" is not a list", what);
    json_array_foreach(list, at, item)
    {
        status = load_added(t, item, &seen, &next, what);
        if (status != NPT_OK) break;
    }
    npt_vocab_fini(&seen);
    return status;
}

/* ---- Template -------------------------------------------------------------------------------- */

static npt_status load_special_piece(npt_template_piece *piece, const json_t *template_json,
                                     const char *name, const char *what)
{
    const json_t *specials = json_object_get(template_json, "special_tokens");
    const json_t *ids = json_object_get(json_object_get(specials, name), "ids"), *item;
    char shown[NPT_SHOW_BYTES];
    size_t at;

    if (!json_is_array(ids))
        return npt_fail(NPT_E_FORMAT,
                        "%s: TemplateProcessing uses \"%s\" but its special_tokens do not list it",
                        what, npt_show(name, shown));
    json_array_foreach(ids, at, item)
    {
        json_int_t id = json_is_integer(item) ? json_integer_value(item) : -1;
        if (id < 0 || id >= NPT_TOKEN_LIMIT)
            return npt_fail(NPT_E_FORMAT, "%s: TemplateProcessing: \"%s\" has an id out of range",
                            what, npt_show(name, shown));
        NPT_TRY(npt_ids_push(&piece->ids, (int32_t)id));
    }
    return NPT_OK;
}

static npt_status load_piece(npt_template_piece *piece, const json_t *json,
                             const json_t *template_json, const char *what)
{
    const json_t *special = json_object_get(json, "SpecialToken");
    const json_t *sequence = json_object_get(json, "Sequence");
    const char *id = "";

    if (special != NULL) {
        NPT_TRY(npt_json_string(special, "id", what, "", &id));
        return load_special_piece(piece, template_json, id, what);
    }
    if (json_is_object(sequence)) NPT_TRY(npt_json_string(sequence, "id", what, "", &id));
    if (strcmp(id, "A") != 0)
        return npt_fail(NPT_E_UNSUPPORTED,
                        "%s: TemplateProcessing's \"single\" has a piece that is neither a "
                        "SpecialToken nor the Sequence A",
                        what);
    piece->text = true;
    return NPT_OK;
}

static npt_status load_template(npt_tokenizer *t, const json_t *json, const char *what)
{
    const json_t *single = json_object_get(json, "single"), *item;
    size_t at, count = json_array_size(single);

    if (!json_is_array(single))
        return npt_fail(NPT_E_FORMAT, "%s: TemplateProcessing has no list \"single\"", what);
    if (t->template_pieces != NULL)
        return npt_fail(NPT_E_UNSUPPORTED, "%s: more than one TemplateProcessing", what);
    t->template_pieces = npt_alloc(count + 1, sizeof(*t->template_pieces));
    if (t->template_pieces == NULL) return NPT_E_NOMEM;
    t->template_count = count;
    json_array_foreach(single, at, item)
        NPT_TRY(load_piece(&t->template_pieces[at], item, json, what));
    return NPT_OK;
}

/* ByteLevel moves offsets only, which npt has none of. */
static npt_status load_post_processor(npt_tokenizer *t, const json_t *json, const char *what)
{
    const json_t *list, *item;
    char shown[NPT_SHOW_BYTES];
    const char *type;
    size_t at;

    if (json == NULL || json_is_null(json)) return NPT_OK;
    NPT_TRY(npt_json_string(json, "type", what, "", &type));
    if (strcmp(type, "ByteLevel") == 0) return NPT_OK;
    if (strcmp(type, "TemplateProcessing") == 0) return load_template(t, json, what);
    if (strcmp(type, "Sequence") != 0)
        return npt_fail(NPT_E_UNSUPPORTED,
                        "%s: the post_processor \"%s\" is not one that npt supports", what,
                        npt_show(type, shown));
    list = json_object_get(json, "processors");
    if (!json_is_array(list))
        return npt_fail(NPT_E_FORMAT, "%s: a Sequence in \"post_processor\" has no list", what);
    json_array_foreach(list, at, item) NPT_TRY(load_post_processor(t, item, what));
    return NPT_OK;
}

/* ---- Open, close ----------------------------------------------------------------------------- */

/* Hugging Face's library would cut and pad on encoding; a trainer does both itself. */
static void note_ignored(const json_t *root, const char *what)
{
    static const char *const keys[] = {"truncation", "padding"};
    for (size_t i = 0; i < 2; i++) {
        const json_t *value = json_object_get(root, keys[i]);
        if (value != NULL && !json_is_null(value))
            npt_log(NPT_LOG_VERBOSE, "%s: \"%s\" is ignored", what, keys[i]);
    }
}

static npt_status load(npt_tokenizer *t, const json_t *root, const char *what)
{
    NPT_TRY(npt_steps_load(&t->normalizer, root, "normalizer", what));
    NPT_TRY(npt_steps_load(&t->pre_tokenizer, root, "pre_tokenizer", what));
    NPT_TRY(npt_steps_load(&t->decoder, root, "decoder", what));
    t->has_decoder = json_is_object(json_object_get(root, "decoder"));
    NPT_TRY(npt_bpe_load(t, root, what));
    NPT_TRY(name_vocab(t));
    NPT_TRY(load_all_added(t, root, what));
    NPT_TRY(load_post_processor(t, json_object_get(root, "post_processor"), what));
    note_ignored(root, what);
    return NPT_OK;
}

npt_status npt_tokenizer_open(npt_tokenizer **tokenizer, const char *path)
{
    npt_tokenizer *t = npt_alloc(1, sizeof(*t));
    char *file =
        npt_path_is_directory(path) ? npt_path_join(path, "tokenizer.json") : npt_strdup(path);
    json_t *root = NULL;
    npt_status status = NPT_E_NOMEM;

    if (t == NULL || file == NULL) goto out;
    NPT_TRY_GOTO(status, out, npt_json_load(file, 0, &root));
    NPT_TRY_GOTO(status, out, load(t, root, file));
    *tokenizer = t;
    t = NULL;
out:
    json_decref(root);
    npt_free(file);
    npt_tokenizer_close(t);
    return status;
}

void npt_tokenizer_close(npt_tokenizer *t)
{
    if (t == NULL) return;
    npt_vocab_fini(&t->vocab);
    npt_merges_fini(&t->merges);
    npt_free(t->merged);
    npt_free(t->tokens);
    npt_bytes_fini(&t->names);
    npt_steps_fini(&t->normalizer);
    npt_steps_fini(&t->pre_tokenizer);
    npt_steps_fini(&t->decoder);
    npt_added_set_fini(&t->raw_added);
    npt_added_set_fini(&t->normalized_added);
    for (size_t i = 0; i < t->template_count; i++) npt_ids_fini(&t->template_pieces[i].ids);
    npt_free(t->template_pieces);
    npt_free(t->raw_segments.data);
    npt_free(t->segments.data);
    npt_bytes_fini(&t->normal);
    npt_bytes_fini(&t->normal_other);
    npt_bytes_fini(&t->piece_text);
    npt_bytes_fini(&t->piece_other);
    npt_spans_fini(&t->pieces);
    npt_spans_fini(&t->pieces_other);
    npt_spans_fini(&t->cut);
    npt_free(t->symbols);
    npt_free(t->heap);
    npt_free(t->cache);
    npt_free(t);
}

/* ---- Encode ---------------------------------------------------------------------------------- */

static npt_status encode_stretch(npt_tokenizer *t, const char *text, size_t length, bool first,
                                 npt_ids *ids)
{
    NPT_TRY(npt_pre_tokenize(t, text, length, first));
    for (size_t i = 0; i < t->pieces.count; i++) {
        const npt_span *p = &t->pieces.data[i];
        NPT_TRY(npt_bpe_encode(t, t->piece_text.data + p->begin, p->end - p->begin, ids));
    }
    return NPT_OK;
}

/* A stretch of raw text without a raw added token. */
static npt_status encode_raw(npt_tokenizer *t, const char *text, size_t length, bool first,
                             npt_ids *ids)
{
    NPT_TRY(npt_normalize(t, text, length));
    NPT_TRY(
        npt_added_set_find(&t->normalized_added, t->normal.data, t->normal.count, &t->segments));
    for (size_t i = 0; i < t->segments.count; i++) {
        npt_segment s = t->segments.data[i];
        if (s.id >= 0)
            NPT_TRY(npt_ids_push(ids, s.id));
        else
            NPT_TRY(encode_stretch(t, t->normal.data + s.begin, s.end - s.begin,
                                   first && s.begin == 0, ids));
    }
    return NPT_OK;
}

static npt_status encode_text(npt_tokenizer *t, const char *text, size_t length, npt_ids *ids)
{
    NPT_TRY(npt_added_set_find(&t->raw_added, text, length, &t->raw_segments));
    for (size_t i = 0; i < t->raw_segments.count; i++) {
        npt_segment s = t->raw_segments.data[i];
        if (s.id >= 0)
            NPT_TRY(npt_ids_push(ids, s.id));
        else
            NPT_TRY(encode_raw(t, text + s.begin, s.end - s.begin, s.begin == 0, ids));
    }
    return NPT_OK;
}

static npt_status encode_template(npt_tokenizer *t, const char *text, size_t length, npt_ids *ids)
{
    for (size_t i = 0; i < t->template_count; i++) {
        const npt_template_piece *piece = &t->template_pieces[i];
        if (piece->text) NPT_TRY(encode_text(t, text, length, ids));
        for (size_t k = 0; k < piece->ids.count; k++)
            NPT_TRY(npt_ids_push(ids, piece->ids.data[k]));
    }
    return NPT_OK;
}

npt_status npt_tokenizer_encode(npt_tokenizer *t, const char *text, size_t length,
                                bool special_tokens, npt_ids *ids)
{
    size_t good = npt_utf8_valid_prefix(text, length), before = ids->count;
    npt_status status;

    if (good < length) return npt_fail(NPT_E_DATA, "the text is not UTF-8 at byte %zu", good);
    if (length >= INT32_MAX) return npt_fail(NPT_E_DATA, "a text of %zu bytes is too long", length);
    status = special_tokens && t->template_pieces != NULL ? encode_template(t, text, length, ids)
                                                          : encode_text(t, text, length, ids);
    if (status != NPT_OK) ids->count = before;
    return status;
}

int32_t npt_tokenizer_size(const npt_tokenizer *t)
{
    return t->size;
}
