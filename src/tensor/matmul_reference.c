/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "tensor/matmul.h"

/* The backend that any CPU can run and the others are judged by: plain C, one block of C a task.
 * A and W are widened to F32 a k block at a time; a block's products are summed in k order in F32
 * and added to the sums of the blocks before it. Invariant: what a task computes depends on the
 * shape alone, so the bits do not depend on the number of threads. */

enum { BLOCK_M = 64, BLOCK_N = 16, BLOCK_K = 256 };

typedef struct npt_reference_scratch {
    float a[BLOCK_M][BLOCK_K];
    float w[BLOCK_K][BLOCK_N]; /* zeros right of the last column */
    float sum[BLOCK_M][BLOCK_N];
} npt_reference_scratch;

typedef struct npt_reference_job {
    const npt_matmul_desc *desc;
    const npt_matmul_args *args;
    const npt_matmul_scratch *scratch;
    int64_t column_blocks;
} npt_reference_job;

/* One block of C: rows m0 …, columns n0 …. */
typedef struct npt_reference_block {
    int64_t m0, n0, rows, columns;
} npt_reference_block;

static int64_t min64(int64_t x, int64_t y)
{
    return x < y ? x : y;
}

/* Elements index, index + stride, … of a matrix, widened. */
static void load_run(const void *src, npt_dtype dtype, int64_t index, int64_t stride, int64_t count,
                     float *dst)
{
    const float *floats = src;
    const uint16_t *halves = src;
    if (dtype == NPT_F32)
        for (int64_t i = 0; i < count; i++) dst[i] = floats[index + i * stride];
    else if (dtype == NPT_BF16)
        for (int64_t i = 0; i < count; i++) dst[i] = npt_f32_from_bf16(halves[index + i * stride]);
    else
        for (int64_t i = 0; i < count; i++) dst[i] = npt_f32_from_f16(halves[index + i * stride]);
}

static void load_nf4(const npt_matmul_args *args, int64_t index, int64_t stride, int64_t count,
                     float *dst)
{
    const uint8_t *packed = args->w;
    for (int64_t i = 0; i < count; i++, index += stride) {
        const unsigned byte = packed[index / 2];
        dst[i] = args->levels[index % 2 == 0 ? byte >> 4 : byte & 15u] * args->absmax[index / 64];
    }
}

static void load_a(const npt_reference_job *job, const npt_reference_block *block, int64_t k0,
                   int64_t depth, npt_reference_scratch *buffers)
{
    const npt_matmul_desc *desc = job->desc;
    const int64_t stride = desc->trans_a ? desc->m : 1;
    for (int64_t i = 0; i < block->rows; i++) {
        const int64_t row = block->m0 + i;
        const int64_t index = desc->trans_a ? k0 * desc->m + row : row * desc->k + k0;
        load_run(job->args->a, desc->a, index, stride, depth, buffers->a[i]);
    }
}

static void load_w(const npt_reference_job *job, const npt_reference_block *block, int64_t k0,
                   int64_t depth, npt_reference_scratch *buffers)
{
    const npt_matmul_desc *desc = job->desc;
    const int64_t stride = desc->trans_w ? 1 : desc->n;
    float column[BLOCK_K];
    for (int64_t j = 0; j < BLOCK_N; j++) {
        const int64_t n = block->n0 + j;
        const int64_t index = desc->trans_w ? n * desc->k + k0 : k0 * desc->n + n;
        if (j >= block->columns)
            memset(column, 0, sizeof(column));
        else if (desc->w == NPT_NF4)
            load_nf4(job->args, index, stride, depth, column);
        else
            load_run(job->args->w, desc->w, index, stride, depth, column);
        for (int64_t k = 0; k < depth; k++) buffers->w[k][j] = column[k];
    }
}

static void multiply(npt_reference_scratch *buffers, int64_t rows, int64_t depth)
{
    for (int64_t i = 0; i < rows; i++) {
        float part[BLOCK_N] = {0};
        for (int64_t k = 0; k < depth; k++) {
            const float a = buffers->a[i][k];
            for (int j = 0; j < BLOCK_N; j++) part[j] += a * buffers->w[k][j];
        }
        for (int j = 0; j < BLOCK_N; j++) buffers->sum[i][j] += part[j];
    }
}

static void store_block(const npt_reference_job *job, const npt_reference_block *block,
                        npt_reference_scratch *buffers)
{
    const npt_matmul_desc *desc = job->desc;
    for (int64_t i = 0; i < block->rows; i++)
        for (int64_t j = 0; j < block->columns; j++) {
            const int64_t n = block->n0 + j;
            const size_t index = (size_t)((block->m0 + i) * desc->n + n);
            float sum = buffers->sum[i][j];
            if (desc->bias && job->args->bias != NULL) sum += job->args->bias[n];
            if (desc->accumulate) sum += ((const float *)job->args->c)[index];
            npt_store(job->args->c, desc->c, index, sum);
        }
}

static void reference_task(void *context, int64_t index, int worker)
{
    const npt_reference_job *job = context;
    const npt_matmul_desc *desc = job->desc;
    const npt_matmul_scratch *scratch = job->scratch;
    npt_reference_scratch *buffers =
        (void *)(scratch->worker + (size_t)worker * scratch->worker_stride);
    npt_reference_block block = {.m0 = index / job->column_blocks * BLOCK_M,
                                 .n0 = index % job->column_blocks * BLOCK_N};
    block.rows = min64(BLOCK_M, desc->m - block.m0);
    block.columns = min64(BLOCK_N, desc->n - block.n0);
    memset(buffers->sum, 0, sizeof(buffers->sum));
    for (int64_t k0 = 0; k0 < desc->k; k0 += BLOCK_K) {
        const int64_t depth = min64(BLOCK_K, desc->k - k0);
        load_a(job, &block, k0, depth, buffers);
        load_w(job, &block, k0, depth, buffers);
        multiply(buffers, block.rows, depth);
    }
    store_block(job, &block, buffers);
}

static const char *reference_refuse(const npt_matmul_desc *desc, const npt_cpu *cpu, char *reason)
{
    (void)desc;
    (void)cpu;
    (void)reason;
    return NULL;
}

static void reference_plan(const npt_matmul_desc *desc, int workers, size_t *worker_bytes,
                           size_t *shared_bytes)
{
    (void)desc;
    (void)workers;
    *worker_bytes = sizeof(npt_reference_scratch);
    *shared_bytes = 0;
}

static npt_status reference_run(const npt_matmul_desc *desc, const npt_matmul_args *args,
                                const npt_matmul_scratch *scratch)
{
    npt_reference_job job = {.desc = desc, .args = args, .scratch = scratch};
    const int64_t row_blocks = (desc->m + BLOCK_M - 1) / BLOCK_M;
    job.column_blocks = (desc->n + BLOCK_N - 1) / BLOCK_N;
    npt_threads_run(scratch->threads, reference_task, &job, row_blocks * job.column_blocks);
    return NPT_OK;
}

const npt_matmul_backend npt_matmul_reference = {
    .name = "reference",
    .refuse = reference_refuse,
    .plan = reference_plan,
    .run = reference_run,
};
