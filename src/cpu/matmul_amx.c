/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "cpu/matmul_native.h"

#include <immintrin.h>

/* AMX tiles for the blocked product: 32 × 32 sums in four tiles, operands as bf16 pieces. BF16 is
 * one piece, taken as it lies. F16 is exactly hi + lo (hi by truncation; neither is ever a bf16
 * subnormal, which the tiles would flush); all four products are exact and summed in F32, the small
 * ones first. An infinity or a NaN has no such lo: packing says so, and FMA does the product.
 *
 * Packed forms: rows [piece][row][depth]; lanes [32 k][piece][vector][16 pairs of k][16 lanes][2],
 * a kilobyte a tile. Results and storing are those of AVX-512. */

enum {
    STEP = NPT_NATIVE_AMX_STEP,
    LANES = NPT_NATIVE_AVX512_LANES,
    TILE_HALVES = 512,
    MAX_PIECES = 2
};

/* Tiles 0–3: sums [row half][vector]; 4, 5: rows; 6, 7: lanes. */
typedef struct npt_tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} npt_tile_config;

static void begin(void)
{
    npt_tile_config config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.row_bytes[i] = 64;
        config.rows[i] = 16;
    }
    /* gcc 12 does not see that the next line reads the stores above */
    __asm__ volatile("" ::"r"(&config) : "memory");
    _tile_loadconfig(&config);
}

static void end(void)
{
    _tile_release();
}

/* ---- Packing -------------------------------------------------------------------------------- */

/* 16 F16 values in two pieces; whether all are finite. */
static inline bool split(__m256i half, __m256i piece[MAX_PIECES])
{
    const __m512 value = _mm512_cvtph_ps(half);
    const __m512i bits = _mm512_castps_si512(value);
    const __m512i high = _mm512_and_si512(bits, _mm512_set1_epi32((int)0xffff0000u));
    const __m512 low = _mm512_sub_ps(value, _mm512_castsi512_ps(high));
    const __m256i exponent = _mm256_set1_epi16(0x7c00);
    piece[0] = _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16));
    piece[1] = _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(low), 16));
    return _mm256_cmpeq_epi16_mask(_mm256_and_si256(half, exponent), exponent) == 0;
}

/* 32 halves from `src`, zeros after `count`. */
static inline __m512i load_halves(const uint16_t *src, int64_t count)
{
    if (count >= STEP) return _mm512_loadu_si512(src);
    return _mm512_maskz_loadu_epi16(count <= 0 ? 0 : (1u << count) - 1, src);
}

/* 32 halves in `pieces` pieces. */
static inline bool pieces_of(int pieces, __m512i halves, __m512i piece[MAX_PIECES])
{
    __m256i low[MAX_PIECES], high[MAX_PIECES];
    if (pieces == 1) {
        piece[0] = halves;
        return true;
    }
    bool good = split(_mm512_castsi512_si256(halves), low);
    good &= split(_mm512_extracti64x4_epi64(halves, 1), high);
    for (int p = 0; p < MAX_PIECES; p++)
        piece[p] = _mm512_inserti64x4(_mm512_castsi256_si512(low[p]), high[p], 1);
    return good;
}

static inline __attribute__((always_inline)) bool pack_rows_of(const int pieces,
                                                               const npt_native_operand *src,
                                                               int64_t first, int rows, int64_t k0,
                                                               int64_t depth, uint16_t *dst)
{
    const int64_t stride = NPT_NATIVE_MAX_DEPTH / pieces;
    bool good = true;
    for (int64_t r = 0; r < rows; r++) {
        const bool inside = first + r < src->count;
        const uint16_t *row =
            (const uint16_t *)src->data + (inside ? (first + r) * src->depth + k0 : 0);
        for (int64_t k = 0; k < depth; k += STEP) {
            __m512i piece[MAX_PIECES];
            good &= pieces_of(pieces, load_halves(row + k, inside ? depth - k : 0), piece);
            for (int p = 0; p < pieces; p++)
                _mm512_storeu_si512(dst + (p * rows + r) * stride + k, piece[p]);
        }
    }
    return good;
}

/* 16 × 16 words of 32 bits turned. */
static inline void turn(__m512i v[16])
{
    __m512i a[16];
    UNROLLED
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    UNROLLED
    for (int i = 0; i < 16; i += 4) {
        v[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    UNROLLED
    for (int i = 0; i < 4; i++) {
        const __m512i low = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x88);
        const __m512i high = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xdd);
        const __m512i low2 = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x88);
        const __m512i high2 = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xdd);
        a[i] = _mm512_shuffle_i32x4(low, low2, 0x88);
        a[i + 4] = _mm512_shuffle_i32x4(high, high2, 0x88);
        a[i + 8] = _mm512_shuffle_i32x4(low, low2, 0xdd);
        a[i + 12] = _mm512_shuffle_i32x4(high, high2, 0xdd);
    }
    UNROLLED
    for (int i = 0; i < 16; i++) v[i] = a[i];
}

