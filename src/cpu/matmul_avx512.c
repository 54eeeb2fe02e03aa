/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "base/asan.h"
#include "cpu/matmul_native.h"

#include <immintrin.h>

#include "cpu/avx512.inc.h"

/* AVX-512 F, BW, DQ, VL for matmul_native.inc.h: 14 rows × 2 vectors hold 28 of the 32 registers.
 */

typedef __m512 vf;
typedef __m512 vtable;
typedef __m512 vlevels;
enum {
    LANES = NPT_NATIVE_AVX512_LANES,
    MAX_ROWS = NPT_NATIVE_AVX512_ROWS,
    DOT_TOKENS = 4,
    NF4_ROWS = 4,
    SPREAD_TOKENS = 8,
    NEAR = 16,
};
#define FILL npt_matmul_fill_avx512
#define TILE_CASES                                                                                 \
    TILE_CASE(2) TILE_CASE(4) TILE_CASE(6) TILE_CASE(8) TILE_CASE(10) TILE_CASE(12) TILE_CASE(14)

#define v_zero()       _mm512_setzero_ps()
#define v_set1(x)      _mm512_set1_ps(x)
#define v_load(p)      _mm512_loadu_ps(p)
#define v_store(p, v)  _mm512_storeu_ps(p, v)
#define v_fma(a, b, c) _mm512_fmadd_ps(a, b, c)
#define v_add(a, b)    _mm512_add_ps(a, b)

static inline vf v_from_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

static inline vf v_from_bf16(const uint16_t *p)
{
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

static inline vtable v_table(const float *levels, float absmax)
{
    return _mm512_mul_ps(_mm512_loadu_ps(levels), _mm512_set1_ps(absmax));
}

/* Words of 32 bits: the odd half of each is the upper one. */
static inline vf v_even_bf16(const uint16_t *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16));
}

static inline vf v_odd_bf16(const uint16_t *p)
{
    const __m512i upper = _mm512_set1_epi32((int32_t)0xffff0000u);
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), upper));
}

/* The lookup sees four bits of an index. */
static inline vf v_from_nf4(const uint8_t *packed, vtable table)
{
    return _mm512_permutexvar_ps(sixteen_nibbles(packed), table);
}

static inline vlevels v_levels(const float *levels)
{
    return _mm512_loadu_ps(levels);
}

/* A block in nibble order: of eight words nibble i, then of the same words nibble i + 4. */
static inline void v_block(const uint8_t *packed, const vlevels *levels, float absmax,
                           vf v[64 / LANES])
{
    const __m512i words = _mm512_broadcast_i32x8(_mm256_loadu_si256((const __m256i *)packed));
    const __m512i upper = _mm512_set_epi32(16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0);
    const vtable table = _mm512_mul_ps(*levels, _mm512_set1_ps(absmax));
    UNROLLED
    for (int i = 0; i < 64 / LANES; i++) {
        const __m512i shift = _mm512_add_epi32(upper, _mm512_set1_epi32(4 * i));
        v[i] = _mm512_permutexvar_ps(_mm512_srlv_epi32(words, shift), table);
    }
}

static inline void v_to_f16(uint16_t *p, vf v)
{
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m256i half = _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_storeu_si256((__m256i *)p, _mm256_mask_set1_epi16(half, nan, 0x7e00));
}

static inline void v_to_bf16(uint16_t *p, vf v)
{
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    __m512i half = _mm512_srli_epi32(_mm512_add_epi32(bits, bias), 16);
    half = _mm512_mask_set1_epi32(half, nan, 0x7fc0);
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(half));
}

static inline void v_transpose(vf v[LANES])
{
    __m512i words[LANES];
    UNROLLED
    for (int i = 0; i < LANES; i++) words[i] = _mm512_castps_si512(v[i]);
    turn(words);
    UNROLLED
    for (int i = 0; i < LANES; i++) v[i] = _mm512_castsi512_ps(words[i]);
}

#include "cpu/matmul_native.inc.h"
