/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "text/tokenizer_impl.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "files/files.h"
#include "files/json.h"
#include "text/utf8.h"

/* Byte pair encoding of one piece. Its characters become a linked list of symbols; a heap of
 * (rank, position) gives the next pair to merge, lowest rank and then leftmost first. An entry is
 * stale when the pair now at its position does not merge to the id that it stood for; it is
 * skipped. That test is by id, not by rank, as in Hugging Face tokenizers. O(n log n).
 *
 * Llama 2 and its like have no pre-tokenizer: the piece is the whole text. Where no merge joins
 * something with a U+2581 behind it, words that start with one cannot influence each other, and
 * are encoded one by one, from the cache. */

/* ---- Loading ------------------------------------------------------------------------------------
 */

static npt_status load_vocab(npt_tokenizer *t, const json_t *model, const char *what)
{
    json_t *vocab = json_object_get(model, "vocab"), *value;
    char shown[NPT_SHOW_BYTES];
    const char *name;

    if (!json_is_object(vocab))
        return npt_fail(NPT_E_FORMAT, "%s: \"model\" has no object \"vocab\"", what);
    json_object_foreach(vocab, name, value)
    {
        json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (id < 0 || id >= NPT_TOKEN_LIMIT)
            return npt_fail(NPT_E_FORMAT,
                            "%s: the id of the token \"%s\" is not an integer from 0 to %d", what,
                            npt_show(name, shown), NPT_TOKEN_LIMIT - 1);
        NPT_TRY(npt_vocab_put(&t->vocab, name, strlen(name), (int32_t)id));
    }
    return NPT_OK;
}

/* The ids of the two halves and of their join (built in `join`); false where one is missing. */
static npt_status find_merge(const npt_tokenizer *t, npt_bytes *join, const char *left,
                             size_t left_length, const char *right, size_t right_length,
                             npt_merge *merge, bool *found)
{
    int32_t a = npt_vocab_get(&t->vocab, left, left_length);
    int32_t b = npt_vocab_get(&t->vocab, right, right_length);

    *found = false;
    if (a < 0 || b < 0) return NPT_OK;
    NPT_TRY(npt_bytes_set(join, left, left_length));
    NPT_TRY(npt_bytes_append(join, right, right_length));
    merge->pair = (uint64_t)(uint32_t)a << 32 | (uint32_t)b;
    merge->id = npt_vocab_get(&t->vocab, join->data, join->count);
    *found = merge->id >= 0;
    return NPT_OK;
}

/* "a b" or ["a", "b"]. In the first spelling a half may itself hold spaces: the first space that
 * has a token on both sides and their join in the vocabulary is the one meant. */
static npt_status load_merge(npt_tokenizer *t, const json_t *json, npt_bytes *join,
                             npt_merge *merge, bool *found)
{
    const char *text = json_string_value(json);

    *found = false;
    if (text != NULL) {
        size_t length = json_string_length(json);
        for (const char *s = strchr(text, ' '); s != NULL && !*found; s = strchr(s + 1, ' '))
            NPT_TRY(find_merge(t, join, text, (size_t)(s - text), s + 1,
                               length - (size_t)(s - text) - 1, merge, found));
    } else if (json_array_size(json) == 2) {
        const json_t *a = json_array_get(json, 0), *b = json_array_get(json, 1);
        if (json_is_string(a) && json_is_string(b))
            NPT_TRY(find_merge(t, join, json_string_value(a), json_string_length(a),
                               json_string_value(b), json_string_length(b), merge, found));
    }
    return NPT_OK;
}

static const char marker[] = "\xE2\x96\x81"; /* U+2581 */

/* The next U+2581 at or behind `from` > 0 that does not follow another; `length` where none. */
static size_t find_start(const char *text, size_t length, size_t from)
{
    while (from < length) {
        const char *hit = memmem(text + from, length - from, marker, 3);
        size_t at = hit == NULL ? length : (size_t)(hit - text);
        if (at == length || at < 3 || memcmp(text + at - 3, marker, 3) != 0) return at;
        from = at + 3;
    }
    return length;
}

