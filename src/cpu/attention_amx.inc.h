/* SPDX-License-Identifier: BSD-2-Clause */
/* What both passes of attention_amx.c, which includes this, are made of: tiles, their products,
 * packing, and F32 in two bf16 pieces.
 *
 * A tile is 16 × 16 words of 32 bits, a kilobyte: F32, or pairs of bf16 that are neighbours in what
 * a product sums over ("depth"). A product takes 32 of depth. Its left operand is a tile [16
 * rows][16 pairs], its right one [16 pairs][16 columns]. Packed operands are tiles one after the
 * other. Unlike those of attention.inc.h, rows and keys are cut at multiples of 32, counted in the
 * sequence; what lies outside is packed as zeros. */

enum {
    SIDE = 16,    /* rows of a tile */
    STEP = 32,    /* depth of a product; also rows of a strip, and keys to a unit */
    HALVES = 512, /* of a tile */
    WORDS = 256,
    PIECES = 2
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
 * to that beside it, to the next 32 of depth, to the second piece. */
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

INLINE void multiply(const npt_pair_product *x, const int a_pieces, const int b_pieces)
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
        LOAD_LEFT(a);
        LOAD_RIGHT(b);
        MULTIPLY();
        if (a_pieces > 1) LOAD_LEFT(a + x->a_piece);
        if (b_pieces > 1) LOAD_RIGHT(b + x->b_piece);
        if (a_pieces + b_pieces > 2) MULTIPLY();
        a += x->a_step;
        b += x->b_step;
    }
    EACH_SUM(_tile_stored);
}

static void multiply_whole(const npt_pair_product *x)
{
    multiply(x, 1, 1);
}

/* ---- Packing --------------------------------------------------------------------------------- */

#define ALL_INLINE __attribute__((flatten))

/* Where the 32 rows of a unit lie, in elements; -1 where there is none. */
typedef struct npt_places {
    const uint16_t *data;
    int64_t at[STEP];
} npt_places;

INLINE __m512i load_halves(const npt_places *from, int row, int64_t offset)
{
    return from->at[row] < 0 ? _mm512_setzero_si512()
                             : _mm512_loadu_si512(from->data + from->at[row] + offset);
}

/* Magnitudes of bf16, the largest so far. */
typedef __m512i npt_largest;

INLINE npt_largest larger_of(npt_largest so_far, __m512i halves)
{
    return _mm512_max_epu16(so_far, _mm512_and_si512(halves, _mm512_set1_epi16(0x7fff)));
}

/* Tiles multiply pieces, one of which is often 0, and 0·∞ is NaN. */
INLINE bool all_finite(npt_largest x)
{
    return _mm512_cmpge_epu16_mask(x, _mm512_set1_epi16(0x7f80)) == 0;
}

/* As they lie, for the left: [row half][dim / 32][16 rows][32]. Whether all is finite; so below. */
static bool pack_rows(const npt_places *from, int64_t dim, uint16_t *dst)
{
    const int64_t steps = dim / STEP;
    npt_largest largest = _mm512_setzero_si512();
    for (int r = 0; r < STEP; r++) {
        uint16_t *to = dst + r / SIDE * steps * HALVES + r % SIDE * STEP;
        for (int64_t s = 0; s < steps; s++) {
            const __m512i x = load_halves(from, r, s * STEP);
            largest = larger_of(largest, x);
            _mm512_storeu_si512(to + s * HALVES, x);
        }
    }
    return all_finite(largest);
}

/* Turned, for the right, depth over dims: [dim / 32][row half][16 pairs of dims][16 rows]. */
ALL_INLINE static bool pack_turned(const npt_places *from, int64_t dim, uint16_t *dst)
{
    npt_largest largest = _mm512_setzero_si512();
    for (int64_t s = 0; s < dim / STEP; s++)
        for (int half = 0; half < 2; half++, dst += HALVES) {
            __m512i x[SIDE];
            UNROLLED
            for (int r = 0; r < SIDE; r++) {
                x[r] = load_halves(from, half * SIDE + r, s * STEP);
                largest = larger_of(largest, x[r]);
            }
            turn(x);
            UNROLLED
            for (int r = 0; r < SIDE; r++) _mm512_storeu_si512(dst + r * STEP, x[r]);
        }
    return all_finite(largest);
}

/* For the left, depth over neighbours among the rows: [dim / 16][16 dims][32 rows]. Unpacking pairs
 * the dims 0–3, 8–11, … of two rows in one vector, 4–7, 12–15, … in another. */
