/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "doctor/selftest.h"

#include <inttypes.h>
#include <math.h>

#include "tensor/nf4.h"

/* What is looked at after a step or a forward run: counts of casts, dtypes, values beside the same
 * in F32, and the modulation beside its formula in F64. */

/* ---- Casts and dtypes ---- */

typedef int64_t planned_function(const npt_trial *trial, bool student, npt_site_id id, int layer,
                                 npt_direction direction);

static void check_cell(npt_tap *t, const npt_trial *trial, planned_function *planned, bool student,
                       npt_site_id id, int layer, npt_direction direction)
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
        npt_tap_breach(t, "weights: %" PRId64 " conversions announced, %" PRId64 " made", converted,
                       trial->model->narrowed);
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
        npt_tap_breach(c->t, "L%02d %s[%zu]: master %.9g, expected %.9g, got %.9g", layer, p->name,
                       i, (double)p->master[i], (double)expected, (double)got);
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
        npt_tap_breach(t, "%s: expected a relative error up to %.3g, got %.3g", what, tolerance,
                       error);
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
            npt_tap_breach(t, "L%02d.%s[%" PRId64 ",%" PRId64 "]: expected %.9g, got %.9g", layer,
                           what, row, col, sum, at(y, row, col));
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
static void check_gate(npt_tap *t, int layer, const npt_block_state *state, npt_mat add, npt_mat u,
                       npt_mat modulated, double strength)
{
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
            npt_tap_breach(t, "L%02d.gate_mod[%" PRId64 ",%" PRId64 "]: expected %.9g, got %.9g",
                           layer, row, col, value, got);
            return;
        }
}

/* Keeps the terms, which nothing else does. */
typedef struct term_keeper {
    npt_observer observer;
    npt_mat add, u;
} term_keeper;

static npt_status keep_term(npt_observer *observer, const npt_env *env, const npt_observation *seen)
{
    term_keeper *keeper = (term_keeper *)observer;
    (void)env;
    if (seen->site == NPT_SITE_ADD) keeper->add = seen->result;
    if (seen->site == NPT_SITE_U) keeper->u = seen->result;
    return NPT_OK;
}

void npt_selftest_check_modulation(npt_tap *t, npt_trial *trial, double strength)
{
    const npt_distiller *d = &trial->distiller;
    const npt_adapters *adapters = &trial->adapters;
    term_keeper keeper = {.observer.see = keep_term};
    const npt_env env = {.exec = d->exec,
                         .model = d->model,
                         .policy = d->policy,
                         .sites = d->student_sites,
                         .arena = d->step,
                         .batch = &trial->batch,
                         .cos = d->cos,
                         .sin = d->sin,
                         .observer = &keeper.observer,
                         .fault = &d->fault};
    for (int layer = 0; layer < adapters->layers; layer++) {
        const npt_block_state *state = &d->states[layer];
        const npt_parameter *p = adapters->adapter[layer].parameters;
        npt_adapter_state s = state->adapter;
        npt_mat modulated;
        npt_status status = npt_mat_allocate(&env, state->gate.dtype, state->gate.rows,
                                             state->gate.cols, &modulated);
        if (status == NPT_OK)
            status = adapters->kind->gate(&env, adapters, layer, NPT_FORWARD, &s, state->gate,
                                          (npt_mat){0}, modulated);
        if (npt_tap_expect_ok(t, "modulate", status) != NPT_OK) return;
        check_product(t, "z", layer, s.a, &p[0], s.z);
        if (keeper.add.data != NULL) check_product(t, "add", layer, s.z, &p[1], keeper.add);
        if (keeper.u.data != NULL)
            check_product(t, "u", layer, s.z, &p[adapters->adapter[layer].count - 1], keeper.u);
        check_gate(t, layer, state, keeper.add, keeper.u, modulated, strength);
    }
}

/* ---- Quantized weights ---- */

/* Within half the widest step between levels (1 and 0.696…, precision.md §5) of the scale used,
 * and a scale within 2% of the block's largest magnitude where that is kept in 8 bits. */
void npt_selftest_check_quantized(npt_tap *t, const char *name, const npt_weight *quantized,
                                  const npt_weight *plain, bool exact_scales)
{
    static const double half_step = (1 - 0.6961928009986877) / 2;
    const uint8_t *packed = quantized->data;
    const int64_t count = plain->rows * plain->cols;
    if (quantized->dtype != NPT_NF4) check_dtype(t, name, NPT_NF4, quantized->dtype);
    for (int64_t first = 0; quantized->dtype == NPT_NF4 && first < count; first += NPT_NF4_BLOCK) {
        const double scale = (double)quantized->absmax[first / NPT_NF4_BLOCK];
        double largest = 0, worst = 0;
        for (int64_t i = first; i < first + NPT_NF4_BLOCK && i < count; i++) {
            const int nibble = i % 2 == 0 ? packed[i / 2] >> 4 : packed[i / 2] & 15;
            const double value = (double)npt_load(plain->data, plain->dtype, (size_t)i);
            largest = fmax(largest, fabs(value));
            worst = fmax(worst, fabs(value - (double)quantized->levels[nibble] * scale));
        }
        const double off = fabs(scale - largest);
        if (off <= (exact_scales ? 0 : 0.02 * largest) &&
            worst <= half_step * largest + off + 0x1p-22 * largest)
            continue;
        npt_tap_breach(t, "%s, block %" PRId64 ": scale: expected %.9g, got %.9g; worst gap %.3g",
                       name, first / NPT_NF4_BLOCK, largest, scale, worst);
        return;
    }
}
