/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "doctor/selftest.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "train/scaler.h"

/* The cases that run on every backend. The truth of a step is the same step in F32 on the reference
 * backend, from the same file: widening is exact, the adapters begin with values that every dtype
 * holds, so all that differs is rounding. */

/* ---- The precisions ---- */

const npt_selftest_row npt_selftest_rows[NPT_SELFTEST_ROWS] = {
    {.name = "fp16 model with fp16 adapters",
     .file = NPT_F16,
     .request = {.use_fp16 = true},
     .act = NPT_F16,
     .adapter = NPT_F16,
     .coarsest = NPT_F16,
     .loss_scale = 65536},
    {.name = "fp32 model with fp32 adapters",
     .file = NPT_F32,
     .act = NPT_F32,
     .adapter = NPT_F32,
     .coarsest = NPT_F32,
     .loss_scale = 1},
    {.name = "bf16 model with bf16 adapters",
     .file = NPT_BF16,
     .request = {.use_bf16 = true},
     .act = NPT_BF16,
     .adapter = NPT_BF16,
     .coarsest = NPT_BF16,
     .loss_scale = 1},
    {.name = "mixed: fp16 activations into fp32 adapters",
     .file = NPT_F16,
     .request = {.use_fp16 = true, .adapter_dtype = NPT_F32},
     .act = NPT_F16,
     .adapter = NPT_F32,
     .coarsest = NPT_F16,
     .loss_scale = 65536},
    /* R5 has no loss scale of its own; the gradients of F16 adapters need one */
    {.name = "mixed: fp32 activations into fp16 adapters",
     .file = NPT_F32,
     .request = {.adapter_dtype = NPT_F16},
     .act = NPT_F32,
     .adapter = NPT_F16,
     .coarsest = NPT_F16,
     .loss_scale = 65536},
    {.name = "fp32 model with fp16 products",
     .file = NPT_F32,
     .request = {.mixed_precision = NPT_F16},
     .act = NPT_F32,
     .adapter = NPT_F32,
     .coarsest = NPT_F16,
     .loss_scale = 65536},
    {.name = "fp32 model with bf16 products",
     .file = NPT_F32,
     .request = {.mixed_precision = NPT_BF16},
     .act = NPT_F32,
     .adapter = NPT_F32,
     .coarsest = NPT_BF16,
     .loss_scale = 1},
    {.name = "4-bit model with fp32 adapters, scales in 8 bits",
     .file = NPT_F32,
     .request = {.use_quantization = true},
     .act = NPT_F32,
     .adapter = NPT_F32,
     .coarsest = NPT_F32,
     .loss_scale = 1},
    {.name = "4-bit model with fp32 adapters, scales in F32",
     .file = NPT_F32,
     .request = {.use_quantization = true},
     .no_double_quantization = true,
     .act = NPT_F32,
     .adapter = NPT_F32,
     .coarsest = NPT_F32,
     .loss_scale = 1},
};

static const struct {
    npt_modulation modulation;
    const char *name;
} modulations[] = {{NPT_MODULATION_BOTH, "both terms"},
                   {NPT_MODULATION_ADDITIVE, "additive"},
                   {NPT_MODULATION_MULTIPLICATIVE, "multiplicative"}};
enum { MODULATIONS = sizeof modulations / sizeof modulations[0] };

npt_trial_setup npt_selftest_setup(const npt_selftest_context *c, const npt_selftest_row *row,
                                   const char *backend, int threads)
{
    return (npt_trial_setup){.model = c->model[row->file],
                             .backend = backend,
                             .threads = threads,
                             .precision = c->precision,
                             .request = row->request,
                             .modulation = NPT_MODULATION_BOTH,
                             .no_double_quantization = row->no_double_quantization,
                             .loss_scale = row->loss_scale,
                             .fault = c->fault};
}

/* ---- The cases ---- */

