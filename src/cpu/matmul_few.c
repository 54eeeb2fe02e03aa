/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "cpu/matmul_native.h"

/* Products of few tokens, which memory limits: W is read once, some rows of it side by side, which
 * keeps the memory busy, against all tokens. Forward, a row of W is multiplied with the tokens and
 * summed up ("dot"); dX, it is added to the sums of all tokens times their element ("spread").
 * Tokens lie in shared scratch in F32; so do the sums of dX, several of each where k is cut into
 * parts, which are added up in order at the end. Invariant: all cuts follow from the shape, so the
 * bits do not depend on the number of threads. */

enum {
    DOT_ROWS = NPT_NATIVE_DOT_ROWS,
    SPREAD_ROWS = 16,
    SPREAD_COLUMNS = 256, /* widened at once, with SPREAD_ROWS of them in first-level cache */
    DOT_CHUNK = 64,       /* forward: rows of W of a task */
    PIECE = 1024,         /* forward: elements of a token that are widened in a task */
    IN_PLACE_TOKENS = 4, /* dX: for more, rows that lie powers of two apart cost more than a copy */
    STRIPE_BYTES = 4096, /* dX: of a row of W in a task: a page, which is visited once then */
    STRIPE = 4096,       /* dX: most columns of W of a task */
    PART = 256,          /* dX: fewest rows of W of a task */
    TASKS = 16,          /* dX: k is cut where there would be fewer */
    APART = 32, /* between rows of buffers: the same places of all would meet in one cache set */
    ROW = SPREAD_COLUMNS + APART
};

typedef struct npt_few_job {
    const npt_matmul_desc *desc;
    const npt_matmul_args *args;
    const npt_matmul_scratch *scratch;
    npt_native_ops ops;
    npt_native_operand a, w;
    int64_t stride; /* forward: of the tokens, padded with zeros */
    float *tokens;  /* dX: [k][SPREAD_TOKENS] */
    bool one;       /* one token, W as it is stored */
    bool in_place;  /* W in F32 is read where it lies */
    bool placed;    /* k (dX: columns), 64 by 64, in the order of npt_native_place() */
    uint8_t place[64];
    int64_t stripe, width, stripes; /* columns; floats from the sums of a token to the next */
    int64_t parts, part_rows;
    float *sums; /* [parts][stripes][tokens][width] */
} npt_few_job;

/* Scratch of a worker. */
typedef struct npt_few_buffers {
    float rows[SPREAD_ROWS][ROW];
    float partial[DOT_ROWS][NPT_NATIVE_DOT_TOKENS][NPT_NATIVE_MAX_LANES];
    float sums[NPT_NATIVE_DOT_TOKENS][DOT_CHUNK];
} npt_few_buffers;

static npt_few_buffers *buffers_of(const npt_few_job *job, int worker)
{
    return (void *)(job->scratch->worker + (size_t)worker * job->scratch->worker_stride);
}

/* `rows` stored rows of W from `row` on, those that are there, `count` elements of each from
 * `first` on: in F32, zeros for what is not there and up to a multiple of 2 × lanes; in a buffer,
 * or where they lie if they are like that. */
static const float *widen_rows(const npt_few_job *job, int64_t row, int64_t rows, int64_t first,
                               int64_t count, npt_few_buffers *buffers, int64_t *stride)
{
    const npt_native_operand *w = &job->w;
    const int64_t length = w->k_inside ? w->depth : w->count,
                  there = npt_min64(rows, (w->k_inside ? w->count : w->depth) - row),
                  padded = npt_round_up(count, 2 * job->ops.lanes);
    *stride = length;
    if (w->dtype == NPT_F32 && there == rows && count == padded && job->in_place)
        return (const float *)w->data + row * length + first;
    for (int64_t r = 0; r < rows; r++) {
        const int64_t some = r < there ? count : 0;
        float *to = buffers->rows[r];
        if (some > 0)
            (job->placed ? job->ops.widen_blocks : job->ops.widen)(w, (row + r) * length + first,
                                                                   some, to);
        memset(to + some, 0, (size_t)(padded - some) * sizeof(float));
    }
    *stride = ROW;
    return buffers->rows[0];
}

/* Into the order of places, or, back, from it. */
static void put_in_place(const npt_few_job *job, float *values, int64_t count, bool back)
{
    float from[64];
    for (int64_t i = 0; i < count; i += 64) {
        memcpy(from, values + i, sizeof(from));
        for (int j = 0; j < 64; j++)
            if (back)
                values[i + j] = from[job->place[j]];
            else
                values[i + job->place[j]] = from[j];
    }
}

/* ---- Forward -------------------------------------------------------------------------------- */

/* A piece of a token; the last one is padded with zeros. */
static void widen_tokens_task(void *context, int64_t index, int worker)
{
    const npt_few_job *job = context;
    const int64_t k = job->desc->k, pieces = npt_parts(k, PIECE), token = index / pieces,
                  first = index % pieces * PIECE, count = npt_min64(PIECE, k - first),
                  end = npt_min64(PIECE, job->stride - first);
    float *dst = job->tokens + token * job->stride + first;
    (void)worker;
    job->ops.widen(&job->a, token * k + first, count, dst);
    memset(dst + count, 0, (size_t)(end - count) * sizeof(float));
    if (job->placed) put_in_place(job, dst, count, false);
}

