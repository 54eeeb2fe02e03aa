/* SPDX-License-Identifier: BSD-2-Clause */
/* The parts of npt_selftest(): what a case reports to, a training step on a small model, and the
 * checks. A check compares with an expectation that its caller hands over, so that a test can hand
 * over a wrong one and see it fail. Private to doctor/. */
#ifndef NPT_DOCTOR_SELFTEST_H
#define NPT_DOCTOR_SELFTEST_H

#include "train/distill.h"
#include "train/optimizer.h"

/* ---- TAP (selftest.c) ---- */

enum { NPT_TAP_LINES = 8, NPT_TAP_LINE_BYTES = 240 };

/* The case that is being run, and the count of those that were. */
typedef struct npt_tap {
    FILE *out;
    int number, failed;
    int breaches; /* of the case that runs; the first lines of them are kept */
    char lines[NPT_TAP_LINES][NPT_TAP_LINE_BYTES];
} npt_tap;

/* Something is not as expected: what, where, expected, got. The case has failed. */
void npt_tap_breach(npt_tap *t, const char *format, ...) NPT_PRINTF(2, 3);
/* A call that should have succeeded did not; its sentence is the breach. Returns `status`. */
npt_status npt_tap_expect_ok(npt_tap *t, const char *where, npt_status status);
/* Prints the case with what was reported since the last one. */
void npt_tap_end(npt_tap *t, const char *format, ...) NPT_PRINTF(2, 3);
void npt_tap_skip(npt_tap *t, const char *name, const char *reason);

/* ---- A training step (selftest_trial.c) ---- */

typedef struct npt_trial_setup {
    const char *model; /* directory */
    const char *backend;
    int threads;
    npt_matmul_precision precision;
    npt_policy_request request;
    npt_modulation modulation;
    bool no_double_quantization;
    bool decoded;      /* a 4-bit base is decoded again and computes in F32 as R5 says */
    double loss_scale; /* a power of two */
    npt_fault fault;   /* kind NONE, or what damages the step on purpose */
} npt_trial_setup;

/* Teacher, student and one batch of two sequences. */
typedef struct npt_trial {
    npt_trial_setup setup;
    npt_exec *exec;
    npt_model *model;
    npt_policy policy;
    npt_sites *load_sites;
    npt_arena *arena;
    npt_adapters adapters;
    npt_distiller distiller;
    npt_batch batch;
    double norm; /* of the gradient, unscaled */
    npt_gradient_fault fault;
} npt_trial;

enum { NPT_TRIAL_TENSORS = 8 };

/* What came out, in F32. */
typedef struct npt_trial_values {
    size_t outputs, parameters;
    float *output;   /* the student's last h */
    float *gradient; /* [parameters], unscaled, one tensor after the other */
    float *adapter;  /* [parameters], the values as used after the step */
    int tensors;
    size_t size[NPT_TRIAL_TENSORS];
    char name[NPT_TRIAL_TENSORS][48];
    uint64_t digest;   /* of the casts planned */
    uint64_t executed; /* of the casts executed, cell by cell */
    void *block;       /* owner of the three arrays */
} npt_trial_values;

/* Adapters begin with values that every float dtype holds exactly. On failure nothing is left. */
npt_status npt_trial_open(npt_trial *trial, const npt_trial_setup *setup);
/* Forward, and backward into cleared gradients with these factors × the loss scale. */
npt_status npt_trial_run(npt_trial *trial, bool backward, double distance_factor,
                         double regularizer_factor);
/* The same with the factors of a mean, then norm and optimizer step (where finite). */
npt_status npt_trial_step(npt_trial *trial);
void npt_trial_close(npt_trial *trial);

npt_status npt_trial_values_take(npt_trial *trial, npt_trial_values *values);
void npt_trial_values_free(npt_trial_values *values);

/* How often a cell of the student's plan (else the teacher's) is executed by one step. */
int64_t npt_trial_planned(const npt_trial *trial, bool student, npt_site_id id, int layer,
                          npt_direction direction);

