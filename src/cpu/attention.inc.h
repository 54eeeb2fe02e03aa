/* SPDX-License-Identifier: BSD-2-Clause */
/* Attention, forward and backward, without a matrix of scores. Included by kernels.inc.h.
 *
 * Work is cut into rows and keys. A row is one query of one head; the rows of a kv head are
 * numbered token by token, the heads of its group side by side, so that 64 rows share their keys.
 * Scores are kept transposed, [key][row]: then K and V are used as they lie in memory, a row's
 * maximum and sum run along vectors, and only the 64 rows of Q (and of the output's gradient) are
 * transposed. The forward pass makes one task of 64 rows; the backward pass one of a kv head, which
 * adds up dK and dV in F32 in a fixed order. Invariant: no result depends on which worker does a
 * task. Levels differ in the last bits here: products and sums may be fused. */

enum {
    ROWS = 64, /* rows of a block */
    KEYS = 64, /* keys of a block */
    TILE_ROWS = NPT_VECTOR_FLOATS == 16 ? 8 : 4
};

/* ---- Small products -------------------------------------------------------------------------- */

/* One product C[m][n] (+)= A·B of a block: A's element (i, p) at a[i·row + p·step], B's rows ldb
 * apart, C's rows ldc apart. n is a multiple of LANES. */
typedef struct npt_product {
    int64_t m, n, k;
    const float *a;
    int64_t row, step;
    const float *b;
    int64_t ldb;
    float *c;
    int64_t ldc;
    bool accumulate;
} npt_product;

/* `rows` × `vectors` of C in registers. */
static inline __attribute__((always_inline)) void tile(const npt_product *x, int64_t i, int64_t j,
                                                       const int rows, const int vectors)
{
    vf sum[TILE_ROWS][2];
    const float *a = x->a + i * x->row, *b = x->b + j;
    float *c = x->c + i * x->ldc + j;
    int64_t row = x->row, step = x->step, ldb = x->ldb;
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            sum[r][v] = x->accumulate ? get(c + r * x->ldc + v * VF) : (vf){0};
    for (int64_t p = 0; p < x->k; p++) {
        vf right[2];
        for (int v = 0; v < vectors; v++) right[v] = get(b + v * VF);
        for (int r = 0; r < rows; r++) {
            vf left = all(a[r * row]);
            for (int v = 0; v < vectors; v++) sum[r][v] = fused(left, right[v], sum[r][v]);
        }
        a += step;
        b += ldb;
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) put(c + r * x->ldc + v * VF, sum[r][v]);
}

static void tile_rows(const npt_product *x, int64_t j)
{
    int64_t i = 0;
    for (; i + TILE_ROWS <= x->m; i += TILE_ROWS) tile(x, i, j, TILE_ROWS, 2);
    for (; i < x->m; i++) tile(x, i, j, 1, 2);
}

/* The last vector where n is an odd number of them. */
static void tile_last(const npt_product *x, int64_t j)
{
    int64_t i = 0;
    for (; i + TILE_ROWS <= x->m; i += TILE_ROWS) tile(x, i, j, TILE_ROWS, 1);
    for (; i < x->m; i++) tile(x, i, j, 1, 1);
}

static void product(npt_product x)
{
    int64_t j = 0;
    for (; j + 2 * VF <= x.n; j += 2 * VF) tile_rows(&x, j);
    if (j < x.n) tile_last(&x, j);
}

/* ---- What both passes share ------------------------------------------------------------------ */

/* One kv head of one sequence. */
typedef struct npt_group {
    int64_t first, tokens;                  /* of the sequence */
    int64_t kv, heads;                      /* kv head; query heads that share it */
    int64_t all_heads, all_kv, dim, padded; /* padded: dim up to a multiple of LANES */
    int64_t window;
} npt_group;

/* 64 rows (fewer at the end) and the keys that any of them sees. */
typedef struct npt_rows {
    int64_t first, count, padded;
    int64_t key_first, key_end;
    int32_t token[ROWS]; /* of each row, counted in the sequence; padded with the last */
} npt_rows;

static npt_rows rows_of(const npt_group *g, int64_t block)
{
    npt_rows rows = {.first = block * ROWS};
    rows.count = at_most(g->tokens * g->heads - rows.first, ROWS);
    rows.padded = round_up(rows.count, LANES);
    for (int64_t r = 0; r < rows.padded; r++)
        rows.token[r] = (int32_t)((rows.first + at_most(r, rows.count - 1)) / g->heads);
    rows.key_end = rows.token[rows.count - 1] + 1;
    if (g->window > 0 && rows.token[0] + 1 > g->window)
        rows.key_first = rows.token[0] + 1 - g->window;
    return rows;
}

