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
/* The clock that products are measured with: that of the processor where there is one thread, which
 * other work on the machine disturbs less; monotonic otherwise. */
double npt_meter_now(const npt_exec *exec);

/* One that takes part in a measurement. */
typedef struct npt_meter_side {
    npt_exec *exec;
    const npt_matmul_backend *backend; /* must not refuse the product */
    npt_matmul_desc desc;
} npt_meter_side;

enum { NPT_METER_SIDES = NPT_MAX_BACKENDS + 2 };

/* Random weights of one dtype. */
typedef struct npt_meter_pool {
    npt_dtype dtype;
    char *data;
    size_t bytes;
} npt_meter_pool;

/* Random operands. Weights rotate through a pool, so that they come from memory as in training. */
typedef struct npt_meter {
    size_t pool_wanted;      /* bytes that weights rotate through */
    npt_meter_pool pools[2]; /* of the dtype as it is; of F32, where a side wants that instead */
    char *a, *c;
    float *absmax;
    size_t a_bytes, c_bytes;
    int64_t absmax_count;
} npt_meter;

/* Random elements between -1 and 1 (of NF4: any codes), some and then copies of them. */
void npt_meter_fill(void *data, npt_dtype dtype, size_t bytes, uint64_t seed);
void npt_meter_init(npt_meter *meter, size_t pool_bytes);
void npt_meter_fini(npt_meter *meter);
/* One product by every side, `seconds` of measuring for each, but three repetitions at least. The
 * descriptors may differ in the dtype of the weights only, and be F32 there. `timings`: one for
 * each. NPT_E_NOMEM, or what a backend fails with. */
npt_status npt_meter_run(npt_meter *meter, const npt_meter_side *sides, size_t count,
                         double seconds, npt_timing *timings);
/* One side alone, in one turn: one repetition that does not count, and one that does, at least. */
npt_status npt_meter_turn(npt_meter *meter, const npt_meter_side *side, double seconds,
                          npt_timing *timing);
/* Each of two alone, and one by the first and at once one by the second, timed together; in turns,
 * each about so many seconds: whoever follows a library shares the cores with its spinning workers.
 * Activations of the two are of one dtype; weights, too, or F32 of one of them. */
typedef struct npt_pair_timing {
    npt_timing first, second, both;
} npt_pair_timing;
npt_status npt_meter_pair(npt_meter *meter, const npt_meter_side sides[2], double seconds,
                          npt_pair_timing *timing);
/* The backends of the context that accept a product, in order, without the reference unless it is
 * the only one; returns how many. */
size_t npt_meter_willing(const npt_exec *exec, const npt_matmul_desc *desc,
                         const npt_matmul_backend *list[NPT_MAX_BACKENDS]);

#endif
