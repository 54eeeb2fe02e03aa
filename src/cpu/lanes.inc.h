/* SPDX-License-Identifier: BSD-2-Clause */
/* Vectors of floats, and chunks of rows. Included once by each of kernels_<level>.c, which says in
 * NPT_VECTOR_FLOATS how many floats a register holds; everything here is private to that object.
 *
 * A kernel works on chunks of up to CHUNK elements: widen() gives them as F32 (in place where they
 * are F32 already), padded with zeros to whole groups of LANES; the kernel computes on vectors;
 * narrow() rounds and stores. Invariant: except for fused(), which only attention uses, every
 * operation is a single IEEE one and every sum has LANES partial sums, whatever the width of a
 * register, so that all levels give the same bits. */
#ifndef NPT_CPU_LANES_INC_H
#define NPT_CPU_LANES_INC_H

#include <math.h>
#include <string.h>

#include "base/threads.h"
#include "tensor/dtype.h"
#include "tensor/kernels.h"

#if NPT_VECTOR_FLOATS > 4
#include <immintrin.h>
#endif

enum {
    VF = NPT_VECTOR_FLOATS,
    VD = NPT_VECTOR_FLOATS / 2,
    LANES = 16,   /* partial sums, and what chunks are padded to */
    CHUNK = 512,  /* elements widened at a time: 2 KB a buffer */
    BLOCK = 16384 /* elements of a task */
};

typedef float vf __attribute__((vector_size(4 * NPT_VECTOR_FLOATS)));
typedef int32_t vi __attribute__((vector_size(4 * NPT_VECTOR_FLOATS)));
typedef uint32_t vu __attribute__((vector_size(4 * NPT_VECTOR_FLOATS)));
typedef double vd __attribute__((vector_size(4 * NPT_VECTOR_FLOATS)));
typedef float vh __attribute__((vector_size(2 * NPT_VECTOR_FLOATS)));
/* the same in memory, wherever it lies */
typedef float vf_memory __attribute__((vector_size(4 * NPT_VECTOR_FLOATS), aligned(4), may_alias));
typedef int32_t vi_memory
    __attribute__((vector_size(4 * NPT_VECTOR_FLOATS), aligned(4), may_alias));
typedef float vh_memory __attribute__((vector_size(2 * NPT_VECTOR_FLOATS), aligned(4), may_alias));

static inline vf get(const float *src)
{
    return *(const vf_memory *)src;
}

static inline void put(float *dst, vf value)
{
    *(vf_memory *)dst = value;
}

static inline vf all(float value)
{
    return value - (vf){0};
}

/* `yes` where the mask is -1, `no` where it is 0. */
static inline vf pick(vi mask, vf yes, vf no)
{
    return (vf)(((vi)yes & mask) | ((vi)no & ~mask));
}

/* a > b ? a : b, and a < b ? a : b: of a NaN, b. */
static inline vf larger(vf a, vf b)
{
#if NPT_VECTOR_FLOATS == 16
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif NPT_VECTOR_FLOATS == 8
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return pick(a > b, a, b);
#endif
}

static inline vf smaller(vf a, vf b)
{
#if NPT_VECTOR_FLOATS == 16
    return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif NPT_VECTOR_FLOATS == 8
    return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return pick(a < b, a, b);
#endif
}

