/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "cpu/backends.h"
#include "cpu/matmul_native.h"

#include <dlfcn.h>
#include <dnnl.h>
#include <stdio.h>

/* "onednn": F32 × F32 and BF16 × BF16 by oneDNN (API 2.6 or 3.x), result in F32. Bias, accumulation
 * and the rounding are ours, so that a rounded result has the same bits from every backend; for
 * them the product goes through shared scratch. Primitives are made anew for each product: oneDNN
 * keeps the compiled code in a cache of its own. */

/* Everything made for one product, released in reverse order. */
typedef struct npt_onednn_job {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_desc_t primitive_desc;
    dnnl_primitive_t primitive;
    dnnl_memory_t memory[3];    /* A, W, C */
    dnnl_memory_desc_t desc[3]; /* API 2: plain structs */
} npt_onednn_job;

static const int memory_args[3] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST};

#define DNNL_TRY(expression)                                                                       \
    do {                                                                                           \
        dnnl_status_t dnnl_try_status_ = (expression);                                             \
        if (dnnl_try_status_ != dnnl_success) return dnnl_try_status_;                             \
    } while (0)

static const char *onednn_refuse(const npt_matmul_desc *desc, const npt_cpu *cpu, char *reason)
{
    (void)reason;
    if (cpu->level < NPT_CPU_AVX2) return "needs AVX2";
    if (desc->w == NPT_NF4) return "weights are NF4";
    if (desc->w == NPT_F16 || desc->a == NPT_F16) return "operands are F16";
    if (desc->w != desc->a) return "operands differ in dtype";
    if (desc->a == NPT_BF16 && (cpu->features & (NPT_CPU_AVX512_BF16 | NPT_CPU_AMX_BF16)) == 0)
        return "BF16 would be emulated: neither AVX512_BF16 nor AMX";
    return NULL;
}

static const char *onednn_bf16_refuse(const npt_matmul_desc *desc, const npt_cpu *cpu, char *reason)
{
    if (desc->a != NPT_BF16 || desc->w != NPT_BF16) return "operands are not both BF16";
    return onednn_refuse(desc, cpu, reason);
}

/* Whether oneDNN can write C itself. */
static bool straight(const npt_matmul_desc *desc)
{
    return desc->c == NPT_F32 && !desc->accumulate && !desc->bias;
}

static void onednn_plan(const npt_matmul_desc *desc, int workers, size_t *worker_bytes,
                        size_t *shared_bytes)
{
    (void)workers;
    *worker_bytes = 0;
    /* rows are read by whole vectors: one more behind the last */
    *shared_bytes =
        straight(desc) ? 0 : (size_t)(desc->m * desc->n + NPT_NATIVE_MAX_LANES) * sizeof(float);
}

/* A matrix of `rows` × `columns`, stored as it stands or turned. */
static dnnl_status_t describe(npt_onednn_job *job, int which, const int64_t size[2], bool turned,
                              npt_dtype dtype)
{
    const dnnl_dims_t dims = {size[0], size[1]};
    const dnnl_dims_t strides = {turned ? 1 : size[1], turned ? size[0] : 1};
    const dnnl_data_type_t type = dtype == NPT_BF16 ? dnnl_bf16 : dnnl_f32;
#if NPT_ONEDNN_API >= 3
    return dnnl_memory_desc_create_with_strides(&job->desc[which], 2, dims, type, strides);
#else
    return dnnl_memory_desc_init_by_strides(&job->desc[which], 2, dims, type, strides);
#endif
}

static dnnl_status_t make_primitive_desc(npt_onednn_job *job)
{
#if NPT_ONEDNN_API >= 3
    return dnnl_matmul_primitive_desc_create(&job->primitive_desc, job->engine, job->desc[0],
                                             job->desc[1], NULL, job->desc[2], NULL);
#else
    dnnl_matmul_desc_t operation;
    DNNL_TRY(dnnl_matmul_desc_init(&operation, &job->desc[0], &job->desc[1], NULL, &job->desc[2]));
    return dnnl_primitive_desc_create(&job->primitive_desc, &operation, NULL, job->engine, NULL);
#endif
}

static dnnl_status_t make_memory(npt_onednn_job *job, int which, const void *data)
{
    /* oneDNN takes pointers to what it only reads without const */
    void *handle = (void *)(uintptr_t)data;
#if NPT_ONEDNN_API >= 3
    return dnnl_memory_create(&job->memory[which], job->desc[which], job->engine, handle);
#else
    return dnnl_memory_create(&job->memory[which], &job->desc[which], job->engine, handle);
#endif
}

static dnnl_status_t make(npt_onednn_job *job, const npt_matmul_desc *desc,
                          const npt_matmul_args *args, float *product)
{
    const int64_t a[2] = {desc->m, desc->k}, w[2] = {desc->k, desc->n}, c[2] = {desc->m, desc->n};
    DNNL_TRY(dnnl_engine_create(&job->engine, dnnl_cpu, 0));
    DNNL_TRY(dnnl_stream_create(&job->stream, job->engine, dnnl_stream_default_flags));
    DNNL_TRY(describe(job, 0, a, desc->trans_a, desc->a));
    DNNL_TRY(describe(job, 1, w, desc->trans_w, desc->w));
    DNNL_TRY(describe(job, 2, c, false, NPT_F32));
    DNNL_TRY(make_primitive_desc(job));
    DNNL_TRY(dnnl_primitive_create(&job->primitive, job->primitive_desc));
    DNNL_TRY(make_memory(job, 0, args->a));
    DNNL_TRY(make_memory(job, 1, args->w));
    return make_memory(job, 2, product);
}

