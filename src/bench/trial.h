/* SPDX-License-Identifier: BSD-2-Clause */
/* Training steps in a process of their own, so that its peak of memory is theirs, and so that
 * several can take turns. */
#ifndef NPT_BENCH_TRIAL_H
#define NPT_BENCH_TRIAL_H

#include <sys/types.h>

#include "bench/bench.h"

typedef struct npt_bench_trial {
    npt_train_options options; /* strings borrowed */
    double alone_seconds;      /* of measuring each product alone at the end; 0: none */
    /* of npt_bench_trial_start() */
    pid_t process;
    int to, from; /* pipes */
} npt_bench_trial;

/* Writes a model in a process of its own. */
npt_status npt_bench_make_model(const npt_make_model_options *options);
/* Begins the process and waits until its run is ready for its first counted step. */
npt_status npt_bench_trial_start(npt_bench_trial *trial);
/* One optimizer step. */
npt_status npt_bench_trial_step(npt_bench_trial *trial, double *seconds);
/* Ends it with its report: "peak_bytes", "bytes" by category, "start" (seconds until ready), and of
 * the last step "products", "matmul_s" (in the step), "matmul_share" of it, and "matmul_alone_s"
 * (the same products, measured by themselves). */
npt_status npt_bench_trial_finish(npt_bench_trial *trial, json_t **report);
/* Ends a process that is still there; harmless otherwise. */
void npt_bench_trial_abandon(npt_bench_trial *trial);

#endif
