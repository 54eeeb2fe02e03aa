/* SPDX-License-Identifier: BSD-2-Clause */
/* Values into bf16 pieces, and pieces into the packed forms of matmul_amx.c, which includes this.
 *
 * F32 is exactly hi + mid + lo, each rounded to nearest, 8 bits; F16 is exactly hi + lo, hi by
 * truncation; BF16 is itself; of NF4 the 16 scaled levels of a block are split like F32 and looked
 * up. Pieces of F32 below 2^-126 are flushed by the tiles: matmul_blocked.c sees to that. Tiles
 * take two neighbours in k as one word of 32 bits, "a pair", the first in the lower half.
 *
 * Limit: two 512-bit ports. 32 values of F32 take some 33 instructions, of F16 17, of NF4 10. */

enum {
    MAX_PIECES = 3,
    NF4_BLOCK = 64,
    NF4_ODD = NPT_DTYPE_COUNT /* in place of NPT_NF4 where blocks straddle rows: value by value */
};

/* Of 16 dtype values: where piece p of each lies in the upper half of word 16·p …; the rest of F32
 * words is of no use. */
INLINE void split(const int dtype, __m512 x, __m512i piece[MAX_PIECES])
{
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000u), half = _mm512_set1_epi32(0x8000);
    const int last = npt_bf16_pieces(dtype) - 1;
    UNROLLED
    for (int p = 0; p < last; p++) {
        __m512i bits = _mm512_castps_si512(x);
        if (dtype != NPT_F16) bits = _mm512_add_epi32(bits, half);
        piece[p] = _mm512_and_si512(bits, upper);
        x = _mm512_sub_ps(x, _mm512_castsi512_ps(piece[p]));
    }
    piece[last] = _mm512_castps_si512(x);
}

/* The upper halves of both, as pairs. */
INLINE __m512i join(__m512i even, __m512i odd)
{
    return _mm512_mask_mov_epi16(_mm512_srli_epi32(even, 16), 0xaaaaaaaau, odd);
}

INLINE void split_pairs(const int dtype, __m512 even, __m512 odd, __m512i pair[MAX_PIECES])
{
    __m512i x[MAX_PIECES], y[MAX_PIECES];
    split(dtype, even, x);
    split(dtype, odd, y);
    UNROLLED
    for (int p = 0; p < npt_bf16_pieces(dtype); p++) pair[p] = join(x[p], y[p]);
}

INLINE __mmask32 first_bits(int64_t count)
{
    return count >= 32 ? 0xffffffffu : count <= 0 ? 0 : (1u << count) - 1;
}

INLINE __m512 load_nf4_odd(const npt_native_operand *src, int64_t index, int64_t count)
{
    const uint8_t *packed = src->data;
    float value[LANES] = {0};
    for (int64_t i = 0; i < LANES && i < count; i++, index++) {
        const unsigned byte = packed[index / 2];
        const float level = src->levels[index % 2 == 0 ? byte >> 4 : byte & 15u];
        value[i] = level * src->absmax[index / NF4_BLOCK];
    }
    return _mm512_loadu_ps(value);
}

/* 16 values of F32, F16 or odd NF4 from `index`, zeros after `count`. */
INLINE __m512 load_values(const int dtype, const npt_native_operand *from, int64_t index,
                          int64_t count)
{
    const void *data = from->data;
    if (dtype == NF4_ODD) return load_nf4_odd(from, index, count);
    if (dtype == NPT_F32) {
        const float *src = (const float *)data + index;
        return count >= LANES ? _mm512_loadu_ps(src)
                              : _mm512_maskz_loadu_ps((__mmask16)first_bits(count), src);
    }
    const uint16_t *src = (const uint16_t *)data + index;
    return _mm512_cvtph_ps(count >= LANES
                               ? _mm256_loadu_si256((const __m256i *)src)
                               : _mm256_maskz_loadu_epi16((__mmask16)first_bits(count), src));
}

/* The 16 scaled levels of a block in pieces. */
INLINE void block_levels(const npt_native_operand *src, int64_t index, __m256i words[MAX_PIECES])
{
    const __m512 absmax = _mm512_set1_ps(src->absmax[index / NF4_BLOCK]);
    __m512i piece[MAX_PIECES];
    split(NPT_NF4, _mm512_mul_ps(_mm512_loadu_ps(src->levels), absmax), piece);
    UNROLLED
    for (int p = 0; p < MAX_PIECES; p++)
        words[p] = _mm512_cvtepi32_epi16(_mm512_srli_epi32(piece[p], 16));
}

