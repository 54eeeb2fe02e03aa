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
                             .request = row->request,
                             .modulation = NPT_MODULATION_BOTH,
                             .no_double_quantization = row->no_double_quantization,
                             .loss_scale = row->loss_scale};
}

/* ---- Casts and dtypes ---- */

typedef int64_t planned_function(const npt_trial *trial, bool student, npt_site_id id, int layer,
                                 npt_direction direction);

static void check_cell(npt_tap *t, const npt_trial *trial, planned_function *planned,
                       bool student, npt_site_id id, int layer, npt_direction direction)
{
    const npt_distiller *d = &trial->distiller;
    const npt_sites *sites = student ? d->student_sites : d->teacher_sites;
    const int64_t done = (int64_t)npt_sites_executed(sites, id, layer, direction),
                  wanted = planned(trial, student, id, layer, direction);
    char label[64];
    if (done == wanted) return;
    npt_tap_breach(t, "%s of the %s: expected %" PRId64 " casts, got %" PRId64,
                        npt_site_label(id, layer, direction, label, sizeof label),
                        student ? "student" : "teacher", wanted, done);
}

void npt_selftest_check_casts(npt_tap *t, const npt_trial *trial, planned_function *planned)
{
    const npt_distiller *d = &trial->distiller;
    npt_tap_expect_ok(t, "teacher", npt_sites_check(d->teacher_sites));
    npt_tap_expect_ok(t, "student", npt_sites_check(d->student_sites));
    for (int who = 0; who < 2; who++)
        for (int layer = -1; layer < (int)trial->model->config.layers; layer++)
            for (int id = 0; id < NPT_SITE_COUNT; id++)
                for (int direction = 0; direction < NPT_DIRECTION_COUNT; direction++)
                    check_cell(t, trial, planned, who == 1, (npt_site_id)id, layer,
                               (npt_direction)direction);
    const int64_t converted =
        (int64_t)npt_sites_executed(trial->load_sites, NPT_SITE_WEIGHT, -1, NPT_FORWARD);
    if (converted != trial->model->narrowed)
        npt_tap_breach(t, "weights: %" PRId64 " conversions announced, %" PRId64 " made",
                            converted, trial->model->narrowed);
}

static void check_dtype(npt_tap *t, const char *what, npt_dtype expected, npt_dtype got)
{
    if (got != expected)
        npt_tap_breach(t, "%s: expected %s, got %s", what, npt_dtype_name(expected),
                            npt_dtype_name(got));
}

typedef struct value_context {
    npt_tap *t;
    npt_dtype dtype;
} value_context;

/* A half has a master of its own, of which it is the rounding; an F32 value is its own master. */
static npt_status check_parameter(void *context, int layer, npt_parameter *p)
{
    const value_context *c = context;
    const bool own = p->value != (const void *)p->master;
    if (own != (c->dtype != NPT_F32))
        npt_tap_breach(c->t, "L%02d %s: expected %s, got the opposite", layer, p->name,
                            own ? "one value" : "a master beside the value");
    for (size_t i = 0; own && i < (size_t)(p->rows * p->cols); i++) {
        uint32_t rounded = 0;
        npt_store(&rounded, c->dtype, 0, p->master[i]);
        const float expected = npt_load(&rounded, c->dtype, 0),
                    got = npt_load(p->value, c->dtype, i);
        if (got == expected) continue;
        npt_tap_breach(c->t, "L%02d %s[%zu]: master %.9g, expected %.9g, got %.9g", layer,
                            p->name, i, (double)p->master[i], (double)expected, (double)got);
        break;
    }
    return NPT_OK;
}

void npt_selftest_check_dtypes(npt_tap *t, const npt_selftest_row *row, npt_trial *trial)
{
    const npt_dtype *dtype = trial->policy.dtype;
    const int last = (int)trial->model->config.layers - 1;
    const bool half = row->adapter != NPT_F32;
    check_dtype(t, "act", row->act, dtype[NPT_ROLE_ACT]);
    check_dtype(t, "h", row->act, trial->distiller.student_h[last].dtype);
    check_dtype(t, "adapter", row->adapter, trial->adapters.dtype);
    check_dtype(t, "master", half ? NPT_F32 : NPT_DTYPE_NONE, dtype[NPT_ROLE_MASTER]);
    check_dtype(t, "gradient", NPT_F32, dtype[NPT_ROLE_GRAD]);
    for (int layer = 0; layer <= last; layer++) {
        const npt_site_plan plan = npt_sites_planned(trial->distiller.student_sites,
                                                     NPT_SITE_ADAPTER_IN, layer, NPT_FORWARD);
        check_dtype(t, "adapter_in takes", row->act, plan.from);
        check_dtype(t, "adapter_in gives", row->adapter, plan.to);
    }
    value_context context = {t, row->adapter};
    (void)npt_adapters_visit(&trial->adapters, check_parameter, &context);
}