/* a·b + c, with one rounding where the level has that instruction. */
static inline vf fused(vf a, vf b, vf c)
{
#if NPT_VECTOR_FLOATS == 16
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif NPT_VECTOR_FLOATS == 8
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

static inline vf square_root(vf x)
{
#if NPT_VECTOR_FLOATS == 16
    return (vf)_mm512_sqrt_ps((__m512)x);
#elif NPT_VECTOR_FLOATS == 8
    return (vf)_mm256_sqrt_ps((__m256)x);
#else
    for (int i = 0; i < VF; i++) x[i] = sqrtf(x[i]);
    return x;
#endif
}

static inline vf magnitude(vf x)
{
    return (vf)((vi)x & 0x7fffffff);
}

/* The canonical NaN for every NaN. */
static inline vf quiet(vf x)
{
#if NPT_VECTOR_FLOATS == 16
    __mmask16 nan = _mm512_cmp_ps_mask((__m512)x, (__m512)x, _CMP_UNORD_Q);
    return (vf)_mm512_mask_mov_ps((__m512)x, nan, _mm512_set1_ps(npt_bits_float(0x7fc00000u)));
#elif NPT_VECTOR_FLOATS == 8
    __m256 nan = _mm256_cmp_ps((__m256)x, (__m256)x, _CMP_UNORD_Q);
    return (vf)_mm256_blendv_ps((__m256)x, _mm256_set1_ps(npt_bits_float(0x7fc00000u)), nan);
#else
    vi ordered = x == x;
    return (vf)(((vi)x & ordered) | (~ordered & 0x7fc00000));
#endif
}

/* `yes` where the sign bit of x is set, `no` where it is not. */
static inline vf pick_by_sign(vf x, vf yes, vf no)
{
#if NPT_VECTOR_FLOATS == 16
    return (vf)_mm512_mask_blend_ps(_mm512_movepi32_mask((__m512i)x), (__m512)no, (__m512)yes);
#elif NPT_VECTOR_FLOATS == 8
    return (vf)_mm256_blendv_ps((__m256)no, (__m256)yes, (__m256)x);
#else
    return pick((vi)x >> 31, yes, no);
#endif
}

/* ---- Halves ---------------------------------------------------------------------------------- */

#if NPT_VECTOR_FLOATS == 4

/* Four halves at a time in integer arithmetic: plain C that any vector unit can be given. */

static inline vu get_bits(const uint16_t *src)
{
    return (vu){src[0], src[1], src[2], src[3]};
}

static inline void put_bits(uint16_t *dst, vu bits)
{
    for (int i = 0; i < VF; i++) dst[i] = (uint16_t)bits[i];
}

/* The exponent is moved up by 112, for infinities and NaN twice; a subnormal is an integer. */
static inline vf get_f16_raw(const uint16_t *src)
{
    vu half = get_bits(src), sign = (half & 0x8000u) << 16, bits = (half & 0x7fffu) << 13;
    vu special = (vu)((vi)bits >= 0x0f800000), subnormal = (vu)((vi)bits < 0x00800000);
    vf small = (vf)(bits + 0x38800000u) - 0x1p-14f;
    vu moved = bits + 0x38000000u + (special & 0x38000000u);
    return (vf)(sign | (vu)pick((vi)subnormal, small, (vf)moved));
}

/* Below 2^-14, adding 0.5 leaves the nearest multiple of 2^-24 in the low bits. */
static inline void put_f16(uint16_t *dst, vf value)
{
    vu all_bits = (vu)quiet(value), bits = all_bits & 0x7fffffffu;
    vu nan = (vu)((vi)bits > 0x7f800000), large = (vu)((vi)bits >= 0x477ff000);
    vu small = (vu)((vi)bits < 0x38800000);
    vu rounded = (bits - 0x38000000u + 0x0fffu + ((bits >> 13) & 1u)) >> 13;
    vu tiny = (vu)((vf)bits + 0.5f) - 0x3f000000u;
    rounded = (small & tiny) | (~small & rounded);
    rounded = (large & (0x7c00u | (nan & 0x0200u))) | (~large & rounded);
    put_bits(dst, rounded | ((all_bits >> 16) & 0x8000u));
}

static inline vf get_bf16_raw(const uint16_t *src)
{
    return (vf)(get_bits(src) << 16);
}

static inline void put_bf16(uint16_t *dst, vf value)
{
    vu bits = (vu)quiet(value);
    put_bits(dst, (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

#else

/* A NaN as it comes. */
static inline vf get_f16_raw(const uint16_t *src)
{
#if NPT_VECTOR_FLOATS == 16
    return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const void *)src));
#else
    return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const void *)src));
#endif
}