/* 32 neighbours of one row as 16 pairs. NF4: `table` has the levels twice. */
INLINE void pairs_along(const int dtype, const npt_native_operand *src, int64_t index,
                        int64_t count, const __m512i table[MAX_PIECES], __m512i pair[MAX_PIECES])
{
    if (dtype == NPT_BF16) {
        const uint16_t *halves = (const uint16_t *)src->data + index;
        pair[0] = count >= STEP ? _mm512_loadu_si512(halves)
                                : _mm512_maskz_loadu_epi16(first_bits(count), halves);
    } else if (dtype == NPT_NF4) {
        /* a word of the lookup uses five bits: what lies above a nibble picks the same level */
        const uint8_t *packed = (const uint8_t *)src->data + index / 2;
        const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)packed));
        const __m512i nibble =
            _mm512_or_si512(_mm512_srli_epi32(bytes, 4), _mm512_slli_epi32(bytes, 16));
        UNROLLED
        for (int p = 0; p < MAX_PIECES; p++) pair[p] = _mm512_permutexvar_epi16(nibble, table[p]);
    } else {
        const __m512i evens =
            _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        const __m512i odds = _mm512_add_epi32(evens, _mm512_set1_epi32(1));
        const __m512 x = load_values(dtype, src, index, count);
        const __m512 y = load_values(dtype, src, index + LANES, count - LANES);
        split_pairs(dtype, _mm512_permutex2var_ps(x, evens, y), _mm512_permutex2var_ps(x, odds, y),
                    pair);
    }
}

/* 16 neighbours of each of two rows, one above the other. NF4: `table` has the levels of the upper
 * row, then those of the lower. */
INLINE void pairs_across(const int dtype, const npt_native_operand *src, const int64_t index[2],
                         const int64_t count[2], const __m512i table[MAX_PIECES],
                         __m512i pair[MAX_PIECES])
{
    if (dtype == NPT_BF16) {
        __m512i x[2];
        UNROLLED
        for (int i = 0; i < 2; i++)
            x[i] = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(
                (__mmask16)first_bits(count[i]), (const uint16_t *)src->data + index[i]));
        pair[0] = _mm512_or_si512(x[0], _mm512_slli_epi32(x[1], 16));
    } else if (dtype == NPT_NF4) {
        const uint8_t *packed = src->data;
        const __m512i x = sixteen_nibbles(packed + index[0] / 2);
        const __m512i y = _mm512_slli_epi32(sixteen_nibbles(packed + index[1] / 2), 16);
        const __m512i low = _mm512_and_si512(x, _mm512_set1_epi32(15));
        const __m512i high = _mm512_and_si512(y, _mm512_set1_epi32(15 << 16));
        const __m512i nibble =
            _mm512_or_si512(_mm512_or_si512(low, high), _mm512_set1_epi32(16 << 16));
        UNROLLED
        for (int p = 0; p < MAX_PIECES; p++) pair[p] = _mm512_permutexvar_epi16(nibble, table[p]);
    } else {
        split_pairs(dtype, load_values(dtype, src, index[0], count[0]),
                    load_values(dtype, src, index[1], count[1]), pair);
    }
}

/* ---- Rows ----------------------------------------------------------------------------------- */

/* [32 k][piece][16 rows][16 rows of these][32 k]: `height` rows in all. `index` begins a block of
 * NF4. */
INLINE void pack_row(const int dtype, const npt_native_operand *src, int64_t index, int64_t depth,
                     uint16_t *dst, int64_t height)
{
    const int pieces = npt_bf16_pieces(dtype);
    __m512i table[MAX_PIECES] = {0}, pair[MAX_PIECES];
    for (int64_t k = 0; k < depth; k += STEP, dst += pieces * height * STEP) {
        if (dtype == NPT_NF4 && k % NF4_BLOCK == 0) {
            __m256i words[MAX_PIECES];
            block_levels(src, index + k, words);
            UNROLLED
            for (int p = 0; p < MAX_PIECES; p++) table[p] = _mm512_broadcast_i64x4(words[p]);
        }
        pairs_along(dtype, src, index + k, depth - k, table, pair);
        UNROLLED
        for (int p = 0; p < pieces; p++) _mm512_storeu_si512(dst + p * height * STEP, pair[p]);
    }
}

