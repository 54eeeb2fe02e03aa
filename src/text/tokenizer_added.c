/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "text/tokenizer_impl.h"

#include "base/memory.h"
#include "text/utf8.h"

/* Added tokens: strings found as they stand, before BPE sees the text. The set is a trie of bytes,
 * children as linked lists (there are few); node 0 is unused, so that 0 means "none". Search is
 * leftmost, then longest, without overlap. */

static npt_status new_node(npt_added_set *set, unsigned char byte, uint32_t sibling, uint32_t *node)
{
    if (set->node_count == 0) set->node_count = 1;
    if (set->node_count >= UINT32_MAX) return npt_fail(NPT_E_NOMEM, "too many added tokens");
    NPT_TRY(npt_grow(&set->nodes, &set->node_capacity, set->node_count + 1, sizeof(*set->nodes)));
    *node = (uint32_t)set->node_count++;
    set->nodes[*node] = (npt_trie_node){.sibling = sibling, .token = -1, .byte = byte};
    return NPT_OK;
}

static uint32_t child_of(const npt_added_set *set, uint32_t node, unsigned char byte)
{
    uint32_t child = set->nodes[node].child;
    while (child != 0 && set->nodes[child].byte != byte) child = set->nodes[child].sibling;
    return child;
}

npt_status npt_added_set_put(npt_added_set *set, const char *text, size_t length,
                             npt_added_token token)
{
    uint32_t node, child;

    if (length == 0) return NPT_OK;
    node = set->first[(unsigned char)text[0]];
    if (node == 0) {
        NPT_TRY(new_node(set, (unsigned char)text[0], 0, &node));
        set->first[(unsigned char)text[0]] = node;
    }
    for (size_t i = 1; i < length; i++) {
        child = child_of(set, node, (unsigned char)text[i]);
        if (child == 0) {
            NPT_TRY(new_node(set, (unsigned char)text[i], set->nodes[node].child, &child));
            set->nodes[node].child = child;
        }
        node = child;
    }
    NPT_TRY(npt_grow(&set->tokens, &set->capacity, set->count + 1, sizeof(*set->tokens)));
    set->nodes[node].token = (int32_t)set->count;
    set->tokens[set->count++] = token;
    return NPT_OK;
}

/* The longest token at text[at]; NULL where none. */
static const npt_added_token *longest_at(const npt_added_set *set, const char *text, size_t length,
                                         size_t at, size_t *end)
{
    const npt_added_token *token = NULL;
    uint32_t node = set->first[(unsigned char)text[at]];

    while (node != 0) {
        at++;
        if (set->nodes[node].token >= 0) {
            token = &set->tokens[set->nodes[node].token];
            *end = at;
        }
        if (at == length) break;
        node = child_of(set, node, (unsigned char)text[at]);
    }
    return token;
}

/* single_word: no word character touches it. */
static bool stands_alone(const char *text, size_t length, size_t begin, size_t end)
{
    if (begin > 0) {
        size_t before = npt_utf8_back(text, begin);
        if (npt_char_is_word(npt_utf8_next(text, &before))) return false;
    }
    return end == length || !npt_char_is_word(npt_utf8_next(text, &end));
}

static size_t spaces_before(const char *text, size_t at)
{
    while (at > 0) {
        size_t before = npt_utf8_back(text, at), next = before;
        if (!npt_char_is_space(npt_utf8_next(text, &next))) break;
        at = before;
    }
    return at;
}

static size_t spaces_behind(const char *text, size_t length, size_t at)
{
    while (at < length) {
        size_t next = at;
        if (!npt_char_is_space(npt_utf8_next(text, &next))) break;
        at = next;
    }
    return at;
}

static npt_status push_segment(npt_segments *segments, size_t begin, size_t end, int32_t id)
{
    NPT_TRY(npt_grow(&segments->data, &segments->capacity, segments->count + 1,
                     sizeof(*segments->data)));
    segments->data[segments->count++] = (npt_segment){begin, end, id};
    return NPT_OK;
}

npt_status npt_added_set_find(const npt_added_set *set, const char *text, size_t length,
                              npt_segments *segments)
{
    size_t done = 0, at = 0;

    segments->count = 0;
    while (at < length && set->count > 0) {
        size_t begin = at, end, match_end;
        const npt_added_token *token = longest_at(set, text, length, at, &match_end);
        if (token == NULL) {
            at++;
            continue;
        }
        at = end = match_end; /* the search goes on here even where the token is not taken */
        if (token->single_word && !stands_alone(text, length, begin, end)) continue;
        if (token->lstrip) {
            begin = spaces_before(text, begin);
            if (begin < done) begin = done;
        }
        if (token->rstrip) end = spaces_behind(text, length, end);
        if (done < begin) NPT_TRY(push_segment(segments, done, begin, -1));
        NPT_TRY(push_segment(segments, begin, end, token->id));
        done = end;
    }
    return done == length ? NPT_OK : push_segment(segments, done, length, -1);
}

void npt_added_set_fini(npt_added_set *set)
{
    npt_free(set->tokens);
    npt_free(set->nodes);
    *set = (npt_added_set){0};
}
