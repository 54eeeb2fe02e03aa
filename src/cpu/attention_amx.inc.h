/* SPDX-License-Identifier: BSD-2-Clause */
/* What both passes of attention_amx.c, which includes this, are made of: tiles, their products,
 * values in bf16 pieces, and packing.
 *
 * A tile is 16 × 16 words of 32 bits, a kilobyte: F32, or pairs of bf16 that are neighbours in what
 * a product sums over ("depth"). A product takes 32 of depth. Its left operand is a tile [16
 * rows][16 pairs], its right one [16 pairs][16 columns]. Packed operands are tiles one after the
 * other, of 32 rows or keys first all of piece 0, then all of piece 1 and so on. Unlike those of
 * attention.inc.h, rows and keys are cut at multiples of 32, counted in the sequence; what lies
 * outside is packed as zeros. */

enum {
    SIDE = 16,    /* rows of a tile */
    STEP = 32,    /* depth of a product; also rows of a strip, and keys to a unit */
    HALVES = 512, /* of a tile */
    WORDS = 256,
    MAX_PIECES = 3
};

/* ---- Tiles ----------------------------------------------------------------------------------- */

typedef struct npt_tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} npt_tile_config;

static void begin_tiles(void)
{
    npt_tile_config config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.row_bytes[i] = 64;
        config.rows[i] = SIDE;
    }
    /* gcc 12 does not see that the next line reads the stores above */
    __asm__ volatile("" ::"r"(&config) : "memory");
    _tile_loadconfig(&config);
}

/* Two tiles by two of C (+)= A·B. Distances are in elements: from one tile of A to that below, of B
 * to that beside it, to the next 32 of depth, to the next piece. */
typedef struct npt_pair_product {
    const uint16_t *a, *b;
    int64_t a_tile, a_step, a_piece;
    int64_t b_tile, b_step, b_piece;
    int64_t steps;
    float *c;
    int64_t c_down, c_right, c_row; /* c_row: from one row of a tile to the next */
    bool add;
} npt_pair_product;

#define LOAD_LEFT(from)                                                                            \
    do {                                                                                           \
        _tile_loadd(4, (from), 64);                                                                \
        _tile_loadd(5, (from) + x->a_tile, 64);                                                    \
    } while (0)
#define LOAD_RIGHT(from)                                                                           \
    do {                                                                                           \
        _tile_loadd(6, (from), 64);                                                                \
        _tile_loadd(7, (from) + x->b_tile, 64);                                                    \
    } while (0)
#define MULTIPLY()                                                                                 \
    do {                                                                                           \
        _tile_dpbf16ps(0, 4, 6);                                                                   \
        _tile_dpbf16ps(1, 4, 7);                                                                   \
        _tile_dpbf16ps(2, 5, 6);                                                                   \
        _tile_dpbf16ps(3, 5, 7);                                                                   \
    } while (0)
#define EACH_SUM(DO)                                                                               \
    do {                                                                                           \
        DO(0, x->c, row_bytes);                                                                    \
        DO(1, x->c + x->c_right, row_bytes);                                                       \
        DO(2, x->c + x->c_down, row_bytes);                                                        \
        DO(3, x->c + x->c_down + x->c_right, row_bytes);                                           \
    } while (0)

/* Multiplied are those pieces i of A and j of B of which i + j ≤ last. */
INLINE void multiply(const npt_pair_product *x, const int a_pieces, const int b_pieces,
                     const int last)
{
    const uint16_t *a = x->a, *b = x->b;
    const int64_t row_bytes = x->c_row * (int64_t)sizeof(float);
    if (x->add) {
        EACH_SUM(_tile_loadd);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t s = 0; s < x->steps; s++) {
        UNROLLED
        for (int i = 0; i < a_pieces; i++) {
            LOAD_LEFT(a + i * x->a_piece);
            UNROLLED
            for (int j = 0; j < b_pieces; j++) {
                if (i + j > last) break;
                if (i == 0 || b_pieces > 1) LOAD_RIGHT(b + j * x->b_piece);
                MULTIPLY();
            }
        }
        a += x->a_step;
        b += x->b_step;
    }
    EACH_SUM(_tile_stored);
}

