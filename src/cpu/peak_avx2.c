/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "cpu/matmul_native.h"
#include "cpu/peaks.h"

#include <immintrin.h>

/* Twelve sums hide the latency of FMA on two ports, with registers left for the factors. */

enum { SUMS = 12, LANES = 8 };

static float run(const uint16_t *data, int64_t rounds)
{
    const float *values = (const void *)data;
    const __m256 x = _mm256_loadu_ps(values), y = _mm256_loadu_ps(values + LANES);
    __m256 sums[SUMS];
    float lanes[LANES], total = 0;
    UNROLLED
    for (int s = 0; s < SUMS; s++) sums[s] = _mm256_loadu_ps(values + s * LANES);
    NOT_UNROLLED
    for (int64_t i = 0; i < rounds; i++) {
        UNROLLED
        for (int s = 0; s < SUMS; s++) sums[s] = _mm256_fmadd_ps(x, y, sums[s]);
    }
    UNROLLED
    for (int s = 1; s < SUMS; s++) sums[0] = _mm256_add_ps(sums[0], sums[s]);
    _mm256_storeu_ps(lanes, sums[0]);
    for (int lane = 0; lane < LANES; lane++) total += lanes[lane];
    return total;
}

void npt_peak_fill_avx2(npt_peak *peak)
{
    *peak = (npt_peak){"FMA, avx2", 2 * SUMS * LANES, run};
}
