/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "cpu/backends.h"
#include "cpu/matmul_native.h"

/* "native": our own blocked product for AVX2 and AVX-512, straight from the stored dtypes.
 *
 * One matrix is streamed: cut into chunks, a task each, packed panel by panel just before use. The
 * other is resident: packed once, by all workers, into shared scratch, at most RESIDENT_MAX of its
 * vectors at a time. Independently of that, one matrix is the row operand of the tile and the other
 * the lane operand (matmul_native.h): the streamed matrix takes the part that its layout packs into
 * without turning. Sums of a task stay in F32 scratch, in the tile's own form, over all of k; bias,
 * accumulation and the one rounding come at the end. Invariant: chunks, panels and k blocks follow
 * from the shape alone, so the bits do not depend on the number of threads. */

enum {
    RESIDENT_MAX = 512, /* vectors of the resident matrix packed at once; a multiple of 32 */
    CHUNK_LANES = NPT_NATIVE_CHUNK, /* most streamed vectors of a task, as lanes */
    CHUNK_PANELS = 8,   /* the same as rows: panels */
    TASKS_WANTED = 16,  /* smaller chunks where there would be fewer tasks */
    DOT_CHUNK = 64,     /* W rows of a task on the route for few tokens */
    MAX_AHEAD = 4096,   /* lines asked for before they are packed */
    SMALL_DEPTH = 64    /* below, turning C costs more than turning an operand */
};

typedef struct npt_native_shape {
    npt_native_ops ops;
    bool dot;           /* the route for few tokens */
    bool stream_w;      /* else A is streamed and W resident */
    bool lanes_w;       /* W is the lane operand, else A */
    int64_t streamed, resident; /* vectors of each: n or m */
    int64_t block;      /* resident vectors at a time */
    int64_t chunk;      /* streamed vectors of a task */
    int stream_rows, resident_rows; /* tile height where that matrix is the row operand */
    int64_t depth_blocks;
    size_t sums_floats, panel_floats;
} npt_native_shape;

typedef struct npt_native_job {
    const npt_matmul_desc *desc;
    const npt_matmul_args *args;
    const npt_matmul_scratch *scratch;
    npt_native_shape shape;
    npt_native_operand stream, rest;
    int64_t first, count; /* the resident block: vectors first … first+count-1 */
    float *packed;
} npt_native_job;

static int64_t min64(int64_t x, int64_t y)
{
    return x < y ? x : y;
}

static int64_t parts(int64_t total, int64_t size)
{
    return (total + size - 1) / size;
}

static int64_t round_up(int64_t total, int64_t size)
{
    return parts(total, size) * size;
}

void npt_matmul_native_ops(const npt_cpu *cpu, npt_native_ops *ops)
{
#ifdef HAVE_ISA_AVX512
    if (cpu->level >= NPT_CPU_AVX512) {
        npt_matmul_fill_avx512(ops);
        return;
    }
#endif
    (void)cpu;
    npt_matmul_fill_avx2(ops);
}

/* ---- The shape of the work ----------------------------------------------------------------- */

/* An even tile height that cuts `count` rows with little waste. */
static int tile_rows(const npt_native_ops *ops, int64_t count)
{
    const int64_t panels = parts(count, ops->max_rows);
    return (int)round_up(parts(count, panels), 2);
}

static int64_t even_blocks(int64_t total, int64_t most, int64_t unit)
{
    return round_up(parts(total, parts(total, most)), unit);
}

static int64_t clamp(int64_t value, int64_t low, int64_t high)
{
    return value < low ? low : value > high ? high : value;
}

static void shape_chunks(npt_native_shape *shape)
{
    const int wide = 2 * shape->ops.lanes;
    const bool stream_lanes = shape->stream_w == shape->lanes_w;
    const int64_t share = parts(shape->streamed, TASKS_WANTED);
    int64_t sums_rows, sums_lanes;
    shape->block = even_blocks(shape->resident, RESIDENT_MAX, wide);
    if (stream_lanes) {
        shape->chunk = clamp(round_up(share, wide), wide, CHUNK_LANES);
        shape->resident_rows = tile_rows(&shape->ops, min64(shape->resident, shape->block));
        sums_rows = round_up(shape->block, shape->resident_rows);
        sums_lanes = shape->chunk;
        shape->panel_floats = (size_t)(NPT_NATIVE_DEPTH * shape->chunk);
    } else {
        shape->stream_rows = tile_rows(&shape->ops, shape->streamed);
        const int64_t height = shape->stream_rows;
        shape->chunk = clamp(round_up(share, height), height, CHUNK_PANELS * height);
        sums_rows = shape->chunk;
        sums_lanes = round_up(shape->block, wide);
        shape->panel_floats = (size_t)NPT_NATIVE_DEPTH * (size_t)height;
    }
    shape->sums_floats = (size_t)(sums_rows * sums_lanes);
}