/* Do all rows see all of these keys? */
static bool sees_all(const npt_group *g, const npt_rows *rows, int64_t key, int64_t keys)
{
    if (key + keys - 1 > rows->token[0]) return false;
    return g->window == 0 || rows->token[rows->count - 1] - key < g->window;
}

/* Which of the VF rows at r see the key: -1 where one does. */
static inline vi seen(const npt_group *g, const npt_rows *rows, int64_t r, int64_t key)
{
    vi token = *(const vi_memory *)(rows->token + r);
    vi see = token >= (int32_t)key;
    if (g->window > 0) see &= token - (int32_t)key < (int32_t)at_most(g->window, INT32_MAX);
    return see;
}

/* Where row r lies in q, out and their gradients, in heads. */
static int64_t head_of(const npt_group *g, const npt_rows *rows, int64_t r)
{
    int64_t number = rows->first + r;
    return (g->first + number / g->heads) * g->all_heads + g->kv * g->heads + number % g->heads;
}

/* Rows of a query-shaped operand, [row][padded], each times `factor`; zeros after the last. */
static void load_rows(const npt_group *g, const npt_rows *rows, npt_in in, float factor, float *dst)
{
    for (int64_t r = 0; r < rows->padded; r++) {
        float *row = dst + r * g->padded;
        if (r >= rows->count) {
            memset(row, 0, (size_t)g->padded * sizeof(float));
            continue;
        }
        widen_into(in, head_of(g, rows, r) * g->dim, g->dim, row);
        for (int64_t i = 0; i < g->padded; i += VF) put(row + i, get(row + i) * all(factor));
    }
}

/* [row][padded] → [dim][ROWS]. */
static void transpose_rows(const npt_group *g, const npt_rows *rows, const float *src, float *dst)
{
    for (int64_t r = 0; r < rows->padded; r += LANES)
        for (int64_t i = 0; i < g->dim; i++)
            for (int64_t k = 0; k < LANES; k++)
                dst[i * ROWS + r + k] = src[(r + k) * g->padded + i];
}

static void store_rows(const npt_group *g, const npt_rows *rows, const float *src, npt_out out)
{
    for (int64_t r = 0; r < rows->count; r++)
        narrow(out, head_of(g, rows, r) * g->dim, g->dim, src + r * g->padded);
}

/* Keys or values of a block, [key][padded]. */
static void load_keys(const npt_group *g, npt_in in, int64_t key, int64_t keys, float *dst)
{
    for (int64_t j = 0; j < keys; j++) {
        int64_t head = (g->first + key + j) * g->all_kv + g->kv;
        widen_into(in, head * g->dim, g->dim, dst + j * g->padded);
    }
}

/* Rounds an F32 gradient of all the keys, [token][padded], to its place. */
static void store_keys(const npt_group *g, const float *src, npt_out out)
{
    for (int64_t j = 0; j < g->tokens; j++)
        narrow(out, ((g->first + j) * g->all_kv + g->kv) * g->dim, g->dim, src + j * g->padded);
}

/* C[key][row] = left[key]·right[:][row]. */
static void scores(const npt_group *g, const npt_rows *rows, int64_t keys, const float *left,
                   const float *right, float *dst)
{
    product((npt_product){.m = keys,
                          .n = rows->padded,
                          .k = g->dim,
                          .a = left,
                          .row = g->padded,
                          .step = 1,
                          .b = right,
                          .ldb = ROWS,
                          .c = dst,
                          .ldc = ROWS});
}

/* ---- Forward --------------------------------------------------------------------------------- */

typedef struct npt_forward_scratch {
    float *q, *q_turned, *k, *v, *score, *out;
    /* [ROWS]: largest score so far, Σ e^(score − top), change of scale */
    float *top, *sum, *shrink;
} npt_forward_scratch;

static int64_t forward_floats(int64_t padded)
{
    return 5 * ROWS * padded + KEYS * ROWS + 3 * ROWS;
}

static npt_forward_scratch cut_forward(float *memory, int64_t padded)
{
    int64_t panel = ROWS * padded;
    npt_forward_scratch s = {.q = memory,
                             .q_turned = memory + panel,
                             .k = memory + 2 * panel,
                             .v = memory + 3 * panel,
                             .out = memory + 4 * panel};
    s.score = memory + 5 * panel;
    s.top = s.score + KEYS * ROWS;
    s.sum = s.top + ROWS;
    s.shrink = s.sum + ROWS;
    return s;
}