/* k inside: 16 vectors × 32 k are 16 × 16 pairs; turned, they are a tile. */
static inline __attribute__((always_inline)) bool
pack_turned_of(const int pieces, const npt_native_operand *src, int64_t first, int64_t k,
               int64_t depth, uint16_t *dst, int64_t piece_stride)
{
    __m512i v[MAX_PIECES][LANES];
    bool good = true;
    for (int64_t r = 0; r < LANES; r++) {
        const bool inside = first + r < src->count;
        const uint16_t *row =
            (const uint16_t *)src->data + (inside ? (first + r) * src->depth + k : 0);
        __m512i piece[MAX_PIECES];
        good &= pieces_of(pieces, load_halves(row, inside ? depth : 0), piece);
        for (int p = 0; p < pieces; p++) v[p][r] = piece[p];
    }
    for (int p = 0; p < pieces; p++) {
        turn(v[p]);
        for (int i = 0; i < 16; i++)
            _mm512_storeu_si512(dst + p * piece_stride + i * STEP, v[p][i]);
    }
    return good;
}

/* k outside: two rows of the matrix, 32 lanes each, woven into pairs: two vectors of a tile row. */
static inline void weave(__m512i even, __m512i odd, __m512i pair[2])
{
    /* unpack works in 128-bit pieces: bring the pieces into its order first */
    const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    even = _mm512_permutexvar_epi64(order, even);
    odd = _mm512_permutexvar_epi64(order, odd);
    const __m512i low = _mm512_unpacklo_epi16(even, odd);
    const __m512i high = _mm512_unpackhi_epi16(even, odd);
    pair[0] = low;
    pair[1] = high;
}

static inline __attribute__((always_inline)) bool
pack_woven_of(const int pieces, const npt_native_operand *src, int64_t first, int64_t k,
              int64_t depth, int vectors, uint16_t *dst)
{
    const int64_t valid = src->count - first;
    const uint16_t *base = (const uint16_t *)src->data + first;
    bool good = true;
    for (int64_t i = 0; i < STEP; i += 2) {
        const uint16_t *even = base + (k + i) * src->count, *odd = even + src->count;
        __m512i x[MAX_PIECES], y[MAX_PIECES], pair[2];
        good &= pieces_of(pieces, load_halves(i < depth ? even : base, i < depth ? valid : 0), x);
        good &= pieces_of(pieces,
                          load_halves(i + 1 < depth ? odd : base, i + 1 < depth ? valid : 0), y);
        for (int p = 0; p < pieces; p++) {
            uint16_t *to = dst + p * vectors * TILE_HALVES + i / 2 * STEP;
            weave(x[p], y[p], pair);
            _mm512_storeu_si512(to, pair[0]);
            if (vectors == 2) _mm512_storeu_si512(to + TILE_HALVES, pair[1]);
        }
    }
    return good;
}

static inline __attribute__((always_inline)) bool
pack_lanes_of(const int pieces, const npt_native_operand *src, int64_t first, int width, int64_t k0,
              int64_t depth, uint16_t *dst)
{
    const int64_t panel_halves = NPT_NATIVE_MAX_DEPTH * 2 * LANES; /* all pieces */
    bool good = true;
    for (int64_t k = 0; k < depth; k += STEP)
        for (int panel = 0; panel < width; panel += 2 * LANES) {
            const int vectors = width - panel > LANES ? 2 : 1;
            uint16_t *to = dst + panel / (2 * LANES) * panel_halves +
                           k / STEP * pieces * vectors * TILE_HALVES;
            const int64_t some = depth - k < STEP ? depth - k : STEP;
            if (!src->k_inside) {
                good &= pack_woven_of(pieces, src, first + panel, k0 + k, some, vectors, to);
                continue;
            }
            for (int v = 0; v < vectors; v++)
                good &= pack_turned_of(pieces, src, first + panel + v * LANES, k0 + k, some,
                                       to + v * TILE_HALVES, vectors * TILE_HALVES);
        }
    return good;
}

static bool pack_rows_1(const npt_native_operand *src, int64_t first, int rows, int64_t k0,
                        int64_t depth, void *dst)
{
    return pack_rows_of(1, src, first, rows, k0, depth, dst);
}

static bool pack_rows_2(const npt_native_operand *src, int64_t first, int rows, int64_t k0,
                        int64_t depth, void *dst)
{
    return pack_rows_of(2, src, first, rows, k0, depth, dst);
}

