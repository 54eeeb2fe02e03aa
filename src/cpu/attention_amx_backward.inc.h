/* SPDX-License-Identifier: BSD-2-Clause */
/* The backward pass of attention_amx.c, which includes this. A task is one kv head of one sequence:
 * its keys are packed once, then blocks of rows go by, and dK and dV are added up in F32 in the
 * order of the rows. */

typedef struct npt_backward_scratch {
    /* of all keys of the sequence: [unit][piece][key half][dim / 32], [unit][piece][dim / 16] tiles
     */
    uint16_t *k, *v, *k_across;
    float *dk, *dv; /* [unit][key half][dim / 16] */
    /* of a block of rows */
    uint16_t *q, *dout;             /* [strip][piece][dim / 32][row half] */
    uint16_t *q_woven, *dout_woven; /* [strip][piece][dim / 16] */
    float *dq;                      /* [strip][dim / 16][row half] */
    float *lse, *delta;             /* [ROWS]; delta: Σ dout·out */
    /* of it and a block of keys */
    uint16_t *p, *ds;  /* [unit][key half][strip][piece] */
    uint16_t *weights; /* ds of one strip again, [unit][piece][row half] */
    float *score, *dp; /* [KEYS][STEP] */
} npt_backward_scratch;

static int64_t backward_bytes(int64_t dim, int64_t tokens)
{
    const int64_t keys = round_up(tokens, STEP) * dim, rows = ROWS * dim;
    const int64_t halves = 3 * keys + 4 * rows + 2 * KEYS * ROWS + KEYS * STEP;
    const int64_t floats = 2 * keys + rows + 2 * ROWS + 2 * KEYS * STEP;
    return halves * MAX_PIECES * (int64_t)sizeof(uint16_t) + floats * (int64_t)sizeof(float);
}

static npt_backward_scratch cut_backward(char *memory, const npt_group *g)
{
    const int64_t tokens = round_up(g->tokens, STEP), weights = weight_pieces(g->dtype);
    npt_backward_scratch s = {.k = (uint16_t *)memory};
    s.v = s.k + tokens * g->packed;
    s.k_across = s.v + tokens * g->packed;
    s.dk = (float *)(s.k_across + tokens * g->packed);
    s.dv = s.dk + tokens * g->dim;
    s.q = (uint16_t *)(s.dv + tokens * g->dim);
    s.dout = s.q + ROWS * g->packed;
    s.q_woven = s.dout + ROWS * g->packed;
    s.dout_woven = s.q_woven + ROWS * g->packed;
    s.dq = (float *)(s.dout_woven + ROWS * g->packed);
    s.lse = s.dq + ROWS * g->dim;
    s.delta = s.lse + ROWS;
    s.p = (uint16_t *)(s.delta + ROWS);
    s.ds = s.p + KEYS * ROWS * weights;
    s.weights = s.ds + KEYS * ROWS * weights;
    s.score = (float *)(s.weights + KEYS * STEP * weights);
    s.dp = s.score + KEYS * STEP;
    return s;
}

/* p = e^(score − lse); ds = p·(dp − delta); of 16 rows and one key. */
INLINE void score_gradient(const bool mask, const int pieces, npt_sight sight, int64_t key,
                           __m512 scale, const float *score, const float *dp, const float *lse,
                           const float *delta, npt_pieces *p, npt_pieces *ds)
{
    const __m512 x = _mm512_fmsub_ps(_mm512_loadu_ps(score), scale, _mm512_loadu_ps(lse));
    const __m512 change = _mm512_sub_ps(_mm512_loadu_ps(dp), _mm512_loadu_ps(delta));
    const __mmask16 see = mask ? seen(sight, key) : EVERY;
    const __m512 weight = fused_exponential(see, x);
    /* 0 where not seen, whatever the change */
    const __m512 gradient = _mm512_maskz_mul_ps(see, weight, change);
    *p = split(pieces, weight);
    *ds = split(pieces, gradient);
}

