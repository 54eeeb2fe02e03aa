/* SPDX-License-Identifier: BSD-2-Clause */
/* A training run in progress: what open.c (before it), trainer.c (the run) and step.c (one step of
 * it) share. */
#ifndef NPT_TRAIN_TRAINER_H
#define NPT_TRAIN_TRAINER_H

#include "train/advice.h"
#include "train/budget.h"
#include "train/checkpoint.h"
#include "train/distill.h"
#include "train/loader.h"
#include "train/metrics.h"
#include "train/optimizer.h"
#include "train/setup.h"
#include "train/vitals.h"

/* What a step found, for its line of metrics. */
typedef struct npt_step_result {
    double loss, mse, regularization, grad_norm, learning_rate, loss_scale;
    npt_term_norms terms;
    int64_t tokens;
    bool interrupted; /* asked to stop: nothing of the step counts */
    bool skipped;
} npt_step_result;

typedef struct npt_trainer {
    npt_train_options options;
    npt_setup setup;
    npt_arena *arena;
    npt_adapters adapters;
    npt_distiller distiller;
    npt_loader loader, eval;
    npt_optimizer_settings optimizer;
    npt_train_state state;
    npt_metrics metrics;
    json_t *adapter_config, *settings;
    float *term_gradients;   /* of the regularizer, where terms are measured */
    int64_t steps_per_epoch; /* 0: not known */
    bool plan_only;          /* set by who wants no values: adapters have names and shapes only */
    npt_budget budget;       /* where a limit was given, or a dry run asked */
    bool terms_warned, doctor_named, weights_told;
    npt_vitals vitals;     /* of the step before, where --probe_every asked for it */
    bool resumed_final;    /* from a checkpoint-final */
    double started;        /* seconds */
    int64_t tokens_before; /* of the run, when this process began */
    npt_train_report *report;
} npt_trainer;

/* ---- Before the first step (open.c); `options` and `report` are set, the rest is zero ---- */

/* Policy, model headers, backends, adapters with their initial values, the plan of casts. No weight
 * is read. */
npt_status npt_trainer_open(npt_trainer *trainer);
/* The datasets, and how many steps they make. */
npt_status npt_trainer_open_data(npt_trainer *trainer);
/* Weights, and the values of adapters and state that options.init_adapter or options.resume name.
 * `writing`: the run will write where it resumes. Where `report` is, it learns the checkpoint. */
npt_status npt_trainer_load(npt_trainer *trainer, bool writing);
void npt_trainer_close(npt_trainer *trainer);

/* The signal that asked training to stop; 0 where none did. */
int npt_stop_requested(void);

/* One optimizer step: reads its rows, trains on them, and updates the adapters and the state, or,
 * where something is not finite, skips it. NPT_E_NUMERIC where going on is pointless. */
npt_status npt_trainer_step(npt_trainer *trainer, npt_step_result *result);

/* Factors of the two terms of the loss. */
typedef struct npt_term_weights {
    double distance, regularizer;
} npt_term_weights;

/* Micro-batch `index` of the rows the loader holds, forward and backward, through `distiller` (the
 * trainer's own, or another with the same adapters' shape). */
npt_status npt_trainer_micro_batch(npt_trainer *trainer, npt_distiller *distiller, int64_t index,
                                   npt_term_weights weights, npt_distill_sums *sums);
/* All micro-batches that `loader` holds through the streamed blocks; `request` of each. */
npt_status npt_trainer_stream(npt_trainer *trainer, npt_loader *loader,
                              const npt_distill_request *request, npt_distill_sums *sums);

#endif
