/* SPDX-License-Identifier: BSD-2-Clause */
/* Teacher and student over one micro-batch: forward, loss, backward (method.md §2). */
#ifndef NPT_TRAIN_DISTILL_H
#define NPT_TRAIN_DISTILL_H

#include "model/block.h"

typedef struct npt_objective {
    npt_loss loss;
    double lambda;
    npt_distill distill;
    double teacher_forcing; /* mixed */
    uint64_t seed;          /* of the teacher-forcing draws */
} npt_objective;

typedef struct npt_distiller {
    npt_exec *exec;
    const npt_model *model;
    const npt_policy *policy;
    npt_adapters *adapters;
    npt_objective objective;
    npt_sites *teacher_sites, *student_sites;
    npt_arena *step; /* activations; forgotten at the next run */
    float *cos, *sin;
    int64_t positions;      /* rows of cos and sin */
    bool strict;            /* an unplanned cast ends the run, else it is said once */
    bool warned;            /* … and was */
    npt_fault fault;        /* kind NONE, or what damages the run on purpose */
    npt_observer *observer; /* NULL, or who looks at every result */
    /* kept between teacher and student of one run, [layers] each */
    npt_block_state *states;
    npt_mat *teacher_h, *student_h;
    double *row_sums;
    int64_t row_sums_size;
    npt_arena *boundaries; /* of a streamed pass: the teacher's h, a micro-batch each */
} npt_distiller;

/* Sums over the tokens of a micro-batch, so that an accumulated batch can be divided by its own
 * count. A run adds to them: the caller starts from zero. */
typedef struct npt_distill_sums {
    double distance;              /* Σ layers Σ tokens Σ_j */
    double regularizer;           /* Σ layers Σ tokens reg */
    double *layer_distance;       /* [layers] += Σ tokens Σ_j, or NULL */
    double *layer_regularizer;    /* [layers] += Σ tokens reg, or NULL */
    npt_mat teacher_h, student_h; /* h of the last block; valid until the next run */
} npt_distill_sums;

/* Everything passed is borrowed. Plans the sites, and rounds the adapters as they begin. */
npt_status npt_distiller_init(npt_distiller *distiller, npt_exec *exec, const npt_model *model,
                              const npt_policy *policy, npt_adapters *adapters,
                              const npt_objective *objective);
void npt_distiller_fini(npt_distiller *distiller);
/* For a run somebody asked for: --strict, and the fault in the environment. */
npt_status npt_distiller_guard(npt_distiller *distiller, bool strict);
/* From now on runs are damaged on purpose. NPT_E_USAGE: the model has no such layer. */
npt_status npt_distiller_damage(npt_distiller *distiller, const npt_fault *fault);

typedef struct npt_distill_request {
    const npt_batch *batch;
    int64_t step;  /* selects the teacher-forcing draws */
    bool backward; /* adapter gradients += … */
    double distance_factor,
        regularizer_factor; /* of the two sums in the loss, loss scale included */
} npt_distill_request;

npt_status npt_distiller_run(npt_distiller *distiller, const npt_distill_request *request,
                             npt_distill_sums *sums);

/* Several micro-batches through a model whose blocks are streamed (npt_model_stream()): blocks
 * outside, micro-batches inside, so that a pass reads every weight once, or, where gradients flow
 * through more than a block, twice. Sums and gradients are, bit for bit, those of
 * npt_distiller_run() for one micro-batch after the other. */
typedef struct npt_distill_pass {
    npt_distill_request request; /* of each; its batch is not looked at */
    int64_t batches;
    /* Micro-batch `index`; valid until the next call. */
    npt_status (*batch)(void *context, int64_t index, npt_batch *batch);
    int (*stop)(void); /* NULL, or not 0 where the pass is to end early, and counts for nothing */
    void *context;
} npt_distill_pass;

/* `model`: the distiller's own. sums->teacher_h and student_h are not set. */
npt_status npt_distiller_stream(npt_distiller *distiller, npt_model *model,
                                const npt_distill_pass *pass, npt_distill_sums *sums);

/* The sites of the blocks of a model whose `adapters` (NULL: none anywhere, the teacher) are these.
 */
npt_sites *npt_sites_for(const npt_policy *policy, const npt_config *config,
                         const npt_adapters *adapters);

#endif
