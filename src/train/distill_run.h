/* SPDX-License-Identifier: BSD-2-Clause */
/* One micro-batch on its way through the blocks: what distill.c (all blocks, then the next
 * micro-batch) and pass.c (all micro-batches, then the next block) share. */
#ifndef NPT_TRAIN_DISTILL_RUN_H
#define NPT_TRAIN_DISTILL_RUN_H

#include "train/distill.h"

typedef struct npt_distill_run {
    npt_distiller *d;
    const npt_distill_request *request;
    npt_distill_sums *sums;
    npt_env teacher, student;
} npt_distill_run;

/* Makes tables and scratch for the batch, and forgets the step arena. */
npt_status npt_distill_begin(npt_distill_run *run, npt_distiller *distiller,
                             const npt_distill_request *request, npt_distill_sums *sums);
/* After the last block: were all casts planned? */
npt_status npt_distill_end(npt_distiller *distiller);

/* Whether block `layer` of the student reads the teacher's input instead of its own. */
bool npt_distill_is_forced(const npt_distiller *distiller, int64_t step, int layer);
/* A block of both, from x and student_x (the same where the student reads what the teacher does) to
 * teacher_h[layer] and student_h[layer], and the student's regularizer and distance to the sums.
 * `differs`: the student has this block to itself; else its h is the teacher's. */
npt_status npt_distill_block(npt_distill_run *run, int layer, bool differs, npt_mat x,
                             npt_mat student_x);
/* dh (data NULL: nothing yet, and it is made) += the gradient of the distance at a block. */
npt_status npt_distill_loss_backward(npt_distill_run *run, int layer, npt_mat *dh);
/* npt_block_backward() with what states[layer] keeps. */
npt_status npt_distill_block_backward(npt_distill_run *run, int layer, bool input, npt_mat dh);

#endif
