/* SPDX-License-Identifier: BSD-2-Clause */
/* The blocked product while it runs: shared by matmul_blocked.c and matmul_patch.c. */
#ifndef NPT_CPU_MATMUL_BLOCKED_H
#define NPT_CPU_MATMUL_BLOCKED_H

#include "cpu/matmul_native.h"

enum {
    NPT_RESIDENT_MAX = 512, /* vectors of the resident matrix packed at once; a multiple of 32 */
    NPT_RESIDENT_PANELS = NPT_RESIDENT_MAX / 16 + 2
};

typedef struct npt_native_shape {
    npt_native_ops ops;
    bool stream_w;                  /* else A is streamed and W resident */
    bool lanes_w;                   /* W is the lane operand, else A */
    int64_t streamed, resident;     /* vectors of each: n or m, of two A all with what pads them */
    int64_t second;                 /* resident vector at which the second of two A begins, or 0 */
    int64_t block;                  /* resident vectors at a time */
    int64_t chunk;                  /* streamed vectors of a task */
    int stream_rows, resident_rows; /* tile height where that matrix is the row operand */
    int64_t step_rows;              /* streamed rows that are packed at once */
    int64_t depth_blocks;
    size_t sums_floats, panel_bytes;
} npt_native_shape;

/* What is known of a panel of A before its products are made, where they will be judged. */
typedef struct npt_native_panel {
    bool unfit;      /* FMA makes its products */
    float least[32]; /* of each vector: sums below are not trusted */
} npt_native_panel;

typedef struct npt_native_job {
    const npt_matmul_desc *desc;
    const npt_matmul_args *args; /* one, or two that differ in a and c */
    const npt_matmul_scratch *scratch;
    npt_native_shape shape;
    npt_native_operand stream, rest[2]; /* rest[1]: of the second A */
    int64_t first, count;               /* the resident block: vectors first … first+count-1 */
    char *packed;
    npt_native_ops fma;
    npt_native_panel panels[NPT_RESIDENT_PANELS]; /* of the resident block */
} npt_native_job;

/* Rows × lanes of a task's sums, and where they go. */
typedef struct npt_native_area {
    int64_t row_first, rows, lane_first, lanes; /* in the matrices */
    int64_t panel_rows;                         /* rows of one lane panel in the sums, padded */
    float *sums;
} npt_native_area;

/* Lane panels are two vectors wide but for an odd last one. */
static inline int npt_panel_vectors(const npt_native_ops *ops, int64_t first, int64_t count)
{
    return count - first > ops->lanes ? 2 : 1;
}

/* The resident operand that a vector is of, from where `*index` counts in it then. */
static inline const npt_native_operand *npt_native_resident(const npt_native_job *job,
                                                            int64_t *index)
{
    if (job->shape.second == 0 || *index < job->shape.second) return &job->rest[0];
    *index -= job->shape.second;
    return &job->rest[1];
}

/* ---- matmul_patch.c: only where ops->checked, the streamed matrix is W and A is resident ---- */

/* What there is to say of panel `index` of the resident block before it is multiplied. */
npt_native_panel npt_matmul_survey_panel(const npt_native_job *job, int64_t index);

/* Scratch of a worker for npt_matmul_patch. */
size_t npt_matmul_patch_bytes(void);

/* Judges the sums of a task; where a panel's are not to be trusted, FMA makes them again. */
void npt_matmul_patch(const npt_native_job *job, const npt_native_area *area, void *buffers);

#endif