/* Of a strip and the keys `key` and after: p and ds in pairs of rows, for the sums over rows, ds
 * also in pairs of keys, for that over keys. */
INLINE void score_gradients(const bool mask, const int pieces, const npt_group *g,
                            const npt_strip *strip, int64_t number, const npt_backward_scratch *s,
                            float factor, int64_t packed, int64_t key, int64_t end)
{
    const __m512 scale = _mm512_set1_ps(factor);
    const npt_sight sight[2] = {sight_of(g, strip, 0), sight_of(g, strip, 1)};
    const float *lse = s->lse + number * STEP, *delta = s->delta + number * STEP;
    for (int64_t j = 0; j < end - key; j += 2) {
        npt_pieces p[2][2], ds[2][2]; /* [key][row half] */
        const int64_t at = key - packed + j;
        const int64_t pair = (at / SIDE * STRIPS + number) * pieces * HALVES + at % SIDE * STEP;
        uint16_t *weights = s->weights + j / STEP * 2 * pieces * HALVES + j % STEP / 2 * STEP;
        UNROLLED
        for (int i = 0; i < 4; i++)
            score_gradient(mask, pieces, sight[i % 2], key + j + i / 2, scale,
                           s->score + (j + i / 2) * STEP + i % 2 * SIDE,
                           s->dp + (j + i / 2) * STEP + i % 2 * SIDE, lse + i % 2 * SIDE,
                           delta + i % 2 * SIDE, &p[i / 2][i % 2], &ds[i / 2][i % 2]);
        UNROLLED
        for (int i = 0; i < 2; i++) {
            store_pieces(pieces, join(pieces, p[i][0], p[i][1]), s->p + pair + i * STEP, HALVES);
            store_pieces(pieces, join(pieces, ds[i][0], ds[i][1]), s->ds + pair + i * STEP, HALVES);
            store_pieces(pieces, join(pieces, ds[0][i], ds[1][i]), weights + i * HALVES,
                         2 * HALVES);
        }
    }
}

/* dK or dV of a unit of keys += weights of rows times those rows, strips first … end-1. */
static void gather_rows(const npt_group *g, const uint16_t *weights, const uint16_t *woven,
                        int64_t first, int64_t end, float *dst)
{
    const int64_t tiles = g->dim / SIDE, strip = weight_pieces(g->dtype) * HALVES;
    for (int64_t d = 0; d < tiles; d += 2)
        multiply_weights_operand(
            g->dtype, &(npt_pair_product){.a = weights + first * strip,
                                          .a_tile = STRIPS * strip,
                                          .a_step = strip,
                                          .a_piece = HALVES,
                                          .b = woven + first * STEP * g->packed + d * HALVES,
                                          .b_tile = HALVES,
                                          .b_step = STEP * g->packed,
                                          .b_piece = STEP * g->dim,
                                          .steps = end - first,
                                          .c = dst + d * WORDS,
                                          .c_down = tiles * WORDS,
                                          .c_right = WORDS,
                                          .c_row = SIDE,
                                          .add = true});
}

/* Strip `number` of the block against keys key … end-1 of the block that begins with `packed`. */
static void strip_gradients(const npt_attention_backward_args *args, const npt_group *g,
                            const npt_strip *strip, int64_t number, const npt_backward_scratch *s,
                            int64_t packed, int64_t key, int64_t end)
{
    const int64_t rows = number * STEP * g->packed, keys = key * g->packed;
    const int64_t units = (end - key) / STEP;
    const bool mask = !sees_all(strip, key, end - key);
    scores(g, s->k + keys, s->q + rows, units, s->score);
    scores(g, s->v + keys, s->dout + rows, units, s->dp);
    if (weight_pieces(g->dtype) == 2 && !mask)
        score_gradients(false, 2, g, strip, number, s, args->scale, packed, key, end);
    else if (weight_pieces(g->dtype) == 2)
        score_gradients(true, 2, g, strip, number, s, args->scale, packed, key, end);
    else if (!mask)
        score_gradients(false, 3, g, strip, number, s, args->scale, packed, key, end);
    else
        score_gradients(true, 3, g, strip, number, s, args->scale, packed, key, end);
    gather(g, s->k_across + keys, s->weights, units, key != strip->key_first,
           s->dq + number * STEP * g->dim);
}