static bool pack_lanes_1(const npt_native_operand *src, int64_t first, int width, int64_t k0,
                         int64_t depth, void *dst)
{
    return pack_lanes_of(1, src, first, width, k0, depth, dst);
}

static bool pack_lanes_2(const npt_native_operand *src, int64_t first, int width, int64_t k0,
                         int64_t depth, void *dst)
{
    return pack_lanes_of(2, src, first, width, k0, depth, dst);
}

/* ---- The tile ------------------------------------------------------------------------------- */

#define LOAD_ROWS(p)                                                                               \
    do {                                                                                           \
        _tile_loadd(4, row + (p)*row_piece, row_bytes);                                            \
        if (tall) _tile_loadd(5, row + (p)*row_piece + 16 * stride, row_bytes);                    \
    } while (0)
#define LOAD_LANES(p)                                                                              \
    do {                                                                                           \
        _tile_loadd(6, lane + (p)*vectors * TILE_HALVES, 64);                                      \
        if (wide) _tile_loadd(7, lane + ((p)*vectors + 1) * TILE_HALVES, 64);                      \
    } while (0)
#define MULTIPLY()                                                                                 \
    do {                                                                                           \
        _tile_dpbf16ps(0, 4, 6);                                                                   \
        if (wide) _tile_dpbf16ps(1, 4, 7);                                                         \
        if (tall) _tile_dpbf16ps(2, 5, 6);                                                         \
        if (tall && wide) _tile_dpbf16ps(3, 5, 7);                                                 \
    } while (0)

/* `tall`: 32 rows, else 16; `wide`: two vectors, else one. */
static inline __attribute__((always_inline)) void
tile_of(const int pieces, const bool tall, const bool wide, const npt_native_tile *work)
{
    const int vectors = wide ? 2 : 1;
    const int64_t stride = work->row_stride, row_bytes = stride * 2;
    const int64_t row_piece = (tall ? 32 : 16) * stride, sum_bytes = vectors * 64;
    const int64_t steps = work->depth / STEP;
    const int64_t ahead = (work->line_count + steps - 1) / steps;
    const uint16_t *row = work->row, *lane = work->lane;
    const char *const *line = work->lines, *const *const last = line + work->line_count;
    float *const sums = work->sums;
    if (work->add) {
        _tile_loadd(0, sums, sum_bytes);
        if (wide) _tile_loadd(1, sums + 16, sum_bytes);
        if (tall) _tile_loadd(2, sums + 16 * vectors * 16, sum_bytes);
        if (tall && wide) _tile_loadd(3, sums + 16 * vectors * 16 + 16, sum_bytes);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t s = 0; s < steps; s++) {
        for (int64_t i = 0; i < ahead && line < last; i++) __builtin_prefetch(*line++, 0, 2);
        if (pieces == 1) {
            LOAD_ROWS(0);
            LOAD_LANES(0);
            MULTIPLY();
        } else {
            LOAD_ROWS(0);
            LOAD_LANES(1);
            MULTIPLY();
            LOAD_LANES(0);
            MULTIPLY();
            LOAD_ROWS(1);
            MULTIPLY();
            LOAD_LANES(1);
            MULTIPLY();
        }
        row += STEP;
        lane += pieces * vectors * TILE_HALVES;
    }
    _tile_stored(0, sums, sum_bytes);
    if (wide) _tile_stored(1, sums + 16, sum_bytes);
    if (tall) _tile_stored(2, sums + 16 * vectors * 16, sum_bytes);
    if (tall && wide) _tile_stored(3, sums + 16 * vectors * 16 + 16, sum_bytes);
}

static void tile_1(const npt_native_tile *work)
{
    if (work->rows == 32 && work->vectors == 2)
        tile_of(1, true, true, work);
    else if (work->rows == 32)
        tile_of(1, true, false, work);
    else if (work->vectors == 2)
        tile_of(1, false, true, work);
    else
        tile_of(1, false, false, work);
}

static void tile_2(const npt_native_tile *work)
{
    if (work->rows == 32 && work->vectors == 2)
        tile_of(2, true, true, work);
    else if (work->rows == 32)
        tile_of(2, true, false, work);
    else if (work->vectors == 2)
        tile_of(2, false, true, work);
    else
        tile_of(2, false, false, work);
}

void npt_matmul_fill_amx(npt_native_ops *ops, int pieces)
{
    npt_matmul_fill_avx512(ops);
    ops->begin = begin;
    ops->end = end;
    ops->pack_rows = pieces == 1 ? pack_rows_1 : pack_rows_2;
    ops->pack_lanes = pieces == 1 ? pack_lanes_1 : pack_lanes_2;
    ops->tile = pieces == 1 ? tile_1 : tile_2;
}
