/* SPDX-License-Identifier: BSD-2-Clause */
/* What training and evaluation open in the same order: precision first, then the model's headers,
 * then threads and backends, then text. Nothing is written, and no weight is read. */
#ifndef NPT_TRAIN_SETUP_H
#define NPT_TRAIN_SETUP_H

#include "model/adapter.h"
#include "model/model.h"
#include "text/dataset.h"

typedef struct npt_setup {
    npt_policy policy;
    npt_model *model;
    npt_exec *exec;
    npt_tokenizer *tokenizer; /* NULL where the model has none: rows need input_ids */
} npt_setup;

/* model_name NULL: the bundled model, which is then said. NPT_E_USAGE where options contradict each
 * other or the model. On failure nothing is left open. */
npt_status npt_setup_open(npt_setup *setup, const char *model_name,
                          const npt_precision_options *precision,
                          const npt_compute_options *compute);
/* Only the context of computing. */
npt_status npt_setup_exec(npt_setup *setup, const npt_compute_options *compute);
/* Policy and headers only, also of a checkpoint that cannot be loaded (npt_model_check() says). */
npt_status npt_setup_examine(npt_setup *setup, const char *model_name,
                             const npt_precision_options *precision);
void npt_setup_close(npt_setup *setup);

/* The rows a run reads; dataset_name NULL: the bundled file `bundled`, which is then said. */
npt_status npt_setup_dataset(const npt_setup *setup, const npt_data_options *data,
                             const char *bundled, npt_dataset **dataset);

/* What conversion on load did, as a note or (where values overflowed) a warning. */
void npt_setup_log_weights(const npt_setup *setup);

/* What an adapter's name stands for, as a new string: itself (a .safetensors file, an adapter
 * directory, a checkpoint), or the newest checkpoint of a run's directory. NPT_E_IO. */
npt_status npt_setup_find_adapter(const char *named, char **path);
/* Adapter values from what npt_setup_find_adapter() found. Warns where a directory says that they
 * belong to another modulation scale. */
npt_status npt_setup_load_adapters(npt_adapters *adapters, const char *path);

#endif
