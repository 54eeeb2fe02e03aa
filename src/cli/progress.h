/* SPDX-License-Identifier: BSD-2-Clause */
/* The progress of a run on standard error: one live line on a terminal, else a line per logged
 * step. Use from the thread that trains. */
#ifndef NPT_CLI_PROGRESS_H
#define NPT_CLI_PROGRESS_H

#include "npt.h"

enum { NPT_SPARK_COLUMNS = 60 };

typedef struct npt_progress {
    bool live;          /* standard error is a terminal that can go back to a line's start */
    bool utf8;          /* block characters print */
    char line[512];     /* the live line as it was made */
    int shown;          /* columns of it on the screen */
    double drawn_at;    /* seconds; of the last redraw */
    npt_step_info last; /* step 0 before the first */
    /* the loss so far, in at most NPT_SPARK_COLUMNS means of `per_column` steps each */
    double sums[NPT_SPARK_COLUMNS];
    int64_t counts[NPT_SPARK_COLUMNS];
    int64_t steps, per_column;
} npt_progress;

void npt_progress_init(npt_progress *progress);
/* An npt_step_callback and an npt_log_sink; the context is the npt_progress. */
void npt_progress_step(void *context, const npt_step_info *info);
void npt_progress_log(void *context, npt_log_level level, const char *line);
/* Leaves the live line standing and, on a terminal, draws the loss below it. */
void npt_progress_finish(npt_progress *progress);

/* "12:34", "1:02:03" */
void npt_format_seconds(double seconds, char *text, size_t bytes);

#endif
