/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "doctor/probe.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "tensor/dtype.h"

/* The shadow runs first and leaves a sample of every result; the run that is probed is compared
 * with it as it goes. Whole results would be as large as all activations of a run that keeps
 * everything; a sample of 16384 elements tells an error to about one percent. What must not be
 * missed (infinite values, extremes) is taken from every element. */

enum { SAMPLE = 16384, PARTS = 8 };

/* ---- Where a result belongs ---- */

/* Number of (student, layer, site, direction); `layer` from -1. */
static size_t slot_of(int layers, bool student, int layer, npt_site_id site,
                      npt_direction direction)
{
    size_t at = (size_t)student * (size_t)(layers + 1) + (size_t)(layer + 1);
    return (at * NPT_SITE_COUNT + site) * NPT_DIRECTION_COUNT + direction;
}

static size_t slots(int layers)
{
    return slot_of(layers, true, layers, (npt_site_id)0, (npt_direction)0);
}

static size_t slot_of_row(int layers, const npt_probe_row *row)
{
    return slot_of(layers, row->student, row->layer, row->site, row->direction);
}

/* ---- Samples ---- */

static int64_t sample_size(int64_t elements)
{
    return elements < SAMPLE ? elements : SAMPLE;
}

/* Elements are taken evenly, with a shift that changes from one to the next, so that a sample is
 * not one column of a matrix. */
static int64_t sample_position(int64_t elements, int64_t i)
{
    if (elements <= SAMPLE) return i;
    const int64_t step = elements / SAMPLE;
    return i * step + (int64_t)((uint64_t)i * 2654435761u % (uint64_t)step);
}

static void take_sample(npt_mat mat, float *sample)
{
    const int64_t elements = mat.rows * mat.cols;
    for (int64_t i = 0; i < sample_size(elements); i++)
        sample[i] = npt_load(mat.data, mat.dtype, (size_t)sample_position(elements, i));
}

typedef struct shadow_sample {
    float *values;
    int64_t elements;
    float largest;
} shadow_sample;

struct npt_shadow {
    npt_observer observer;
    int layers;
    shadow_sample (*samples)[PARTS]; /* [slots] */
};

/* Keeps a sample of `mat` where `part` of it belongs. */
static npt_status keep_sample(const npt_env *env, npt_mat mat, shadow_sample *s)
{
    npt_survey survey;
    const int64_t elements = mat.rows * mat.cols;
    s->values = npt_alloc((size_t)sample_size(elements), sizeof(float));
    if (s->values == NULL) return NPT_E_NOMEM;
    npt_exec_kernels(env->exec)->survey(npt_exec_run(env->exec), elements, npt_mat_in(mat), 0,
                                        &survey);
    s->elements = elements;
    s->largest = survey.nonfinite > 0 ? INFINITY : fmaxf(survey.max, -survey.min);
    take_sample(mat, s->values);
    return NPT_OK;
}

static npt_status see_shadow(npt_observer *observer, const npt_env *env,
                             const npt_observation *seen)
{
    npt_shadow *shadow = (npt_shadow *)observer;
    shadow_sample *s = shadow->samples[slot_of(shadow->layers, seen->student, seen->layer,
                                               seen->site, seen->direction)];
    int part = 0;
    while (part < PARTS && s[part].values != NULL) part++;
    return part < PARTS ? keep_sample(env, seen->result, &s[part]) : NPT_OK;
}

npt_shadow *npt_shadow_create(int layers)
{
    npt_shadow *shadow = npt_alloc(1, sizeof *shadow);
    if (shadow == NULL) return NULL;
    *shadow = (npt_shadow){.observer = {see_shadow}, .layers = layers};
    shadow->samples = npt_alloc(slots(layers), sizeof *shadow->samples);
    if (shadow->samples != NULL) return shadow;
    npt_free(shadow);
    return NULL;
}

void npt_shadow_destroy(npt_shadow *shadow)
{
    if (shadow == NULL) return;
    for (size_t i = 0; i < slots(shadow->layers); i++)
        for (int part = 0; part < PARTS; part++) npt_free(shadow->samples[i][part].values);
    npt_free(shadow->samples);
    npt_free(shadow);
}

npt_observer *npt_shadow_observer(npt_shadow *shadow)
{
    return &shadow->observer;
}

/* NULL where the shadow has no such result. */
static const shadow_sample *sample_of(const npt_shadow *shadow, const npt_probe_row *row)
{
    if (row->part >= PARTS) return NULL;
    const shadow_sample *s = &shadow->samples[slot_of_row(shadow->layers, row)][row->part];
    return s->values != NULL && s->elements == row->elements ? s : NULL;
}

static bool is_zero_half(float value)
{
    return (npt_f16_from_f32(value) & 0x7fffu) == 0;
}