/* ---- Pieces ---------------------------------------------------------------------------------- */

/* Of probabilities and the gradients of scores, which are F32. Beside a half 2^-17 of them may be
 * lost. */
INLINE int weight_pieces(const npt_dtype dtype)
{
    return dtype == NPT_F32 ? 3 : 2;
}

/* Operand by operand. What is left out of F32 is below 2^-24 of a product. */
static void multiply_operands(npt_dtype dtype, const npt_pair_product *x)
{
    if (dtype == NPT_BF16)
        multiply(x, 1, 1, 0);
    else if (dtype == NPT_F16)
        multiply(x, 2, 2, 2);
    else
        multiply(x, 3, 3, 2);
}

static void multiply_operand_weights(npt_dtype dtype, const npt_pair_product *x)
{
    if (dtype == NPT_BF16)
        multiply(x, 1, 2, 1);
    else if (dtype == NPT_F16)
        multiply(x, 2, 2, 1);
    else
        multiply(x, 3, 3, 2);
}

static void multiply_weights_operand(npt_dtype dtype, const npt_pair_product *x)
{
    if (dtype == NPT_BF16)
        multiply(x, 2, 1, 1);
    else if (dtype == NPT_F16)
        multiply(x, 2, 2, 1);
    else
        multiply(x, 3, 3, 2);
}

/* Pieces of 16 values, in the upper halves of words, what lies below is of no use; or of 16 pairs.
 */
typedef struct npt_pieces {
    __m512i piece[MAX_PIECES];
} npt_pieces;

/* Each piece is rounded to nearest. Of what is not finite at least one piece is not, but for NaNs
 * that end in 16 ones or so. */
INLINE npt_pieces split(const int pieces, __m512 x)
{
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000u), half = _mm512_set1_epi32(0x8000);
    npt_pieces result;
    UNROLLED
    for (int p = 0; p < pieces; p++) {
        result.piece[p] = _mm512_add_epi32(_mm512_castps_si512(x), half);
        if (p + 1 == pieces) break;
        result.piece[p] = _mm512_and_si512(result.piece[p], upper);
        x = _mm512_sub_ps(x, _mm512_castsi512_ps(result.piece[p]));
    }
    return result;
}

INLINE npt_pieces join(const int pieces, npt_pieces even, npt_pieces odd)
{
    UNROLLED
    for (int p = 0; p < pieces; p++)
        even.piece[p] =
            _mm512_mask_mov_epi16(_mm512_srli_epi32(even.piece[p], 16), 0xaaaaaaaau, odd.piece[p]);
    return even;
}

INLINE void store_pieces(const int pieces, npt_pieces x, uint16_t *dst, int64_t piece)
{
    UNROLLED
    for (int p = 0; p < pieces; p++) _mm512_storeu_si512(dst + p * piece, x.piece[p]);
}

/* ---- Packing --------------------------------------------------------------------------------- */

#define ALL_INLINE __attribute__((flatten))

/* Where the 32 rows of a unit lie, in elements; -1 where there is none. */
typedef struct npt_places {
    npt_in in;
    int64_t at[STEP];
} npt_places;

INLINE npt_pieces load_pieces(const npt_dtype dtype, const npt_places *from, int row,
                              int64_t offset)
{
    if (from->at[row] < 0) return split(npt_bf16_pieces(dtype), _mm512_setzero_ps());
    /* quiet: adding to the bits of some NaNs gives a zero */
    return split(npt_bf16_pieces(dtype),
                 (__m512)quiet(load_as(dtype, from->in.data, from->at[row] + offset)));
}

/* 32 values of a row, two and two of them a pair: neighbours of BF16, else 16 apart. The order does
 * not matter where all operands have the same. */