static npt_native_shape shape_of(const npt_matmul_desc *desc, const npt_cpu *cpu)
{
    npt_native_shape shape = {.depth_blocks = parts(desc->k, NPT_NATIVE_DEPTH)};
    npt_matmul_native_ops(cpu, &shape.ops);
    shape.dot = desc->trans_w && !desc->trans_a && desc->m <= NPT_NATIVE_DOT_TOKENS;
    shape.stream_w = desc->n >= 128 || desc->n >= desc->m;
    shape.streamed = shape.stream_w ? desc->n : desc->m;
    shape.resident = shape.stream_w ? desc->m : desc->n;
    if (desc->k < SMALL_DEPTH)
        shape.lanes_w = true;
    else
        shape.lanes_w = shape.stream_w ? !desc->trans_w : !desc->trans_a;
    shape_chunks(&shape);
    return shape;
}

/* ---- Blocked route -------------------------------------------------------------------------- */

/* Lane panels are two vectors wide but for an odd last one. */
static int panel_vectors(const npt_native_ops *ops, int64_t first, int64_t count)
{
    return count - first > ops->lanes ? 2 : 1;
}

static void pack_resident_task(void *context, int64_t index, int worker)
{
    const npt_native_job *job = context;
    const npt_native_shape *shape = &job->shape;
    const npt_native_ops *ops = &shape->ops;
    const int64_t k = job->desc->k;
    (void)worker;
    if (shape->stream_w == shape->lanes_w) {
        const int rows = shape->resident_rows;
        float *dst = job->packed + index * shape->depth_blocks * rows * NPT_NATIVE_DEPTH;
        for (int64_t k0 = 0; k0 < k; k0 += NPT_NATIVE_DEPTH, dst += rows * NPT_NATIVE_DEPTH)
            ops->pack_rows(&job->rest, job->first + index * rows, rows, k0,
                           min64(NPT_NATIVE_DEPTH, k - k0), dst);
    } else {
        const int64_t first = index * 2 * ops->lanes;
        const int width = panel_vectors(ops, first, job->count) * ops->lanes;
        float *dst = job->packed + first * k;
        for (int64_t k0 = 0; k0 < k; k0 += NPT_NATIVE_DEPTH)
            ops->pack_lanes(&job->rest, job->first + first, width, k0, min64(NPT_NATIVE_DEPTH, k - k0),
                            dst + k0 * width);
    }
}

/* Rows × lanes of a task's sums, and where they go. */
typedef struct npt_native_area {
    int64_t row_first, rows, lane_first, lanes; /* in the matrices */
    int64_t panel_rows;                         /* rows of one lane panel in the sums, padded */
    float *sums;
} npt_native_area;

static void store_area(const npt_native_job *job, const npt_native_area *area)
{
    const npt_matmul_desc *desc = job->desc;
    const npt_native_ops *ops = &job->shape.ops;
    const size_t bytes = npt_dtype_bytes(desc->c);
    const bool turned = !job->shape.lanes_w;
    for (int64_t lane = 0; lane < area->lanes; lane += 2 * ops->lanes) {
        const int64_t row0 = turned ? area->lane_first + lane : area->row_first;
        const int64_t column0 = turned ? area->row_first : area->lane_first + lane;
        const npt_native_store piece = {
            .sums = area->sums + lane * area->panel_rows,
            .rows = area->rows,
            .width = panel_vectors(ops, lane, area->lanes) * ops->lanes,
            .lanes = min64(2 * ops->lanes, area->lanes - lane),
            .c = (char *)job->args->c + (size_t)(row0 * desc->n + column0) * bytes,
            .stride = desc->n,
            .dtype = desc->c,
            .bias = desc->bias && job->args->bias != NULL ? job->args->bias + column0 : NULL,
            .accumulate = desc->accumulate,
        };
        (turned ? ops->store_transposed : ops->store)(&piece);
    }
}