static inline vf get_bf16_raw(const uint16_t *src)
{
#if NPT_VECTOR_FLOATS == 16
    __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)src));
    return (vf)_mm512_slli_epi32(bits, 16);
#else
    __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)src));
    return (vf)_mm256_slli_epi32(bits, 16);
#endif
}

static inline void put_f16(uint16_t *dst, vf value)
{
#if NPT_VECTOR_FLOATS == 16
    _mm256_storeu_si256((void *)dst,
                        _mm512_cvtps_ph((__m512)quiet(value), _MM_FROUND_TO_NEAREST_INT));
#else
    _mm_storeu_si128((void *)dst, _mm256_cvtps_ph((__m256)quiet(value), _MM_FROUND_TO_NEAREST_INT));
#endif
}

static inline void put_bf16(uint16_t *dst, vf value)
{
    vu bits = (vu)quiet(value);
    bits = bits + 0x7fffu + ((bits >> 16) & 1u);
#if NPT_VECTOR_FLOATS == 16
    const __m512i upper = _mm512_set_epi16(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 31, 29,
                                           27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    _mm256_storeu_si256((void *)dst,
                        _mm512_castsi512_si256(_mm512_permutexvar_epi16(upper, (__m512i)bits)));
#else
    bits = bits >> 16;
    __m256i pairs = _mm256_packus_epi32((__m256i)bits, (__m256i)bits);
    pairs = _mm256_permute4x64_epi64(pairs, 0xd8);
    _mm_storeu_si128((void *)dst, _mm256_castsi256_si128(pairs));
#endif
}

#endif

static inline vf get_f16(const uint16_t *src)
{
    return quiet(get_f16_raw(src));
}

static inline vf get_bf16(const uint16_t *src)
{
    return quiet(get_bf16_raw(src));
}

/* A vector of any dtype, a NaN as it comes. Where the dtype is a constant nothing is asked. */
static inline vf load_as(npt_dtype dtype, const void *data, int64_t i)
{
    if (dtype == NPT_F16) return get_f16_raw((const uint16_t *)data + i);
    if (dtype == NPT_BF16) return get_bf16_raw((const uint16_t *)data + i);
    return get((const float *)data + i);
}

static inline void store_as(npt_dtype dtype, void *data, int64_t i, vf value)
{
    if (dtype == NPT_F16)
        put_f16((uint16_t *)data + i, value);
    else if (dtype == NPT_BF16)
        put_bf16((uint16_t *)data + i, value);
    else
        put((float *)data + i, value);
}

/* What get_f16() or get_bf16() gives after store_as(). */
static inline vf round_as(npt_dtype dtype, vf value)
{
    if (dtype == NPT_BF16) {
        vu bits = (vu)quiet(value);
        return (vf)((bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u);
    }
    if (dtype != NPT_F16) return value;
#if NPT_VECTOR_FLOATS == 16
    return (vf)_mm512_cvtph_ps(_mm512_cvtps_ph((__m512)quiet(value), _MM_FROUND_TO_NEAREST_INT));
#else
    uint16_t half[VF];
    put_f16(half, value);
    return get_f16(half);
#endif
}

/* ---- Chunks ---------------------------------------------------------------------------------- */

static inline int64_t round_up(int64_t n, int64_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

/* How far a loop over a chunk of n goes: what pads a chunk is computed, too, since sums and
 * conversions read whole groups. */
static inline int64_t lanes(int64_t n)
{
    return round_up(n, LANES);
}

static inline int64_t at_most(int64_t n, int64_t limit)
{
    return n < limit ? n : limit;
}

/* n halves to F32; reads exactly n, writes whole groups of LANES. */
static void widen_halves(const uint16_t *src, npt_dtype dtype, int64_t n, float *dst)
{
    uint16_t tail[LANES] = {0};
    int64_t whole = n - n % LANES;
    if (n > whole) memcpy(tail, src + whole, (size_t)(n - whole) * sizeof(*src));
    if (dtype == NPT_F16) {
        for (int64_t i = 0; i < whole; i += VF) put(dst + i, get_f16(src + i));
        for (int64_t i = 0; whole < n && i < LANES; i += VF)
            put(dst + whole + i, get_f16(tail + i));
    } else {
        for (int64_t i = 0; i < whole; i += VF) put(dst + i, get_bf16(src + i));
        for (int64_t i = 0; whole < n && i < LANES; i += VF)
            put(dst + whole + i, get_bf16(tail + i));
    }
}

/* n floats to halves; reads whole groups of LANES, writes exactly n. */
static void narrow_halves(const float *src, npt_dtype dtype, int64_t n, uint16_t *dst)
{
    uint16_t tail[LANES];
    int64_t whole = n - n % LANES;
    if (dtype == NPT_F16) {
        for (int64_t i = 0; i < whole; i += VF) put_f16(dst + i, get(src + i));
        for (int64_t i = 0; whole < n && i < LANES; i += VF)
            put_f16(tail + i, get(src + whole + i));
    } else {
        for (int64_t i = 0; i < whole; i += VF) put_bf16(dst + i, get(src + i));
        for (int64_t i = 0; whole < n && i < LANES; i += VF)
            put_bf16(tail + i, get(src + whole + i));
    }
    if (n > whole) memcpy(dst + whole, tail, (size_t)(n - whole) * sizeof(*dst));
}

/* Elements first … first+n-1 copied to `dst` as F32, padded with zeros to whole groups of LANES. */
static void widen_into(npt_in in, int64_t first, int64_t n, float *dst)
{
    if (in.dtype != NPT_F32) {
        widen_halves((const uint16_t *)in.data + first, in.dtype, n, dst);
        return;
    }
    memcpy(dst, (const float *)in.data + first, (size_t)n * sizeof(float));
    for (int64_t i = n; i % LANES != 0; i++) dst[i] = 0.0f;
}

/* The same for n ≤ CHUNK, without a copy where none is needed; NULL for an absent operand. */
static const float *widen(npt_in in, int64_t first, int64_t n, float buffer[CHUNK])
{
    if (in.data == NULL) return NULL;
    if (in.dtype == NPT_F32 && n % LANES == 0) return (const float *)in.data + first;
    widen_into(in, first, n, buffer);
    return buffer;
}

/* Where to compute a chunk of `out`: in place, or in the buffer. narrow() then finishes it. */
static float *target(npt_out out, int64_t first, int64_t n, float buffer[CHUNK])
{
    bool in_place = out.data != NULL && out.dtype == NPT_F32 && n % LANES == 0;
    return in_place ? (float *)out.data + first : buffer;
}

static void narrow(npt_out out, int64_t first, int64_t n, const float *values)
{
    if (out.data == NULL) return;
    if (out.dtype != NPT_F32) {
        narrow_halves(values, out.dtype, n, (uint16_t *)out.data + first);
    } else {
        float *dst = (float *)out.data + first;
        if (dst != values) memcpy(dst, values, (size_t)n * sizeof(float));
    }
}

/* values × scale, rounded to `dtype` and back. */
static void scale_chunk(const float *values, vf scale, npt_dtype dtype, int64_t n, float *dst)
{
    const int64_t end = lanes(n);
    if (dtype == NPT_BF16)
        for (int64_t i = 0; i < end; i += VF)
            put(dst + i, round_as(NPT_BF16, get(values + i) * scale));
    else if (dtype == NPT_F16)
        for (int64_t i = 0; i < end; i += VF)
            put(dst + i, round_as(NPT_F16, get(values + i) * scale));
    else
        for (int64_t i = 0; i < end; i += VF) put(dst + i, get(values + i) * scale);
}

/* ---- Sums ------------------------------------------------------------------------------------ */

/* LANES sums in F64; element i goes to sum i % LANES. */
typedef struct npt_sum {
    vd part[2 * LANES / NPT_VECTOR_FLOATS];
} npt_sum;

static inline vd get_double(const float *src)
{
    return __builtin_convertvector(*(const vh_memory *)src, vd);
}

/* += a·b over whole groups of LANES; the products are exact. */
static void sum_products(npt_sum *sum, const float *a, const float *b, int64_t n)
{
    npt_sum s = *sum;
    for (int64_t i = 0; i < n; i += LANES)
        for (int p = 0; p < LANES / VD; p++)
            s.part[p] += get_double(a + i + p * VD) * get_double(b + i + p * VD);
    *sum = s;
}

/* += a². */
static void sum_squares_into(npt_sum *sum, const float *a, int64_t n)
{
    npt_sum s = *sum;
    for (int64_t i = 0; i < n; i += LANES)
        for (int p = 0; p < LANES / VD; p++) {
            const vd x = get_double(a + i + p * VD);
            s.part[p] += x * x;
        }
    *sum = s;
}

static double sum_total(const npt_sum *sum)
{
    double lane[LANES];
    memcpy(lane, sum->part, sizeof lane);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) lane[i] += lane[i + half];
    return lane[0];
}

static double sum_squares_of(npt_in x, int64_t first, int64_t n)
{
    float buffer[CHUNK];
    npt_sum sum = {{{0}}};
    for (int64_t i = 0; i < n; i += CHUNK) {
        int64_t count = at_most(n - i, CHUNK);
        const float *values = widen(x, first + i, count, buffer);
        sum_squares_into(&sum, values, count);
    }
    return sum_total(&sum);
}

/* ---- Exponential ----------------------------------------------------------------------------- */

/* e^x within 1 ulp, subnormals included: x = n·ln 2 + r, |r| ≤ ln 2 / 2, ln 2 in two parts of which
 * the first has 10 bits, so that n times it is exact; (e^r - 1 - r) / r² by Chebyshev
 * interpolation of degree 4 (error 8e-9); what 1 + r rounds away is added to the small term; times
 * 2^n in two factors, since n reaches ±150. */
static inline vf exponential(vf x)
{
    const float magic = 0x1.8p23f; /* adding it leaves the nearest integer in the low bits */
    x = smaller(all(89.0f), larger(all(-104.0f), x));
    vf shifted = x * 0x1.715476p0f + magic;
    vf n = shifted - magic;
    vf r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    vf p = r * 0x1.6d117cp-10f + 0x1.120be2p-7f;
    p = p * r + 0x1.555518p-5f;
    p = p * r + 0x1.5554dcp-3f;
    p = p * r + 0.5f;
    vf sum = 1.0f + r;
    vf value = sum + (r * r * p + (r - (sum - 1.0f)));
#if NPT_VECTOR_FLOATS == 16
    return (vf)_mm512_scalef_ps((__m512)value, (__m512)n); /* rounds a subnormal once, too */
#else
    vi power = (vi)shifted - 0x4b400000;
    vi half = power >> 1;
    return value * (vf)((half + 127) << 23) * (vf)((power - half + 127) << 23);
#endif
}

/* σ(x) and 1 − σ(x), both within 2 ulp wherever x lies: 1 or e over 1 + e, e = e^−|x|. What 1 + e
 * rounds away is made up for, with 1 − e/2 for its reciprocal, which is near enough. */
static inline vf sigmoid(vf x, vf *complement)
{
    vf e = exponential(-magnitude(x));
    vf sum = 1.0f + e, lost = (e - (sum - 1.0f)) * (1.0f - 0.5f * e);
    vf large = 1.0f / sum;
    large = large - large * lost;
    vf small = e * large;
    *complement = pick_by_sign(x, large, small);
    return pick_by_sign(x, small, large);
}

/* ---- Tasks ----------------------------------------------------------------------------------- */

static void run_blocks(const npt_run *run, npt_task *task, const void *args, int64_t n,
                       int64_t per_task)
{
    if (n > 0)
        npt_threads_run(run->threads, task, (void *)(uintptr_t)args, (n + per_task - 1) / per_task);
}

/* Rows of a task, so that it has about BLOCK elements. */
static int64_t rows_per_task(int64_t width)
{
    return width >= BLOCK ? 1 : BLOCK / (width > 0 ? width : 1);
}

#endif