static npt_status take_step(const npt_trial_setup *setup, npt_trial *trial,
                            npt_trial_values *values)
{
    NPT_TRY(npt_trial_open(trial, setup));
    npt_status status = npt_trial_step(trial);
    if (status == NPT_OK) status = npt_trial_values_take(trial, values);
    if (status != NPT_OK) npt_trial_close(trial);
    return status;
}

npt_status npt_selftest_prepare(npt_selftest_context *c)
{
    for (int i = 0; i < NPT_SELFTEST_ROWS; i++) {
        const npt_selftest_row *row = &npt_selftest_rows[i];
        npt_trial_setup setup = npt_selftest_setup(c, row, "reference", 1);
        npt_trial trial;
        setup.fault = (npt_fault){0};
        NPT_TRY(take_step(&setup, &trial, &c->reference[i]));
        npt_trial_close(&trial);
        if (row->request.use_quantization)
            setup.decoded = true;
        else
            setup.request = (npt_policy_request){0};
        setup.loss_scale = 1;
        NPT_TRY(take_step(&setup, &trial, &c->truth[i]));
        npt_trial_close(&trial);
    }
    return NPT_OK;
}

void npt_selftest_context_fini(npt_selftest_context *c)
{
    for (int i = 0; i < NPT_SELFTEST_ROWS; i++) {
        npt_trial_values_free(&c->reference[i]);
        npt_trial_values_free(&c->truth[i]);
    }
}

/* Says where the gate's product goes if this backend refuses it. */
static void tell_refusal(npt_tap *t, npt_trial *trial)
{
    const npt_weight *gate = &trial->model->blocks[0].gate;
    const npt_dtype *dtype = trial->policy.dtype;
    const npt_matmul_backend *first = npt_exec_backend(trial->exec, 0);
    const npt_matmul_desc desc = {.m = trial->batch.tokens,
                                  .n = gate->rows,
                                  .k = gate->cols,
                                  .trans_w = true,
                                  .a = dtype[NPT_ROLE_COMPUTE],
                                  .w = gate->dtype,
                                  .c = dtype[NPT_ROLE_ACT]};
    char text[128];
    const char *reason = first->refuse(&desc, npt_exec_cpu(trial->exec), text);
    if (reason != NULL)
        fprintf(t->out,
                "# %s refuses the next one's products with the model (%s); reference "
                "computes them\n",
                first->name, reason);
}

/* The row's step; what came out goes to `values`. */
static void row_case(npt_selftest_context *c, int index, const char *backend,
                     npt_trial_values *values)
{
    npt_tap *t = c->t;
    const npt_selftest_row *row = &npt_selftest_rows[index];
    const npt_trial_setup setup = npt_selftest_setup(c, row, backend, 1);
    npt_trial trial;
    if (npt_tap_expect_ok(t, "step", take_step(&setup, &trial, values)) == NPT_OK) {
        tell_refusal(t, &trial);
        npt_selftest_check_dtypes(t, row, &trial);
        if (trial.fault.found)
            npt_tap_breach(t, "the gradient of L%02d %s is not finite, no step is taken",
                           trial.fault.layer, trial.fault.parameter);
        npt_selftest_check_values(t, values, &c->truth[index],
                                  npt_selftest_tolerance(row->coarsest));
        npt_selftest_check_casts(t, &trial, npt_trial_planned);
        npt_trial_close(&trial);
    }
    npt_tap_end(t, "%s (backend %s)", row->name, backend);
}

/* The product with an operand cast is not what the formula is about: R4 is left out. */
static void modulation_case(npt_selftest_context *c, int index, const char *backend)
{
    for (int i = 0; i < NPT_SELFTEST_ROWS; i++) {
        const npt_selftest_row *row = &npt_selftest_rows[i];
        npt_trial_setup setup = npt_selftest_setup(c, row, backend, 1);
        npt_trial trial;
        setup.modulation = modulations[index].modulation;
        if (row->request.mixed_precision != NPT_DTYPE_NONE) continue;
        npt_status status = npt_tap_expect_ok(c->t, row->name, npt_trial_open(&trial, &setup));
        if (status != NPT_OK) continue;
        status = npt_tap_expect_ok(c->t, row->name, npt_trial_run(&trial, false, 1, 1));
        if (status == NPT_OK)
            npt_selftest_check_modulation(c->t, &trial, (double)trial.adapters.strength);
        npt_trial_close(&trial);
    }
    npt_tap_end(c->t, "modulation, %s, in every precision (backend %s)", modulations[index].name,
                backend);
}

