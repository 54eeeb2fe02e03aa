/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "model/random_weights.h"

#include <math.h>

#include "base/rng.h"
#include "tensor/dtype.h"

/* Values are made in runs of whole Philox blocks, in F32, then rounded. npt_rng_normal() would take
 * a logarithm, a root and a cosine for each of the thousands of millions of a large model. */

enum { RUN = 512 }; /* values; even */

/* The mean of the sum of four numbers 0 … 65535. */
enum { CENTRE = 2 * 65535 };

static int32_t sum_of_halves(uint32_t a, uint32_t b)
{
    return (int32_t)((a & 0xffffu) + (a >> 16) + (b & 0xffffu) + (b >> 16));
}

/* Blocks first … first+count-1 → 2·count values. */
static void make_run(const npt_random_weights *w, uint64_t first, int count, float *values)
{
    const uint32_t key[2] = {(uint32_t)w->seed, (uint32_t)(w->seed >> 32)};
    const float mean = (float)w->mean;
    /* four numbers of variance (2^32 - 1)/12 each */
    const float scale = (float)(w->deviation / sqrt((0x1p32 - 1) / 3));
    for (int i = 0; i < count; i++) {
        const uint64_t block = first + (uint64_t)i;
        const uint32_t counter[4] = {(uint32_t)block, (uint32_t)(block >> 32), (uint32_t)w->stream,
                                     (uint32_t)(w->stream >> 32)};
        uint32_t words[4];
        npt_philox(counter, key, words);
        values[2 * i] = mean + scale * (float)(sum_of_halves(words[0], words[1]) - CENTRE);
        values[2 * i + 1] = mean + scale * (float)(sum_of_halves(words[2], words[3]) - CENTRE);
    }
}

static void round_run(const float *values, int64_t count, npt_dtype dtype, void *dst, int64_t at)
{
    switch (dtype) {
    case NPT_F16:
        for (int64_t i = 0; i < count; i++) ((uint16_t *)dst)[at + i] = npt_f16_from_f32(values[i]);
        break;
    case NPT_BF16:
        for (int64_t i = 0; i < count; i++)
            ((uint16_t *)dst)[at + i] = npt_bf16_from_f32(values[i]);
        break;
    default: memcpy((float *)dst + at, values, (size_t)count * sizeof *values);
    }
}

void npt_random_weights_fill(const npt_random_weights *weights, int64_t first, int64_t count,
                             void *dst)
{
    float values[RUN];
    NPT_ASSERT(npt_dtype_is_float(weights->dtype) && first >= 0);
    for (int i = 0; weights->deviation == 0 && i < RUN; i++) values[i] = (float)weights->mean;
    for (int64_t done = 0; done < count;) {
        const int64_t skip = (first + done) % 2, left = count - done;
        const int64_t part = left < RUN - skip ? left : RUN - skip;
        if (weights->deviation != 0)
            make_run(weights, (uint64_t)(first + done) / 2, (int)((skip + part + 1) / 2), values);
        round_run(values + skip, part, weights->dtype, dst, done);
        done += part;
    }
}

const char *npt_random_dtype_word(npt_dtype dtype)
{
    return dtype == NPT_F16 ? "float16" : dtype == NPT_BF16 ? "bfloat16" : "float32";
}