INLINE npt_pieces load_along(const npt_dtype dtype, const npt_places *from, int row, int64_t offset)
{
    if (dtype != NPT_BF16)
        return join(npt_bf16_pieces(dtype), load_pieces(dtype, from, row, offset),
                    load_pieces(dtype, from, row, offset + SIDE));
    if (from->at[row] < 0) return (npt_pieces){.piece = {_mm512_setzero_si512()}};
    return (npt_pieces){
        .piece = {_mm512_loadu_si512((const uint16_t *)from->in.data + from->at[row] + offset)}};
}

INLINE __m512i load_words(const npt_places *from, int row, int64_t offset)
{
    return from->at[row] < 0
               ? _mm512_setzero_si512()
               : _mm512_cvtepu16_epi32(_mm256_loadu_si256(
                     (const void *)((const uint16_t *)from->in.data + from->at[row] + offset)));
}

/* 16 values of two rows, each a pair with that of the other row. */
INLINE npt_pieces load_across(const npt_dtype dtype, const npt_places *from, int row, int other,
                              int64_t offset)
{
    if (dtype != NPT_BF16)
        return join(npt_bf16_pieces(dtype), load_pieces(dtype, from, row, offset),
                    load_pieces(dtype, from, other, offset));
    return (npt_pieces){
        .piece = {_mm512_or_si512(load_words(from, row, offset),
                                  _mm512_slli_epi32(load_words(from, other, offset), 16))}};
}

/* The range of what was packed: magnitudes of pieces 0, the least without zeros and less 1. */
typedef struct npt_range {
    __m512i largest, least;
} npt_range;

INLINE npt_range no_range(void)
{
    return (npt_range){_mm512_setzero_si512(), _mm512_set1_epi16(-1)};
}

INLINE void extend(npt_range *range, const npt_dtype dtype, npt_pieces x)
{
    const __m512i size = _mm512_and_si512(x.piece[0], _mm512_set1_epi16(0x7fff));
    range->largest = _mm512_max_epu16(range->largest, size);
    if (dtype != NPT_F32) return;
    range->least = _mm512_min_epu16(range->least, _mm512_sub_epi16(size, _mm512_set1_epi16(1)));
}

/* Do tiles compute with these as FMA does? Not where a piece is infinite or NaN, since another is
 * often 0 and 0·∞ is NaN; nor where a piece of F32 may be subnormal, which they flush: below
 * 2^-102. */
INLINE bool in_range(npt_range range)
{
    return _mm512_cmpge_epu16_mask(range.largest, _mm512_set1_epi16(0x7f80)) == 0 &&
           _mm512_cmplt_epu16_mask(range.least, _mm512_set1_epi16(((127 - 102) << 7) - 1)) == 0;
}

#define FOR_DTYPE(packer, from, dim, dst)                                                          \
    ((from)->in.dtype == NPT_BF16  ? packer(NPT_BF16, from, dim, dst)                              \
     : (from)->in.dtype == NPT_F16 ? packer(NPT_F16, from, dim, dst)                               \
                                   : packer(NPT_F32, from, dim, dst))

/* As they lie, for the left: [row half][dim / 32][16 rows][16 pairs]. Whether all is in range; so
 * below. */
INLINE bool pack_rows_of(const npt_dtype dtype, const npt_places *from, int64_t dim, uint16_t *dst)
{
    const int64_t steps = dim / STEP;
    npt_range range = no_range();
    for (int r = 0; r < STEP; r++) {
        uint16_t *to = dst + r / SIDE * steps * HALVES + r % SIDE * STEP;
        for (int64_t s = 0; s < steps; s++) {
            const npt_pieces x = load_along(dtype, from, r, s * STEP);
            extend(&range, dtype, x);
            store_pieces(npt_bf16_pieces(dtype), x, to + s * HALVES, STEP * dim);
        }
    }
    return in_range(range);
}

ALL_INLINE static bool pack_rows(const npt_places *from, int64_t dim, uint16_t *dst)
{
    return FOR_DTYPE(pack_rows_of, from, dim, dst);
}

