/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "model/random_nf4.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "tensor/nf4.h"

/* The mean of a linear's absmax stands in its record, whose length stands in the header: so its
 * values are made twice, for the record and when its bytes are written, rather than kept. */

enum { SLICE = 256 * NPT_NF4_BLOCK /* elements that one task makes */ };

void npt_nf4_maker_init(npt_nf4_maker *maker, npt_threads *threads)
{
    *maker = (npt_nf4_maker){.threads = threads};
    npt_nf4_dynamic_map(maker->map);
}

void npt_nf4_maker_fini(npt_nf4_maker *maker)
{
    npt_free(maker->packed);
    npt_free(maker->codes);
    npt_free(maker->absmax);
    *maker = (npt_nf4_maker){0};
}

static size_t blocks_of(size_t count)
{
    return (count + NPT_NF4_BLOCK - 1) / NPT_NF4_BLOCK;
}

static npt_status make_room(npt_nf4_maker *maker, size_t count)
{
    if (count <= maker->size) return NPT_OK;
    npt_threads *threads = maker->threads;
    npt_nf4_maker_fini(maker);
    npt_nf4_maker_init(maker, threads);
    maker->packed = npt_alloc((count + 1) / 2, 1);
    maker->codes = npt_alloc(blocks_of(count), 1);
    maker->absmax = npt_alloc(blocks_of(count), sizeof *maker->absmax);
    if (!maker->packed || !maker->codes || !maker->absmax) return NPT_E_NOMEM;
    maker->size = count;
    return NPT_OK;
}

/* ---- Values ---- */

static void quantize_slice(void *context, int64_t index, int worker)
{
    const npt_random_nf4 *linear = context;
    float values[SLICE]; /* room for any dtype */
    const size_t begin = (size_t)index * SLICE, left = linear->count - begin,
                 count = left < SLICE ? left : SLICE;
    (void)worker;
    npt_random_weights_fill(linear->values, (int64_t)begin, (int64_t)count, values);
    npt_nf4_quantize(values, linear->values->dtype, count, linear->maker->packed + begin / 2,
                     linear->maker->absmax + begin / NPT_NF4_BLOCK);
}

/* Into the maker, unless it holds them. */
static void make(npt_random_nf4 *linear, float *offset)
{
    npt_nf4_maker *maker = linear->maker;
    if (maker->holds == linear->values) return;
    npt_threads_run(maker->threads, quantize_slice, linear,
                    (int64_t)((linear->count + SLICE - 1) / SLICE));
    npt_nf4_nest(maker->absmax, blocks_of(linear->count), maker->codes, linear->nested, offset);
    maker->holds = linear->values;
}

static npt_nf4_maker *made_again(npt_random_nf4 *linear)
{
    float offset; /* is in the record already */
    make(linear, &offset);
    return linear->maker;
}

static npt_status produce_packed(void *context, uint64_t offset, void *dst, size_t bytes)
{
    memcpy(dst, made_again(context)->packed + offset, bytes);
    return NPT_OK;
}

static npt_status produce_codes(void *context, uint64_t offset, void *dst, size_t bytes)
{
    memcpy(dst, made_again(context)->codes + offset, bytes);
    return NPT_OK;
}

/* ---- Tensors ---- */

static void describe(npt_random_nf4 *linear, const int64_t shape[2], float offset)
{
    snprintf(linear->record, sizeof linear->record,
             "{\"quant_type\": \"nf4\", \"blocksize\": %d, \"dtype\": \"%s\", \"shape\": [%" PRId64
             ", %" PRId64 "], \"nested_blocksize\": %d, \"nested_dtype\": \"float32\", "
             "\"nested_offset\": %.9g}",
             NPT_NF4_BLOCK, npt_random_dtype_word(linear->values->dtype), shape[0], shape[1],
             NPT_NF4_NESTED_BLOCK, (double)offset);
}

npt_status npt_random_nf4_add(npt_random_nf4 *linear, npt_nf4_maker *maker,
                              const npt_random_weights *values, const char *name,
                              const int64_t shape[2], npt_st_writer *writer)
{
    const size_t count = (size_t)(shape[0] * shape[1]), blocks = blocks_of(count),
                 nested = (blocks + NPT_NF4_NESTED_BLOCK - 1) / NPT_NF4_NESTED_BLOCK;
    float offset = 0;
    NPT_TRY(make_room(maker, count));
    *linear = (npt_random_nf4){.maker = maker, .values = values, .count = count};
    linear->nested = npt_alloc(nested, sizeof *linear->nested);
    if (linear->nested == NULL) return NPT_E_NOMEM;
    make(linear, &offset);
    describe(linear, shape, offset);
    const struct {
        const char *suffix;
        npt_dtype dtype;
        int rank;
        int64_t shape[2];
        const void *data;
        npt_st_produce *produce;
    } pieces[] = {
        {"", NPT_U8, 2, {(int64_t)(count + 1) / 2, 1}, NULL, produce_packed},
        {".absmax", NPT_U8, 1, {(int64_t)blocks, 0}, NULL, produce_codes},
        {".nested_absmax", NPT_F32, 1, {(int64_t)nested, 0}, linear->nested, NULL},
        {".nested_quant_map", NPT_F32, 1, {256, 0}, maker->map, NULL},
        {".quant_map", NPT_F32, 1, {16, 0}, npt_nf4_levels, NULL},
        {".quant_state.bitsandbytes__nf4",
         NPT_U8,
         1,
         {(int64_t)strlen(linear->record), 0},
         linear->record,
         NULL},
    };
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        char full[256];
        snprintf(full, sizeof full, "%s%s", name, pieces[i].suffix);
        NPT_TRY(npt_st_writer_add(writer, full, pieces[i].dtype, pieces[i].rank, pieces[i].shape,
                                  pieces[i].data, pieces[i].produce, linear));
    }
    return NPT_OK;
}
