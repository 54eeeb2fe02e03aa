/* SPDX-License-Identifier: BSD-2-Clause */
/* Matrix products and the list of backends that can do them.
 *
 *     C[m,n] (+)= op(A)[m,k] · op(W)[k,n] + bias[n]          accumulation always F32
 *
 * A backend refuses what it cannot do, with a reason; the first that does not refuse computes;
 * `reference` refuses nothing legal. All storage is row-major. */
#ifndef NPT_TENSOR_MATMUL_H
#define NPT_TENSOR_MATMUL_H

#include "base/cpu.h"
#include "base/threads.h"
#include "tensor/dtype.h"

typedef struct npt_matmul_desc {
    int64_t m, n, k;
    bool trans_a; /* A is stored [k,m] (else [m,k]) */
    bool trans_w; /* W is stored [n,k]: the Hugging Face layout, y = x·Wᵀ (else [k,n]: dX = dY·W) */
    npt_dtype a;     /* F32, F16, BF16 */
    npt_dtype w;     /* F32, F16, BF16, NF4 (blocks run along the flattened stored matrix) */
    npt_dtype c;     /* F32, F16, BF16: one rounding of the F32 result */
    bool accumulate; /* C += …; legal for c = F32 only */
    bool bias;
} npt_matmul_desc;

static inline double npt_matmul_flops(const npt_matmul_desc *d)
{
    return 2.0 * (double)d->m * (double)d->n * (double)d->k;
}

/* bf16 numbers that together are one of dtype: three an F32, also of NF4, two an F16. */
static inline int npt_bf16_pieces(npt_dtype dtype)
{
    return dtype == NPT_BF16 ? 1 : dtype == NPT_F16 ? 2 : 3;
}

/* Products of bf16 pieces that a product is made of on AMX, where it is: of pieces r and l with
 * r + l ≤ 2, counted from 0; where there are two of each, all four. */
static inline int npt_matmul_piece_products(const npt_matmul_desc *d)
{
    static const int products[3][3] = {{1, 0, 3}, {0, 4, 5}, {3, 5, 6}};
    return products[npt_bf16_pieces(d->a) - 1][npt_bf16_pieces(d->w) - 1];
}

/* Bytes that a product must move: A, W (of NF4 with absmax) and C, each once. */
static inline double npt_matmul_bytes(const npt_matmul_desc *d)
{
    const double w = d->w == NPT_NF4 ? 0.5 + 4.0 / 64 : (double)npt_dtype_bytes(d->w);
    return w * (double)(d->n * d->k) + (double)npt_dtype_bytes(d->a) * (double)(d->m * d->k) +
           (double)npt_dtype_bytes(d->c) * (double)(d->m * d->n);
}

/* Leading dimensions are contiguous: A's rows are k (or m) long, W's rows k (or n), C's rows n. */
typedef struct npt_matmul_args {
    const void *a;
    const void *w;       /* for NF4: packed bytes */
    const float *absmax; /* NF4 only: one per 64 elements of the stored matrix */
    const float *levels; /* NF4 only: 16 entries */
    const float *bias;   /* n of F32, or NULL; added in F32 before the rounding */
    void *c;             /* does not overlap a or w */
} npt_matmul_args;

typedef struct npt_matmul_scratch npt_matmul_scratch;

typedef struct npt_matmul_backend {
    const char *name;
    /* NULL where it can, else a reason in a few words ("weights are NF4"; may be written into
     * `reason`, 128 bytes). */
    const char *(*refuse)(const npt_matmul_desc *desc, const npt_cpu *cpu, char *reason);
    /* Scratch that run() needs: per worker, and shared by all. Both may be NULL = none. */
    void (*plan)(const npt_matmul_desc *desc, int workers, size_t *worker_bytes,
                 size_t *shared_bytes);
    /* Scratch: `shared` and workers × worker_bytes (64-byte aligned, `worker_stride` apart). */
    npt_status (*run)(const npt_matmul_desc *desc, const npt_matmul_args *args,
                      const npt_matmul_scratch *scratch);
    /* The same product of two A into two C; the bits of two calls, but what is done to W may be
     * done once. plan() has room for it. NULL: two calls. */
    npt_status (*run_two)(const npt_matmul_desc *desc, const npt_matmul_args args[2],
                          const npt_matmul_scratch *scratch);
    /* Name and version of the library that computes, for the record (may be written into `text`,
     * 128 bytes). NULL: npt itself. */
    const char *(*library)(char *text);
    /* By what arithmetic, and why, in a few words ("FMA: A is stored turned"; may be written into
     * `text`, 128 bytes). NULL where there is one way only. */
    const char *(*route)(const npt_matmul_desc *desc, const npt_cpu *cpu,
                         npt_matmul_precision precision, char *text);
} npt_matmul_backend;

/* Panels of products in bf16 pieces, and those of them that FMA had to make. */
typedef struct npt_matmul_counts {
    int64_t panels, by_fma;
} npt_matmul_counts;

struct npt_matmul_scratch {
    npt_matmul_precision precision;
    npt_matmul_counts *counts; /* added to, by all workers; or NULL */
    npt_threads *threads;
    const npt_cpu *cpu;
    char *worker;
    size_t worker_stride;
    char *shared;
};

/* "reference": double loops over scalar loads, F32 accumulation in k order in blocks; any CPU. */
extern const npt_matmul_backend npt_matmul_reference;

#endif