/* Turned, for the right, depth over dims: [dim / 32][row half][16 pairs of dims][16 rows]. */
INLINE bool pack_turned_of(const npt_dtype dtype, const npt_places *from, int64_t dim,
                           uint16_t *dst)
{
    npt_range range = no_range();
    for (int64_t s = 0; s < dim / STEP; s++)
        for (int half = 0; half < 2; half++, dst += HALVES) {
            __m512i x[MAX_PIECES][SIDE];
            UNROLLED
            for (int r = 0; r < SIDE; r++) {
                const npt_pieces value = load_along(dtype, from, half * SIDE + r, s * STEP);
                extend(&range, dtype, value);
                UNROLLED
                for (int p = 0; p < npt_bf16_pieces(dtype); p++) x[p][r] = value.piece[p];
            }
            UNROLLED
            for (int p = 0; p < npt_bf16_pieces(dtype); p++) {
                turn(x[p]);
                UNROLLED
                for (int r = 0; r < SIDE; r++)
                    _mm512_storeu_si512(dst + p * STEP * dim + r * STEP, x[p][r]);
            }
        }
    return in_range(range);
}

ALL_INLINE static bool pack_turned(const npt_places *from, int64_t dim, uint16_t *dst)
{
    return FOR_DTYPE(pack_turned_of, from, dim, dst);
}

/* For the left, depth over neighbours among the rows: [dim / 16][16 dims][16 pairs of rows]. */
INLINE bool pack_across_of(const npt_dtype dtype, const npt_places *from, int64_t dim,
                           uint16_t *dst)
{
    npt_range range = no_range();
    for (int64_t d = 0; d < dim; d += SIDE, dst += HALVES) {
        __m512i x[MAX_PIECES][SIDE];
        UNROLLED
        for (int r = 0; r < SIDE; r++) {
            const npt_pieces value = load_across(dtype, from, 2 * r, 2 * r + 1, d);
            extend(&range, dtype, value);
            UNROLLED
            for (int p = 0; p < npt_bf16_pieces(dtype); p++) x[p][r] = value.piece[p];
        }
        UNROLLED
        for (int p = 0; p < npt_bf16_pieces(dtype); p++) {
            turn(x[p]);
            UNROLLED
            for (int i = 0; i < SIDE; i++)
                _mm512_storeu_si512(dst + p * STEP * dim + i * STEP, x[p][i]);
        }
    }
    return in_range(range);
}

ALL_INLINE static bool pack_across(const npt_places *from, int64_t dim, uint16_t *dst)
{
    return FOR_DTYPE(pack_across_of, from, dim, dst);
}

/* For the right, depth over the rows r and r + 16: [dim / 16][16 pairs][16 dims]. */
INLINE bool pack_woven_of(const npt_dtype dtype, const npt_places *from, int64_t dim, uint16_t *dst)
{
    npt_range range = no_range();
    for (int r = 0; r < SIDE; r++)
        for (int64_t d = 0; d < dim; d += SIDE) {
            const npt_pieces value = load_across(dtype, from, r, r + SIDE, d);
            extend(&range, dtype, value);
            store_pieces(npt_bf16_pieces(dtype), value, dst + d * STEP + r * STEP, STEP * dim);
        }
    return in_range(range);
}

ALL_INLINE static bool pack_woven(const npt_places *from, int64_t dim, uint16_t *dst)
{
    return FOR_DTYPE(pack_woven_of, from, dim, dst);
}

/* ---- Exponentials ---------------------------------------------------------------------------- */

/* exponential() of lanes.inc.h with fused operations, 0 where not asked for and where it would be
 * subnormal, which costs much and the tiles flush: within 1 ulp, and 3e-9·|x| for taking ln 2 as
 * one number. */
