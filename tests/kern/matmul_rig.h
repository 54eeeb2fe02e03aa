/* SPDX-License-Identifier: BSD-2-Clause */
/* Runs one matmul backend without a context: level, threads and scratch of the caller's choice. */
#ifndef NPT_TESTS_MATMUL_RIG_H
#define NPT_TESTS_MATMUL_RIG_H

#include "tensor/exec.h"

#include <stdlib.h>

typedef struct npt_rig {
    npt_cpu cpu;
    npt_threads *threads;
    npt_matmul_precision precision;
    npt_matmul_counts counts;
} npt_rig;

static inline const npt_matmul_backend *npt_rig_backend(const npt_cpu *cpu, const char *name)
{
    const npt_matmul_backend *list[NPT_MAX_BACKENDS];
    const size_t count = npt_cpu_backends(cpu, list);
    for (size_t i = 0; i < count; i++)
        if (strcmp(list[i]->name, name) == 0) return list[i];
    return NULL;
}

/* One set of args, or two at once. Scratch of exactly the planned size, so that a sanitizer sees a
 * step beyond it. */
static inline npt_status npt_rig_run_some(npt_rig *rig, const npt_matmul_backend *backend,
                                          const npt_matmul_desc *desc, const npt_matmul_args *args,
                                          int count)
{
    const int workers = npt_threads_count(rig->threads);
    size_t worker_bytes = 0, shared_bytes = 0;
    if (backend->plan != NULL) backend->plan(desc, workers, &worker_bytes, &shared_bytes);
    worker_bytes = (worker_bytes + 63) / 64 * 64;
    void *worker = NULL, *shared = NULL;
    if (posix_memalign(&worker, 64, worker_bytes * (size_t)workers + 1) != 0) return NPT_E_NOMEM;
    if (posix_memalign(&shared, 64, shared_bytes + 1) != 0) {
        free(worker);
        return NPT_E_NOMEM;
    }
    memset(worker, 0xff, worker_bytes * (size_t)workers); /* NaN: nothing may be read unwritten */
    memset(shared, 0xff, shared_bytes);
    const npt_matmul_scratch scratch = {.precision = rig->precision,
                                        .counts = &rig->counts,
                                        .threads = rig->threads,
                                        .cpu = &rig->cpu,
                                        .worker = worker,
                                        .worker_stride = worker_bytes,
                                        .shared = shared};
    const npt_status status = (count == 2 ? backend->run_two : backend->run)(desc, args, &scratch);
    free(worker);
    free(shared);
    return status;
}

static inline npt_status npt_rig_run(npt_rig *rig, const npt_matmul_backend *backend,
                                     const npt_matmul_desc *desc, const npt_matmul_args *args)
{
    return npt_rig_run_some(rig, backend, desc, args, 1);
}

#endif