/* DOT_ROWS rows of W from `row`, against all tokens. */
static void dot_rows(const npt_few_job *job, npt_few_buffers *buffers, int64_t row)
{
    const npt_native_ops *ops = &job->ops;
    const int64_t k = job->desc->k;
    memset(buffers->partial, 0, sizeof(buffers->partial));
    for (int64_t k0 = 0; k0 < k; k0 += NPT_NATIVE_DEPTH) {
        const int64_t depth = npt_min64(NPT_NATIVE_DEPTH, k - k0);
        int64_t stride;
        const float *w = widen_rows(job, row, DOT_ROWS, k0, depth, buffers, &stride);
        ops->dot((int)job->desc->m, npt_round_up(depth, ops->lanes), w, stride, job->tokens + k0,
                 job->stride, buffers->partial[0][0]);
    }
}

static void dot_task(void *context, int64_t index, int worker)
{
    const npt_few_job *job = context;
    const npt_native_ops *ops = &job->ops;
    const npt_matmul_desc *desc = job->desc;
    const int64_t first = index * DOT_CHUNK, columns = npt_min64(DOT_CHUNK, desc->n - first);
    npt_few_buffers *buffers = buffers_of(job, worker);
    const float *partial = buffers->partial[0][0];
    for (int64_t j = 0; j < columns; j += DOT_ROWS) {
        const int64_t rows = npt_min64(DOT_ROWS, columns - j);
        if (job->one)
            ops->dot_one(&job->w, (first + j) * desc->k, rows, desc->k, job->tokens,
                         buffers->partial[0][0]);
        else
            dot_rows(job, buffers, first + j);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t t = 0; t < desc->m; t++)
                buffers->sums[t][j + r] =
                    ops->sum_lanes(partial + (r * NPT_NATIVE_DOT_TOKENS + t) * ops->lanes);
    }
    const npt_native_store piece = {
        .sums = buffers->sums[0],
        .rows = desc->m,
        .width = DOT_CHUNK,
        .lanes = columns,
        .c = (char *)job->args->c + (size_t)first * npt_dtype_bytes(desc->c),
        .stride = desc->n,
        .dtype = desc->c,
        .bias = desc->bias && job->args->bias != NULL ? job->args->bias + first : NULL,
        .accumulate = desc->accumulate,
    };
    ops->store(&piece);
}

/* ---- dX ------------------------------------------------------------------------------------- */

/* PART elements of all tokens. */
static void turn_tokens_task(void *context, int64_t index, int worker)
{
    enum { TOKENS = NPT_NATIVE_SPREAD_TOKENS };
    const npt_few_job *job = context;
    const int64_t k = job->desc->k, first = index * PART, count = npt_min64(PART, k - first);
    float *dst = job->tokens + first * TOKENS, line[PART];
    (void)worker;
    for (int64_t t = 0; t < job->desc->m; t++) {
        job->ops.widen(&job->a, t * k + first, count, line);
        for (int64_t i = 0; i < count; i++) dst[i * TOKENS + t] = line[i];
    }
}

static float *stripe_sums(const npt_few_job *job, int64_t part, int64_t stripe)
{
    return job->sums + (part * job->stripes + stripe) * job->desc->m * job->width;
}

static void spread_task(void *context, int64_t index, int worker)
{
    const npt_few_job *job = context;
    const int64_t n = job->desc->n, m = job->desc->m, part = index / job->stripes,
                  stripe = index % job->stripes, first = stripe * job->stripe,
                  columns = npt_min64(job->stripe, n - first),
                  end = npt_min64(job->desc->k, (part + 1) * job->part_rows);
    float *sums = stripe_sums(job, part, stripe);
    npt_few_buffers *buffers = buffers_of(job, worker);
    memset(sums, 0, (size_t)(m * job->width) * sizeof(float));
    if (job->one) {
        const int64_t row = part * job->part_rows;
        job->ops.spread_one(&job->w, row * n + first, end - row, columns,
                            job->tokens + row * NPT_NATIVE_SPREAD_TOKENS, sums);
        return;
    }
    for (int64_t row = part * job->part_rows; row < end; row += SPREAD_ROWS)
        for (int64_t column = 0; column < columns; column += SPREAD_COLUMNS) {
            const int64_t some = npt_min64(SPREAD_COLUMNS, columns - column);
            npt_native_spread work = {.tokens = m,
                                      .rows = npt_min64(SPREAD_ROWS, end - row),
                                      .width = npt_round_up(some, job->ops.lanes),
                                      .x = job->tokens + row * NPT_NATIVE_SPREAD_TOKENS,
                                      .sums = sums + column,
                                      .x_stride = NPT_NATIVE_SPREAD_TOKENS,
                                      .sums_stride = job->width};
            work.w = widen_rows(job, row, work.rows, first + column, some, buffers, &work.w_stride);
            if (work.w_stride == ROW && row + 2 * SPREAD_ROWS <= end) {
                work.ahead_bits = npt_dtype_bits(job->w.dtype);
                work.ahead_stride = n * work.ahead_bits / 8;
                work.ahead = (const char *)job->w.data + (row + SPREAD_ROWS) * work.ahead_stride +
                             (first + column) * work.ahead_bits / 8;
            }
            job->ops.spread(&work);
        }
}

