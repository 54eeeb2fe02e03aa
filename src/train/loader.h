/* SPDX-License-Identifier: BSD-2-Clause */
/* The rows of one optimizer step, cut into micro-batches. */
#ifndef NPT_TRAIN_LOADER_H
#define NPT_TRAIN_LOADER_H

#include "model/batch.h"
#include "text/dataset.h"

typedef struct npt_loader {
    npt_dataset *dataset; /* owned */
    int64_t batch_size, accumulate;
    int64_t epoch;                 /* epochs completed before the rows held */
    npt_dataset_position position; /* where the rows held begin */
    int64_t rows, tokens;          /* held */
    npt_ids *row;                  /* [batch_size × accumulate] */
    /* buffers of the micro-batch built last */
    int64_t *offsets;
    int32_t *ids, *positions;
    int64_t capacity; /* tokens */
} npt_loader;

/* Takes the dataset over, on failure too. */
npt_status npt_loader_init(npt_loader *loader, npt_dataset *dataset, int64_t batch_size,
                           int64_t accumulate);
void npt_loader_fini(npt_loader *loader);

/* Reads the rows of the next step: batch × accumulate of them, fewer at the end of an epoch. At the
 * end of the data: with `repeat` starts over, else leaves rows = 0. NPT_E_DATA where there is no
 * row at all. */
npt_status npt_loader_fill(npt_loader *loader, bool repeat);
/* Micro-batches in the rows held. */
int64_t npt_loader_batches(const npt_loader *loader);
/* Builds micro-batch `index`; valid until the next call. */
npt_status npt_loader_batch(npt_loader *loader, int64_t index, npt_batch *batch);
/* Goes on at a position taken from `epoch` and `position`. */
npt_status npt_loader_seek(npt_loader *loader, int64_t epoch, npt_dataset_position position);

#endif
