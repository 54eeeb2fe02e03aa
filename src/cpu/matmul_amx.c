/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "cpu/matmul_native.h"

#include <immintrin.h>

/* AMX tiles for the blocked product: 32 × 32 sums in four tiles, operands as bf16 pieces
 * (matmul_amx_pack.inc.h), piece 0 the largest. Multiplied are pieces r of a row and l of a lane
 * with r + l ≤ 2, which is all there is but for F32 and NF4: what they leave out is 2^-26 of the
 * product. Each k block starts from zero and is added to the sums in F32; that keeps the chains of
 * additions, which the tiles round one by one, short. BF16 × BF16 alone goes on from the sums.
 *
 * Limits: a product of 16 × 16 × 32 takes 16 cycles, 1024 FLOP a cycle over the number of products
 * (F32 × F32: some 560 GFLOP/s a core). From second-level cache the tile alone reached 0.8 of that,
 * loading its operands; adding its sums up cost another tenth before that was left to the next
 * tile. A whole product of 4096 × 4096 by 512 rows reached 240 to 290 a core: W is read a page a
 * row, so without huge pages a seventh goes to looking pages up, and lines that are asked for from
 * RAM hold the buffers that those from second-level cache need. Tried and no faster: blocks of k
 * twice as long for F32, more rows of W a task, asking for the resident panels, packing BF16 rows
 * instead of reading them in place.
 *
 * Packed forms, a kilobyte a tile: rows [32 k][piece][half][16 rows][32 k]; lanes
 * [32 k][piece][vector][16 pairs of k][16 lanes][2]. Storing is that of AVX-512. */

#define INLINE static inline __attribute__((always_inline))

enum { STEP = NPT_NATIVE_AMX_STEP, LANES = NPT_NATIVE_AVX512_LANES, TILE_HALVES = 512 };

#include "cpu/avx512.inc.h"
#include "cpu/matmul_amx_pack.inc.h"

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
        meanwhile(&aside, adds);                                                                   \
    } while (0)
/* Tile i with memory at `sums`. */
#define EACH_SUM(DO)                                                                               \
    do {                                                                                           \
        DO(0, sums, sum_bytes);                                                                    \
        if (wide) DO(1, sums + 16, sum_bytes);                                                     \
        if (tall) DO(2, sums + 16 * vectors * 16, sum_bytes);                                      \
        if (tall && wide) DO(3, sums + 16 * vectors * 16 + 16, sum_bytes);                         \
    } while (0)

INLINE void add_late(npt_native_aside *a)
{
    const __m512 sum = _mm512_loadu_ps(a->late_sums);
    _mm512_storeu_ps(a->late_sums, _mm512_add_ps(sum, _mm512_load_ps(a->late)));
    a->late_sums += LANES;
    a->late += LANES;
}

/* A slot. In larger lumps the tiles would run dry behind it. */
INLINE void meanwhile(npt_native_aside *a, const int adds)
{
    const int64_t unit = a->unit;
    for (int i = 0; i < adds && a->late < a->late_end; i++) add_late(a);
    for (int64_t i = a->slot_lines; i > 0 && a->line < a->line_end; i--)
        __builtin_prefetch(*a->line++, 0, 2);
    for (a->due += a->units; a->due >= a->slots; a->due -= a->slots) a->unit++;
    if (unit < a->unit) a->pack(a->next, unit, a->unit);
}

/* `tall`: 32 rows, else 16; `wide`: two vectors, else one. */
INLINE void tile_of(const int r_pieces, const int l_pieces, const bool tall, const bool wide,
                    const npt_native_tile *work)
{
    const bool restart = r_pieces + l_pieces > 2;
    const int vectors = wide ? 2 : 1, rows = tall ? 32 : 16;
    const int64_t stride = work->in_place ? work->row_stride : STEP, row_bytes = stride * 2;
    const int64_t row_piece = rows * STEP, sum_bytes = vectors * 64;
    const int64_t row_step = work->in_place ? STEP : r_pieces * row_piece;
    const int64_t steps = work->depth / STEP;
    const uint16_t *row = work->row, *lane = work->lane;
    float *sums = work->sums;
    const int adds = restart ? 4 : 0; /* 64 are to be made in at least 3 × 4 slots */
    npt_native_aside aside = *work->aside;
    if (work->add && !restart) {
        EACH_SUM(_tile_loadd);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t s = 0; s < steps; s++) {
        /* an order in which each product shares an operand with the one before */
        if (r_pieces > 2) {
            LOAD_ROWS(2);
            LOAD_LANES(0);
            MULTIPLY();
        }
        if (r_pieces > 1) {
            LOAD_ROWS(1);
            if (r_pieces == 2) LOAD_LANES(0);
            MULTIPLY();
        }
        if (r_pieces > 1 && l_pieces > 1) {
            LOAD_LANES(1);
            MULTIPLY();
        }
        LOAD_ROWS(0);
        if (l_pieces > 1) {
            if (r_pieces == 1) LOAD_LANES(1);
            MULTIPLY();
        }
        if (l_pieces > 2) {
            LOAD_LANES(2);
            MULTIPLY();
        }
        if (l_pieces > 1 || r_pieces == 1) LOAD_LANES(0);
        MULTIPLY();
        row += row_step;
        lane += l_pieces * vectors * TILE_HALVES;
    }
    while (aside.late < aside.late_end) add_late(&aside);
    if (work->add && restart) {
        sums = aside.place[0];
        aside.place[0] = aside.place[1];
        aside.place[1] = sums;
        aside.late_sums = work->sums;
        aside.late = sums;
        aside.late_end = sums + rows * vectors * LANES;
    }
    EACH_SUM(_tile_stored);
    *work->aside = aside;
}

