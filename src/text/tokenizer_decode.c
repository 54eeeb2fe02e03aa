/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "text/tokenizer_impl.h"

#include <string.h>

#include "base/memory.h"
#include "text/utf8.h"

/* Ids back to text. The tokens' names become a list of strings (one buffer and its spans); each
 * decoder step makes a new list of it; the last list is joined. Without a decoder, names are joined
 * with spaces. */

typedef struct strings {
    npt_bytes text;
    npt_spans items;
} strings;

static const char replacement[] = "\xEF\xBF\xBD"; /* U+FFFD */

/* What was appended to `text` since `begin` becomes a string. */
static npt_status close_item(strings *out, size_t begin)
{
    return npt_spans_push(&out->items, begin, out->text.count, false);
}

static npt_status add_item(strings *out, const char *text, size_t length)
{
    size_t begin = out->text.count;
    NPT_TRY(npt_bytes_append(&out->text, text, length));
    return close_item(out, begin);
}

/* Ill-formed sequences become U+FFFD each. */
static npt_status append_lossy(npt_bytes *out, const char *text, size_t length)
{
    while (length > 0) {
        size_t good = npt_utf8_valid_prefix(text, length), bad = 0;
        NPT_TRY(npt_bytes_append(out, text, good));
        if (good < length) {
            bad = npt_utf8_bad_length(text + good, length - good);
            NPT_TRY(npt_bytes_append(out, replacement, 3));
        }
        text += good + bad;
        length -= good + bad;
    }
    return NPT_OK;
}

/* A token with a character that stands for no byte is taken as it is. */
static npt_status append_byte_level(npt_bytes *out, const char *token, size_t length)
{
    size_t before = out->count;
    for (size_t at = 0; at < length;) {
        int byte = npt_byte_level_byte(npt_utf8_next(token, &at));
        char c = (char)byte;
        if (byte < 0) {
            out->count = before;
            return npt_bytes_append(out, token, length);
        }
        NPT_TRY(npt_bytes_append(out, &c, 1));
    }
    return NPT_OK;
}

static npt_status decode_byte_level(const npt_step *step, const strings *in, strings *out)
{
    npt_bytes raw = {0};
    npt_status status = npt_bytes_set(&raw, "", 0);

    (void)step;
    for (size_t i = 0; i < in->items.count && status == NPT_OK; i++) {
        const npt_span *s = &in->items.data[i];
        status = append_byte_level(&raw, in->text.data + s->begin, s->end - s->begin);
    }
    if (status == NPT_OK) status = append_lossy(&out->text, raw.data, raw.count);
    if (status == NPT_OK) status = close_item(out, 0);
    npt_bytes_fini(&raw);
    return status;
}

static npt_status decode_fuse(const npt_step *step, const strings *in, strings *out)
{
    (void)step;
    for (size_t i = 0; i < in->items.count; i++) {
        const npt_span *s = &in->items.data[i];
        NPT_TRY(npt_bytes_append(&out->text, in->text.data + s->begin, s->end - s->begin));
    }
    return close_item(out, 0);
}

static npt_status decode_replace(const npt_step *step, const strings *in, strings *out)
{
    npt_spans cut = {0};
    npt_status status = NPT_OK;

    for (size_t i = 0; i < in->items.count && status == NPT_OK; i++) {
        const npt_span *s = &in->items.data[i];
        size_t begin = out->text.count;
        cut.count = 0;
        NPT_TRY_GOTO(status, out,
                     npt_pattern_cut(step->pattern, in->text.data, s->begin, s->end, &cut));
        for (size_t k = 0; k < cut.count; k++) {
            const npt_span *c = &cut.data[k];
            const char *text = c->flag ? step->content : in->text.data + c->begin;
            size_t length = c->flag ? step->content_length : c->end - c->begin;
            NPT_TRY_GOTO(status, out, npt_bytes_append(&out->text, text, length));
        }
        status = close_item(out, begin);
    }
out:
    npt_spans_fini(&cut);
    return status;
}

/* The replacement character becomes a space; in the first token it goes, unless none was ever
 * prepended. */
static npt_status decode_metaspace(const npt_step *step, const strings *in, strings *out)
{
    size_t n = step->content_length;

    for (size_t i = 0; i < in->items.count; i++) {
        const char *s = in->text.data + in->items.data[i].begin;
        size_t length = in->items.data[i].end - in->items.data[i].begin, begin = out->text.count;
        bool drop = i == 0 && step->scheme != NPT_PREPEND_NEVER;
        for (size_t at = 0; at < length;) {
            size_t from = at;
            npt_utf8_next(s, &at);
            if (at - from != n || memcmp(s + from, step->content, n) != 0)
                NPT_TRY(npt_bytes_append(&out->text, s + from, at - from));
            else if (!drop)
                NPT_TRY(npt_bytes_append(&out->text, " ", 1));
        }
        NPT_TRY(close_item(out, begin));
    }
    return NPT_OK;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
}

/* "<0x41>" → 0x41; -1 for any other token. */
static int byte_of(const char *token, size_t length)
{
    if (length != 6 || memcmp(token, "<0x", 3) != 0 || token[5] != '>') return -1;
    if (hex_digit(token[3]) < 0 || hex_digit(token[4]) < 0) return -1;
    return hex_digit(token[3]) * 16 + hex_digit(token[4]);
}

