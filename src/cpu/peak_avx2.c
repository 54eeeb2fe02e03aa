/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include <immintrin.h>

typedef __m256 vf;
enum { LANES = 8 };
#define v_load(p)      _mm256_loadu_ps(p)
#define v_store(p, v)  _mm256_storeu_ps(p, v)
#define v_fma(a, b, c) _mm256_fmadd_ps(a, b, c)
#define v_add(a, b)    _mm256_add_ps(a, b)

#include "cpu/peak_fma.inc.h"

void npt_peak_fill_avx2(npt_peak *peak)
{
    *peak = (npt_peak){"FMA, avx2", 2 * SUMS * LANES, run};
}