static dnnl_status_t execute(npt_onednn_job *job)
{
    dnnl_exec_arg_t list[3];
    for (int i = 0; i < 3; i++) list[i] = (dnnl_exec_arg_t){memory_args[i], job->memory[i]};
    DNNL_TRY(dnnl_primitive_execute(job->primitive, job->stream, 3, list));
    return dnnl_stream_wait(job->stream);
}

static void release(npt_onednn_job *job)
{
    for (int i = 0; i < 3; i++)
        if (job->memory[i] != NULL) dnnl_memory_destroy(job->memory[i]);
    if (job->primitive != NULL) dnnl_primitive_destroy(job->primitive);
    if (job->primitive_desc != NULL) dnnl_primitive_desc_destroy(job->primitive_desc);
#if NPT_ONEDNN_API >= 3
    for (int i = 0; i < 3; i++)
        if (job->desc[i] != NULL) dnnl_memory_desc_destroy(job->desc[i]);
#endif
    if (job->stream != NULL) dnnl_stream_destroy(job->stream);
    if (job->engine != NULL) dnnl_engine_destroy(job->engine);
}

typedef struct npt_onednn_finish {
    const npt_matmul_desc *desc;
    const npt_matmul_args *args;
    const float *product;
    npt_native_ops ops;
} npt_onednn_finish;

enum { FINISH_ROWS = 8 };

static void finish_task(void *context, int64_t index, int worker)
{
    const npt_onednn_finish *job = context;
    const npt_matmul_desc *desc = job->desc;
    const int64_t first = index * FINISH_ROWS, rest = desc->m - first;
    const npt_native_store piece = {
        .sums = job->product + first * desc->n,
        .rows = rest < FINISH_ROWS ? rest : FINISH_ROWS,
        .width = desc->n,
        .lanes = desc->n,
        .c = (char *)job->args->c + (size_t)(first * desc->n) * npt_dtype_bytes(desc->c),
        .stride = desc->n,
        .dtype = desc->c,
        .bias = desc->bias ? job->args->bias : NULL,
        .accumulate = desc->accumulate,
    };
    (void)worker;
    job->ops.store(&piece);
}

static void finish(const npt_matmul_desc *desc, const npt_matmul_args *args,
                   const npt_matmul_scratch *scratch, const float *product)
{
    npt_onednn_finish job = {.desc = desc, .args = args, .product = product};
    npt_matmul_native_ops(scratch->cpu, &job.ops);
    npt_threads_run(scratch->threads, finish_task, &job, (desc->m + FINISH_ROWS - 1) / FINISH_ROWS);
}

/* oneDNN computes with OpenMP's threads. npt is not linked with OpenMP as a rule, so that what sets
 * their number is looked up in what oneDNN brought along; where nothing is found, oneDNN takes its
 * default. */
static void limit_threads(int count)
{
    union { /* C has no conversion from an object's address to a function's */
        void *address;
        void (*function)(int);
    } set = {.address = dlsym(RTLD_DEFAULT, "omp_set_num_threads")};
    if (set.address != NULL) set.function(count);
}

static npt_status onednn_run(const npt_matmul_desc *desc, const npt_matmul_args *args,
                             const npt_matmul_scratch *scratch)
{
    npt_onednn_job job = {0};
    float *product = straight(desc) ? args->c : (float *)(void *)scratch->shared;
    limit_threads(npt_threads_count(scratch->threads));
    dnnl_status_t status = make(&job, desc, args, product);
    if (status == dnnl_success) status = execute(&job);
    release(&job);
    if (status != dnnl_success)
        return npt_fail(NPT_E_UNSUPPORTED,
                        "oneDNN refused a product of %lld x %lld x %lld (its status %d); run with "
                        "NPT_BACKEND=native",
                        (long long)desc->m, (long long)desc->n, (long long)desc->k, (int)status);
    if (!straight(desc)) finish(desc, args, scratch, product);
    return NPT_OK;
}

static const char *onednn_library(char *text)
{
    const dnnl_version_t *version = dnnl_version();
    snprintf(text, 128, "oneDNN %d.%d.%d", version->major, version->minor, version->patch);
    return text;
}

const npt_matmul_backend npt_matmul_onednn = {
    .name = "onednn",
    .refuse = onednn_refuse,
    .plan = onednn_plan,
    .run = onednn_run,
    .library = onednn_library,
};

const npt_matmul_backend npt_matmul_onednn_bf16 = {
    .name = "onednn_bf16",
    .refuse = onednn_bf16_refuse,
    .plan = onednn_plan,
    .run = onednn_run,
    .library = onednn_library,
};