/* What is packed next, as the lines of memory it will be read from. */
typedef struct npt_native_ahead {
    const char *lines[MAX_AHEAD];
    int64_t count, used;
} npt_native_ahead;

static void list_lines(const npt_native_operand *src, int64_t first, int64_t width, int64_t k0,
                       npt_native_ahead *ahead)
{
    const int64_t bits = src->dtype == NPT_NF4 ? 4 : src->dtype == NPT_F32 ? 32 : 16;
    const int64_t depth = min64(NPT_NATIVE_DEPTH, src->depth - k0);
    const int64_t vectors = min64(width, src->count - first);
    const int64_t outer = src->k_inside ? vectors : depth;
    const int64_t inner = src->k_inside ? depth : vectors;
    const int64_t stride = src->k_inside ? src->depth : src->count;
    int64_t index = src->k_inside ? first * stride + k0 : k0 * stride + first;
    for (int64_t i = 0; i < outer; i++, index += stride)
        for (int64_t byte = 0; byte < inner * bits / 8 && ahead->count < MAX_AHEAD; byte += 64)
            ahead->lines[ahead->count++] = (const char *)src->data + index * bits / 8 + byte;
}

/* A streamed panel, or a chunk of lane panels, at one k block. */
typedef struct npt_native_step {
    int64_t first, width, k0, depth;
    const float *panel;
    npt_native_ahead *ahead;
} npt_native_step;

/* Runs a tile; it asks for its share of the lines ahead, `left` tiles being still to come. */
static void run_tile(const npt_native_ops *ops, npt_native_tile *tile, npt_native_ahead *ahead,
                     int64_t left)
{
    tile->lines = ahead->lines + ahead->used;
    tile->line_count = min64(parts(ahead->count - ahead->used, left), tile->depth);
    ahead->used += tile->line_count;
    ops->tile(tile);
}

static void multiply_rows(const npt_native_job *job, const npt_native_step *step,
                          const npt_native_area *area)
{
    const npt_native_ops *ops = &job->shape.ops;
    const int64_t panels = parts(job->count, 2 * ops->lanes);
    for (int64_t p = 0; p < panels; p++) {
        const int64_t lane = p * 2 * ops->lanes;
        const int vectors = panel_vectors(ops, lane, job->count);
        const int width = vectors * ops->lanes;
        npt_native_tile tile = {
            .rows = (int)step->width,
            .vectors = vectors,
            .depth = step->depth,
            .row = step->panel,
            .lane = job->packed + lane * job->desc->k + step->k0 * width,
            .sums =
                area->sums + lane * area->panel_rows + (step->first - area->row_first) * width,
            .add = step->k0 > 0,
        };
        run_tile(ops, &tile, step->ahead, panels - p);
    }
}

static void multiply_lanes(const npt_native_job *job, const npt_native_step *step,
                           const npt_native_area *area)
{
    const npt_native_ops *ops = &job->shape.ops;
    const int rows = job->shape.resident_rows, wide = 2 * ops->lanes;
    const int64_t panels = parts(job->count, rows);
    const int64_t block = step->k0 / NPT_NATIVE_DEPTH;
    int64_t left = panels * parts(step->width, wide);
    for (int64_t p = 0; p < panels; p++)
        for (int64_t lane = 0; lane < step->width; lane += wide, left--) {
            const int vectors = panel_vectors(ops, lane, step->width);
            npt_native_tile tile = {
                .rows = rows,
                .vectors = vectors,
                .depth = step->depth,
                .row = job->packed +
                       (p * job->shape.depth_blocks + block) * rows * NPT_NATIVE_DEPTH,
                .lane = step->panel + lane * NPT_NATIVE_DEPTH,
                .sums = area->sums + lane * area->panel_rows + p * rows * vectors * ops->lanes,
                .add = step->k0 > 0,
            };
            run_tile(ops, &tile, step->ahead, left);
        }
}

static npt_native_area area_of(const npt_native_job *job, int64_t first, int64_t count, float *sums)
{
    const npt_native_shape *shape = &job->shape;
    if (shape->stream_w == shape->lanes_w)
        return (npt_native_area){job->first, job->count, first, count,
                                 round_up(job->count, shape->resident_rows), sums};
    return (npt_native_area){first, count, job->first, job->count,
                             round_up(count, shape->stream_rows), sums};
}

