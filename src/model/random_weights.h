/* SPDX-License-Identifier: BSD-2-Clause */
/* Random weights, many of them quickly: what a random model is made of. Private to model/. */
#ifndef NPT_MODEL_RANDOM_WEIGHTS_H
#define NPT_MODEL_RANDOM_WEIGHTS_H

#include "base/status.h"

/* Value i is mean + deviation · (sum of four uniform 16-bit numbers, centred and scaled to
 * deviation 1), computed in F32 and rounded once to `dtype` (F32, F16, BF16). That is close to a
 * normal distribution and ends at 3.47 deviations. One Philox block gives two values: value i is
 * in block i/2 of (seed, stream). Deviation 0: every value is the mean. */
typedef struct npt_random_weights {
    uint64_t seed, stream;
    npt_dtype dtype;
    double mean, deviation;
} npt_random_weights;

/* Values first … first+count-1 into `dst`; the same bits however a range is cut. Any thread. */
void npt_random_weights_fill(const npt_random_weights *weights, int64_t first, int64_t count,
                             void *dst);

/* As config.json and a quantization record call it: "float32", "float16", "bfloat16". */
const char *npt_random_dtype_word(npt_dtype dtype);

#endif
