/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "cpu/matmul_native.h"
#include "cpu/peaks.h"

#include <immintrin.h>

/* vdpbf16ps: two products of BF16 a lane. Half the rate of FMA where AMX is, twice where it is not.
 */

enum { SUMS = 12, LANES = 16 };

static float run(const uint16_t *data, int64_t rounds)
{
    const __m512bh x = (__m512bh)_mm512_loadu_si512(data),
                   y = (__m512bh)_mm512_loadu_si512(data + 2 * LANES);
    __m512 sums[SUMS];
    float lanes[LANES], total = 0;
    UNROLLED
    for (int s = 0; s < SUMS; s++) sums[s] = _mm512_loadu_ps(data + 2 * s * LANES);
    NOT_UNROLLED
    for (int64_t i = 0; i < rounds; i++) {
        UNROLLED
        for (int s = 0; s < SUMS; s++) sums[s] = _mm512_dpbf16_ps(sums[s], x, y);
    }
    UNROLLED
    for (int s = 1; s < SUMS; s++) sums[0] = _mm512_add_ps(sums[0], sums[s]);
    _mm512_storeu_ps(lanes, sums[0]);
    for (int lane = 0; lane < LANES; lane++) total += lanes[lane];
    return total;
}

void npt_peak_fill_bf16(npt_peak *peak)
{
    *peak = (npt_peak){"bf16 dot, avx512", 4 * SUMS * LANES, run};
}