/* ---- Values ---- */

/* Half the distance of neighbours, relative to the larger: 2^-p for p bits of significand. */
static double unit_of(npt_dtype dtype)
{
    return dtype == NPT_F16 ? 0x1p-11 : dtype == NPT_BF16 ? 0x1p-8 : 0x1p-24;
}

/* The longest product of the small model is over k = MAX_K terms. A product in F32 has a relative
 * error of about 2^-24·(8 + √k) (as tests/kern has it); a rounding one of at most `unit`. Errors
 * are independent, so they add as squares: over the DEPTH roundings, and as many products at most,
 * that a value passes forward and backward through the blocks. */
double npt_selftest_tolerance(npt_dtype coarsest)
{
    enum { MAX_K = 160, DEPTH = 64 };
    return sqrt(DEPTH) * (unit_of(coarsest) + 0x1p-24 * (8 + sqrt(MAX_K)));
}

static void check_close(npt_tap *t, const char *what, size_t count, const float *got,
                        const float *expected, double tolerance)
{
    double difference = 0, truth = 0;
    size_t bad = 0;
    for (size_t i = 0; i < count; i++) {
        const double gap = (double)got[i] - (double)expected[i];
        bad += !isfinite(got[i]);
        difference += gap * gap;
        truth += (double)expected[i] * (double)expected[i];
    }
    const double error = truth > 0 ? sqrt(difference / truth) : difference > 0 ? INFINITY : 0;
    if (bad > 0)
        npt_tap_breach(t, "%s: %zu of %zu values are not finite", what, bad, count);
    else if (!(error <= tolerance))
        npt_tap_breach(t, "%s: expected a relative error up to %.3g, got %.3g", what,
                            tolerance, error);
}

void npt_selftest_check_values(npt_tap *t, const npt_trial_values *got,
                               const npt_trial_values *expected, double tolerance)
{
    if (got->outputs != expected->outputs || got->parameters != expected->parameters) {
        npt_tap_breach(t, "values: expected %zu and %zu, got %zu and %zu", expected->outputs,
                            expected->parameters, got->outputs, got->parameters);
        return;
    }
    check_close(t, "h of the last block", got->outputs, got->output, expected->output, tolerance);
    size_t at = 0;
    for (int i = 0; i < got->tensors; at += got->size[i++])
        check_close(t, got->name[i], got->size[i], got->gradient + at, expected->gradient + at,
                    tolerance);
    for (size_t i = 0; i < got->parameters; i++)
        if (!isfinite(got->adapter[i])) {
            npt_tap_breach(t, "adapter value %zu is not finite after the step", i);
            break;
        }
}

/* ---- Modulation ---- */

/* [low, high] must hold the F32 or half that is nearest to a value known within ±slack. */
static bool is_rounding(double value, double slack, npt_dtype dtype, float got)
{
    uint32_t low = 0, high = 0;
    npt_store(&low, dtype, 0, (float)(value - slack));
    npt_store(&high, dtype, 0, (float)(value + slack));
    return npt_load(&low, dtype, 0) <= got && got <= npt_load(&high, dtype, 0);
}

static double at(npt_mat mat, int64_t row, int64_t col)
{
    return (double)npt_load(mat.data, mat.dtype, (size_t)(row * mat.cols + col));
}

