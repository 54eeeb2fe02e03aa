/* SPDX-License-Identifier: BSD-2-Clause */
/* Everything a step does that is not a matmul: one table of functions, filled upward from the plain
 * C version (never NULL). A GPU fills the same table.
 *
 * Rules for every kernel: operands are row-major and contiguous; dtypes are F32, F16 or BF16 and
 * are widened to F32 in registers; results are rounded once (to nearest even) to the dtype the
 * caller names, which it got from npt_site(). Tokens of a micro-batch lie one sequence after the
 * other without padding. Kernels split rows over the pool so that no result depends on the number
 * of workers; sums are taken in an order fixed by the shape. Kernels do not allocate; scratch
 * comes from `scratch` (npt_kernels.scratch_bytes per worker). Elementwise arithmetic is compiled
 * without contraction: every level gives the same bits. */
#ifndef NPT_TENSOR_KERNELS_H
#define NPT_TENSOR_KERNELS_H

#include "base/cpu.h"
#include "base/threads.h"
#include "tensor/dtype.h"

typedef struct npt_run {
    npt_threads *threads;
    char *scratch; /* workers × scratch_stride bytes, 64-byte aligned */
    size_t scratch_stride;
    bool fma; /* F32 never as bf16 pieces */
} npt_run;

/* A read-only operand with its dtype; a destination likewise. */
typedef struct npt_in {
    const void *data;
    npt_dtype dtype;
} npt_in;
typedef struct npt_out {
    void *data;
    npt_dtype dtype;
} npt_out;

/* What a narrowing did, element by element; added to what is there. */
typedef struct npt_cast_stats {
    uint64_t overflowed; /* finite → infinite */
    uint64_t flushed;    /* nonzero → zero */
} npt_cast_stats;

/* RMSNorm over `width`: x · rsqrt(mean(x²) + eps) → dtype, × weight → dtype (HF order). */
typedef struct npt_norm_args {
    int64_t rows, width;
    float eps;
    npt_in x, weight;
    npt_out dst;
} npt_norm_args;

/* dst = base + d(norm)/dx · dy, F32, one rounding. base.data may be NULL (0) or equal dst.data. */
typedef struct npt_norm_backward_args {
    int64_t rows, width;
    float eps;
    npt_in x, weight, dy, base;
    npt_out dst;
} npt_norm_backward_args;

/* Half-split rotary embedding, in place or not: pairs (i, i + head_dim/2) of each head turned by
 * the token's angle; inverse turns back (the backward pass). cos, sin: [positions, head_dim/2],
 * already rounded to H by whoever made them. */
typedef struct npt_rope_args {
    int64_t tokens, heads, head_dim;
    const int32_t *positions; /* [tokens] */
    const float *cos, *sin;
    bool inverse;
    npt_in src;
    npt_out dst;
} npt_rope_args;

/* Causal grouped-query attention. q [tokens, heads·head_dim], k and v [tokens, kv_heads·head_dim].
 * Sequence s has tokens offsets[s] … offsets[s+1]-1. Key j is seen by query i of the same sequence
 * where j ≤ i and (window == 0 or i − j < window). Scores × scale, softmax and sums in F32.
 * head_dim up to 512. Alone among kernels, the last bits may differ between levels. */
typedef struct npt_attention_args {
    int64_t sequences, heads, kv_heads, head_dim, window;
    const int64_t *offsets; /* [sequences + 1] */
    float scale;
    npt_in q, k, v;
    npt_out out; /* [tokens, heads·head_dim] */
    float *lse;  /* [tokens, heads]: log of the sum of exponentials; written; may be NULL */
} npt_attention_args;

typedef struct npt_attention_backward_args {
    int64_t sequences, heads, kv_heads, head_dim, window;
    const int64_t *offsets;
    float scale;
    npt_in q, k, v, out, dout;
    const float *lse;
    npt_out dq, dk, dv;
} npt_attention_backward_args;

/* Rows of a turned matrix begin at multiples of so many floats; what lies between is 0. */
enum { NPT_TURNED_ROW = 16 };

/* A term of the modulation, [rows, width], adapter dtype P: `value`; where that is absent, x·w
 * rounded to `dtype`, sums in F32; with neither there is no such term. Alone but for attention, the
 * last bits of x·w may differ between levels. */
typedef struct npt_gate_term {
    npt_in value;
    npt_dtype dtype; /* P */
    int64_t rank;
    npt_in x;       /* [rows, rank] */
    const float *w; /* [rank, width], turned; NULL: no product */
} npt_gate_term;

/* The gated unit of an MLP. mult = 0.5·sigmoid(u) + 0.5 → P; g' = gate·mult + strength·add → H;
 * dst = silu(g')·up → H, or g' where up.data is NULL. Without terms g' is the gate. gate, up and
 * dst are of one dtype, H; dst may equal either. */
typedef struct npt_gate_args {
    int64_t rows, width;
    float strength;
    npt_in gate, up;
    npt_gate_term add, u;
    npt_out dst;
    double *squares; /* [rows]: Σ add² + Σ u² over a row, F64; may be NULL */
} npt_gate_args;