/* ---- Cases on steps (selftest_steps.c) ---- */

/* A precision that a step is taken in. */
typedef struct npt_selftest_row {
    const char *name;
    npt_dtype file; /* of the model */
    npt_policy_request request;
    bool no_double_quantization;
    npt_dtype act, adapter; /* expected; `act` is also what adapter_in takes */
    npt_dtype coarsest;     /* of the roundings: decides the tolerance */
    double loss_scale;
} npt_selftest_row;

extern const npt_selftest_row npt_selftest_rows[];
enum { NPT_SELFTEST_ROWS = 9, NPT_SELFTEST_MODELS = 3 };

/* What the cases of a backend share. */
typedef struct npt_selftest_context {
    npt_tap *t;
    const char *model[NPT_DTYPE_COUNT]; /* directory by dtype: F32, F16, BF16 */
    int threads;                        /* more than one */
    npt_matmul_precision precision;
    npt_fault fault;                               /* of the cases, not of what they compare with */
    npt_trial_values truth[NPT_SELFTEST_ROWS];     /* the same step in F32, on the reference */
    npt_trial_values reference[NPT_SELFTEST_ROWS]; /* the row itself on the reference */
} npt_selftest_context;

npt_trial_setup npt_selftest_setup(const npt_selftest_context *c, const npt_selftest_row *row,
                                   const char *backend, int threads);
npt_status npt_selftest_prepare(npt_selftest_context *c);
void npt_selftest_context_fini(npt_selftest_context *c);
/* All cases of one backend. */
int npt_selftest_backend_cases(void);
void npt_selftest_backend(npt_selftest_context *c, const char *backend);

/* A case without a backend: weights in 4 bits are near those of the file. */
void npt_selftest_quantization(npt_selftest_context *c);

/* ---- Checks on steps (selftest_checks.c) ---- */

void npt_selftest_check_casts(npt_tap *t, const npt_trial *trial,
                              int64_t (*planned)(const npt_trial *trial, bool student,
                                                 npt_site_id id, int layer,
                                                 npt_direction direction));
void npt_selftest_check_dtypes(npt_tap *t, const npt_selftest_row *row, npt_trial *trial);
/* Relative error (root of the normalized mean square) that a step may have. */
double npt_selftest_tolerance(npt_dtype coarsest);
void npt_selftest_check_values(npt_tap *t, const npt_trial_values *got,
                               const npt_trial_values *expected, double tolerance);
/* z, add, u and g' of every layer after a forward run, from what went into them, in F64. */
void npt_selftest_check_modulation(npt_tap *t, npt_trial *trial, double strength);
/* Weights in 4 bits beside the same weights as in the file. */
void npt_selftest_check_quantized(npt_tap *t, const char *name, const npt_weight *quantized,
                                  const npt_weight *plain, bool exact_scales);

/* ---- Checks on values (selftest_values.c) ---- */

typedef struct npt_selftest_policy {
    npt_policy_request request;
    npt_rule rule, adapter_rule;
    npt_dtype frozen, act, compute, adapter, master;
    bool dynamic_loss_scale;
} npt_selftest_policy;

typedef struct npt_selftest_refusal {
    npt_policy_request request;
    const char *says; /* part of the sentence */
} npt_selftest_refusal;

typedef struct npt_selftest_probe {
    uint32_t value; /* bits of F32 */
    uint16_t f16, bf16;
} npt_selftest_probe;

void npt_selftest_check_policy(npt_tap *t, const npt_selftest_policy *row);
void npt_selftest_check_refusal(npt_tap *t, const npt_selftest_refusal *row);
void npt_selftest_check_probe(npt_tap *t, const npt_kernels *kernels, const npt_run *run,
                              const npt_selftest_probe *probe);
/* Every half there and back, and every rounding boundary between two of them. */
void npt_selftest_check_half(npt_tap *t, const npt_kernels *kernels, const npt_run *run,
                             npt_dtype half);
/* All cases that no backend takes part in. */
int npt_selftest_value_cases(void);
npt_status npt_selftest_values(npt_tap *t);

#endif