/* Scores of a block become probabilities relative to the largest score so far. */
static inline void soften(const npt_group *g, const npt_rows *rows, const npt_forward_scratch *s,
                          int64_t key, int64_t keys, bool mask)
{
    for (int64_t r = 0; r < rows->padded; r += VF) {
        vf old = get(s->top + r), top = old;
        for (int64_t j = 0; j < keys; j++) {
            vf x = get(s->score + j * ROWS + r);
            if (mask) {
                x = pick(seen(g, rows, r, key + j), x, all(-INFINITY));
                put(s->score + j * ROWS + r, x);
            }
            top = larger(x, top);
        }
        /* A row that has seen nothing yet keeps weight 0 without computing inf − inf. */
        vf from = pick(top == -INFINITY, (vf){0}, top);
        vf shrink = exponential(old - from), sum = get(s->sum + r) * shrink;
        for (int64_t j = 0; j < keys; j++) {
            vf p = exponential(get(s->score + j * ROWS + r) - from);
            put(s->score + j * ROWS + r, p);
            sum = sum + p;
        }
        put(s->top + r, top);
        put(s->sum + r, sum);
        put(s->shrink + r, shrink);
    }
}

/* out = shrink·out + Pᵀ·V */
static void gather_values(const npt_group *g, const npt_rows *rows, const npt_forward_scratch *s,
                          int64_t keys, bool first)
{
    for (int64_t r = 0; r < rows->padded && !first; r++) {
        if (s->shrink[r] == 1.0f) continue;
        float *row = s->out + r * g->padded;
        for (int64_t i = 0; i < g->padded; i += VF) put(row + i, get(row + i) * all(s->shrink[r]));
    }
    product((npt_product){.m = rows->padded,
                          .n = g->padded,
                          .k = keys,
                          .a = s->score,
                          .row = 1,
                          .step = ROWS,
                          .b = s->v,
                          .ldb = g->padded,
                          .c = s->out,
                          .ldc = g->padded,
                          .accumulate = !first});
}

/* Divides by the sums; a row that saw nothing is 0. */
static void finish_rows(const npt_attention_args *args, const npt_group *g, const npt_rows *rows,
                        const npt_forward_scratch *s)
{
    for (int64_t r = 0; r < rows->count; r++) {
        float *row = s->out + r * g->padded, sum = s->sum[r];
        vf by = all(sum == 0.0f ? 1.0f : sum);
        for (int64_t i = 0; i < g->padded; i += VF) put(row + i, get(row + i) / by);
        if (args->lse != NULL)
            args->lse[head_of(g, rows, r)] = (float)((double)s->top[r] + log((double)sum));
    }
    store_rows(g, rows, s->out, args->out);
}

static void attend(const npt_attention_args *args, const npt_group *g, int64_t block, float *memory)
{
    npt_forward_scratch s = cut_forward(memory, g->padded);
    npt_rows rows = rows_of(g, block);
    load_rows(g, &rows, args->q, args->scale, s.q);
    transpose_rows(g, &rows, s.q, s.q_turned);
    for (int64_t r = 0; r < ROWS; r++) s.top[r] = -INFINITY, s.sum[r] = 0.0f;
    for (int64_t key = rows.key_first; key < rows.key_end; key += KEYS) {
        int64_t keys = at_most(rows.key_end - key, KEYS);
        load_keys(g, args->k, key, keys, s.k);
        load_keys(g, args->v, key, keys, s.v);
        scores(g, &rows, keys, s.k, s.q_turned, s.score);
        if (sees_all(g, &rows, key, keys))
            soften(g, &rows, &s, key, keys, false);
        else
            soften(g, &rows, &s, key, keys, true);
        gather_values(g, &rows, &s, keys, key == rows.key_first);
    }
    finish_rows(args, g, &rows, &s);
}

typedef struct npt_attention_job {
    const npt_run *run;
    const npt_attention_args *args;
} npt_attention_job;

static int64_t row_blocks(int64_t tokens, int64_t heads)
{
    return (tokens * heads + ROWS - 1) / ROWS;
}

