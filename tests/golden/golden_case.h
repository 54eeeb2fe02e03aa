/* SPDX-License-Identifier: BSD-2-Clause */
/* A case of tests/golden/cases, and a run of it: model, adapters and distiller as npt sets them up,
 * the micro-batches as case.json lists them. Used by every test that needs a small model that
 * really trains. Failures end the test case (cmocka's assertions). White-box: needs libnptcore. */
#ifndef NPT_TESTS_GOLDEN_CASE_H
#define NPT_TESTS_GOLDEN_CASE_H

#include "npt_test.h"

#include "files/json.h"
#include "train/distill.h"
#include "train/optimizer.h"

enum { GOLDEN_MAX_TENSORS = 32, GOLDEN_MAX_LAYERS = 8, GOLDEN_MAX_BATCHES = 4 };

typedef struct golden_case {
    const char *name;
    char *directory;
    json_t *json;
    char layers[64]; /* as --layers takes it */
    npt_st *draws;   /* of a draw: the tensors of all draws of this case */
    size_t draw;
} golden_case;

void golden_open(golden_case *c, const char *name);
/* The same settings with the rows, adapters and truth of one of draws/; false where there are no
 * more draws (nothing is open then). */
bool golden_open_draw(golden_case *c, const char *name, size_t draw);
void golden_close(golden_case *c);
double golden_real(const json_t *object, const char *key);
const char *golden_word(const json_t *object, const char *key);
/* "cases/NAME/file" as safetensors; NULL where there is no such file. */
npt_st *golden_tensors(const golden_case *c, const char *file);

/* What a run is made of besides the case. */
typedef struct golden_setup {
    const char *backend;
    int threads;
    npt_policy_request request;
    const char *model; /* directory; NULL: the case's */
    bool no_double_quantization;
    double loss_scale; /* 0: 1 */
    npt_matmul_precision precision;
} golden_setup;

typedef struct golden_run {
    const golden_case *c;
    npt_policy policy;
    npt_model *model;
    npt_exec *exec;
    npt_arena *arena;
    npt_sites *load_sites;
    npt_adapters adapters;
    npt_distiller distiller;
    npt_optimizer_settings optimizer;
    double lambda, loss_scale;
    /* the micro-batch built last */
    int64_t offsets[64];
    int32_t ids[512], positions[512];
    npt_batch batch;
} golden_run;

/* Whether this backend is compiled in and this CPU can use it. */
bool golden_has_backend(const char *backend);
/* Opens the model, decides the policy, loads weights and the case's initial adapters. */
void golden_run_open(golden_run *run, const golden_case *c, const golden_setup *setup);
void golden_run_close(golden_run *run);

/* Means as case.json has them, of a micro-batch or of an accumulated batch. */
typedef struct golden_losses {
    int64_t tokens;
    double d[GOLDEN_MAX_LAYERS], reg[GOLDEN_MAX_LAYERS];
    double mse, regularization, loss;
} golden_losses;

/* `rows`: a JSON list of row numbers. */
void golden_batch(golden_run *run, const json_t *rows);
/* Forward (and backward, gradients += …) of the micro-batch in run->batch, as part of `tokens`
 * tokens. */
void golden_batch_run(golden_run *run, int64_t tokens, bool backward, golden_losses *losses);
/* Clears the gradients, runs all micro-batches of a step; `parts` (or NULL) gets each alone. */
void golden_accumulate(golden_run *run, size_t step, golden_losses *losses, golden_losses *parts);
/* The same, then the optimizer; returns the norm of the gradient before clipping. */
double golden_step(golden_run *run, size_t step, golden_losses *losses);

/* How far a vector is from its truth, relative L2; parts can be added. */
typedef struct golden_gap {
    double difference, truth; /* squares */
} golden_gap;
void golden_gap_add(golden_gap *gap, double value, double truth);
double golden_gap_relative(const golden_gap *gap);

typedef enum golden_kind { GOLDEN_GRADIENT, GOLDEN_UPDATE } golden_kind;

typedef struct golden_gaps {
    golden_gap whole;
    int count;
    char names[GOLDEN_MAX_TENSORS][128];
    golden_gap tensors[GOLDEN_MAX_TENSORS];
} golden_gaps;

/* Every adapter tensor: its unscaled gradient against "grad.…", or how far its master moved against
 * "after.…" less the initial value. */
void golden_compare(golden_run *run, golden_kind kind, const npt_st *expect, golden_gaps *gaps);

/* The same for a run of a draw; `weights` says which truth: "" or, where rounding the weights
 * changes them, "_f16" or "_bf16". */
void golden_compare_draw(golden_run *run, golden_kind kind, const char *weights, golden_gaps *gaps);

/* Every adapter value of one kind in one new array (npt_free): gradients, or masters. */
float *golden_flat(golden_run *run, golden_kind kind, size_t *count);

/* assert_true with the numbers. */
void golden_assert_within(double value, double limit, const char *format, ...) NPT_PRINTF(3, 4);

#endif