INLINE __m512 fused_exponential(__mmask16 wanted, __m512 x)
{
    const __m512 magic = _mm512_set1_ps(0x1.8p23f), one = _mm512_set1_ps(1.0f);
    wanted = _mm512_mask_cmp_ps_mask(wanted, x, _mm512_set1_ps(-87.0f), _CMP_NLT_UQ);
    const __m512 n = _mm512_sub_ps(_mm512_fmadd_ps(x, _mm512_set1_ps(0x1.715476p0f), magic), magic);
    const __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.62e43p-1f), x);
    __m512 p = _mm512_fmadd_ps(r, _mm512_set1_ps(0x1.6d117cp-10f), _mm512_set1_ps(0x1.120be2p-7f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.555518p-5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.5554dcp-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(_mm512_mul_ps(r, r), p, r);
    return _mm512_maskz_scalef_ps(wanted, _mm512_add_ps(one, p), n);
}

/* ---- Rows and keys --------------------------------------------------------------------------- */

/* One kv head of one sequence. Its rows, one a query head, are numbered token by token. */
typedef struct npt_group {
    int64_t first, tokens; /* of the sequence */
    int64_t kv, heads;     /* kv head; query heads that share it */
    int64_t all_heads, all_kv, dim;
    int64_t window;
    npt_dtype dtype;
    int64_t packed; /* halves of a packed row: dim, in pieces */
} npt_group;

static npt_group group_of(int64_t sequence, int64_t kv, const int64_t *offsets, int64_t heads,
                          int64_t kv_heads, int64_t dim, int64_t window, npt_dtype dtype)
{
    return (npt_group){.first = offsets[sequence],
                       .tokens = offsets[sequence + 1] - offsets[sequence],
                       .kv = kv,
                       .heads = heads / kv_heads,
                       .all_heads = heads,
                       .all_kv = kv_heads,
                       .dim = dim,
                       .window = window,
                       .dtype = dtype,
                       .packed = dim * npt_bf16_pieces(dtype)};
}

/* 32 rows (fewer at the end) and the keys that any of them sees, up to multiples of 32. */
typedef struct npt_strip {
    int64_t first, count;
    int64_t key_first, key_end;
    int64_t whole_first, whole_end; /* keys that all see */
    int32_t token[STEP];            /* of each row, counted in the sequence; last one repeated */
} npt_strip;

static npt_strip strip_of(const npt_group *g, int64_t first)
{
    npt_strip s = {.first = first, .count = at_most(g->tokens * g->heads - first, STEP)};
    if (s.count <= 0) return (npt_strip){.first = first};
    int64_t token = first / g->heads, head = first % g->heads;
    for (int64_t r = 0; r < STEP; r++) {
        s.token[r] = (int32_t)token;
        if (r + 1 >= s.count || ++head < g->heads) continue;
        head = 0;
        token++;
    }
    const int64_t least = s.token[0], most = s.token[STEP - 1];
    s.whole_end = least + 1;
    s.key_end = round_up(most + 1, STEP);
    if (g->window > 0 && least + 1 > g->window) s.key_first = (least + 1 - g->window) / STEP * STEP;
    if (g->window > 0 && most + 1 > g->window) s.whole_first = most + 1 - g->window;
    return s;
}

/* Do all rows see all of these keys? */
static bool sees_all(const npt_strip *s, int64_t key, int64_t keys)
{
    return key >= s->whole_first && key + keys <= s->whole_end;
}

/* What a row sees: keys above `after` up to `token`. */
typedef struct npt_sight {
    __m512i token, after;
} npt_sight;

static inline npt_sight sight_of(const npt_group *g, const npt_strip *s, int half)
{
    const __m512i token = _mm512_loadu_si512(s->token + half * SIDE);
    const int32_t window = (int32_t)at_most(g->window, INT32_MAX);
    return (npt_sight){token, window > 0 ? _mm512_sub_epi32(token, _mm512_set1_epi32(window))
                                         : _mm512_set1_epi32(-1)};
}

INLINE __mmask16 seen(npt_sight sight, int64_t key)
{
    const __m512i at = _mm512_set1_epi32((int32_t)key);
    return _mm512_mask_cmplt_epi32_mask(_mm512_cmple_epi32_mask(at, sight.token), sight.after, at);
}

/* Where a strip's rows lie in q, out and their gradients. */
static npt_places query_places(const npt_group *g, const npt_strip *s, npt_in in)
{
    npt_places places = {.in = in};
    int64_t token = g->first + s->first / g->heads, head = s->first % g->heads;
    for (int64_t r = 0; r < STEP; r++) {
        const int64_t at = (token * g->all_heads + g->kv * g->heads + head) * g->dim;
        places.at[r] = r < s->count ? at : -1;
        if (++head < g->heads) continue;
        head = 0;
        token++;
    }
    return places;
}

static npt_places key_places(const npt_group *g, int64_t key, npt_in in)
{
    npt_places places = {.in = in};
    for (int64_t j = 0; j < STEP; j++)
        places.at[j] =
            key + j < g->tokens ? ((g->first + key + j) * g->all_kv + g->kv) * g->dim : -1;
    return places;
}

/* Scores of a strip, [key][32 rows], for some units of 32 keys: packed rows of K against packed,
 * turned rows of Q. */
static void scores(const npt_group *g, const uint16_t *keys, const uint16_t *queries, int64_t units,
                   float *dst)
{
    const int64_t steps = g->dim / STEP;
    for (int64_t u = 0; u < units; u++)
        multiply_operands(g->dtype, &(npt_pair_product){.a = keys + u * STEP * g->packed,
                                                        .a_tile = steps * HALVES,
                                                        .a_step = HALVES,
                                                        .a_piece = STEP * g->dim,
                                                        .b = queries,
                                                        .b_tile = HALVES,
                                                        .b_step = 2 * HALVES,
                                                        .b_piece = STEP * g->dim,
                                                        .steps = steps,
                                                        .c = dst + u * STEP * STEP,
                                                        .c_down = SIDE * STEP,
                                                        .c_right = SIDE,
                                                        .c_row = STEP});
}

/* A turned result of a strip (+)= what [32 keys][dim] gives by weights of the keys.
 * `across`: [unit][piece][dim / 16] tiles; weights: [unit][piece][row half]; dst: [dim / 16][row
 * half]. */
static void gather(const npt_group *g, const uint16_t *across, const uint16_t *weights,
                   int64_t units, bool add, float *dst)
{
    for (int64_t d = 0; d < g->dim / SIDE; d += 2)
        multiply_operand_weights(g->dtype,
                                 &(npt_pair_product){.a = across + d * HALVES,
                                                     .a_tile = HALVES,
                                                     .a_step = STEP * g->packed,
                                                     .a_piece = STEP * g->dim,
                                                     .b = weights,
                                                     .b_tile = HALVES,
                                                     .b_step = 2 * weight_pieces(g->dtype) * HALVES,
                                                     .b_piece = 2 * HALVES,
                                                     .steps = units,
                                                     .c = dst + d * 2 * WORDS,
                                                     .c_down = 2 * WORDS,
                                                     .c_right = WORDS,
                                                     .c_row = SIDE,
                                                     .add = add});
}

/* Such a result, each row times its factor, rounded to its place. */
ALL_INLINE static void store_strip(const npt_group *g, const npt_strip *s, const float *src,
                                   const float by[STEP], npt_out out)
{
    const npt_places places = query_places(g, s, (npt_in){0});
    if (out.data == NULL) return;
    for (int64_t half = 0; half < 2; half++) {
        const __m512 factor = _mm512_loadu_ps(by + half * SIDE);
        const int64_t *at = places.at + half * SIDE;
        const int64_t rows = at_most(s->count - half * SIDE, SIDE);
        for (int64_t d = 0; d < g->dim / SIDE; d++) {
            __m512i x[SIDE];
            UNROLLED
            for (int i = 0; i < SIDE; i++)
                x[i] = _mm512_castps_si512(_mm512_mul_ps(
                    factor, _mm512_loadu_ps(src + (2 * d + half) * WORDS + i * SIDE)));
            turn(x);
            for (int64_t r = 0; r < rows; r++)
                store_as(out.dtype, out.data, at[r] + d * SIDE, (vf)x[r]);
        }
    }
}
