/* SPDX-License-Identifier: BSD-2-Clause */
/* metrics.jsonl: an object about the run, then one per logged step, appended and flushed line by
 * line. */
#ifndef NPT_TRAIN_METRICS_H
#define NPT_TRAIN_METRICS_H

#include <jansson.h>

#include "base/status.h"

typedef struct npt_metrics {
    FILE *file;
    char *path;
} npt_metrics;

/* Starts the file, or goes on with it, cut to its first *lines lines: what comes after belongs to
 * steps that are done again. Sets *lines to how many there are, fewer where the file was cut or
 * removed. The file stays locked until it is closed, so that two runs cannot write into one
 * directory. NPT_E_IO, NPT_E_USAGE. */
npt_status npt_metrics_open(npt_metrics *metrics, const char *output_dir, int64_t *lines);
/* Writes a line; takes the reference to `object` over. Counts it in *lines. */
npt_status npt_metrics_write(npt_metrics *metrics, json_t *object, int64_t *lines);
void npt_metrics_close(npt_metrics *metrics);

#endif