static void digest_case(npt_selftest_context *c, const char *backend,
                        const npt_trial_values values[NPT_SELFTEST_ROWS])
{
    for (int i = 0; i < NPT_SELFTEST_ROWS; i++) {
        const npt_trial_values *expected = &c->reference[i];
        if (values[i].digest != expected->digest)
            npt_tap_breach(c->t, "%s: planned: expected %016" PRIx64 ", got %016" PRIx64,
                           npt_selftest_rows[i].name, expected->digest, values[i].digest);
        if (values[i].executed != expected->executed)
            npt_tap_breach(c->t, "%s: executed: expected %016" PRIx64 ", got %016" PRIx64,
                           npt_selftest_rows[i].name, expected->executed, values[i].executed);
    }
    npt_tap_end(c->t, "casts planned and executed as on the reference (backend %s)", backend);
}

/* A library's sums may depend on its threads; ours do not. */
static bool keeps_bits(const char *backend)
{
    return strcmp(backend, "reference") == 0 || strcmp(backend, "native") == 0;
}

static void compare_threads(npt_tap *t, const npt_selftest_row *row, bool bits,
                            const npt_trial_values *one, const npt_trial_values *more)
{
    const size_t count = one->outputs + 2 * one->parameters;
    if (one->block == NULL) return; /* the row's own case has failed */
    if (one->digest != more->digest || one->executed != more->executed)
        npt_tap_breach(t, "%s: the casts differ", row->name);
    if (bits && memcmp(one->block, more->block, count * sizeof(float)) != 0)
        npt_tap_breach(t, "%s: the bits differ", row->name);
    npt_selftest_check_values(t, more, one, npt_selftest_tolerance(row->coarsest));
}

static void threads_case(npt_selftest_context *c, const char *backend,
                         const npt_trial_values values[NPT_SELFTEST_ROWS])
{
    const bool bits = keeps_bits(backend);
    for (int i = 0; i < NPT_SELFTEST_ROWS; i++) {
        const npt_selftest_row *row = &npt_selftest_rows[i];
        const npt_trial_setup setup = npt_selftest_setup(c, row, backend, c->threads);
        npt_trial trial;
        npt_trial_values more = {0};
        if (npt_tap_expect_ok(c->t, row->name, take_step(&setup, &trial, &more)) != NPT_OK)
            continue;
        npt_trial_close(&trial);
        compare_threads(c->t, row, bits, &values[i], &more);
        npt_trial_values_free(&more);
    }
    npt_tap_end(c->t, "one thread and %d: the same casts and %s (backend %s)", c->threads,
                bits ? "bits" : "values within tolerance", backend);
}

/* A loss so large that its F16 gradient overflows at 65536 but not at a lower scale. */
static npt_status back_off(npt_tap *t, npt_trial *trial)
{
    static const double factor = 64;
    npt_scaler scaler;
    npt_scaler_init(&scaler, true, 65536);
    NPT_TRY(npt_trial_run(trial, true, factor, 0));
    if (!trial->fault.found || !isnan(trial->norm))
        npt_tap_breach(t, "expected an overflow at 65536, got a gradient of norm %g", trial->norm);
    while (trial->fault.found && npt_scaler_back_off(&scaler)) {
        trial->setup.loss_scale = scaler.scale;
        NPT_TRY(npt_trial_run(trial, true, factor, 0));
    }
    if (trial->fault.found)
        npt_tap_breach(t, "expected a finite gradient at a lower scale, got none down to 1");
    return NPT_OK;
}