static void attention_task(void *context, int64_t task, int worker)
{
    const npt_attention_job *job = context;
    const npt_attention_args *args = job->args;
    int64_t heads = args->heads / args->kv_heads, sequence = 0, blocks;
    for (;; sequence++) {
        int64_t tokens = args->offsets[sequence + 1] - args->offsets[sequence];
        blocks = row_blocks(tokens, heads);
        if (task < blocks * args->kv_heads) break;
        task -= blocks * args->kv_heads;
    }
    npt_group g = {.first = args->offsets[sequence],
                   .tokens = args->offsets[sequence + 1] - args->offsets[sequence],
                   .kv = task % args->kv_heads,
                   .heads = heads,
                   .all_heads = args->heads,
                   .all_kv = args->kv_heads,
                   .dim = args->head_dim,
                   .padded = round_up(args->head_dim, LANES),
                   .window = args->window};
    /* The last rows have the most keys: they come first, the short ones fill the gaps. */
    attend(args, &g, blocks - 1 - task / args->kv_heads,
           (float *)(job->run->scratch + (size_t)worker * job->run->scratch_stride));
}

static void attention(const npt_run *run, const npt_attention_args *args)
{
    npt_attention_job job = {run, args};
    int64_t tasks = 0;
    NPT_ASSERT(args->head_dim <= CHUNK && args->heads % args->kv_heads == 0);
    for (int64_t s = 0; s < args->sequences; s++)
        tasks += args->kv_heads *
                 row_blocks(args->offsets[s + 1] - args->offsets[s], args->heads / args->kv_heads);
    run_blocks(run, attention_task, &job, tasks, 1);
}

/* ---- Backward -------------------------------------------------------------------------------- */

typedef struct npt_backward_scratch {
    float *q, *q_turned, *dout, *dout_turned, *k, *v, *dq;
    float *p, *ds;      /* [KEYS][ROWS] */
    float *lse, *delta; /* [ROWS]; delta: Σ dout·out */
    float *dk, *dv;     /* [tokens][padded] */
} npt_backward_scratch;

static int64_t backward_floats(int64_t padded, int64_t tokens)
{
    return 7 * ROWS * padded + 2 * KEYS * ROWS + 2 * ROWS + 2 * tokens * padded;
}

static npt_backward_scratch cut_backward(float *memory, const npt_group *g)
{
    int64_t panel = ROWS * g->padded;
    npt_backward_scratch s = {.q = memory,
                              .q_turned = memory + panel,
                              .dout = memory + 2 * panel,
                              .dout_turned = memory + 3 * panel,
                              .k = memory + 4 * panel,
                              .v = memory + 5 * panel,
                              .dq = memory + 6 * panel};
    s.p = memory + 7 * panel;
    s.ds = s.p + KEYS * ROWS;
    s.lse = s.ds + KEYS * ROWS;
    s.delta = s.lse + ROWS;
    s.dk = s.delta + ROWS;
    s.dv = s.dk + g->tokens * g->padded;
    return s;
}

/* Log-sums of the rows, and delta; dq serves as room for the output. Padding rows get
 * probability 0. */
static void load_row_sums(const npt_attention_backward_args *args, const npt_group *g,
                          const npt_rows *rows, const npt_backward_scratch *s)
{
    load_rows(g, rows, args->out, 1.0f, s->dq);
    for (int64_t r = 0; r < rows->padded; r++) {
        npt_sum sum = {{{0}}};
        sum_products(&sum, s->dq + r * g->padded, s->dout + r * g->padded, g->padded);
        s->delta[r] = (float)sum_total(&sum);
        s->lse[r] = r < rows->count ? args->lse[head_of(g, rows, r)] : INFINITY;
    }
}

/* p = e^(score − lse); ds = p·(ds − delta), where ds arrives as dout·V. */
static inline void score_gradients(const npt_group *g, const npt_rows *rows,
                                   const npt_backward_scratch *s, int64_t key, int64_t keys,
                                   bool mask)
{
    for (int64_t j = 0; j < keys; j++) {
        for (int64_t r = 0; r < rows->padded; r += VF) {
            int64_t at = j * ROWS + r;
            vf p = exponential(get(s->p + at) - get(s->lse + r));
            vf ds = p * (get(s->ds + at) - get(s->delta + r));
            if (mask) {
                vi see = seen(g, rows, r, key + j);
                p = (vf)((vi)p & see);
                ds = (vf)((vi)ds & see);
            }
            put(s->p + at, p);
            put(s->ds + at, ds);
        }
    }
}