/* Units: the first UNIT_DEPTH k of every row, then the next. */
INLINE void pack_rows_of(const int dtype, const npt_native_packing *packing, int64_t from,
                         int64_t to)
{
    enum { SOME = NPT_NATIVE_UNIT_DEPTH };
    const npt_native_operand *src = packing->src;
    const int64_t height = packing->count;
    const int shift = height == 32 ? 5 : 4;
    for (int64_t unit = from; unit < to; unit++) {
        const int64_t r = unit & (height - 1), k0 = (unit >> shift) * SOME;
        const int64_t row = packing->first + r;
        const int64_t left = packing->depth - k0, depth = left < SOME ? left : SOME;
        uint16_t *dst = (uint16_t *)packing->dst + k0 * npt_bf16_pieces(dtype) * height + r * STEP;
        if (row < src->count) {
            pack_row(dtype, src, row * src->depth + packing->k0 + k0, depth, dst, height);
            continue;
        }
        for (int64_t k = 0; k < depth; k += STEP)
            for (int p = 0; p < npt_bf16_pieces(dtype); p++, dst += height * STEP)
                _mm512_storeu_si512(dst, _mm512_setzero_si512());
    }
}

static void pack_rows(const npt_native_packing *packing, int64_t from, int64_t to)
{
    NPT_ASSERT(packing->src->k_inside);
    switch (packing->src->dtype) {
    case NPT_F32: pack_rows_of(NPT_F32, packing, from, to); break;
    case NPT_F16: pack_rows_of(NPT_F16, packing, from, to); break;
    case NPT_NF4:
        if (packing->src->depth % NF4_BLOCK == 0)
            pack_rows_of(NPT_NF4, packing, from, to);
        else
            pack_rows_of(NF4_ODD, packing, from, to);
        break;
    default: pack_rows_of(NPT_BF16, packing, from, to);
    }
}

/* ---- Lanes ---------------------------------------------------------------------------------- */

/* Where the pairs of lanes `lane` … at `k` go; pieces lie `*piece_stride` apart. */
INLINE uint16_t *lane_place(const npt_native_packing *packing, const int pieces, int64_t lane,
                            int64_t k, int64_t *piece_stride)
{
    const int64_t panel = lane / (2 * LANES);
    const int64_t vectors = packing->count - panel * 2 * LANES > LANES ? 2 : 1;
    *piece_stride = vectors * TILE_HALVES;
    return (uint16_t *)packing->dst + panel * packing->block * 2 * LANES * pieces +
           k / STEP * pieces * *piece_stride + lane / LANES % 2 * TILE_HALVES + k % STEP / 2 * STEP;
}

/* k inside: 16 vectors × 32 k are 16 × 16 pairs; turned, they are a tile. */
INLINE void pack_turned_of(const int dtype, const npt_native_packing *packing)
{
    const npt_native_operand *src = packing->src;
    const int pieces = npt_bf16_pieces(dtype);
    for (int64_t lane = 0; lane < packing->count; lane += LANES)
        for (int64_t k = 0; k < packing->depth; k += STEP) {
            __m512i v[MAX_PIECES][LANES], pair[MAX_PIECES];
            int64_t piece_stride;
            uint16_t *to = lane_place(packing, pieces, lane, k, &piece_stride);
            for (int64_t r = 0; r < LANES; r++) {
                const int64_t vector = packing->first + lane + r;
                const bool inside = vector < src->count;
                pairs_along(dtype, src, inside ? vector * src->depth + packing->k0 + k : 0,
                            inside ? packing->depth - k : 0, NULL, pair);
                for (int p = 0; p < pieces; p++) v[p][r] = pair[p];
            }
            for (int p = 0; p < pieces; p++) {
                turn(v[p]);
                for (int i = 0; i < LANES; i++)
                    _mm512_storeu_si512(to + p * piece_stride + i * STEP, v[p][i]);
            }
        }
}

static void pack_turned(const npt_native_packing *packing)
{
    NPT_ASSERT(packing->src->dtype != NPT_NF4);
    switch (packing->src->dtype) {
    case NPT_F32: pack_turned_of(NPT_F32, packing); break;
    case NPT_F16: pack_turned_of(NPT_F16, packing); break;
    default: pack_turned_of(NPT_BF16, packing);
    }
}

/* The levels of two rows' blocks; zeros for a row that is not there. */
INLINE void two_tables(const npt_native_operand *src, const int64_t index[2], bool second,
                       __m512i table[MAX_PIECES])
{
    __m256i upper[MAX_PIECES], lower[MAX_PIECES];
    block_levels(src, index[0], upper);
    block_levels(src, index[1], lower);
    UNROLLED
    for (int p = 0; p < MAX_PIECES; p++)
        table[p] = _mm512_maskz_inserti64x4(second ? 0xff : 0x0f, _mm512_castsi256_si512(upper[p]),
                                            lower[p], 1);
}

