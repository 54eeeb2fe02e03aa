/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "cpu/backends.h"
#include "cpu/matmul_native.h"

/* "native": our own products for AVX2, AVX-512 and AMX. Three routes: for few tokens, W read once
 * against all of them (here); blocked on FMA; blocked on AMX tiles where both operands are halves.
 * The AMX route gives way to FMA after the fact where an operand was infinite or NaN. Invariant:
 * the route follows from the descriptor, the CPU and the data, never from the number of threads. */

enum { DOT_CHUNK = 64 /* W rows of a task on the route for few tokens */ };

typedef struct npt_dot_job {
    const npt_matmul_desc *desc;
    const npt_matmul_args *args;
    const npt_matmul_scratch *scratch;
    npt_native_ops ops;
    npt_native_operand a, w;
    float *tokens; /* A in F32, rows padded with zeros */
} npt_dot_job;

static int64_t min64(int64_t x, int64_t y)
{
    return x < y ? x : y;
}

static int64_t round_up(int64_t total, int64_t size)
{
    return (total + size - 1) / size * size;
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
    const npt_dot_job *job = context;
    const int64_t k = job->desc->k, stride = round_up(k, NPT_NATIVE_MAX_LANES);
    float *dst = job->tokens + index * stride;
    (void)worker;
    job->ops.widen(&job->a, index * k, k, dst);
    memset(dst + k, 0, (size_t)(stride - k) * sizeof(float));
}

/* DOT_ROWS rows of W from `row`, against all tokens. */
static void dot_rows(const npt_dot_job *job, npt_native_dot_scratch *buffers, int64_t row)
{
    const npt_native_ops *ops = &job->ops;
    const int64_t k = job->desc->k, stride = round_up(k, NPT_NATIVE_MAX_LANES);
    const int64_t rows = min64(NPT_NATIVE_DOT_ROWS, job->desc->n - row);
    memset(buffers->partial, 0, sizeof(buffers->partial));
    for (int64_t k0 = 0; k0 < k; k0 += NPT_NATIVE_DEPTH) {
        const int64_t depth = min64(NPT_NATIVE_DEPTH, k - k0);
        const int64_t padded = round_up(depth, ops->lanes);
        for (int64_t r = 0; r < NPT_NATIVE_DOT_ROWS; r++) {
            const int64_t some = r < rows ? depth : 0;
            if (some > 0) ops->widen(&job->w, (row + r) * k + k0, some, buffers->rows[r]);
            if (some < padded)
                memset(buffers->rows[r] + some, 0, (size_t)(padded - some) * sizeof(float));
        }
        ops->dot((int)job->desc->m, padded, buffers->rows[0], NPT_NATIVE_DEPTH, job->tokens + k0,
                 stride, buffers->partial[0][0]);
    }
}

