/* SPDX-License-Identifier: BSD-2-Clause */
/* Kernels without sums: embedding, cast, addition, rotation. Included by kernels.inc.h; element
 * order does not matter here, so every kernel takes flat blocks of BLOCK elements as tasks. */

/* ---- Embedding ------------------------------------------------------------------------------- */

typedef struct npt_embed_job {
    int64_t tokens, width;
    const int32_t *ids;
    npt_in table;
    npt_out dst;
} npt_embed_job;

static void convert(npt_in src, int64_t src_first, npt_out dst, int64_t dst_first, int64_t n)
{
    if (src.dtype == dst.dtype) {
        size_t size = npt_dtype_bytes(src.dtype);
        memmove((char *)dst.data + (size_t)dst_first * size,
                (const char *)src.data + (size_t)src_first * size, (size_t)n * size);
        return;
    }
    float buffer[CHUNK];
    for (int64_t i = 0; i < n; i += CHUNK) {
        int64_t count = at_most(n - i, CHUNK);
        narrow(dst, dst_first + i, count, widen(src, src_first + i, count, buffer));
    }
}

static void embed_task(void *context, int64_t task, int worker)
{
    const npt_embed_job *job = context;
    int64_t step = rows_per_task(job->width);
    int64_t end = at_most((task + 1) * step, job->tokens);
    (void)worker;
    for (int64_t t = task * step; t < end; t++)
        convert(job->table, job->ids[t] * job->width, job->dst, t * job->width, job->width);
}

static void embed(const npt_run *run, int64_t tokens, int64_t width, const int32_t *ids,
                  npt_in table, npt_out dst)
{
    npt_embed_job job = {tokens, width, ids, table, dst};
    run_blocks(run, embed_task, &job, tokens, rows_per_task(width));
}

/* ---- Cast ------------------------------------------------------------------------------------ */

typedef struct npt_cast_job {
    int64_t n;
    npt_in src;
    npt_out dst;
    npt_cast_stats *stats;
} npt_cast_job;

static inline vi is_finite(vf x)
{
    return ((vi)x & 0x7f800000) != 0x7f800000;
}

static int64_t count_lanes(vi counts)
{
    int64_t total = 0;
    for (int i = 0; i < VF; i++) total += counts[i];
    return total;
}

static void cast_counted(const npt_cast_job *job, int64_t first, int64_t n)
{
    float from[CHUNK], to[CHUNK];
    vi overflowed = {0}, flushed = {0};
    for (int64_t i = first; i < first + n; i += CHUNK) {
        int64_t count = at_most(first + n - i, CHUNK);
        const float *x = widen(job->src, i, count, from);
        narrow(job->dst, i, count, x);
        widen_into((npt_in){job->dst.data, job->dst.dtype}, i, count, to);
        for (int64_t j = 0; j < lanes(count); j += VF) {
            vf before = get(x + j), after = get(to + j);
            overflowed -= is_finite(before) & ~is_finite(after);
            flushed -= (before != 0.0f) & (after == 0.0f);
        }
    }
    __atomic_fetch_add(&job->stats->overflowed, (uint64_t)count_lanes(overflowed),
                       __ATOMIC_RELAXED);
    __atomic_fetch_add(&job->stats->flushed, (uint64_t)count_lanes(flushed), __ATOMIC_RELAXED);
}

static void cast_task(void *context, int64_t task, int worker)
{
    const npt_cast_job *job = context;
    int64_t first = task * BLOCK, n = at_most(job->n - first, BLOCK);
    (void)worker;
    if (job->stats != NULL && job->src.dtype != job->dst.dtype && job->dst.dtype != NPT_F32)
        cast_counted(job, first, n);
    else
        convert(job->src, first, job->dst, first, n);
}

static void cast(const npt_run *run, int64_t n, npt_in src, npt_out dst, npt_cast_stats *stats)
{
    npt_cast_job job = {n, src, dst, stats};
    run_blocks(run, cast_task, &job, n, BLOCK);
}

/* ---- Addition -------------------------------------------------------------------------------- */

typedef struct npt_add_job {
    int64_t n;
    npt_in x, y;
    npt_out dst;
} npt_add_job;

static void add_task(void *context, int64_t task, int worker)
{
    const npt_add_job *job = context;
    float xs[CHUNK], ys[CHUNK], sums[CHUNK];
    int64_t end = at_most((task + 1) * BLOCK, job->n);
    (void)worker;
    for (int64_t i = task * BLOCK; i < end; i += CHUNK) {
        int64_t count = at_most(end - i, CHUNK);
        const float *x = widen(job->x, i, count, xs), *y = widen(job->y, i, count, ys);
        float *dst = target(job->dst, i, count, sums);
        for (int64_t j = 0; j < lanes(count); j += VF) put(dst + j, get(x + j) + get(y + j));
        narrow(job->dst, i, count, dst);
    }
}

static void add(const npt_run *run, int64_t n, npt_in x, npt_in y, npt_out dst)
{
    npt_add_job job = {n, x, y, dst};
    run_blocks(run, add_task, &job, n, BLOCK);
}

/* ---- Rotary embedding ------------------------------------------------------------------------ */

/* Elements `at` … of the halves of one head. */
static void rope_chunk(const npt_rope_args *args, int64_t head, int64_t angles, int64_t at)
{
    float b1[CHUNK], b2[CHUNK], bc[CHUNK], bs[CHUNK], o1[CHUNK], o2[CHUNK];
    int64_t half = args->head_dim / 2, n = at_most(half - at, CHUNK);
    const float *x1 = widen(args->src, head + at, n, b1);
    const float *x2 = widen(args->src, head + half + at, n, b2);
    const float *cosine = widen((npt_in){args->cos, NPT_F32}, angles + at, n, bc);
    const float *sine = widen((npt_in){args->sin, NPT_F32}, angles + at, n, bs);
    float *y1 = target(args->dst, head + at, n, o1);
    float *y2 = target(args->dst, head + half + at, n, o2);
    vf sign = all(args->inverse ? -1.0f : 1.0f);
    for (int64_t i = 0; i < lanes(n); i += VF) {
        vf u = get(x1 + i), v = get(x2 + i), c = get(cosine + i), s = sign * get(sine + i);
        put(y1 + i, u * c - v * s);
        put(y2 + i, v * c + u * s);
    }
    narrow(args->dst, head + at, n, y1);
    narrow(args->dst, head + half + at, n, y2);
}

static void rope_task(void *context, int64_t task, int worker)
{
    const npt_rope_args *args = context;
    int64_t width = args->heads * args->head_dim, half = args->head_dim / 2;
    int64_t step = rows_per_task(width), end = at_most((task + 1) * step, args->tokens);
    (void)worker;
    for (int64_t t = task * step; t < end; t++)
        for (int64_t h = 0; h < args->heads; h++)
            for (int64_t at = 0; at < half; at += CHUNK)
                rope_chunk(args, t * width + h * args->head_dim, args->positions[t] * half, at);
}

static void rope(const npt_run *run, const npt_rope_args *args)
{
    run_blocks(run, rope_task, args, args->tokens, rows_per_task(args->heads * args->head_dim));
}
