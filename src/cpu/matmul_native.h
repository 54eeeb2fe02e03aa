/* SPDX-License-Identifier: BSD-2-Clause */
/* What the native matmul backend asks of one instruction set.
 *
 * A product is cut into tiles: `rows` rows of one operand, read element by element ("the row
 * operand"), against one or two vectors of lanes of the other ("the lane operand"). Either matrix
 * can play either part; matmul_blocked.c decides. Packed forms for FMA, all F32:
 *     rows:   [row][NPT_NATIVE_DEPTH], k contiguous, `rows` of them
 *     lanes:  [k][lanes × vectors]
 *     sums:   [row][lanes × vectors]
 * For AMX, rows and lanes are bf16 pieces, `block` k to a row (matmul_amx.c); sums are as above.
 * Rows and lanes beyond the matrix are packed as zeros. */
#ifndef NPT_CPU_MATMUL_NATIVE_H
#define NPT_CPU_MATMUL_NATIVE_H

#include "tensor/matmul.h"

/* Loops over registers must vanish; those over k must not. */
#ifdef __clang__
#define UNROLLED     _Pragma("clang loop unroll(full)")
#define NOT_UNROLLED _Pragma("clang loop unroll(disable)")
#else
#define UNROLLED     _Pragma("GCC unroll 16")
#define NOT_UNROLLED _Pragma("GCC unroll 1")
#endif