/* A run of byte tokens is one string where it is UTF-8, else a U+FFFD for each byte. */
static npt_status flush_bytes(npt_bytes *bytes, strings *out)
{
    if (bytes->count == 0) return NPT_OK;
    if (npt_utf8_valid_prefix(bytes->data, bytes->count) == bytes->count) {
        NPT_TRY(add_item(out, bytes->data, bytes->count));
    } else {
        for (size_t i = 0; i < bytes->count; i++) NPT_TRY(add_item(out, replacement, 3));
    }
    bytes->count = 0;
    return NPT_OK;
}

static npt_status decode_byte_fallback(const npt_step *step, const strings *in, strings *out)
{
    npt_bytes bytes = {0};
    npt_status status = NPT_OK;

    (void)step;
    for (size_t i = 0; i < in->items.count && status == NPT_OK; i++) {
        const char *token = in->text.data + in->items.data[i].begin;
        size_t length = in->items.data[i].end - in->items.data[i].begin;
        int byte = byte_of(token, length);
        char c = (char)byte;
        if (byte >= 0) {
            status = npt_bytes_append(&bytes, &c, 1);
            continue;
        }
        NPT_TRY_GOTO(status, out, flush_bytes(&bytes, out));
        status = add_item(out, token, length);
    }
    if (status == NPT_OK) status = flush_bytes(&bytes, out);
out:
    npt_bytes_fini(&bytes);
    return status;
}

/* Up to `start` of the character from the front of every token, `stop` from its end. */
static npt_status decode_strip(const npt_step *step, const strings *in, strings *out)
{
    size_t n = step->content_length;

    for (size_t i = 0; i < in->items.count; i++) {
        const char *s = in->text.data;
        size_t begin = in->items.data[i].begin, end = in->items.data[i].end;
        for (int64_t k = 0; k < step->start && n > 0 && end - begin >= n; k++) {
            if (memcmp(s + begin, step->content, n) != 0) break;
            begin += n;
        }
        for (int64_t k = 0; k < step->stop && n > 0 && end - begin >= n; k++) {
            if (memcmp(s + end - n, step->content, n) != 0) break;
            end -= n;
        }
        NPT_TRY(add_item(out, s + begin, end - begin));
    }
    return NPT_OK;
}

static npt_status run_step(const npt_step *step, const strings *in, strings *out)
{
    out->items.count = 0;
    NPT_TRY(npt_bytes_set(&out->text, "", 0));
    switch (step->kind) {
    case NPT_STEP_BYTE_LEVEL: return decode_byte_level(step, in, out);
    case NPT_STEP_FUSE: return decode_fuse(step, in, out);
    case NPT_STEP_REPLACE: return decode_replace(step, in, out);
    case NPT_STEP_METASPACE: return decode_metaspace(step, in, out);
    case NPT_STEP_BYTE_FALLBACK: return decode_byte_fallback(step, in, out);
    case NPT_STEP_STRIP: return decode_strip(step, in, out);
    default: return npt_fail(NPT_E_INTERNAL, "step %d is no decoder", (int)step->kind);
    }
}

static npt_status collect_names(const npt_tokenizer *t, const int32_t *ids, size_t count,
                                bool skip_special, strings *out)
{
    NPT_TRY(npt_bytes_set(&out->text, "", 0));
    for (size_t i = 0; i < count; i++) {
        const npt_token_name *token;
        if (ids[i] < 0 || ids[i] >= t->size || !t->tokens[ids[i]].used)
            return npt_fail(NPT_E_DATA, "the id %d (number %zu) is not one of the tokenizer's",
                            (int)ids[i], i);
        token = &t->tokens[ids[i]];
        if (skip_special && token->special) continue;
        if (!t->has_decoder && out->items.count > 0) NPT_TRY(npt_bytes_append(&out->text, " ", 1));
        NPT_TRY(add_item(out, t->names.data + token->offset, token->length));
    }
    return NPT_OK;
}

npt_status npt_tokenizer_decode(npt_tokenizer *t, const int32_t *ids, size_t count,
                                bool skip_special, char **text, size_t *length)
{
    strings lists[2] = {0};
    npt_bytes joined = {0};
    npt_status status;
    int now = 0;

    NPT_TRY_GOTO(status, out, collect_names(t, ids, count, skip_special, &lists[0]));
    for (size_t i = 0; i < t->decoder.count; i++) {
        NPT_TRY_GOTO(status, out, run_step(&t->decoder.data[i], &lists[now], &lists[1 - now]));
        now = 1 - now;
    }
    /* The strings lie one behind the other, so the buffer is their join. */
    NPT_TRY_GOTO(status, out, npt_bytes_set(&joined, lists[now].text.data, lists[now].text.count));
    joined.data[joined.count] = '\0';
    *text = joined.data;
    if (length != NULL) *length = joined.count;
out:
    for (int i = 0; i < 2; i++) {
        npt_bytes_fini(&lists[i].text);
        npt_spans_fini(&lists[i].items);
    }
    return status;
}