/* From dy = d/d(dst) of the above, with the same roundings: dg' = dy·up·silu'(g') → H and
 * dup = dy·silu(g'), or dg' = dy where up.data is NULL; dgate = dg'·mult;
 * dadd = strength·dg' + penalty·add; du = dg'·gate·0.5·σ(u)(1−σ(u)) + penalty·u. NULL outputs are
 * skipped. dgate may equal dy; dup, up; dadd and du, the values of their terms. */
typedef struct npt_gate_backward_args {
    int64_t rows, width;
    float strength, penalty;
    npt_in dy, gate, up;
    npt_gate_term add, u;
    npt_out dgate, dup, dadd, du;
} npt_gate_backward_args;

/* The distance D of method.md §2 between student s and teacher t. */
typedef struct npt_distance_args {
    int64_t rows, width;
    bool normalized;
    npt_in s, t;
    double *row_sums; /* [rows], the caller's: Σ_j over one row; the total is their sum in order */
} npt_distance_args;

/* dst = base + factor · d(Σ rows Σ_j)/ds. base.data may be NULL or equal dst.data. */
typedef struct npt_distance_backward_args {
    int64_t rows, width;
    bool normalized;
    float factor;
    npt_in s, t, base;
    npt_out dst;
} npt_distance_backward_args;

/* One optimizer step on n F32 values. step ≥ 1 counts taken steps, this one included. */
typedef struct npt_adam_args {
    int64_t n, step;
    bool decoupled; /* AdamW; else decay is added to the gradient */
    double learning_rate, beta1, beta2, epsilon, weight_decay;
    double grad_factor; /* gradient × this first: unscale and clip */
    float *weight, *moment1, *moment2;
    const float *grad;
} npt_adam_args;

/* Per row of logits [rows, width] F32 of teacher and student with the target id (or -1: not
 * counted): negative log-likelihood of each, KL(teacher‖student), whether the largest logit agrees
 * (the first of equals counts). Rows that are not counted get zeros. */
typedef struct npt_compare_args {
    int64_t rows, width;
    const float *teacher, *student;
    const int32_t *targets;
    double *nll_teacher, *nll_student, *kl; /* [rows] */
    uint8_t *agree;                         /* [rows] */
} npt_compare_args;

/* What an array holds. Extremes and the sum are over its finite values. */
typedef struct npt_survey {
    double sum_squares; /* F64 over blocks whose size follows from n, in order */
    float min, max;     /* 0 where nothing is finite */
    int64_t nonfinite, nan, zeros;
    int64_t tiny; /* not zero, but smaller than the threshold in magnitude */
} npt_survey;

typedef struct npt_kernels {
    const char *name; /* level of the topmost filler */
    /* per worker */
    size_t (*scratch_bytes)(int64_t longest_sequence, int64_t head_dim, int64_t width);

    void (*embed)(const npt_run *run, int64_t tokens, int64_t width, const int32_t *ids,
                  npt_in table, npt_out dst);
    /* stats may be NULL */
    void (*cast)(const npt_run *run, int64_t n, npt_in src, npt_out dst, npt_cast_stats *stats);
    /* dst may equal x or y */
    void (*add)(const npt_run *run, int64_t n, npt_in x, npt_in y, npt_out dst);
    void (*norm)(const npt_run *run, const npt_norm_args *args);
    void (*norm_backward)(const npt_run *run, const npt_norm_backward_args *args);
    void (*rope)(const npt_run *run, const npt_rope_args *args);
    void (*attention)(const npt_run *run, const npt_attention_args *args);
    void (*attention_backward)(const npt_run *run, const npt_attention_backward_args *args);
    /* dst [cols, rows rounded up to NPT_TURNED_ROW] F32 = src [rows, cols] turned */
    void (*turn)(const npt_run *run, int64_t rows, int64_t cols, npt_in src, float *dst);
    /* dst [rows, width] of dtype P = x·w of a term */
    void (*lowrank)(const npt_run *run, int64_t rows, int64_t width, const npt_gate_term *term,
                    npt_out dst);
    void (*gate)(const npt_run *run, const npt_gate_args *args);
    void (*gate_backward)(const npt_run *run, const npt_gate_backward_args *args);
    double (*distance)(const npt_run *run, const npt_distance_args *args);
    void (*distance_backward)(const npt_run *run, const npt_distance_backward_args *args);
    /* F64 over blocks whose size follows from n, in order */
    double (*sum_squares)(const npt_run *run, int64_t n, npt_in x);
    void (*survey)(const npt_run *run, int64_t n, npt_in x, float tiny, npt_survey *survey);
    void (*adam)(const npt_run *run, const npt_adam_args *args);
    void (*compare)(const npt_run *run, const npt_compare_args *args);
} npt_kernels;

/* Fills every entry with the plain C version. */
void npt_kernels_fill_reference(npt_kernels *kernels);

#endif
