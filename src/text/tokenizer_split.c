/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "text/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "base/memory.h"
#include "text/utf8.h"

/* The normalizer and pre-tokenizer stages. A step either rewrites the text (tokenizer->normal, or
 * piece_text with its pieces) or cuts pieces into smaller ones. Rewriting goes from one buffer to
 * the other, which then change places. Pieces are in order, never empty, and `flag` marks the one
 * that starts where the whole text starts. */

/* ---- Byte-level characters ---------------------------------------------------------------------
 */

/* Bytes that are visible in Latin-1 stand for themselves; the others, in order, for U+0100 ff. */
static bool is_visible(unsigned byte)
{
    return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xFF && byte != 0xAD);
}

uint32_t npt_byte_level_char(unsigned char byte)
{
    if (is_visible(byte)) return byte;
    if (byte <= 0x20) return 0x100u + byte;
    if (byte == 0xAD) return 0x143;
    return 0x100u + byte - 0x7F + 0x21; /* 0x7F … 0xA0 */
}

int npt_byte_level_byte(uint32_t c)
{
    if (c < 0x100) return is_visible(c) ? (int)c : -1;
    if (c <= 0x120) return (int)(c - 0x100);
    if (c <= 0x142) return (int)(c - 0x121 + 0x7F);
    return c == 0x143 ? 0xAD : -1;
}

/* ---- Normalizers ----------------------------------------------------------------------------- */

static void swap_bytes(npt_bytes *a, npt_bytes *b)
{
    npt_bytes t = *a;
    *a = *b;
    *b = t;
}

