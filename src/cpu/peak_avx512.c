/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include <immintrin.h>

typedef __m512 vf;
enum { LANES = 16 };
#define v_load(p)      _mm512_loadu_ps(p)
#define v_store(p, v)  _mm512_storeu_ps(p, v)
#define v_fma(a, b, c) _mm512_fmadd_ps(a, b, c)
#define v_add(a, b)    _mm512_add_ps(a, b)

#include "cpu/peak_fma.inc.h"

void npt_peak_fill_avx512(npt_peak *peak)
{
    *peak = (npt_peak){"FMA, avx512", 2 * SUMS * LANES, run};
}
