/* SPDX-License-Identifier: BSD-2-Clause */
/* Kernels without sums: embedding, cast, addition, rotation, modulation, SwiGLU, and counting over
 * elements. Included by kernels.inc.h; element order does not matter here, so every kernel takes
 * flat blocks of BLOCK elements as tasks. */

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

/* ---- Modulation of the gate ------------------------------------------------------------------ */

/* mult of a chunk, rounded to u's dtype, and its derivative, unless that is NULL. */
static inline void multipliers(const float *u, npt_dtype dtype, int64_t n, float mult[CHUNK],
                               float slope[CHUNK])
{
    for (int64_t i = 0; i < lanes(n); i += VF) {
        vf complement, s = sigmoid(get(u + i), &complement);
        put(mult + i, 0.5f * s + 0.5f);
        if (slope != NULL) put(slope + i, 0.5f * (s * complement));
    }
    round_chunk(mult, dtype, n);
}

static void modulate_chunk(const npt_modulate_args *args, int64_t first, int64_t n)
{
    float bg[CHUNK], ba[CHUNK], bu[CHUNK], mult[CHUNK], out[CHUNK];
    const float *g = widen(args->gate, first, n, bg);
    const float *a = widen(args->add, first, n, ba);
    const float *u = widen(args->u, first, n, bu);
    float *dst = target(args->dst, first, n, out);
    if (u != NULL) multipliers(u, args->u.dtype, n, mult, NULL);
    vf strength = all(args->strength);
    for (int64_t i = 0; i < lanes(n); i += VF) {
        vf value = get(g + i);
        if (u != NULL) value = value * get(mult + i);
        if (a != NULL) value = value + strength * get(a + i);
        put(dst + i, value);
    }
    narrow(args->dst, first, n, dst);
}

static void modulate_task(void *context, int64_t task, int worker)
{
    const npt_modulate_args *args = context;
    int64_t end = at_most((task + 1) * BLOCK, args->rows * args->width);
    (void)worker;
    for (int64_t i = task * BLOCK; i < end; i += CHUNK)
        modulate_chunk(args, i, at_most(end - i, CHUNK));
}

static void modulate(const npt_run *run, const npt_modulate_args *args)
{
    run_blocks(run, modulate_task, args, args->rows * args->width, BLOCK);
}

/* Every input of an element is read before an output of it is written: dgate may be dy. */
static void modulate_backward_chunk(const npt_modulate_backward_args *args, int64_t first,
                                    int64_t n)
{
    float by[CHUNK], bg[CHUNK], ba[CHUNK], bu[CHUNK], mult[CHUNK], slope[CHUNK];
    float og[CHUNK], oa[CHUNK], ou[CHUNK];
    const float *y = widen(args->dy, first, n, by);
    const float *g = widen(args->gate, first, n, bg);
    const float *a = widen(args->add, first, n, ba);
    const float *u = widen(args->u, first, n, bu);
    float *dg = target(args->dgate, first, n, og);
    float *da = target(args->dadd, first, n, oa);
    float *du = target(args->du, first, n, ou);
    if (u != NULL) multipliers(u, args->u.dtype, n, mult, slope);
    vf strength = all(args->strength), penalty = all(args->penalty);
    for (int64_t i = 0; i < lanes(n); i += VF) {
        vf dy = y != NULL ? get(y + i) : (vf){0};
        vf gate = g != NULL ? get(g + i) : (vf){0};
        put(dg + i, u != NULL ? dy * get(mult + i) : dy);
        if (a != NULL) put(da + i, strength * dy + penalty * get(a + i));
        if (u != NULL) put(du + i, dy * gate * get(slope + i) + penalty * get(u + i));
    }
    narrow(args->dgate, first, n, dg);
    if (a != NULL) narrow(args->dadd, first, n, da);
    if (u != NULL) narrow(args->du, first, n, du);
}

static void modulate_backward_task(void *context, int64_t task, int worker)
{
    const npt_modulate_backward_args *args = context;
    int64_t end = at_most((task + 1) * BLOCK, args->rows * args->width);
    (void)worker;
    for (int64_t i = task * BLOCK; i < end; i += CHUNK)
        modulate_backward_chunk(args, i, at_most(end - i, CHUNK));
}

static void modulate_backward(const npt_run *run, const npt_modulate_backward_args *args)
{
    run_blocks(run, modulate_backward_task, args, args->rows * args->width, BLOCK);
}

/* ---- SwiGLU ---------------------------------------------------------------------------------- */

static void swiglu_task(void *context, int64_t task, int worker)
{
    const npt_swiglu_args *args = context;
    float bg[CHUNK], bu[CHUNK], out[CHUNK];
    int64_t end = at_most((task + 1) * BLOCK, args->rows * args->width);
    (void)worker;
    for (int64_t i = task * BLOCK; i < end; i += CHUNK) {
        int64_t n = at_most(end - i, CHUNK);
        const float *g = widen(args->g, i, n, bg), *up = widen(args->up, i, n, bu);
        float *dst = target(args->dst, i, n, out);
        for (int64_t j = 0; j < lanes(n); j += VF) {
            vf unused, x = get(g + j);
            put(dst + j, x * sigmoid(x, &unused) * get(up + j));
        }
        narrow(args->dst, i, n, dst);
    }
}

static void swiglu(const npt_run *run, const npt_swiglu_args *args)
{
    run_blocks(run, swiglu_task, args, args->rows * args->width, BLOCK);
}

static void swiglu_backward_task(void *context, int64_t task, int worker)
{
    const npt_swiglu_backward_args *args = context;
    float by[CHUNK], bg[CHUNK], bu[CHUNK], og[CHUNK], ou[CHUNK];
    int64_t end = at_most((task + 1) * BLOCK, args->rows * args->width);
    (void)worker;
    for (int64_t i = task * BLOCK; i < end; i += CHUNK) {
        int64_t n = at_most(end - i, CHUNK);
        const float *y = widen(args->dy, i, n, by);
        const float *g = widen(args->g, i, n, bg), *up = widen(args->up, i, n, bu);
        float *dg = target(args->dg, i, n, og), *dup = target(args->dup, i, n, ou);
        for (int64_t j = 0; j < lanes(n); j += VF) {
            vf complement, x = get(g + j), s = sigmoid(x, &complement);
            vf dy = get(y + j), u = get(up + j);
            put(dg + j, dy * u * (s * (1.0f + x * complement)));
            put(dup + j, dy * (x * s));
        }
        narrow(args->dg, i, n, dg);
        narrow(args->dup, i, n, dup);
    }
}

static void swiglu_backward(const npt_run *run, const npt_swiglu_backward_args *args)
{
    run_blocks(run, swiglu_backward_task, args, args->rows * args->width, BLOCK);
}