/* y = x·Wᵀ, each element one rounding of a sum in F32. */
static void check_product(npt_tap *t, const char *what, int layer, npt_mat x,
                          const npt_parameter *p, npt_mat y)
{
    const npt_mat w = {p->value, y.dtype, p->rows, p->cols};
    for (int64_t row = 0; row < y.rows; row++)
        for (int64_t col = 0; col < y.cols; col++) {
            double sum = 0, size = 0;
            for (int64_t k = 0; k < x.cols; k++) {
                sum += at(x, row, k) * at(w, col, k);
                size += fabs(at(x, row, k) * at(w, col, k));
            }
            if (is_rounding(sum, 0x1p-24 * (double)(x.cols + 8) * size, y.dtype,
                            (float)at(y, row, col)))
                continue;
            npt_tap_breach(t, "L%02d.%s[%" PRId64 ",%" PRId64 "]: expected %.9g, got %.9g",
                                layer, what, row, col, sum, at(y, row, col));
            return;
        }
}

/* 0.5·σ(u) + 0.5 rounded to the adapter's dtype, u known exactly, σ within 2^-21. */
static void multiplier(double u, npt_dtype dtype, double bounds[2])
{
    const double exact = 0.5 / (1 + exp(-u)) + 0.5;
    for (int i = 0; i < 2; i++) {
        uint32_t rounded = 0;
        npt_store(&rounded, dtype, 0, (float)(exact * (i == 0 ? 1 - 0x1p-21 : 1 + 0x1p-21)));
        bounds[i] = (double)npt_load(&rounded, dtype, 0);
    }
}

/* g' = g·mult + s·add, in F32 but for one rounding. */
static void check_gate(npt_tap *t, int layer, const npt_block_state *state, npt_mat modulated,
                       double strength)
{
    const npt_mat add = state->adapter.add, u = state->adapter.u;
    for (int64_t row = 0; row < modulated.rows; row++)
        for (int64_t col = 0; col < modulated.cols; col++) {
            double bounds[2] = {1, 1};
            const double g = at(state->gate, row, col), got = at(modulated, row, col);
            const double added = add.data != NULL ? strength * at(add, row, col) : 0;
            if (u.data != NULL) multiplier(at(u, row, col), u.dtype, bounds);
            const double value = g * (bounds[0] + bounds[1]) / 2 + added;
            const double slack = fabs(g * (bounds[1] - bounds[0])) / 2 +
                                 0x1p-22 * (fabs(g * bounds[1]) + fabs(added));
            if (is_rounding(value, slack, modulated.dtype, (float)got)) continue;
            npt_tap_breach(t,
                                "L%02d.gate_mod[%" PRId64 ",%" PRId64 "]: expected %.9g, got %.9g",
                                layer, row, col, value, got);
            return;
        }
}

void npt_selftest_check_modulation(npt_tap *t, npt_trial *trial, double strength)
{
    const npt_distiller *d = &trial->distiller;
    const npt_adapters *adapters = &trial->adapters;
    const npt_env env = {.exec = d->exec,
                         .model = d->model,
                         .policy = d->policy,
                         .sites = d->student_sites,
                         .arena = d->step,
                         .batch = &trial->batch,
                         .cos = d->cos,
                         .sin = d->sin};
    for (int layer = 0; layer < adapters->layers; layer++) {
        const npt_block_state *state = &d->states[layer];
        const npt_adapter_state *s = &state->adapter;
        const npt_parameter *p = adapters->adapter[layer].parameters;
        npt_mat modulated;
        if (npt_tap_expect_ok(t, "modulate",
                                   adapters->kind->modulate(&env, adapters, layer, NPT_RECOMPUTE, s,
                                                            state->gate, &modulated)) != NPT_OK)
            return;
        check_product(t, "z", layer, s->a, &p[0], s->z);
        if (s->add.data != NULL) check_product(t, "add", layer, s->z, &p[1], s->add);
        if (s->u.data != NULL)
            check_product(t, "u", layer, s->z, &p[adapters->adapter[layer].count - 1], s->u);
        check_gate(t, layer, state, modulated, strength);
    }
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
        fprintf(t->out, "# %s refuses the next one's products with the model (%s); reference "
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
        npt_selftest_check_casts(t, &trial, npt_trial_planned);
        npt_selftest_check_values(t, values, &c->truth[index],
                                  npt_selftest_tolerance(row->coarsest));
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
    npt_tap_end(c->t, "modulation, %s, in every precision (backend %s)",
                     modulations[index].name, backend);
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
        npt_tap_breach(t, "expected an overflow at 65536, got a gradient of norm %g",
                            trial->norm);
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
    npt_tap_end(c->t, "an overflow at loss scale 65536 is found and mended (backend %s)",
                     backend);
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