INLINE void tile_for(const int r_pieces, const int l_pieces, const npt_native_tile *work)
{
    if (work->rows == 32 && work->vectors == 2)
        tile_of(r_pieces, l_pieces, true, true, work);
    else if (work->rows == 32)
        tile_of(r_pieces, l_pieces, true, false, work);
    else if (work->vectors == 2)
        tile_of(r_pieces, l_pieces, false, true, work);
    else
        tile_of(r_pieces, l_pieces, false, false, work);
}

#define TILES(r, l)                                                                                \
    static void tile_##r##_##l(const npt_native_tile *work)                                        \
    {                                                                                              \
        tile_for(r, l, work);                                                                      \
    }
TILES(1, 1)
TILES(2, 2)
TILES(3, 3)
TILES(3, 1)
TILES(3, 2)
TILES(1, 3)
TILES(2, 3)

/* [pieces of a row - 1][pieces of a lane - 1] */
static void (*const tiles[MAX_PIECES][MAX_PIECES])(const npt_native_tile *work) = {
    {tile_1_1, NULL, tile_1_3},
    {NULL, tile_2_2, tile_2_3},
    {tile_3_1, tile_3_2, tile_3_3},
};

/* ---- What the tiles can take, and what they made ----------------------------------------------
 */

static npt_native_range range(const npt_native_operand *src, int64_t index)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff), one = _mm512_set1_epi32(1);
    __m512i largest = _mm512_setzero_si512(), smallest = _mm512_set1_epi32(-1);
    for (int64_t k = 0; k < src->depth; k += LANES) {
        const __m512 value = load_values(NPT_F32, src, index * src->depth + k, src->depth - k);
        const __m512i bits = _mm512_and_si512(_mm512_castps_si512(value), magnitude);
        largest = _mm512_max_epu32(largest, bits);
        smallest = _mm512_min_epu32(smallest, _mm512_sub_epi32(bits, one)); /* 0 becomes most */
    }
    const uint32_t least = _mm512_reduce_min_epu32(smallest);
    return (npt_native_range){_mm512_reduce_max_epu32(largest), least + (least != UINT32_MAX)};
}

static bool fit(const npt_native_check *check)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    const __m512i infinity = _mm512_set1_epi32(0x7f800000);
    __mmask16 bad = 0;
    for (int64_t i = 0; i < check->width; i += LANES)
        for (int64_t r = 0; r < check->rows; r++) {
            const __m512i least =
                _mm512_castps_si512(check->by_lane ? _mm512_loadu_ps(check->least + i)
                                                   : _mm512_set1_ps(check->least[r]));
            const __m512 value = _mm512_loadu_ps(check->sums + r * check->width + i);
            const __m512i bits = _mm512_and_si512(_mm512_castps_si512(value), magnitude);
            bad |= _mm512_mask_cmpge_epu32_mask((__mmask16)(check->lanes >> i),
                                                _mm512_sub_epi32(bits, least),
                                                _mm512_sub_epi32(infinity, least));
        }
    return bad == 0;
}

void npt_matmul_fill_amx(npt_native_ops *ops, int row_pieces, int lane_pieces)
{
    npt_matmul_fill_avx512(ops);
    ops->begin = begin;
    ops->end = end;
    ops->pack_rows = pack_rows;
    ops->pack_lanes = pack_lanes;
    ops->tile = tiles[row_pieces - 1][lane_pieces - 1];
    ops->range = range;
    ops->fit = fit;
}
