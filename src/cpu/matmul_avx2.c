/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "cpu/matmul_native.h"

#include <immintrin.h>

/* AVX2, FMA and F16C for matmul_native.inc.h: 6 rows × 2 vectors hold 12 of the 16 registers. */

typedef __m256 vf;
typedef struct vtable {
    __m256 low, high; /* the scaled levels 0 … 7 and 8 … 15 */
} vtable;
enum { LANES = NPT_NATIVE_AVX2_LANES, MAX_ROWS = NPT_NATIVE_AVX2_ROWS, DOT_TOKENS = 2, NEAR = 0 };
#define FILL       npt_matmul_fill_avx2
#define TILE_CASES TILE_CASE(2) TILE_CASE(4) TILE_CASE(6)

#define v_zero()       _mm256_setzero_ps()
#define v_set1(x)      _mm256_set1_ps(x)
#define v_load(p)      _mm256_loadu_ps(p)
#define v_store(p, v)  _mm256_storeu_ps(p, v)
#define v_fma(a, b, c) _mm256_fmadd_ps(a, b, c)
#define v_add(a, b)    _mm256_add_ps(a, b)

static inline vf v_from_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

static inline vf v_from_bf16(const uint16_t *p)
{
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

/* Words of 32 bits: the odd half of each is the upper one. */
static inline vf v_even_bf16(const uint16_t *p)
{
    const __m256i words = _mm256_loadu_si256((const __m256i *)p);
    return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
}

static inline vf v_odd_bf16(const uint16_t *p)
{
    const __m256i words = _mm256_loadu_si256((const __m256i *)p);
    return _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32((int32_t)0xffff0000u)));
}

static inline vtable v_table(const float *levels, float absmax)
{
    const __m256 scale = _mm256_set1_ps(absmax);
    return (vtable){_mm256_mul_ps(_mm256_loadu_ps(levels), scale),
                    _mm256_mul_ps(_mm256_loadu_ps(levels + 8), scale)};
}

/* The lookups see three bits of an index, the fourth chooses between them. */
static inline vf v_lookup(vtable table, __m256i index)
{
    const __m256 low = _mm256_permutevar8x32_ps(table.low, index);
    const __m256 high = _mm256_permutevar8x32_ps(table.high, index);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
}

/* Each lane shifts its nibble down out of four bytes. */
static inline vf v_from_nf4(const uint8_t *packed, vtable table)
{
    int32_t bytes;
    memcpy(&bytes, packed, sizeof(bytes));
    const __m256i shift = _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24);
    return v_lookup(table, _mm256_srlv_epi32(_mm256_set1_epi32(bytes), shift));
}

/* Of eight words nibble i. */
static inline vf v_nibbles(const uint8_t *packed, int i, vtable table)
{
    const __m256i words = _mm256_loadu_si256((const __m256i *)packed);
    return v_lookup(table, _mm256_srl_epi32(words, _mm_cvtsi32_si128(4 * i)));
}

/* Eight halves in the low words of eight lanes; NaN replaced. */
static inline void store_halves(uint16_t *p, __m256i half, vf v, int canonical)
{
    const __m256 nan = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
    half = _mm256_blendv_epi8(half, _mm256_set1_epi32(canonical), _mm256_castps_si256(nan));
    const __m256i packed = _mm256_packus_epi32(half, half);
    _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08)));
}

static inline void v_to_f16(uint16_t *p, vf v)
{
    const __m128i half = _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    store_halves(p, _mm256_cvtepu16_epi32(half), v, 0x7e00);
}

static inline void v_to_bf16(uint16_t *p, vf v)
{
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    store_halves(p, _mm256_srli_epi32(_mm256_add_epi32(bits, bias), 16), v, 0x7fc0);
}

/* 8 × 8: pairs, quarters, halves. */
static inline void v_transpose(vf v[LANES])
{
    vf a[8], b[8];
    UNROLLED
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
        a[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
    }
    UNROLLED
    for (int i = 0; i < 8; i += 4) {
        b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
        b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
        b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
        b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
    }
    UNROLLED
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
        v[i + 4] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
    }
}

#include "cpu/matmul_native.inc.h"
