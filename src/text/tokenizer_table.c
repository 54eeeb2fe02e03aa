/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "text/tokenizer_impl.h"

#include <string.h>

#include "base/memory.h"

/* Growing arrays and the two open-addressing tables (linear probing, at most half full). Table
 * sizes are powers of two. */

npt_status npt_grow(void *array, size_t *capacity, size_t need, size_t size)
{
    void *data;
    size_t room = *capacity;

    if (need <= room) return NPT_OK;
    if (room < 16) room = 16;
    while (room < need) {
        if (room > SIZE_MAX / 2)
            return npt_fail(NPT_E_NOMEM, "a list of %zu items is too long", need);
        room *= 2;
    }
    memcpy(&data, array, sizeof(data)); /* `array` points to a pointer of another type */
    data = npt_realloc(data, room, size);
    if (data == NULL) return NPT_E_NOMEM;
    memcpy(array, &data, sizeof(data));
    *capacity = room;
    return NPT_OK;
}

npt_status npt_bytes_append(npt_bytes *bytes, const char *data, size_t length)
{
    if (length > SIZE_MAX - bytes->count - 1)
        return npt_fail(NPT_E_NOMEM, "a text of more than %zu bytes", SIZE_MAX);
    /* one byte more, so that an empty text has an address too */
    NPT_TRY(npt_grow(&bytes->data, &bytes->capacity, bytes->count + length + 1, 1));
    if (length > 0) memcpy(bytes->data + bytes->count, data, length);
    bytes->count += length;
    return NPT_OK;
}

npt_status npt_bytes_set(npt_bytes *bytes, const char *data, size_t length)
{
    bytes->count = 0;
    return npt_bytes_append(bytes, data, length);
}

void npt_bytes_fini(npt_bytes *bytes)
{
    npt_free(bytes->data);
    *bytes = (npt_bytes){0};
}

/* FNV-1a, with a last mix because the tables use the low bits. */
uint64_t npt_hash(const char *data, size_t length)
{
    uint64_t hash = 0xCBF29CE484222325u;
    for (size_t i = 0; i < length; i++) hash = (hash ^ (unsigned char)data[i]) * 0x100000001B3u;
    return hash ^ hash >> 29;
}

static npt_status vocab_double(npt_vocab *vocab)
{
    size_t capacity = vocab->capacity == 0 ? 1024 : vocab->capacity * 2;
    npt_vocab_slot *slots = npt_alloc(capacity, sizeof(*slots));

    if (slots == NULL) return NPT_E_NOMEM;
    for (size_t i = 0; i < capacity; i++) slots[i].id = -1;
    for (size_t i = 0; i < vocab->capacity; i++) {
        size_t at = vocab->slots[i].hash & (capacity - 1);
        if (vocab->slots[i].id < 0) continue;
        while (slots[at].id >= 0) at = (at + 1) & (capacity - 1);
        slots[at] = vocab->slots[i];
    }
    npt_free(vocab->slots);
    vocab->slots = slots;
    vocab->capacity = capacity;
    return NPT_OK;
}

/* The slot of the name, or the empty one where it would go. */
static npt_vocab_slot *vocab_find(const npt_vocab *vocab, const char *name, size_t length,
                                  uint64_t hash)
{
    size_t at = hash & (vocab->capacity - 1);
    for (;;) {
        npt_vocab_slot *slot = &vocab->slots[at];
        if (slot->id < 0) return slot;
        if (slot->hash == hash && slot->length == length &&
            memcmp(vocab->names.data + slot->offset, name, length) == 0)
            return slot;
        at = (at + 1) & (vocab->capacity - 1);
    }
}

npt_status npt_vocab_put(npt_vocab *vocab, const char *name, size_t length, int32_t id)
{
    uint64_t hash = npt_hash(name, length);
    npt_vocab_slot *slot;

    if (length > UINT32_MAX) return npt_fail(NPT_E_FORMAT, "a token of %zu bytes", length);
    if (vocab->count * 2 >= vocab->capacity) NPT_TRY(vocab_double(vocab));
    slot = vocab_find(vocab, name, length, hash);
    if (slot->id < 0) {
        size_t offset = vocab->names.count;
        NPT_TRY(npt_bytes_append(&vocab->names, name, length));
        *slot = (npt_vocab_slot){hash, offset, (uint32_t)length, id};
        vocab->count++;
    }
    slot->id = id;
    return NPT_OK;
}

int32_t npt_vocab_get(const npt_vocab *vocab, const char *name, size_t length)
{
    if (vocab->capacity == 0) return -1;
    return vocab_find(vocab, name, length, npt_hash(name, length))->id;
}

void npt_vocab_fini(npt_vocab *vocab)
{
    npt_free(vocab->slots);
    npt_bytes_fini(&vocab->names);
    *vocab = (npt_vocab){0};
}

static npt_merge *merges_find(const npt_merges *merges, uint64_t pair)
{
    size_t at = (size_t)((pair ^ pair >> 32) * 0x9E3779B97F4A7C15u >> 24) & (merges->capacity - 1);
    while (merges->slots[at].pair != pair && merges->slots[at].pair != UINT64_MAX)
        at = (at + 1) & (merges->capacity - 1);
    return &merges->slots[at];
}

static uint64_t pair_of(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

npt_status npt_merges_init(npt_merges *merges, size_t count)
{
    size_t capacity = 16;
    while (capacity / 2 < count) capacity *= 2;
    merges->slots = npt_alloc(capacity, sizeof(*merges->slots));
    if (merges->slots == NULL) return NPT_E_NOMEM;
    merges->capacity = capacity;
    for (size_t i = 0; i < capacity; i++) merges->slots[i].pair = UINT64_MAX;
    return NPT_OK;
}

void npt_merges_put(npt_merges *merges, npt_merge merge)
{
    *merges_find(merges, merge.pair) = merge;
}

const npt_merge *npt_merges_get(const npt_merges *merges, int32_t left, int32_t right)
{
    const npt_merge *merge = merges_find(merges, pair_of(left, right));
    return merge->pair == UINT64_MAX ? NULL : merge;
}

void npt_merges_fini(npt_merges *merges)
{
    npt_free(merges->slots);
    *merges = (npt_merges){0};
}

npt_status npt_spans_push(npt_spans *spans, size_t begin, size_t end, bool flag)
{
    NPT_TRY(npt_grow(&spans->data, &spans->capacity, spans->count + 1, sizeof(*spans->data)));
    spans->data[spans->count++] = (npt_span){begin, end, flag};
    return NPT_OK;
}

void npt_spans_fini(npt_spans *spans)
{
    npt_free(spans->data);
    *spans = (npt_spans){0};
}

npt_status npt_ids_push(npt_ids *ids, int32_t id)
{
    NPT_TRY(npt_grow(&ids->data, &ids->capacity, ids->count + 1, sizeof(*ids->data)));
    ids->data[ids->count++] = id;
    return NPT_OK;
}

void npt_ids_fini(npt_ids *ids)
{
    npt_free(ids->data);
    *ids = (npt_ids){0};
}