static void chunk_task(void *context, int64_t index, int worker)
{
    const npt_native_job *job = context;
    const npt_native_shape *shape = &job->shape;
    const npt_native_ops *ops = &shape->ops;
    const bool as_lanes = shape->stream_w == shape->lanes_w;
    const int64_t k = job->desc->k, first = index * shape->chunk;
    const int64_t end = min64(first + shape->chunk, shape->streamed);
    const int64_t unit = as_lanes ? round_up(end - first, ops->lanes) : shape->stream_rows;
    float *sums =
        (void *)(job->scratch->worker + (size_t)worker * job->scratch->worker_stride);
    float *panel = sums + shape->sums_floats;
    const npt_native_area area = area_of(job, first, end - first, sums);
    npt_native_ahead ahead;
    for (int64_t k0 = 0; k0 < k; k0 += NPT_NATIVE_DEPTH)
        for (int64_t s = first; s < end; s += unit) {
            const bool last = s + unit >= end;
            const npt_native_step step = {
                s, unit, k0, min64(NPT_NATIVE_DEPTH, k - k0), panel, &ahead};
            ahead.count = ahead.used = 0;
            if (!last || k0 + NPT_NATIVE_DEPTH < k)
                list_lines(&job->stream, last ? first : s + unit, unit,
                           last ? k0 + NPT_NATIVE_DEPTH : k0, &ahead);
            if (as_lanes) {
                ops->pack_lanes(&job->stream, s, (int)unit, k0, step.depth, panel);
                multiply_lanes(job, &step, &area);
            } else {
                ops->pack_rows(&job->stream, s, (int)unit, k0, step.depth, panel);
                multiply_rows(job, &step, &area);
            }
        }
    store_area(job, &area);
}

static void run_blocked(npt_native_job *job)
{
    const npt_native_shape *shape = &job->shape;
    const bool as_lanes = shape->stream_w == shape->lanes_w;
    const int64_t unit = as_lanes ? shape->resident_rows : 2 * shape->ops.lanes;
    job->packed = (float *)(void *)job->scratch->shared;
    for (job->first = 0; job->first < shape->resident; job->first += shape->block) {
        job->count = min64(shape->block, shape->resident - job->first);
        npt_threads_run(job->scratch->threads, pack_resident_task, job, parts(job->count, unit));
        npt_threads_run(job->scratch->threads, chunk_task, job,
                        parts(shape->streamed, shape->chunk));
    }
}

/* ---- Few tokens ----------------------------------------------------------------------------- */

/* W is widened a few rows at a time into first-level cache and read once; A lies there in F32. */
typedef struct npt_native_dot_scratch {
    float rows[NPT_NATIVE_DOT_ROWS][NPT_NATIVE_DEPTH];
    float partial[NPT_NATIVE_DOT_ROWS][NPT_NATIVE_DOT_TOKENS][NPT_NATIVE_MAX_LANES];
    float sums[NPT_NATIVE_DOT_TOKENS][DOT_CHUNK];
} npt_native_dot_scratch;

static void widen_tokens_task(void *context, int64_t index, int worker)
{
    const npt_native_job *job = context;
    const int64_t k = job->desc->k, stride = round_up(k, NPT_NATIVE_MAX_LANES);
    float *dst = job->packed + index * stride;
    (void)worker;
    job->shape.ops.widen(&job->rest, index * k, k, dst);
    memset(dst + k, 0, (size_t)(stride - k) * sizeof(float));
}

/* DOT_ROWS rows of W from `row`, against all tokens. */
static void dot_rows(const npt_native_job *job, npt_native_dot_scratch *buffers, int64_t row)
{
    const npt_native_ops *ops = &job->shape.ops;
    const int64_t k = job->desc->k, stride = round_up(k, NPT_NATIVE_MAX_LANES);
    const int64_t rows = min64(NPT_NATIVE_DOT_ROWS, job->desc->n - row);
    memset(buffers->partial, 0, sizeof(buffers->partial));
    for (int64_t k0 = 0; k0 < k; k0 += NPT_NATIVE_DEPTH) {
        const int64_t depth = min64(NPT_NATIVE_DEPTH, k - k0);
        const int64_t padded = round_up(depth, ops->lanes);
        for (int64_t r = 0; r < NPT_NATIVE_DOT_ROWS; r++) {
            const int64_t some = r < rows ? depth : 0;
            if (some > 0) ops->widen(&job->stream, (row + r) * k + k0, some, buffers->rows[r]);
            if (some < padded)
                memset(buffers->rows[r] + some, 0, (size_t)(padded - some) * sizeof(float));
        }
        ops->dot((int)job->desc->m, padded, buffers->rows[0], NPT_NATIVE_DEPTH, job->packed + k0,
                 stride, buffers->partial[0][0]);
    }
}

