/* SPDX-License-Identifier: BSD-2-Clause */
/* What the native matmul backend asks of one instruction set.
 *
 * A product is cut into tiles: `rows` rows of one operand, read element by element ("the row
 * operand"), against one or two vectors of lanes of the other ("the lane operand"). Either matrix
 * can play either part; matmul_native.c decides. Packed forms, all F32:
 *     rows:   [row][NPT_NATIVE_DEPTH], k contiguous, `rows` of them
 *     lanes:  [k][lanes × vectors]
 *     sums:   [row][lanes × vectors]
 * Rows and lanes beyond the matrix are packed as zeros. */
#ifndef NPT_CPU_MATMUL_NATIVE_H
#define NPT_CPU_MATMUL_NATIVE_H

#include "tensor/matmul.h"

enum {
    NPT_NATIVE_DEPTH = 256,   /* k of one packed block */
    NPT_NATIVE_MAX_LANES = 16,
    NPT_NATIVE_CHUNK = 256,   /* most lanes packed at once */
    NPT_NATIVE_DOT_ROWS = 4,  /* rows of W that the small-m route takes at once */
    NPT_NATIVE_DOT_TOKENS = 8 /* most rows of A it takes */
};

/* A matrix seen as `count` vectors of length `depth`: element (r, k) lies at r·depth + k where
 * k_inside, else at k·count + r. */
typedef struct npt_native_operand {
    const void *data;
    npt_dtype dtype;
    const float *absmax, *levels; /* NF4 */
    int64_t count, depth;
    bool k_inside;
} npt_native_operand;

/* Sums on their way to C. */
typedef struct npt_native_store {
    const float *sums;   /* [rows][lanes × vectors] */
    int64_t rows, width; /* valid rows; lanes × vectors */
    int64_t lanes;       /* valid lanes */
    void *c;             /* element (0, 0) of this piece */
    int64_t stride;      /* elements from one row of C to the next */
    npt_dtype dtype;
    const float *bias; /* of this piece's first column, or NULL */
    bool accumulate;
} npt_native_store;

/* sums (+)= rows × lanes over `depth`. */
typedef struct npt_native_tile {
    int rows, vectors; /* rows: even, at most max_rows */
    int64_t depth;
    const float *row, *lane;
    float *sums;
    bool add;                 /* else the sums start from zero */
    const char *const *lines; /* addresses that will be read soon, at most one per k */
    int64_t line_count;
} npt_native_tile;

typedef struct npt_native_ops {
    int lanes, max_rows;
    /* `count` elements from flat index `index`. */
    void (*widen)(const npt_native_operand *src, int64_t index, int64_t count, float *dst);
    /* `rows` vectors from `first`, k0 … k0+depth-1, into the form "rows". */
    void (*pack_rows)(const npt_native_operand *src, int64_t first, int rows, int64_t k0,
                      int64_t depth, float *dst);
    /* `width` vectors (a multiple of lanes) from `first` into panels of the form "lanes", all two
     * vectors wide but for an odd last one, NPT_NATIVE_DEPTH × 2 × lanes apart. */
    void (*pack_lanes)(const npt_native_operand *src, int64_t first, int width, int64_t k0,
                       int64_t depth, float *dst);
    void (*tile)(const npt_native_tile *tile);
    /* Row r of the sums is row r of C; or, transposed, column r of C. */
    void (*store)(const npt_native_store *piece);
    void (*store_transposed)(const npt_native_store *piece);
    /* partial[row][token][lane] += w[row][k] · x[token][k] over DOT_ROWS rows; depth a multiple of
     * lanes; w_stride and x_stride in elements. */
    void (*dot)(int tokens, int64_t depth, const float *w, int64_t w_stride, const float *x,
                int64_t x_stride, float *partial);
    float (*sum_lanes)(const float *partial); /* in fixed order */
} npt_native_ops;

void npt_matmul_fill_avx2(npt_native_ops *ops);
void npt_matmul_fill_avx512(npt_native_ops *ops);

/* The best that is compiled in and `cpu` has; its level must be AVX2 at least. */
void npt_matmul_native_ops(const npt_cpu *cpu, npt_native_ops *ops);

#endif
