/* SPDX-License-Identifier: BSD-2-Clause */
/* Checkpoints: adapter directories that also hold everything needed to go on, bit for bit.
 *
 * adapter_config.json, adapter_model.safetensors (what PEFT-like tools and PyTorch read),
 * trainer_state.json (what Trainer users know), training_state.safetensors (masters, moments,
 * scaler, data position), MANIFEST. Written under a temporary name, synced, renamed. */
#ifndef NPT_TRAIN_CHECKPOINT_H
#define NPT_TRAIN_CHECKPOINT_H

#include <jansson.h>

#include "model/adapter.h"
#include "text/dataset.h"
#include "train/scaler.h"

/* Everything of a run that changes while it runs, beside the adapters. */
typedef struct npt_train_state {
    int64_t step; /* optimizer steps taken */
    int64_t total_steps;
    int64_t epoch;                 /* completed */
    npt_dataset_position position; /* of the rows of the next step */
    int64_t tokens, skipped_steps, skipped_batches;
    int64_t failures_in_a_row;
    int64_t metrics_lines;  /* of metrics.jsonl that belong to these steps */
    int64_t evaluated_step; /* of the last evaluation that was finished */
    npt_scaler scaler;
    double epoch_fraction; /* as Trainer counts epochs */
    double best_metric;    /* lowest eval loss; infinite before the first */
    int64_t best_step;
    double first_loss, last_loss;
    json_t *log_history; /* array, as in trainer_state.json; owned */
} npt_train_state;

npt_status npt_train_state_init(npt_train_state *state);
void npt_train_state_fini(npt_train_state *state);

typedef struct npt_checkpoint {
    npt_adapters *adapters;
    npt_train_state *state;
    json_t *adapter_config; /* adapter_config.json */
    json_t *settings;       /* what decides the run's arithmetic; compared on resume */
    npt_sites *sites;       /* for the rounding of adapters that were read */
} npt_checkpoint;

/* Writes `directory` (all or nothing; an existing one is replaced). NPT_E_IO. */
npt_status npt_checkpoint_save(const npt_checkpoint *checkpoint, const char *directory);
/* Reads it back into adapters and state. NPT_E_FORMAT where it is torn; NPT_E_USAGE where settings
 * that decide the shape of the run differ, naming the flag; other differences are logged as
 * warnings. */
npt_status npt_checkpoint_load(const npt_checkpoint *checkpoint, const char *directory);

/* The newest complete checkpoint in `output_dir` as a new string, *path = NULL where there is none;
 * torn ones are named in a warning and passed over. */
npt_status npt_checkpoint_find(const char *output_dir, char **path);
/* Whether output_dir holds a run: metrics.jsonl or a checkpoint. */
bool npt_checkpoint_has_run(const char *output_dir);
/* Removes the oldest checkpoint-<step> beyond `keep` (0: keeps all). */
npt_status npt_checkpoint_rotate(const char *output_dir, int64_t keep);
/* Removes what a killed run left half-written; a checkpoint that was complete but for its name gets
 * it. Only while no other process writes into output_dir. */
npt_status npt_checkpoint_sweep(const char *output_dir);

#endif