enum {
    NPT_NATIVE_AVX2_LANES = 8,
    NPT_NATIVE_AVX2_ROWS = 6,
    NPT_NATIVE_AVX512_LANES = 16,
    NPT_NATIVE_AVX512_ROWS = 14,
    NPT_NATIVE_AMX_ROWS = 32,
    NPT_NATIVE_AMX_STEP = 32,                    /* k of one tile */
    NPT_NATIVE_DEPTH = 256,                      /* k of one packed block, F32 */
    NPT_NATIVE_LANE_STEP = NPT_NATIVE_DEPTH + 4, /* k from one lane panel to the next: the same k of
                                                    all would meet in one set of a cache */
    NPT_NATIVE_MAX_LANES = 16,
    NPT_NATIVE_CHUNK = 512, /* most lanes packed at once */
    NPT_NATIVE_UNIT_DEPTH = 128,
    NPT_NATIVE_TILE_STEPS = 4,    /* k of an FMA tile between a line asked for and the next */
    NPT_NATIVE_PLACE = 32 * 32,   /* floats of the largest tile */
    NPT_NATIVE_DOT_ROWS = 4,      /* rows of W that the routes for few tokens take at once */
    NPT_NATIVE_DOT_TOKENS = 8,    /* most rows of A they take, forward */
    NPT_NATIVE_SPREAD_TOKENS = 16 /* and dX */
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

/* `count` vectors from `first`, k0 … k0+depth-1, brought into a packed form. Cut into units: of
 * rows, UNIT_DEPTH k of one; of lanes, npt_native_unit_lanes() lanes of two k. */
typedef struct npt_native_packing {
    const npt_native_operand *src;
    int64_t first, count, k0, depth;
    int64_t block; /* k of a whole packed block */
    void *dst;
} npt_native_packing;

static inline int64_t npt_min64(int64_t x, int64_t y)
{
    return x < y ? x : y;
}

/* How many of `size` make up `total`. */
static inline int64_t npt_parts(int64_t total, int64_t size)
{
    return (total + size - 1) / size;
}

static inline int64_t npt_round_up(int64_t total, int64_t size)
{
    return npt_parts(total, size) * size;
}

/* A block of NF4 is not cut; BF16 is woven so quickly that smaller units cost more than they do. */
static inline int64_t npt_native_unit_lanes(npt_dtype dtype)
{
    return dtype == NPT_BF16 ? 128 : dtype == NPT_NF4 ? 64 : 32;
}

/* Where element i of 64 stands in the order in which W comes apart most cheaply into vectors of so
 * many lanes, the first element of a byte of NF4 being its upper nibble. NF4 in vectors of 16,
 * nibble order: a vector is two nibbles each of the eight words of a block. In vectors of 8, byte
 * order: four bytes each of both halves of a block, first all upper nibbles, then all lower ones.
 * BF16, pair order: of each 2 × lanes elements those of even place, then those of odd. */
static inline int64_t npt_native_place(npt_dtype dtype, int64_t lanes, int64_t i)
{
    const int64_t nibble = i % 8 ^ 1, byte = i / 2, pair = i % (2 * lanes);
    if (dtype == NPT_NF4 && lanes == 16) return nibble % 4 * 16 + nibble / 4 * 8 + i / 8;
    if (dtype == NPT_NF4) return i % 2 * 32 + byte % 16 / 4 * 8 + byte / 16 * 4 + byte % 4;
    return dtype == NPT_BF16 ? i - pair + pair % 2 * lanes + pair / 2 : i;
}

/* Magnitudes in one vector of an operand, as bits of F32. */
typedef struct npt_native_range {
    uint32_t largest;  /* 0: all are zero */
    uint32_t smallest; /* of those that are not zero; UINT32_MAX: none */
} npt_native_range;

/* Sums to be judged: all finite and, in magnitude, at least what their row or lane demands. */
typedef struct npt_native_check {
    const float *sums; /* [rows][width] */
    int64_t width;
    int64_t rows;
    uint32_t lanes;     /* those that count, a bit each */
    const float *least; /* of each row, or of each of 32 lanes */
    bool by_lane;
} npt_native_check;

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

/* What the tiles of a step do for later ones: ask for lines of memory, and pack. Every tile goes on
 * where the one before left off. Those of AMX do it in slots, one after each product of a depth
 * unit, and leave what they made to the next tile, which adds it to their sums meanwhile. */
typedef struct npt_native_aside {
    const char *const *line, *const *line_end; /* addresses that will be read soon */
    int64_t tile_lines, slot_lines;            /* quotas of a tile (FMA), of a slot (AMX) */
    int64_t tile_every;                        /* k from one to the next: whole TILE_STEPS */
    const npt_native_packing *next;            /* its units from `unit` on are to be packed */
    void (*pack)(const npt_native_packing *packing, int64_t from, int64_t to);
    int64_t unit, unit_end;
    int64_t slots, units, due; /* in the step; due: units × slots gone, less slots × units packed */
    float *late_sums;          /* += late … late_end */
    const float *late, *late_end;
    float *place[2]; /* NPT_NATIVE_PLACE each; the second is where `late` is, if it is at all */
} npt_native_aside;

/* sums (+)= rows × lanes over `depth`. */
typedef struct npt_native_tile {
    int rows, vectors; /* rows: even, at most max_rows */
    int64_t depth;
    const void *row, *lane;
    int64_t row_stride; /* rows that lie where they are stored: elements from one to the next */
    bool in_place;      /* they do */
    bool add;           /* else the sums start from zero */
    float *sums;
    npt_native_aside *aside; /* NULL: nothing */
} npt_native_tile;

/* sums[token][column] += w[row][column] · x[row][token]; width a multiple of lanes, strides in
 * elements. */
typedef struct npt_native_spread {
    int64_t tokens, rows, width;
    const float *w, *x;
    float *sums;
    int64_t w_stride, x_stride, sums_stride;
    const char *ahead; /* rows that come next, as they are stored, are asked for; or NULL */
    int64_t ahead_stride, ahead_bits; /* bytes from row to row; bits of an element */
} npt_native_spread;

/* The first half is plain numbers, which a plan needs on any CPU; the fillers, compiled for their
 * instruction set, set the functions only. */
typedef struct npt_native_ops {
    int lanes, max_rows, row_unit; /* tiles are a multiple of row_unit rows high */
    int depth, depth_unit;         /* k of a packed block; zeros are packed up to a whole unit */
    int lane_step;                 /* k from one packed panel of lanes to the next */
    int row_bytes, lane_bytes;     /* of one packed element of each operand, all its pieces */
    int products;                  /* of pieces, for a depth unit */
    bool rows_in_place;            /* whole tiles of the row operand need no packing */
    bool lanes_stay;               /* a lane panel stays in first-level cache while rows pass; else
                                      a row panel while lanes do */
    bool packs_ahead;              /* tiles pack what the next step needs */
    bool checked;                  /* what the tiles made is judged, and replaced by FMA's */
    void (*begin)(void);           /* around the tiles of a task, in its thread; may be NULL */
    void (*end)(void);
    /* `count` elements from flat index `index`. */
    void (*widen)(const npt_native_operand *src, int64_t index, int64_t count, float *dst);
    /* NF4, whole blocks, each in the order of npt_native_place(). */
    void (*widen_blocks)(const npt_native_operand *src, int64_t index, int64_t count, float *dst);
    /* Units from … to-1 of a packing (all of it but where packs_ahead) into the form "rows"; */
    void (*pack_rows)(const npt_native_packing *packing, int64_t from, int64_t to);
    /* into panels of the form "lanes", all two vectors wide but for an odd last one, ops->lane_step
     * × 2 × lanes elements apart; count is a multiple of lanes. Where k is inside: all of it. */
    void (*pack_lanes)(const npt_native_packing *packing, int64_t from, int64_t to);
    void (*tile)(const npt_native_tile *tile);
    /* checked only: vector `index` of an F32 operand with k inside; whether sums pass */
    npt_native_range (*range)(const npt_native_operand *src, int64_t index);
    bool (*fit)(const npt_native_check *check);
    /* Row r of the sums is row r of C; or, transposed, column r of C. */
    void (*store)(const npt_native_store *piece);
    void (*store_transposed)(const npt_native_store *piece);
    /* partial[row][token][lane] += w[row][k] · x[token][k] over DOT_ROWS rows; depth a multiple of
     * lanes; w_stride and x_stride in elements. */
    void (*dot)(int tokens, int64_t depth, const float *w, int64_t w_stride, const float *x,
                int64_t x_stride, float *partial);
    /* One token: partial[row][0][lane] = w[index + row·depth + k] · x[k], rows of W as they are
     * stored, at most DOT_ROWS. x in the order of npt_native_place(); depth, and for NF4 index, are
     * multiples of 64. */
    void (*dot_one)(const npt_native_operand *w, int64_t index, int64_t rows, int64_t depth,
                    const float *x, float *partial);
    float (*sum_lanes)(const float *partial); /* in fixed order */
    void (*spread)(const npt_native_spread *work);
    /* One token: sums[column] += w[index + row·w.count + column] · x[row·SPREAD_TOKENS], rows of W
     * as they are stored; sums in the order of npt_native_place(); width, and for NF4 index and
     * w.count, are multiples of 64. */
    void (*spread_one)(const npt_native_operand *w, int64_t index, int64_t rows, int64_t width,
                       const float *x, float *sums);
} npt_native_ops;

void npt_matmul_fill_avx2(npt_native_ops *ops);
void npt_matmul_fill_avx512(npt_native_ops *ops);

/* AMX tiles on bf16 pieces: rows of so many pieces against lanes of so many. A value of BF16 is one
 * piece, of F16 two, of F32 and NF4 three. */
void npt_matmul_fill_amx(npt_native_ops *ops, int row_pieces, int lane_pieces);

/* The best that is compiled in and `cpu` has; its level must be AVX2 at least. */
void npt_matmul_native_ops(const npt_cpu *cpu, npt_native_ops *ops);

/* The blocked route (matmul_blocked.c). */
void npt_matmul_blocked_plan(const npt_matmul_desc *desc, const npt_native_ops *ops, bool two,
                             int workers, size_t *worker_bytes, size_t *shared_bytes);
/* two: args[0] and args[1], which differ in a and c, with one packing of W; the same bits. */
void npt_matmul_blocked_run(const npt_matmul_desc *desc, const npt_matmul_args *args, bool two,
                            const npt_matmul_scratch *scratch, const npt_native_ops *ops);
/* Whether that is meant for a product: both A together must be few enough to stay in the cache. */
bool npt_matmul_blocked_takes_two(const npt_matmul_desc *desc, const npt_native_ops *ops);

/* The routes for few tokens (matmul_few.c): whether they are meant for a product. */
bool npt_matmul_few(const npt_matmul_desc *desc);
void npt_matmul_few_plan(const npt_matmul_desc *desc, size_t *worker_bytes, size_t *shared_bytes);
void npt_matmul_few_run(const npt_matmul_desc *desc, const npt_matmul_args *args,
                        const npt_matmul_scratch *scratch, const npt_native_ops *ops);

/* The operands of a product as the packers see them. */
npt_native_operand npt_native_operand_a(const npt_matmul_desc *desc, const npt_matmul_args *args);
npt_native_operand npt_native_operand_w(const npt_matmul_desc *desc, const npt_matmul_args *args);

#endif
