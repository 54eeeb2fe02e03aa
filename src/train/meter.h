/* SPDX-License-Identifier: BSD-2-Clause */
/* How long a matrix product takes by one backend and by another, in alternating turns. */
#ifndef NPT_TRAIN_METER_H
#define NPT_TRAIN_METER_H

#include "tensor/exec.h"

/* Seconds of one repetition. */
typedef struct npt_timing {
    double min, median, max;
    int runs;
} npt_timing;

/* Of `count` durations; sorts them. */
npt_timing npt_timing_of(double *seconds, int count);
/* Monotonic. */
double npt_seconds_now(void);

/* Random operands. Weights rotate through a pool, so that they come from memory as in training. */
typedef struct npt_meter {
    npt_exec *exec;
    size_t pool_wanted; /* bytes that weights rotate through */
    npt_dtype pool_dtype;
    char *pool, *a, *c;
    float *absmax;
    size_t pool_bytes, a_bytes, c_bytes;
    int64_t absmax_count;
} npt_meter;

void npt_meter_init(npt_meter *meter, npt_exec *exec, size_t pool_bytes);
void npt_meter_fini(npt_meter *meter);
/* One product by each of `backends`, of which none may refuse it; `seconds` of measuring for each,
 * but three repetitions at least. `timings`: one for each. NPT_E_NOMEM, or what a backend fails
 * with. */
npt_status npt_meter_matmul(npt_meter *meter, const npt_matmul_desc *desc,
                            const npt_matmul_backend *const *backends, size_t count,
                            double seconds, npt_timing *timings);
/* One by `first` and at once one by `second`, timed together, after npt_meter_matmul() of the same
 * product: whoever follows a library shares the cores with its spinning workers. */
npt_status npt_meter_pair(npt_meter *meter, const npt_matmul_desc *desc,
                          const npt_matmul_backend *first, const npt_matmul_backend *second,
                          double seconds, npt_timing *timing);
/* The backends of the context that accept a product, in order, without the reference unless it is
 * the only one; returns how many. */
size_t npt_meter_willing(const npt_exec *exec, const npt_matmul_desc *desc,
                         const npt_matmul_backend *list[NPT_MAX_BACKENDS]);

#endif