/* One block of rows against one of keys. s->q is already times the scale. */
static void backward_block(const npt_attention_backward_args *args, const npt_group *g,
                           const npt_rows *rows, const npt_backward_scratch *s, int64_t key)
{
    int64_t keys = at_most(rows->key_end - key, KEYS), width = g->padded;
    load_keys(g, args->k, key, keys, s->k);
    load_keys(g, args->v, key, keys, s->v);
    scores(g, rows, keys, s->k, s->q_turned, s->p);
    scores(g, rows, keys, s->v, s->dout_turned, s->ds);
    if (sees_all(g, rows, key, keys))
        score_gradients(g, rows, s, key, keys, false);
    else
        score_gradients(g, rows, s, key, keys, true);
    product((npt_product){.m = keys,
                          .n = width,
                          .k = rows->count,
                          .a = s->p,
                          .row = ROWS,
                          .step = 1,
                          .b = s->dout,
                          .ldb = width,
                          .c = s->dv + key * width,
                          .ldc = width,
                          .accumulate = true});
    product((npt_product){.m = keys,
                          .n = width,
                          .k = rows->count,
                          .a = s->ds,
                          .row = ROWS,
                          .step = 1,
                          .b = s->q,
                          .ldb = width,
                          .c = s->dk + key * width,
                          .ldc = width,
                          .accumulate = true});
    product((npt_product){.m = rows->padded,
                          .n = width,
                          .k = keys,
                          .a = s->ds,
                          .row = 1,
                          .step = ROWS,
                          .b = s->k,
                          .ldb = width,
                          .c = s->dq,
                          .ldc = width,
                          .accumulate = key != rows->key_first});
}

static void attend_backward(const npt_attention_backward_args *args, const npt_group *g,
                            float *memory)
{
    npt_backward_scratch s = cut_backward(memory, g);
    int64_t floats = g->tokens * g->padded;
    memset(s.dk, 0, (size_t)(2 * floats) * sizeof(float));
    for (int64_t block = 0; block < row_blocks(g->tokens, g->heads); block++) {
        npt_rows rows = rows_of(g, block);
        load_rows(g, &rows, args->q, args->scale, s.q);
        load_rows(g, &rows, args->dout, 1.0f, s.dout);
        transpose_rows(g, &rows, s.q, s.q_turned);
        transpose_rows(g, &rows, s.dout, s.dout_turned);
        load_row_sums(args, g, &rows, &s);
        for (int64_t key = rows.key_first; key < rows.key_end; key += KEYS)
            backward_block(args, g, &rows, &s, key);
        vf scale = all(args->scale);
        for (int64_t i = 0; i < rows.padded * g->padded; i += VF)
            put(s.dq + i, get(s.dq + i) * scale);
        store_rows(g, &rows, s.dq, args->dq);
    }
    store_keys(g, s.dk, args->dk);
    store_keys(g, s.dv, args->dv);
}

typedef struct npt_attention_backward_job {
    const npt_run *run;
    const npt_attention_backward_args *args;
} npt_attention_backward_job;

static void attention_backward_task(void *context, int64_t task, int worker)
{
    const npt_attention_backward_job *job = context;
    const npt_attention_backward_args *args = job->args;
    int64_t sequence = task / args->kv_heads;
    npt_group g = {.first = args->offsets[sequence],
                   .tokens = args->offsets[sequence + 1] - args->offsets[sequence],
                   .kv = task % args->kv_heads,
                   .heads = args->heads / args->kv_heads,
                   .all_heads = args->heads,
                   .all_kv = args->kv_heads,
                   .dim = args->head_dim,
                   .padded = round_up(args->head_dim, LANES),
                   .window = args->window};
    attend_backward(args, &g,
                    (float *)(job->run->scratch + (size_t)worker * job->run->scratch_stride));
}

static void attention_backward(const npt_run *run, const npt_attention_backward_args *args)
{
    npt_attention_backward_job job = {run, args};
    NPT_ASSERT(args->head_dim <= CHUNK && args->heads % args->kv_heads == 0);
    run_blocks(run, attention_backward_task, &job, args->sequences * args->kv_heads, 1);
}

/* The other kernels need no scratch. */
static size_t scratch_bytes(int64_t longest_sequence, int64_t head_dim, int64_t width)
{
    int64_t padded = round_up(head_dim, LANES);
    int64_t forward = forward_floats(padded), backward = backward_floats(padded, longest_sequence);
    (void)width;
    return (size_t)round_up(forward > backward ? forward : backward, LANES) * sizeof(float);
}