static void scale_case(npt_selftest_context *c, const char *backend)
{
    npt_trial trial, plain;
    npt_trial_setup setup = npt_selftest_setup(c, &npt_selftest_rows[0], backend, 1);
    npt_status status = npt_tap_expect_ok(c->t, "fp16", npt_trial_open(&trial, &setup));
    setup.request = (npt_policy_request){0};
    setup.loss_scale = 1;
    setup.fault = (npt_fault){0};
    if (status == NPT_OK) {
        status = npt_tap_expect_ok(c->t, "fp16", back_off(c->t, &trial));
        const double norm = trial.norm;
        npt_trial_close(&trial);
        if (status == NPT_OK)
            status = npt_tap_expect_ok(c->t, "fp32", npt_trial_open(&plain, &setup));
        if (status == NPT_OK) {
            npt_tap_expect_ok(c->t, "fp32", npt_trial_run(&plain, true, 64, 0));
            if (!(fabs(norm - plain.norm) <= npt_selftest_tolerance(NPT_F16) * plain.norm))
                npt_tap_breach(c->t, "unscaled norm: expected %g, got %g", plain.norm, norm);
            npt_trial_close(&plain);
        }
    }
    npt_tap_end(c->t, "an overflow at loss scale 65536 is found and mended (backend %s)", backend);
}

static void compare_quantized(npt_tap *t, const npt_model *quantized, const npt_model *plain,
                              bool exact_scales)
{
    for (int64_t i = 0; i < plain->config.layers; i++) {
        const npt_block_weights *q = &quantized->blocks[i], *p = &plain->blocks[i];
        const struct {
            const char *name;
            const npt_weight *quantized, *plain;
        } pairs[] = {{"q", &q->q, &p->q},          {"k", &q->k, &p->k},
                     {"v", &q->v, &p->v},          {"o", &q->o, &p->o},
                     {"gate", &q->gate, &p->gate}, {"up", &q->up, &p->up},
                     {"down", &q->down, &p->down}};
        for (size_t k = 0; k < sizeof pairs / sizeof pairs[0]; k++)
            npt_selftest_check_quantized(t, pairs[k].name, pairs[k].quantized, pairs[k].plain,
                                         exact_scales);
    }
}

void npt_selftest_quantization(npt_selftest_context *c)
{
    const npt_trial_setup plain_setup =
        npt_selftest_setup(c, &npt_selftest_rows[1], "reference", 1);
    npt_trial plain, quantized;
    if (npt_tap_expect_ok(c->t, "F32", npt_trial_open(&plain, &plain_setup)) == NPT_OK) {
        for (int i = 0; i < NPT_SELFTEST_ROWS; i++) {
            const npt_selftest_row *row = &npt_selftest_rows[i];
            const npt_trial_setup setup = npt_selftest_setup(c, row, "reference", 1);
            if (!row->request.use_quantization ||
                npt_tap_expect_ok(c->t, row->name, npt_trial_open(&quantized, &setup)) != NPT_OK)
                continue;
            compare_quantized(c->t, quantized.model, plain.model, row->no_double_quantization);
            npt_trial_close(&quantized);
        }
        npt_trial_close(&plain);
    }
    npt_tap_end(c->t, "weights in 4 bits are the nearest levels to those of the file");
}

int npt_selftest_backend_cases(void)
{
    return NPT_SELFTEST_ROWS + MODULATIONS + 3;
}

void npt_selftest_backend(npt_selftest_context *c, const char *backend)
{
    npt_trial_values values[NPT_SELFTEST_ROWS] = {{0}};
    for (int i = 0; i < NPT_SELFTEST_ROWS; i++) row_case(c, i, backend, &values[i]);
    for (int i = 0; i < MODULATIONS; i++) modulation_case(c, i, backend);
    digest_case(c, backend, values);
    threads_case(c, backend, values);
    scale_case(c, backend);
    for (int i = 0; i < NPT_SELFTEST_ROWS; i++) npt_trial_values_free(&values[i]);
}