static npt_status load_merges(npt_tokenizer *t, const json_t *model, const char *what)
{
    const json_t *list = json_object_get(model, "merges"), *item;
    size_t at, count = json_array_size(list);
    uint32_t rank = 0;
    npt_bytes join = {0};
    npt_status status;

    if (!json_is_array(list) || count >= UINT32_MAX)
        return npt_fail(NPT_E_FORMAT, "%s: \"model\" has no list \"merges\"", what);
    NPT_TRY(npt_merges_init(&t->merges, count));
    t->merged = npt_alloc(count + 1, sizeof(*t->merged));
    if (t->merged == NULL) return NPT_E_NOMEM;
    t->space_starts = !t->ignore_merges && npt_vocab_get(&t->vocab, marker, 3) >= 0;
    status = NPT_OK;
    json_array_foreach(list, at, item)
    {
        npt_merge merge = {.rank = rank};
        bool found;
        const char *text = json_string_value(item);
        if (text != NULL && strncmp(text, "#version", 8) == 0) continue;
        NPT_TRY_GOTO(status, out, load_merge(t, item, &join, &merge, &found));
        if (!found) {
            status = npt_fail(
                NPT_E_FORMAT,
                "%s: merge %zu is not two tokens whose join is in the vocabulary, too", what, at);
            goto out;
        }
        npt_merges_put(&t->merges, merge);
        t->merged[rank++] = merge.id;
        if (find_start(join.data, join.count, 1) < join.count) t->space_starts = false;
    }
out:
    npt_bytes_fini(&join);
    return status;
}

/* Absent, null or empty: the only form supported. */
static npt_status refuse_affix(const json_t *model, const char *key, const char *what)
{
    char shown[NPT_SHOW_BYTES];
    const char *affix;
    NPT_TRY(npt_json_string(model, key, what, "", &affix));
    if (affix[0] == '\0') return NPT_OK;
    return npt_fail(NPT_E_UNSUPPORTED, "%s: BPE with a %s (\"%s\") is not supported", what, key,
                    npt_show(affix, shown));
}

static npt_status load_options(npt_tokenizer *t, const json_t *model, const char *what)
{
    char shown[NPT_SHOW_BYTES];
    const char *unk;
    double dropout;

    NPT_TRY(refuse_affix(model, "continuing_subword_prefix", what));
    NPT_TRY(refuse_affix(model, "end_of_word_suffix", what));
    NPT_TRY(npt_json_real(model, "dropout", what, 0, 0, 1, &dropout));
    if (dropout != 0)
        return npt_fail(NPT_E_UNSUPPORTED, "%s: BPE with dropout is not supported", what);
    NPT_TRY(npt_json_bool(model, "byte_fallback", what, false, &t->byte_fallback));
    NPT_TRY(npt_json_bool(model, "fuse_unk", what, false, &t->fuse_unk));
    NPT_TRY(npt_json_bool(model, "ignore_merges", what, false, &t->ignore_merges));
    NPT_TRY(npt_json_string(model, "unk_token", what, NULL, &unk));
    t->unk = unk == NULL ? -1 : npt_vocab_get(&t->vocab, unk, strlen(unk));
    if (unk != NULL && t->unk < 0)
        return npt_fail(NPT_E_FORMAT, "%s: the unk_token \"%s\" is not in the vocabulary", what,
                        npt_show(unk, shown));
    return NPT_OK;
}

static void fill_single_ids(npt_tokenizer *t)
{
    char text[8];
    for (uint32_t c = 0; c < 0x200; c++)
        t->char_ids[c] = npt_vocab_get(&t->vocab, text, npt_utf8_put(c, text));
    for (unsigned b = 0; b < 256; b++) {
        snprintf(text, sizeof(text), "<0x%02X>", b);
        t->byte_ids[b] = npt_vocab_get(&t->vocab, text, 6);
    }
}