/* A whole panel's 32 neighbours of two rows. */
INLINE void weave_panel(const int dtype, const npt_native_operand *src, const int64_t index[2],
                        const __m512i table[MAX_PIECES], uint16_t *to)
{
    const int pieces = npt_bf16_pieces(dtype);
    __m512i pair[MAX_PIECES];
    if (dtype == NPT_BF16) {
        const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11),
                      second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
        const uint16_t *halves = src->data;
        const __m512i x = _mm512_loadu_si512(halves + index[0]);
        const __m512i y = _mm512_loadu_si512(halves + index[1]);
        const __m512i low = _mm512_unpacklo_epi16(x, y), high = _mm512_unpackhi_epi16(x, y);
        _mm512_storeu_si512(to, _mm512_permutex2var_epi64(low, first, high));
        _mm512_storeu_si512(to + TILE_HALVES, _mm512_permutex2var_epi64(low, second, high));
        return;
    }
    UNROLLED
    for (int v = 0; v < 2; v++) {
        const int64_t at[2] = {index[0] + v * LANES, index[1] + v * LANES};
        const int64_t count[2] = {LANES, LANES};
        pairs_across(dtype, src, at, count, table, pair);
        UNROLLED
        for (int p = 0; p < pieces; p++)
            _mm512_storeu_si512(to + (2 * p + v) * TILE_HALVES, pair[p]);
    }
}

/* k outside: lanes … to end-1 of rows k and k + 1 of the matrix, woven. Beyond the packing's depth
 * are zeros. */
INLINE void pack_two_rows(const int dtype, const npt_native_packing *packing, int64_t k,
                          int64_t lane, int64_t end)
{
    const npt_native_operand *src = packing->src;
    const int pieces = npt_bf16_pieces(dtype);
    const int64_t rows = packing->depth - k;
    const int64_t start = (packing->k0 + k) * src->count + packing->first;
    __m512i table[MAX_PIECES] = {0}, pair[MAX_PIECES];
    const int64_t first = lane;
    if (dtype == NPT_BF16 && rows > 1 && end % (2 * LANES) == 0 &&
        src->count - packing->first >= end) {
        int64_t unused, index[2] = {start + lane, start + lane + src->count};
        uint16_t *to = lane_place(packing, pieces, lane, k, &unused);
        for (; lane < end; lane += 2 * LANES, index[0] += 2 * LANES, index[1] += 2 * LANES) {
            weave_panel(dtype, src, index, NULL, to);
            to += packing->block * 2 * LANES;
        }
    }
    while (lane < end) {
        int64_t piece_stride, valid = rows > 0 ? src->count - packing->first - lane : 0;
        uint16_t *to = lane_place(packing, pieces, lane, k, &piece_stride);
        const int64_t index[2] = {start + lane, start + lane + (rows > 1 ? src->count : 0)};
        if (dtype == NPT_NF4 && valid > 0 && (lane == first || index[0] % NF4_BLOCK == 0))
            two_tables(src, index, rows > 1, table);
        if (rows > 1 && valid >= 2 * LANES && piece_stride > TILE_HALVES &&
            lane % (2 * LANES) == 0) {
            weave_panel(dtype, src, index, table, to);
            lane += 2 * LANES;
            continue;
        }
        if (valid > 0) {
            const int64_t count[2] = {valid, rows > 1 ? valid : 0};
            pairs_across(dtype, src, index, count, table, pair);
        }
        for (int p = 0; p < pieces; p++)
            _mm512_storeu_si512(to + p * piece_stride,
                                valid > 0 ? pair[p] : _mm512_setzero_si512());
        lane += LANES;
    }
}

INLINE void pack_woven_of(const int dtype, const npt_native_packing *packing, int64_t from,
                          int64_t to)
{
    const int64_t some = npt_native_unit_lanes(packing->src->dtype);
    const int64_t groups = (packing->count + some - 1) / some;
    for (int64_t unit = from; unit < to; unit++) {
        const uint32_t pair = (uint32_t)unit / (uint32_t)groups; /* quicker than in 64 bits */
        const int64_t lane = (unit - pair * groups) * some, left = packing->count - lane;
        pack_two_rows(dtype, packing, pair * 2, lane, lane + (left < some ? left : some));
    }
}

static void pack_lanes(const npt_native_packing *packing, int64_t from, int64_t to)
{
    if (packing->src->k_inside) {
        if (to > from) pack_turned(packing); /* never ahead */
        return;
    }
    switch (packing->src->dtype) {
    case NPT_F32: pack_woven_of(NPT_F32, packing, from, to); break;
    case NPT_F16: pack_woven_of(NPT_F16, packing, from, to); break;
    case NPT_NF4:
        if (packing->src->count % NF4_BLOCK == 0)
            pack_woven_of(NPT_NF4, packing, from, to);
        else
            pack_woven_of(NF4_ODD, packing, from, to);
        break;
    default: pack_woven_of(NPT_BF16, packing, from, to);
    }
}