double npt_shadow_flushed(const npt_shadow *shadow, const npt_probe *probe, double factor)
{
    double lost = 0, all = 0;
    for (size_t r = 0; r < probe->count; r++) {
        const npt_probe_row *row = &probe->rows[r];
        const shadow_sample *s = sample_of(shadow, row);
        if (s == NULL || row->direction != NPT_BACKWARD || row->dtype != NPT_F16) continue;
        /* each site counts by its elements, whatever the size of its sample */
        const int64_t n = sample_size(s->elements);
        const double weight = (double)s->elements / (double)n;
        for (int64_t i = 0; i < n; i++) {
            if (s->values[i] == 0) continue;
            all += weight;
            lost += is_zero_half((float)(factor * (double)s->values[i])) ? weight : 0;
        }
    }
    return all > 0 ? lost / all : 0;
}

/* ---- Rows ---- */

/* Share of the values of `before` that are not zero and are zero now. */
static double flushed_share(const float *before, const float *now, int64_t n)
{
    int64_t lost = 0, all = 0;
    for (int64_t i = 0; i < n; i++) {
        all += before[i] != 0;
        lost += before[i] != 0 && now[i] == 0;
    }
    return all > 0 ? (double)lost / (double)all : 0;
}

static double relative_error(const float *wanted, const float *now, int64_t n)
{
    double difference = 0, whole = 0;
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)now[i] - (double)wanted[i];
        difference += d * d;
        whole += (double)wanted[i] * (double)wanted[i];
    }
    if (difference == 0) return 0;
    const double error = sqrt(difference / whole);
    return isnan(error) ? (double)INFINITY : error;
}

/* What the row says of the run against the shadow. Matmul operands that are cast (R4) have no
 * counterpart there: what was cast takes its place. */
static npt_status compare(const npt_row_observer *o, const npt_env *env,
                          const npt_observation *seen, npt_probe_row *row)
{
    const shadow_sample *shadow = sample_of(o->shadow, row);
    if (shadow == NULL && seen->source.data != NULL && row->part < PARTS) {
        shadow_sample *s = &o->shadow->samples[slot_of_row(o->layers, row)][row->part];
        if (s->values == NULL) NPT_TRY(keep_sample(env, seen->source, s));
        shadow = sample_of(o->shadow, row);
    }
    if (shadow == NULL) return NPT_OK;
    const int64_t n = sample_size(row->elements);
    float *now = npt_alloc((size_t)n, sizeof *now);
    if (now == NULL) return NPT_E_NOMEM;
    take_sample(seen->result, now);
    row->flushed = flushed_share(shadow->values, now, n);
    row->error = relative_error(shadow->values, now, n);
    row->shadow_largest = (double)shadow->largest;
    npt_free(now);
    return NPT_OK;
}

static void take_few(npt_mat mat, float few[8])
{
    const int64_t elements = mat.rows * mat.cols;
    for (int64_t i = 0; i < 8; i++)
        few[i] = npt_load(mat.data, mat.dtype, (size_t)((2 * i + 1) * elements / 16));
}

static npt_status see_row(npt_observer *observer, const npt_env *env, const npt_observation *seen)
{
    npt_row_observer *o = (npt_row_observer *)observer;
    npt_probe *probe = o->probe;
    npt_probe_row row = {.site = seen->site,
                         .layer = seen->layer,
                         .direction = seen->direction,
                         .student = seen->student,
                         .dtype = seen->result.dtype,
                         .elements = seen->result.rows * seen->result.cols,
                         .flushed = NAN,
                         .error = NAN,
                         .growth = NAN,
                         .shadow_largest = NAN};
    if (probe->count == probe->capacity) {
        size_t capacity = probe->capacity > 0 ? 2 * probe->capacity : 256;
        npt_probe_row *rows = npt_realloc(probe->rows, capacity, sizeof *rows);
        if (rows == NULL) return NPT_E_NOMEM;
        probe->rows = rows;
        probe->capacity = capacity;
    }
    row.part = o->parts[slot_of_row(o->layers, &row)]++;
    npt_exec_kernels(env->exec)->survey(npt_exec_run(env->exec), row.elements,
                                        npt_mat_in(seen->result),
                                        (float)npt_dtype_smallest_normal(row.dtype), &row.survey);
    row.largest = fmax((double)row.survey.max, -(double)row.survey.min);
    row.rms = sqrt(row.survey.sum_squares / (double)(row.elements - row.survey.nonfinite));
    row.headroom = log2(npt_dtype_largest(row.dtype) / row.largest); /* +inf: all zero */
    row.footroom = log2(row.rms / npt_dtype_smallest_normal(row.dtype));
    take_few(seen->result, row.sample);
    NPT_TRY(compare(o, env, seen, &row));
    probe->rows[probe->count++] = row;
    return NPT_OK;
}

npt_status npt_row_observer_init(npt_row_observer *o, npt_probe *probe, npt_shadow *shadow)
{
    *o = (npt_row_observer){.observer = {see_row}, .probe = probe, .shadow = shadow};
    o->layers = (int)probe->trainer->setup.model->config.layers;
    o->parts = npt_alloc(slots(o->layers), sizeof *o->parts);
    return o->parts != NULL ? NPT_OK : NPT_E_NOMEM;
}

void npt_row_observer_fini(npt_row_observer *o)
{
    npt_free(o->parts);
    *o = (npt_row_observer){0};
}