npt_status npt_bpe_load(npt_tokenizer *t, const json_t *root, const char *what)
{
    const json_t *model = json_object_get(root, "model");
    char shown[NPT_SHOW_BYTES];
    const char *type;

    if (!json_is_object(model)) return npt_fail(NPT_E_FORMAT, "%s: no object \"model\"", what);
    NPT_TRY(npt_json_string(model, "type", what, NULL, &type));
    if (type == NULL && json_object_get(model, "merges") != NULL) type = "BPE"; /* older files */
    if (type == NULL || strcmp(type, "BPE") != 0)
        return npt_fail(NPT_E_UNSUPPORTED,
                        "%s: the tokenizer model \"%s\" is not supported; npt knows BPE", what,
                        type == NULL ? "(none)" : npt_show(type, shown));
    NPT_TRY(load_vocab(t, model, what));
    NPT_TRY(load_options(t, model, what));
    NPT_TRY(load_merges(t, model, what));
    fill_single_ids(t);
    t->cache = npt_alloc(NPT_CACHE_SLOTS, sizeof(*t->cache));
    return t->cache == NULL ? NPT_E_NOMEM : NPT_OK;
}

/* ---- Symbols ------------------------------------------------------------------------------------
 */

static npt_status push_symbol(npt_tokenizer *t, int32_t id)
{
    NPT_TRY(npt_grow(&t->symbols, &t->symbol_capacity, t->symbol_count + 1, sizeof(*t->symbols)));
    t->symbols[t->symbol_count] = (npt_symbol){.id = id};
    t->symbol_count++;
    return NPT_OK;
}

/* <0x..> for each byte; *done = false where one of them is not in the vocabulary. */
static npt_status push_bytes(npt_tokenizer *t, const char *text, size_t length, bool *done)
{
    *done = false;
    if (!t->byte_fallback) return NPT_OK;
    for (size_t i = 0; i < length; i++)
        if (t->byte_ids[(unsigned char)text[i]] < 0) return NPT_OK;
    for (size_t i = 0; i < length; i++)
        NPT_TRY(push_symbol(t, t->byte_ids[(unsigned char)text[i]]));
    *done = true;
    return NPT_OK;
}

/* One symbol a character. An unknown one without byte fallback is unk_token, held back until the
 * next known character so that fuse_unk can swallow its followers; without unk_token it is
 * dropped. */
static npt_status push_characters(npt_tokenizer *t, const char *word, size_t length)
{
    bool unknown = false, done;

    t->symbol_count = 0;
    for (size_t at = 0; at < length;) {
        size_t begin = at;
        uint32_t c = npt_utf8_next(word, &at);
        int32_t id =
            c < 0x200 ? t->char_ids[c] : npt_vocab_get(&t->vocab, word + begin, at - begin);
        if (id >= 0) {
            if (unknown) NPT_TRY(push_symbol(t, t->unk));
            unknown = false;
            NPT_TRY(push_symbol(t, id));
            continue;
        }
        NPT_TRY(push_bytes(t, word + begin, at - begin, &done));
        if (done || t->unk < 0) continue;
        if (unknown && !t->fuse_unk) NPT_TRY(push_symbol(t, t->unk));
        unknown = true;
    }
    return unknown ? push_symbol(t, t->unk) : NPT_OK;
}

/* ---- Heap of rank << 32 | position, smallest first ------------------------------------------- */

static npt_status heap_push(npt_tokenizer *t, uint64_t entry)
{
    size_t at = t->heap_count;

    NPT_TRY(npt_grow(&t->heap, &t->heap_capacity, at + 1, sizeof(*t->heap)));
    t->heap_count++;
    while (at > 0 && t->heap[(at - 1) / 2] > entry) {
        t->heap[at] = t->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    t->heap[at] = entry;
    return NPT_OK;
}

static uint64_t heap_pop(npt_tokenizer *t)
{
    uint64_t *heap = t->heap, top = heap[0], last = heap[--t->heap_count];
    size_t at = 0, count = t->heap_count;

    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= count) break;
        if (child + 1 < count && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= last) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return top;
}

enum { NO_SYMBOL = UINT32_MAX };

/* Queues the pair that starts at `at`, where it is one that merges. */
static npt_status queue_pair(npt_tokenizer *t, uint32_t at)
{
    const npt_symbol *left = &t->symbols[at];
    const npt_merge *merge;

    if (left->next == (uint32_t)NO_SYMBOL) return NPT_OK;
    merge = npt_merges_get(&t->merges, left->id, t->symbols[left->next].id);
    return merge == NULL ? NPT_OK : heap_push(t, (uint64_t)merge->rank << 32 | at);
}

