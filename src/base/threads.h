/* SPDX-License-Identifier: BSD-2-Clause */
/* A pool that runs numbered tasks. Which thread runs which task is left open; a task's result may
 * depend on its number only, which is what makes the bits independent of the thread count. */
#ifndef NPT_BASE_THREADS_H
#define NPT_BASE_THREADS_H

#include "base/status.h"

typedef struct npt_threads npt_threads;

/* Runs task `index` on worker `worker` (0 … count-1; its scratch is its own). */
typedef void npt_task(void *context, int64_t index, int worker);

/* A pool of `count` workers, the caller included; 0 = as many as this process may use. NULL on
 * failure. Threads of its own; OpenMP's (shared with oneDNN) where configured --with-openmp. */
npt_threads *npt_threads_create(int count);
int npt_threads_count(const npt_threads *threads);
/* Runs tasks 0 … tasks-1 and returns when all are done. Not reentrant; one caller at a time. */
void npt_threads_run(npt_threads *threads, npt_task *task, void *context, int64_t tasks);
void npt_threads_destroy(npt_threads *threads);

#endif