static void dot_task(void *context, int64_t index, int worker)
{
    const npt_dot_job *job = context;
    const npt_native_ops *ops = &job->ops;
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

static void run_dot(const npt_matmul_desc *desc, const npt_matmul_args *args,
                    const npt_matmul_scratch *scratch, const npt_native_ops *ops)
{
    npt_dot_job job = {.desc = desc, .args = args, .scratch = scratch, .ops = *ops};
    job.a = npt_native_operand_a(desc, args);
    job.w = npt_native_operand_w(desc, args);
    job.tokens = (float *)(void *)scratch->shared;
    npt_threads_run(scratch->threads, widen_tokens_task, &job, desc->m);
    npt_threads_run(scratch->threads, dot_task, &job, (desc->n + DOT_CHUNK - 1) / DOT_CHUNK);
}

/* ---- The backend ---------------------------------------------------------------------------- */

/* Sizes of the FMA route; runs on any CPU. */
static npt_native_ops fma_form(npt_cpu_level level)
{
    const bool wide = level >= NPT_CPU_AVX512;
    return (npt_native_ops){.lanes = wide ? NPT_NATIVE_AVX512_LANES : NPT_NATIVE_AVX2_LANES,
                            .max_rows = wide ? NPT_NATIVE_AVX512_ROWS : NPT_NATIVE_AVX2_ROWS,
                            .row_unit = 2,
                            .depth = NPT_NATIVE_DEPTH,
                            .depth_unit = 1,
                            .packed_bytes = sizeof(float)};
}

void npt_matmul_native_ops(const npt_cpu *cpu, npt_native_ops *ops)
{
#ifdef HAVE_ISA_AVX512
    if (cpu->level >= NPT_CPU_AVX512) {
        *ops = fma_form(NPT_CPU_AVX512);
        npt_matmul_fill_avx512(ops);
        return;
    }
#endif
    (void)cpu;
    *ops = fma_form(NPT_CPU_AVX2);
    npt_matmul_fill_avx2(ops);
}

static bool few_tokens(const npt_matmul_desc *desc)
{
    return desc->trans_w && !desc->trans_a && desc->m <= NPT_NATIVE_DOT_TOKENS;
}

#ifdef HAVE_ISA_AMX

/* Sizes of the AMX route; runs on any CPU. */
static npt_native_ops amx_form(int pieces)
{
    return (npt_native_ops){.lanes = NPT_NATIVE_AVX512_LANES,
                            .max_rows = NPT_NATIVE_AMX_ROWS,
                            .row_unit = NPT_NATIVE_AMX_ROWS / 2,
                            .depth = NPT_NATIVE_MAX_DEPTH / pieces,
                            .depth_unit = NPT_NATIVE_AMX_STEP,
                            .packed_bytes = 2 * pieces,
                            .rows_in_place = pieces == 1};
}

/* Pieces of bf16 that an operand on AMX has; 0: FMA. */
static int amx_pieces(const npt_matmul_desc *desc)
{
    enum { WORTHWHILE = 128 };
    if (desc->a != desc->w || desc->trans_a) return 0;
    if (desc->n < WORTHWHILE || desc->k < WORTHWHILE) return 0;
    return desc->a == NPT_BF16 ? 1 : desc->a == NPT_F16 ? 2 : 0;
}

/* A product of F16 may turn out to be one for FMA when part of it is stored already. That part is
 * overwritten, but not where C is added to: there the product is made beside C. */
static bool is_aside(const npt_matmul_desc *desc)
{
    return desc->accumulate && amx_pieces(desc) > 1;
}

static size_t aside_start(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

static size_t aside_bytes(const npt_matmul_desc *desc)
{
    return (size_t)(desc->m * desc->n) * sizeof(float);
}

#endif

static const char *native_refuse(const npt_matmul_desc *desc, const npt_cpu *cpu, char *reason)
{
    (void)desc;
    (void)reason;
    return cpu->level >= NPT_CPU_AVX2 ? NULL : "needs AVX2, FMA and F16C";
}

static void at_least(const npt_matmul_desc *desc, const npt_native_ops *ops, size_t *worker_bytes,
                     size_t *shared_bytes)
{
    size_t mine, all;
    npt_matmul_blocked_plan(desc, ops, &mine, &all);
    if (mine > *worker_bytes) *worker_bytes = mine;
    if (all > *shared_bytes) *shared_bytes = all;
}

/* The CPU is not known here: room for whichever route needs most. */
static void native_plan(const npt_matmul_desc *desc, int workers, size_t *worker_bytes,
                        size_t *shared_bytes)
{
    (void)workers;
    *worker_bytes = *shared_bytes = 0;
    if (few_tokens(desc)) {
        *worker_bytes = sizeof(npt_native_dot_scratch);
        *shared_bytes = (size_t)(desc->m * round_up(desc->k, NPT_NATIVE_MAX_LANES)) * sizeof(float);
        return;
    }
    for (int level = NPT_CPU_AVX2; level <= NPT_CPU_AVX512; level++) {
        const npt_native_ops form = fma_form((npt_cpu_level)level);
        at_least(desc, &form, worker_bytes, shared_bytes);
    }
#ifdef HAVE_ISA_AMX
    if (amx_pieces(desc) != 0) {
        const npt_native_ops form = amx_form(amx_pieces(desc));
        at_least(desc, &form, worker_bytes, shared_bytes);
        if (is_aside(desc)) *shared_bytes = aside_start(*shared_bytes) + aside_bytes(desc);
    }
#endif
}

#ifdef HAVE_ISA_AMX

typedef struct npt_aside_job {
    float *c;
    const float *product;
    int64_t count;
} npt_aside_job;

enum { ASIDE_TASK = 1 << 14 };

static void add_aside(void *context, int64_t index, int worker)
{
    const npt_aside_job *job = context;
    const int64_t first = index * ASIDE_TASK;
    const int64_t end = first + ASIDE_TASK < job->count ? first + ASIDE_TASK : job->count;
    (void)worker;
    for (int64_t i = first; i < end; i++) job->c[i] += job->product[i];
}

/* False where FMA must do it; then C holds nothing that FMA does not overwrite. */
static bool run_amx(const npt_matmul_desc *desc, const npt_matmul_args *args,
                    const npt_matmul_scratch *scratch)
{
    npt_native_ops amx = amx_form(amx_pieces(desc));
    npt_matmul_fill_amx(&amx, amx_pieces(desc));
    if (!is_aside(desc)) return npt_matmul_blocked_run(desc, args, scratch, &amx);
    size_t worker_bytes, shared_bytes;
    native_plan(desc, 0, &worker_bytes, &shared_bytes);
    npt_matmul_desc plain = *desc;
    npt_matmul_args aside = *args;
    plain.accumulate = false;
    aside.c = scratch->shared + shared_bytes - aside_bytes(desc);
    if (!npt_matmul_blocked_run(&plain, &aside, scratch, &amx)) return false;
    npt_aside_job job = {args->c, aside.c, desc->m * desc->n};
    npt_threads_run(scratch->threads, add_aside, &job, (job.count + ASIDE_TASK - 1) / ASIDE_TASK);
    return true;
}

#endif

static npt_status native_run(const npt_matmul_desc *desc, const npt_matmul_args *args,
                             const npt_matmul_scratch *scratch)
{
    npt_native_ops ops;
    npt_matmul_native_ops(scratch->cpu, &ops);
    if (few_tokens(desc)) {
        run_dot(desc, args, scratch, &ops);
        return NPT_OK;
    }
#ifdef HAVE_ISA_AMX
    const bool has_amx = (scratch->cpu->features & NPT_CPU_AMX_BF16) != 0;
    if (has_amx && amx_pieces(desc) != 0 && run_amx(desc, args, scratch)) return NPT_OK;
#endif
    npt_matmul_blocked_run(desc, args, scratch, &ops);
    return NPT_OK;
}

const npt_matmul_backend npt_matmul_native = {
    .name = "native",
    .refuse = native_refuse,
    .plan = native_plan,
    .run = native_run,
};