/* Which strips see any of the 32 keys from `key`? They are neighbours. */
static void seeing(const npt_strip *strip, int64_t strips, int64_t key, int64_t *first,
                   int64_t *end)
{
    for (*first = 0; *first < strips && strip[*first].key_end <= key;) ++*first;
    for (*end = *first; *end < strips && strip[*end].key_first <= key;) ++*end;
}

static void block_gradients(const npt_attention_backward_args *args, const npt_group *g,
                            const npt_strip *strip, int64_t strips, const npt_backward_scratch *s,
                            int64_t key, int64_t end)
{
    for (int64_t i = 0; i < strips; i++) {
        const int64_t from = strip[i].key_first > key ? strip[i].key_first : key;
        const int64_t to = at_most(strip[i].key_end, end);
        if (from < to) strip_gradients(args, g, &strip[i], i, s, key, from, to);
    }
    for (int64_t j = key; j < end; j += STEP) {
        const int64_t weights = (j - key) / SIDE * STRIPS * weight_pieces(g->dtype) * HALVES;
        int64_t first, after;
        seeing(strip, strips, j, &first, &after);
        if (first == after) continue;
        gather_rows(g, s->p + weights, s->dout_woven, first, after, s->dv + j * g->dim);
        gather_rows(g, s->ds + weights, s->q_woven, first, after, s->dk + j * g->dim);
    }
}

/* Σ a·b in F64, where the products are exact. */
static float dot(npt_in a, npt_in b, int64_t at, int64_t n)
{
    __m512d sum[2] = {_mm512_setzero_pd(), _mm512_setzero_pd()};
    for (int64_t i = 0; i < n; i += SIDE) {
        const __m512 x = (__m512)load_as(a.dtype, a.data, at + i);
        const __m512 y = (__m512)load_as(b.dtype, b.data, at + i);
        sum[0] = _mm512_fmadd_pd(_mm512_cvtps_pd(_mm512_castps512_ps256(x)),
                                 _mm512_cvtps_pd(_mm512_castps512_ps256(y)), sum[0]);
        sum[1] = _mm512_fmadd_pd(_mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)),
                                 _mm512_cvtps_pd(_mm512_extractf32x8_ps(y, 1)), sum[1]);
    }
    return (float)_mm512_reduce_add_pd(_mm512_add_pd(sum[0], sum[1]));
}

/* Log-sums of the rows, and delta. Of padding rows the scores, dp and dout are 0: any weight does.
 */
static void load_row_sums(const npt_attention_backward_args *args, const npt_group *g,
                          const npt_places *places, int64_t number, const npt_backward_scratch *s)
{
    for (int64_t r = 0; r < STEP; r++) {
        const int64_t at = places->at[r], to = number * STEP + r;
        s->lse[to] = at < 0 ? 0.0f : args->lse[at / g->dim];
        s->delta[to] = at < 0 ? 0.0f : dot(args->out, args->dout, at, g->dim);
    }
}

static bool load_strip(const npt_attention_backward_args *args, const npt_group *g,
                       const npt_strip *strip, int64_t number, const npt_backward_scratch *s)
{
    const int64_t at = number * STEP * g->packed;
    const npt_places q = query_places(g, strip, args->q), dout = query_places(g, strip, args->dout);
    load_row_sums(args, g, &q, number, s);
    pack_woven(&q, g->dim, s->q_woven + at);
    pack_woven(&dout, g->dim, s->dout_woven + at);
    const bool in_range = pack_turned(&q, g->dim, s->q + at);
    return pack_turned(&dout, g->dim, s->dout + at) && in_range;
}