static void dot_task(void *context, int64_t index, int worker)
{
    const npt_native_job *job = context;
    const npt_native_ops *ops = &job->shape.ops;
    const npt_matmul_desc *desc = job->desc;
    const int64_t first = index * DOT_CHUNK;
    const int64_t columns = min64(DOT_CHUNK, desc->n - first);
    npt_native_dot_scratch *buffers =
        (void *)(job->scratch->worker + (size_t)worker * job->scratch->worker_stride);
    const float *partial = buffers->partial[0][0];
    for (int64_t j = 0; j < columns; j += NPT_NATIVE_DOT_ROWS) {
        dot_rows(job, buffers, first + j);
        for (int64_t r = 0; r < NPT_NATIVE_DOT_ROWS; r++)
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

static void run_dot(npt_native_job *job)
{
    job->packed = (float *)(void *)job->scratch->shared;
    npt_threads_run(job->scratch->threads, widen_tokens_task, job, job->desc->m);
    npt_threads_run(job->scratch->threads, dot_task, job, parts(job->desc->n, DOT_CHUNK));
}

/* ---- The backend ---------------------------------------------------------------------------- */

static const char *native_refuse(const npt_matmul_desc *desc, const npt_cpu *cpu, char *reason)
{
    (void)desc;
    (void)reason;
    return cpu->level >= NPT_CPU_AVX2 ? NULL : "needs AVX2, FMA and F16C";
}

/* The level is not known here: room for the larger need. */
static void native_plan(const npt_matmul_desc *desc, int workers, size_t *worker_bytes,
                        size_t *shared_bytes)
{
    static const npt_cpu levels[] = {{.level = NPT_CPU_AVX2}, {.level = NPT_CPU_AVX512}};
    (void)workers;
    *worker_bytes = *shared_bytes = 0;
    for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++) {
        const npt_native_shape shape = shape_of(desc, &levels[i]);
        const size_t k = (size_t)round_up(desc->k, NPT_NATIVE_DEPTH);
        size_t mine = (shape.sums_floats + shape.panel_floats) * sizeof(float);
        size_t all = (size_t)(shape.block + 2 * NPT_NATIVE_MAX_LANES) * k * sizeof(float);
        if (shape.dot) {
            mine = sizeof(npt_native_dot_scratch);
            all = (size_t)desc->m * k * sizeof(float);
        }
        if (mine > *worker_bytes) *worker_bytes = mine;
        if (all > *shared_bytes) *shared_bytes = all;
    }
}

static npt_status native_run(const npt_matmul_desc *desc, const npt_matmul_args *args,
                             const npt_matmul_scratch *scratch)
{
    const npt_native_operand a = {.data = args->a,
                                  .dtype = desc->a,
                                  .count = desc->m,
                                  .depth = desc->k,
                                  .k_inside = !desc->trans_a};
    const npt_native_operand w = {.data = args->w,
                                  .dtype = desc->w,
                                  .absmax = args->absmax,
                                  .levels = args->levels,
                                  .count = desc->n,
                                  .depth = desc->k,
                                  .k_inside = desc->trans_w};
    npt_native_job job = {.desc = desc, .args = args, .scratch = scratch};
    job.shape = shape_of(desc, scratch->cpu);
    job.stream = job.shape.stream_w || job.shape.dot ? w : a;
    job.rest = job.shape.stream_w || job.shape.dot ? a : w;
    if (job.shape.dot)
        run_dot(&job);
    else
        run_blocked(&job);
    return NPT_OK;
}

const npt_matmul_backend npt_matmul_native = {
    .name = "native",
    .refuse = native_refuse,
    .plan = native_plan,
    .run = native_run,
};
