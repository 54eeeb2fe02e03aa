/* SPDX-License-Identifier: BSD-2-Clause */
/* metrics.jsonl: an object about the run, then one per logged step, appended and flushed line by line. */
#ifndef NPT_TRAIN_METRICS_H
#define NPT_TRAIN_METRICS_H

#include <jansson.h>

#include "base/status.h"

typedef struct npt_metrics {
    FILE *file;
    char *path;
} npt_metrics;

/* Starts the file, or goes on with it, cut to its first `keep` bytes (what comes after belongs to steps that
 * are done again). NPT_E_IO. */
npt_status npt_metrics_open(npt_metrics *metrics, const char *output_dir, int64_t keep);
/* Writes a line; takes the reference to `object` over. *bytes: length of the file now. */
npt_status npt_metrics_write(npt_metrics *metrics, json_t *object, int64_t *bytes);
void npt_metrics_close(npt_metrics *metrics);

#endif