static npt_status merge_at(npt_tokenizer *t, uint32_t at, int32_t id)
{
    npt_symbol *left = &t->symbols[at], *right;
    const npt_merge *merge;

    if (left->id < 0 || left->next == (uint32_t)NO_SYMBOL) return NPT_OK;
    right = &t->symbols[left->next];
    merge = npt_merges_get(&t->merges, left->id, right->id);
    if (merge == NULL || merge->id != id) return NPT_OK; /* stale */
    left->id = id;
    left->next = right->next;
    right->id = -1;
    if (left->next != (uint32_t)NO_SYMBOL) t->symbols[left->next].prev = at;
    if (left->prev != (uint32_t)NO_SYMBOL) NPT_TRY(queue_pair(t, left->prev));
    return queue_pair(t, at);
}

static npt_status merge_all(npt_tokenizer *t)
{
    uint32_t count = (uint32_t)t->symbol_count;

    t->heap_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        t->symbols[i].prev = i == 0 ? (uint32_t)NO_SYMBOL : i - 1;
        t->symbols[i].next = i + 1 == count ? (uint32_t)NO_SYMBOL : i + 1;
    }
    for (uint32_t i = 0; i < count; i++) NPT_TRY(queue_pair(t, i));
    while (t->heap_count > 0) {
        uint64_t top = heap_pop(t);
        NPT_TRY(merge_at(t, (uint32_t)top, t->merged[top >> 32]));
    }
    return NPT_OK;
}

/* ---- Words ----------------------------------------------------------------------------------- */

static npt_status encode_word(npt_tokenizer *t, const char *word, size_t length, npt_ids *ids)
{
    NPT_TRY(push_characters(t, word, length));
    NPT_TRY(merge_all(t));
    for (size_t i = 0; i < t->symbol_count; i++)
        if (t->symbols[i].id >= 0) NPT_TRY(npt_ids_push(ids, t->symbols[i].id));
    return NPT_OK;
}

/* The word's ids are those from `before` on; perhaps none, and then the list may have no memory. */
static void remember(npt_cache_slot *slot, uint64_t hash, const char *word, size_t length,
                     const npt_ids *ids, size_t before)
{
    size_t count = ids->count - before;

    if (count > NPT_CACHE_IDS) return;
    slot->hash = hash;
    slot->length = (uint8_t)length;
    slot->count = (uint8_t)count;
    memcpy(slot->word, word, length);
    if (count > 0) memcpy(slot->ids, ids->data + before, count * sizeof(*ids->data));
}

static npt_status encode_cached(npt_tokenizer *t, const char *word, size_t length, npt_ids *ids)
{
    npt_cache_slot *slot;
    uint64_t hash;
    size_t before = ids->count;

    if (length == 0 || length > NPT_CACHE_BYTES) return encode_word(t, word, length, ids);
    hash = npt_hash(word, length);
    slot = &t->cache[hash & (NPT_CACHE_SLOTS - 1)];
    if (slot->length == length && slot->hash == hash && memcmp(slot->word, word, length) == 0) {
        for (size_t i = 0; i < slot->count; i++) NPT_TRY(npt_ids_push(ids, slot->ids[i]));
        return NPT_OK;
    }
    NPT_TRY(encode_word(t, word, length, ids));
    remember(slot, hash, word, length, ids, before);
    return NPT_OK;
}

npt_status npt_bpe_encode(npt_tokenizer *t, const char *word, size_t length, npt_ids *ids)
{
    size_t begin = 0;

    if (t->ignore_merges) {
        int32_t id = npt_vocab_get(&t->vocab, word, length);
        if (id >= 0) return npt_ids_push(ids, id);
    }
    while (t->space_starts && begin < length) {
        size_t end = find_start(word, length, begin + 1);
        NPT_TRY(encode_cached(t, word + begin, end - begin, ids));
        begin = end;
    }
    return begin < length ? encode_cached(t, word, length, ids) : NPT_OK;
}