ALL_INLINE static bool pack_across(const npt_places *from, int64_t dim, uint16_t *dst)
{
    npt_largest largest = _mm512_setzero_si512();
    for (int64_t s = 0; s < dim / STEP; s++, dst += 2 * HALVES) {
        __m512i low[SIDE], high[SIDE];
        UNROLLED
        for (int p = 0; p < SIDE; p++) {
            const __m512i x = load_halves(from, 2 * p, s * STEP);
            const __m512i y = load_halves(from, 2 * p + 1, s * STEP);
            largest = larger_of(larger_of(largest, x), y);
            low[p] = _mm512_unpacklo_epi16(x, y);
            high[p] = _mm512_unpackhi_epi16(x, y);
        }
        turn(low);
        turn(high);
        UNROLLED
        for (int i = 0; i < SIDE; i++) {
            const int row = i / 4 * 8 + i % 4;
            _mm512_storeu_si512(dst + row * STEP, low[i]);
            _mm512_storeu_si512(dst + (row + 4) * STEP, high[i]);
        }
    }
    return all_finite(largest);
}

/* For the right, depth over the rows r and r + 16: [dim / 16][16 pairs][16 dims]. */
static void pack_woven(const npt_places *from, int64_t dim, uint16_t *dst)
{
    const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11),
                  second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    for (int64_t s = 0; s < dim / STEP; s++, dst += 2 * HALVES)
        for (int r = 0; r < SIDE; r++) {
            const __m512i x = load_halves(from, r, s * STEP);
            const __m512i y = load_halves(from, r + SIDE, s * STEP);
            const __m512i low = _mm512_unpacklo_epi16(x, y), high = _mm512_unpackhi_epi16(x, y);
            _mm512_storeu_si512(dst + r * STEP, _mm512_permutex2var_epi64(low, first, high));
            _mm512_storeu_si512(dst + HALVES + r * STEP,
                                _mm512_permutex2var_epi64(low, second, high));
        }
}

/* ---- F32 in two pieces ------------------------------------------------------------------------
 */

/* The pieces of one vector, in the upper halves of words; what lies below is of no use. Both are
 * rounded to nearest: 2^-17 of the value are lost. Of what is not finite at least one piece is not
 * (but of a NaN that ends in 17 ones, which no operation makes of BF16). */
typedef struct npt_pieces {
    __m512i piece[PIECES];
} npt_pieces;

INLINE npt_pieces split(__m512 x)
{
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000u), half = _mm512_set1_epi32(0x8000);
    const __m512i high = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(x), half), upper);
    const __m512 rest = _mm512_sub_ps(x, _mm512_castsi512_ps(high));
    return (npt_pieces){{high, _mm512_add_epi32(_mm512_castps_si512(rest), half)}};
}

/* Stores both pieces of two vectors as pairs. */
INLINE void store_pairs(npt_pieces even, npt_pieces odd, uint16_t *dst, int64_t piece)
{
    UNROLLED
    for (int p = 0; p < PIECES; p++)
        _mm512_storeu_si512(
            dst + p * piece,
            _mm512_mask_mov_epi16(_mm512_srli_epi32(even.piece[p], 16), 0xaaaaaaaau, odd.piece[p]));
}

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
} npt_group;

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
    npt_places places = {.data = in.data};
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
    npt_places places = {.data = in.data};
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
        multiply_whole(&(npt_pair_product){.a = keys + u * 2 * steps * HALVES,
                                           .a_tile = steps * HALVES,
                                           .a_step = HALVES,
                                           .b = queries,
                                           .b_tile = HALVES,
                                           .b_step = 2 * HALVES,
                                           .steps = steps,
                                           .c = dst + u * STEP * STEP,
                                           .c_down = SIDE * STEP,
                                           .c_right = SIDE,
                                           .c_row = STEP});
}

/* A turned result of a strip (+)= what [32 keys][dim] gives by weights of the keys.
 * `across`: [unit][dim / 16] tiles; weights: [unit][piece][row half]; dst: [dim / 16][row half]. */
static void gather(const npt_group *g, const uint16_t *across, const uint16_t *weights,
                   int64_t units, bool add, float *dst)
{
    for (int64_t d = 0; d < g->dim / SIDE; d += 2)
        multiply(&(npt_pair_product){.a = across + d * HALVES,
                                     .a_tile = HALVES,
                                     .a_step = g->dim / SIDE * HALVES,
                                     .b = weights,
                                     .b_tile = HALVES,
                                     .b_step = 2 * PIECES * HALVES,
                                     .b_piece = 2 * HALVES,
                                     .steps = units,
                                     .c = dst + d * 2 * WORDS,
                                     .c_down = 2 * WORDS,
                                     .c_right = WORDS,
                                     .c_row = SIDE,
                                     .add = add},
                 1, PIECES);
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