static void store_task(void *context, int64_t index, int worker)
{
    const npt_few_job *job = context;
    const npt_matmul_desc *desc = job->desc;
    const int64_t first = index * job->stripe;
    float *sums = stripe_sums(job, 0, index);
    (void)worker;
    for (int64_t part = 1; part < job->parts; part++) {
        const float *more = stripe_sums(job, part, index);
        for (int64_t i = 0; i < desc->m * job->width; i++) sums[i] += more[i];
    }
    for (int64_t t = 0; job->placed && t < desc->m; t++)
        put_in_place(job, sums + t * job->width, job->stripe, true);
    const npt_native_store piece = {
        .sums = sums,
        .rows = desc->m,
        .width = job->width,
        .lanes = npt_min64(job->stripe, desc->n - first),
        .c = (char *)job->args->c + (size_t)first * npt_dtype_bytes(desc->c),
        .stride = desc->n,
        .dtype = desc->c,
        .bias = desc->bias && job->args->bias != NULL ? job->args->bias + first : NULL,
        .accumulate = desc->accumulate,
    };
    job->ops.store(&piece);
}

/* ---- Both ----------------------------------------------------------------------------------- */

/* What follows from the shape. */
static npt_few_job job_for(const npt_matmul_desc *desc)
{
    const int64_t whole = npt_min64(STRIPE, STRIPE_BYTES * 8 / npt_dtype_bits(desc->w));
    npt_few_job job = {.desc = desc,
                       .stride = npt_round_up(desc->k, 2 * NPT_NATIVE_MAX_LANES),
                       .stripe = npt_min64(whole, npt_round_up(desc->n, 64))};
    job.width = job.stripe + APART;
    job.stripes = npt_parts(desc->n, job.stripe);
    const int64_t wanted = npt_parts(TASKS, job.stripes), most = npt_parts(desc->k, PART);
    job.part_rows = npt_round_up(npt_parts(desc->k, npt_min64(wanted, most)), SPREAD_ROWS);
    job.parts = npt_parts(desc->k, job.part_rows);
    return job;
}

bool npt_matmul_few(const npt_matmul_desc *desc)
{
    if (desc->trans_a) return false;
    return desc->m <= (desc->trans_w ? NPT_NATIVE_DOT_TOKENS : NPT_NATIVE_SPREAD_TOKENS);
}

void npt_matmul_few_plan(const npt_matmul_desc *desc, size_t *worker_bytes, size_t *shared_bytes)
{
    const npt_few_job job = job_for(desc);
    const int64_t floats = desc->trans_w ? desc->m * job.stride
                                         : job.stride * NPT_NATIVE_SPREAD_TOKENS +
                                               job.parts * job.stripes * desc->m * job.width;
    *worker_bytes = sizeof(npt_few_buffers);
    *shared_bytes = (size_t)floats * sizeof(float);
}

void npt_matmul_few_run(const npt_matmul_desc *desc, const npt_matmul_args *args,
                        const npt_matmul_scratch *scratch, const npt_native_ops *ops)
{
    npt_few_job job = job_for(desc);
    job.args = args;
    job.scratch = scratch;
    job.ops = *ops;
    job.a = npt_native_operand_a(desc, args);
    job.w = npt_native_operand_w(desc, args);
    const bool whole = (desc->trans_w ? desc->k : desc->n) % 64 == 0;
    job.one = desc->m == 1 && whole;
    job.in_place = desc->trans_w || desc->m <= IN_PLACE_TOKENS;
    job.placed = whole && (desc->w == NPT_NF4 || (desc->w == NPT_BF16 && job.one));
    for (int i = 0; i < 64; i++) job.place[i] = (uint8_t)npt_native_place(desc->w, ops->lanes, i);
    job.tokens = (float *)(void *)scratch->shared;
    job.sums = job.tokens + job.stride * NPT_NATIVE_SPREAD_TOKENS;
    if (desc->trans_w) {
        npt_threads_run(scratch->threads, widen_tokens_task, &job,
                        desc->m * npt_parts(desc->k, PIECE));
        npt_threads_run(scratch->threads, dot_task, &job, npt_parts(desc->n, DOT_CHUNK));
        return;
    }
    npt_threads_run(scratch->threads, turn_tokens_task, &job, npt_parts(desc->k, PART));
    npt_threads_run(scratch->threads, spread_task, &job, job.parts * job.stripes);
    npt_threads_run(scratch->threads, store_task, &job, job.stripes);
}