static npt_status normalize_nfc(npt_bytes *text)
{
    utf8proc_uint8_t *composed = NULL;
    utf8proc_ssize_t length;
    npt_status status;
    size_t i = 0;

    /* The first character that NFC may touch is U+0300, whose first byte is 0xCC. */
    while (i < text->count && (unsigned char)text->data[i] < 0xCC) i++;
    if (i == text->count) return NPT_OK;
    length = utf8proc_map((const utf8proc_uint8_t *)text->data, (utf8proc_ssize_t)text->count,
                          &composed, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (length < 0)
        return npt_fail(length == UTF8PROC_ERROR_NOMEM ? NPT_E_NOMEM : NPT_E_DATA,
                        "NFC normalization: %s", utf8proc_errmsg(length));
    status = npt_bytes_set(text, (const char *)composed, (size_t)length);
    free(composed);
    return status;
}

static npt_status normalize_prepend(npt_tokenizer *t, const npt_step *step)
{
    if (t->normal.count == 0) return NPT_OK;
    NPT_TRY(npt_bytes_set(&t->normal_other, step->content, step->content_length));
    NPT_TRY(npt_bytes_append(&t->normal_other, t->normal.data, t->normal.count));
    swap_bytes(&t->normal, &t->normal_other);
    return NPT_OK;
}

static npt_status normalize_replace(npt_tokenizer *t, const npt_step *step)
{
    const char *text = t->normal.data;

    t->cut.count = 0;
    NPT_TRY(npt_pattern_cut(step->pattern, text, 0, t->normal.count, &t->cut));
    NPT_TRY(npt_bytes_set(&t->normal_other, "", 0));
    for (size_t i = 0; i < t->cut.count; i++) {
        const npt_span *s = &t->cut.data[i];
        if (s->flag)
            NPT_TRY(npt_bytes_append(&t->normal_other, step->content, step->content_length));
        else
            NPT_TRY(npt_bytes_append(&t->normal_other, text + s->begin, s->end - s->begin));
    }
    swap_bytes(&t->normal, &t->normal_other);
    return NPT_OK;
}

npt_status npt_normalize(npt_tokenizer *t, const char *text, size_t length)
{
    NPT_TRY(npt_bytes_set(&t->normal, text, length));
    for (size_t i = 0; i < t->normalizer.count; i++) {
        const npt_step *step = &t->normalizer.data[i];
        if (t->normal.count == 0) break;
        if (step->kind == NPT_STEP_NFC)
            NPT_TRY(normalize_nfc(&t->normal));
        else if (step->kind == NPT_STEP_PREPEND)
            NPT_TRY(normalize_prepend(t, step));
        else
            NPT_TRY(normalize_replace(t, step));
    }
    return NPT_OK;
}

/* ---- Pre-tokenizers -------------------------------------------------------------------------- */

static npt_status push_piece(npt_tokenizer *t, const npt_span *parent, size_t begin, size_t end)
{
    if (begin == end) return NPT_OK;
    return npt_spans_push(&t->pieces_other, begin, end, parent->flag && begin == parent->begin);
}

/* Joins each match with the stretch before it (or, from the back, behind it); of a run of matches
 * only the one next to that stretch is joined. */
static npt_status push_merged(npt_tokenizer *t, const npt_span *parent, bool with_next)
{
    npt_span *cut = t->cut.data;
    size_t count = t->cut.count, kept = 0;
    bool previous = false;

    for (size_t k = 0; k < count; k++) {
        npt_span *s = &cut[with_next ? count - 1 - k : k];
        npt_span *last = kept == 0 ? NULL : &cut[with_next ? count - kept : kept - 1];
        bool match = s->flag;
        if (match && !previous && last != NULL && with_next)
            last->begin = s->begin;
        else if (match && !previous && last != NULL)
            last->end = s->end;
        else {
            kept++;
            cut[with_next ? count - kept : kept - 1] = *s;
        }
        previous = match;
    }
    for (size_t k = 0; k < kept; k++) {
        const npt_span *s = &cut[with_next ? count - kept + k : k];
        NPT_TRY(push_piece(t, parent, s->begin, s->end));
    }
    return NPT_OK;
}

/* Runs of matches, and of what is not one, become one piece each. */
static npt_status push_contiguous(npt_tokenizer *t, const npt_span *parent)
{
    size_t i = 0;
    while (i < t->cut.count) {
        size_t begin = t->cut.data[i].begin, end = t->cut.data[i].end;
        bool match = t->cut.data[i].flag;
        for (i++; i < t->cut.count && t->cut.data[i].flag == match; i++) end = t->cut.data[i].end;
        NPT_TRY(push_piece(t, parent, begin, end));
    }
    return NPT_OK;
}

/* tokenizer->cut → pieces_other. */
static npt_status push_cut(npt_tokenizer *t, const npt_span *parent, npt_behavior behavior)
{
    if (behavior == NPT_SPLIT_MERGED_WITH_PREVIOUS) return push_merged(t, parent, false);
    if (behavior == NPT_SPLIT_MERGED_WITH_NEXT) return push_merged(t, parent, true);
    if (behavior == NPT_SPLIT_CONTIGUOUS) return push_contiguous(t, parent);
    for (size_t i = 0; i < t->cut.count; i++) {
        const npt_span *s = &t->cut.data[i];
        if (s->flag && behavior == NPT_SPLIT_REMOVED) continue;
        NPT_TRY(push_piece(t, parent, s->begin, s->end));
    }
    return NPT_OK;
}

static void take_pieces(npt_tokenizer *t)
{
    npt_spans spans = t->pieces;
    t->pieces = t->pieces_other;
    t->pieces_other = spans;
    t->pieces_other.count = 0;
}

static npt_status split_pattern(npt_tokenizer *t, npt_pattern *pattern, bool invert,
                                npt_behavior behavior)
{
    for (size_t i = 0; i < t->pieces.count; i++) {
        const npt_span *piece = &t->pieces.data[i];
        t->cut.count = 0;
        NPT_TRY(npt_pattern_cut(pattern, t->piece_text.data, piece->begin, piece->end, &t->cut));
        for (size_t k = 0; invert && k < t->cut.count; k++)
            t->cut.data[k].flag = !t->cut.data[k].flag;
        NPT_TRY(push_cut(t, piece, behavior));
    }
    take_pieces(t);
    return NPT_OK;
}

/* A digit is a match by itself; what is between two, one stretch. */
static npt_status cut_digits(npt_tokenizer *t, const npt_span *piece)
{
    const char *text = t->piece_text.data;
    size_t at = piece->begin, previous = piece->begin;

    t->cut.count = 0;
    while (at < piece->end) {
        size_t begin = at;
        if (!npt_char_is_number(npt_utf8_next(text, &at))) continue;
        if (previous < begin) NPT_TRY(npt_spans_push(&t->cut, previous, begin, false));
        NPT_TRY(npt_spans_push(&t->cut, begin, at, true));
        previous = at;
    }
    if (previous < piece->end) NPT_TRY(npt_spans_push(&t->cut, previous, piece->end, false));
    return NPT_OK;
}

static npt_status split_digits(npt_tokenizer *t, const npt_step *step)
{
    for (size_t i = 0; i < t->pieces.count; i++) {
        NPT_TRY(cut_digits(t, &t->pieces.data[i]));
        NPT_TRY(push_cut(t, &t->pieces.data[i], step->behavior));
    }
    take_pieces(t);
    return NPT_OK;
}

/* Rewrites every piece, one after the other, through `rewrite`. */
static npt_status rewrite_pieces(npt_tokenizer *t, const npt_step *step,
                                 npt_status (*rewrite)(npt_bytes *out, const char *piece,
                                                       size_t length, bool first,
                                                       const npt_step *step))
{
    NPT_TRY(npt_bytes_set(&t->piece_other, "", 0));
    for (size_t i = 0; i < t->pieces.count; i++) {
        npt_span *p = &t->pieces.data[i];
        size_t begin = t->piece_other.count;
        NPT_TRY(rewrite(&t->piece_other, t->piece_text.data + p->begin, p->end - p->begin, p->flag,
                        step));
        p->begin = begin;
        p->end = t->piece_other.count;
    }
    swap_bytes(&t->piece_text, &t->piece_other);
    return NPT_OK;
}

static npt_status rewrite_prefix(npt_bytes *out, const char *piece, size_t length, bool first,
                                 const npt_step *step)
{
    (void)first;
    (void)step;
    if (piece[0] != ' ') NPT_TRY(npt_bytes_append(out, " ", 1));
    return npt_bytes_append(out, piece, length);
}

static npt_status rewrite_bytes(npt_bytes *out, const char *piece, size_t length, bool first,
                                const npt_step *step)
{
    (void)first;
    (void)step;
    NPT_TRY(npt_grow(&out->data, &out->capacity, out->count + 2 * length + 1, 1));
    for (size_t i = 0; i < length; i++)
        out->count +=
            npt_utf8_put(npt_byte_level_char((unsigned char)piece[i]), out->data + out->count);
    return NPT_OK;
}

static npt_status rewrite_metaspace(npt_bytes *out, const char *piece, size_t length, bool first,
                                    const npt_step *step)
{
    bool prepend =
        step->scheme == NPT_PREPEND_ALWAYS || (step->scheme == NPT_PREPEND_FIRST && first);
    bool there = piece[0] == ' ' || (length >= step->content_length &&
                                     memcmp(piece, step->content, step->content_length) == 0);

    if (prepend && !there) NPT_TRY(npt_bytes_append(out, step->content, step->content_length));
    for (size_t i = 0; i < length;) {
        const char *space = memchr(piece + i, ' ', length - i);
        size_t end = space == NULL ? length : (size_t)(space - piece);
        NPT_TRY(npt_bytes_append(out, piece + i, end - i));
        i = end;
        if (space == NULL) break;
        NPT_TRY(npt_bytes_append(out, step->content, step->content_length));
        i++;
    }
    return NPT_OK;
}

static npt_status run_step(npt_tokenizer *t, const npt_step *step)
{
    switch (step->kind) {
    case NPT_STEP_SPLIT: return split_pattern(t, step->pattern, step->invert, step->behavior);
    case NPT_STEP_DIGITS: return split_digits(t, step);
    case NPT_STEP_BYTE_LEVEL:
        if (step->prefix_space) NPT_TRY(rewrite_pieces(t, step, rewrite_prefix));
        if (step->pattern != NULL)
            NPT_TRY(split_pattern(t, step->pattern, false, NPT_SPLIT_ISOLATED));
        return rewrite_pieces(t, step, rewrite_bytes);
    case NPT_STEP_METASPACE:
        NPT_TRY(rewrite_pieces(t, step, rewrite_metaspace));
        if (!step->split) return NPT_OK;
        return split_pattern(t, step->pattern, false, NPT_SPLIT_MERGED_WITH_NEXT);
    default: return npt_fail(NPT_E_INTERNAL, "step %d is no pre-tokenizer", (int)step->kind);
    }
}

npt_status npt_pre_tokenize(npt_tokenizer *t, const char *text, size_t length, bool first)
{
    NPT_TRY(npt_bytes_set(&t->piece_text, text, length));
    t->pieces.count = t->pieces_other.count = 0;
    NPT_TRY(npt_spans_push(&t->pieces, 0, length, first));
    for (size_t i = 0; i < t->pre_tokenizer.count; i++)
        NPT_TRY(run_step(t, &t->pre_tokenizer.data[i]));
    return NPT_OK;
}
