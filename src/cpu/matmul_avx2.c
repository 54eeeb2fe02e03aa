/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "base/asan.h"
#include "cpu/matmul_native.h"

#include <immintrin.h>

/* AVX2, FMA and F16C for matmul_native.inc.h: 6 rows × 2 vectors hold 12 of the 16 registers. */

typedef __m256 vf;
typedef struct vtable {
    __m256 low, high; /* the scaled levels 0 … 7 and 8 … 15 */
} vtable;
typedef struct vlevels {
    __m256i bytes[4]; /* byte 0, 1, 2 and 3 of all levels, in both halves */
} vlevels;
enum {
    LANES = NPT_NATIVE_AVX2_LANES,
    MAX_ROWS = NPT_NATIVE_AVX2_ROWS,
    DOT_TOKENS = 2,
    NF4_ROWS = 1,
    SPREAD_TOKENS = 6,
    NEAR = 0,
};
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

static inline vlevels v_levels(const float *levels)
{
    const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m128i four[4], pair[4];
    vlevels table;
    UNROLLED
    for (int i = 0; i < 4; i++)
        four[i] = _mm_shuffle_epi8(_mm_castps_si128(_mm_loadu_ps(levels + 4 * i)), order);
    UNROLLED
    for (int i = 0; i < 2; i++) {
        pair[i] = _mm_unpacklo_epi32(four[2 * i], four[2 * i + 1]);
        pair[2 + i] = _mm_unpackhi_epi32(four[2 * i], four[2 * i + 1]);
    }
    UNROLLED
    for (int i = 0; i < 4; i++) {
        const __m128i low = pair[i / 2 * 2], high = pair[i / 2 * 2 + 1];
        table.bytes[i] = _mm256_broadcastsi128_si256(i % 2 == 0 ? _mm_unpacklo_epi64(low, high)
                                                                : _mm_unpackhi_epi64(low, high));
    }
    return table;
}

/* 32 levels by one index a byte: their bytes looked up one by one and put together, four of each
 * half of the indices to a vector. */
static inline void v_by_bytes(__m256i index, const vlevels *table, __m256 scale, vf v[4])
{
    __m256i byte[4], low[2], high[2];
    UNROLLED
    for (int i = 0; i < 4; i++) byte[i] = _mm256_shuffle_epi8(table->bytes[i], index);
    UNROLLED
    for (int i = 0; i < 2; i++) {
        low[i] = _mm256_unpacklo_epi8(byte[2 * i], byte[2 * i + 1]);
        high[i] = _mm256_unpackhi_epi8(byte[2 * i], byte[2 * i + 1]);
    }
    v[0] = _mm256_mul_ps(_mm256_castsi256_ps(_mm256_unpacklo_epi16(low[0], low[1])), scale);
    v[1] = _mm256_mul_ps(_mm256_castsi256_ps(_mm256_unpackhi_epi16(low[0], low[1])), scale);
    v[2] = _mm256_mul_ps(_mm256_castsi256_ps(_mm256_unpacklo_epi16(high[0], high[1])), scale);
    v[3] = _mm256_mul_ps(_mm256_castsi256_ps(_mm256_unpackhi_epi16(high[0], high[1])), scale);
}

/* A block in byte order. 24 shuffles for 64 levels; looking up eight at a time, as v_lookup() does,
 * took 1.6 times as long, putting them in their own order 1.4 times (Zen 3). */
static inline void v_block(const uint8_t *packed, const vlevels *table, float absmax,
                           vf v[64 / LANES])
{
    const __m256i bytes = _mm256_loadu_si256((const __m256i *)packed);
    const __m256i nibble = _mm256_set1_epi8(15);
    const __m256 scale = _mm256_set1_ps(absmax);
    v_by_bytes(_mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble), table, scale, v);
    v_by_bytes(_mm256_and_si256(bytes, nibble), table, scale, v + 4);
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