static bool load_all_keys(const npt_attention_backward_args *args, const npt_group *g,
                          const npt_backward_scratch *s)
{
    bool in_range = true;
    for (int64_t key = 0; key < g->tokens; key += STEP) {
        const npt_places k = key_places(g, key, args->k), v = key_places(g, key, args->v);
        in_range &= pack_rows(&k, g->dim, s->k + key * g->packed);
        in_range &= pack_rows(&v, g->dim, s->v + key * g->packed);
        pack_across(&k, g->dim, s->k_across + key * g->packed);
    }
    return in_range;
}

/* Rounds an F32 gradient of all the keys, times the factor, to its place. */
static void store_keys(const npt_group *g, const float *src, float factor, npt_out out)
{
    const int64_t tiles = g->dim / SIDE;
    if (out.data == NULL) return;
    for (int64_t j = 0; j < g->tokens; j++) {
        const float *from = src + j / SIDE * tiles * WORDS + j % SIDE * SIDE;
        const int64_t to = ((g->first + j) * g->all_kv + g->kv) * g->dim;
        for (int64_t d = 0; d < tiles; d++)
            store_as(out.dtype, out.data, to + d * SIDE, get(from + d * WORDS) * all(factor));
    }
}

/* A block of rows; whether all it read was in range. */
static bool row_gradients(const npt_attention_backward_args *args, const npt_group *g,
                          int64_t first, const npt_backward_scratch *s)
{
    npt_strip strip[STRIPS];
    bool in_range = true;
    float by[STEP];
    int64_t strips = 0;
    for (; strips < STRIPS; strips++) {
        strip[strips] = strip_of(g, first + strips * STEP);
        if (strip[strips].count == 0) break;
        in_range &= load_strip(args, g, &strip[strips], strips, s);
    }
    const int64_t last = strip[strips - 1].key_end;
    for (int64_t key = strip[0].key_first, end; key < last; key = end) {
        end = at_most(round_up(key + 1, KEYS), last);
        block_gradients(args, g, strip, strips, s, key, end);
    }
    for (int64_t r = 0; r < STEP; r++) by[r] = args->scale;
    for (int64_t i = 0; i < strips; i++)
        store_strip(g, &strip[i], s->dq + i * STEP * g->dim, by, args->dq);
    return in_range;
}

typedef struct npt_attention_backward_job {
    const npt_run *run;
    const npt_attention_backward_args *args;
    atomic_bool odd; /* met a value that is not for tiles */
} npt_attention_backward_job;

static void attention_backward_task(void *context, int64_t task, int worker)
{
    npt_attention_backward_job *job = context;
    const npt_attention_backward_args *args = job->args;
    const int64_t sequence = task / args->kv_heads;
    const npt_group g = group_of(sequence, task % args->kv_heads, args->offsets, args->heads,
                                 args->kv_heads, args->head_dim, args->window, args->q.dtype);
    const npt_backward_scratch s =
        cut_backward(job->run->scratch + (size_t)worker * job->run->scratch_stride, &g);
    begin_tiles();
    bool in_range = load_all_keys(args, &g, &s);
    memset(s.dk, 0, (size_t)(2 * round_up(g.tokens, STEP) * g.dim) * sizeof(float));
    for (int64_t row = 0; row < g.tokens * g.heads; row += ROWS)
        in_range &= row_gradients(args, &g, row, &s);
    store_keys(&g, s.dk, args->scale, args->dk);
    store_keys(&g, s.dv, 1.0f, args->dv);
    _tile_release();
    if (!in_range) atomic_store(&job->odd, true);
}

static void attention_backward(const npt_run *run, const npt_attention_backward_args *args)
{
    npt_attention_backward_job job = {.run = run, .args = args};
    NPT_ASSERT(args->heads % args->kv_heads == 0);
    if (!suits(run, args->head_dim, args->q, args->k, args->v) ||
        args->dout.dtype != args->q.dtype) {
        without_tiles().attention_backward(run, args);
        return;
    }
    run_blocks(run, attention_backward_task, &job, args->sequences * args->kv_heads, 1);
    if (atomic_load(&job.odd)) without_tiles().attention_backward(run, args);
}
