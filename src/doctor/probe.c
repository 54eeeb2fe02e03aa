/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "doctor/probe.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "tensor/dtype.h"
#include "train/budget.h"
#include "train/options.h"

/* npt_doctor_probe(): the batch goes through an F32 shadow of the run first, then through the run
 * itself, then the optimizer makes the step it would make. Nothing is kept: the trainer that does
 * this is opened for it and thrown away. */

/* ---- The shadow ---- */

/* The same weights, adapters and batch with every value in F32. */
typedef struct shadow_run {
    npt_policy policy;
    npt_model *model; /* borrowed from the trainer where its weights are F32 already */
    bool own_model;
    npt_arena *arena;
    npt_adapters adapters;
    npt_distiller distiller;
    npt_shadow *seen;
} shadow_run;

static npt_status decide_shadow(const npt_trainer *t, shadow_run *s)
{
    const npt_policy_request f32 = {.base_is_quantized =
                                        t->setup.policy.dtype[NPT_ROLE_FROZEN] == NPT_NF4};
    return npt_policy_decide(&f32, &s->policy);
}

/* NF4 stays NF4: its values are exact in F32. Halves are read from the file again, unrounded. */
static npt_status open_shadow_model(const npt_trainer *t, shadow_run *s)
{
    const npt_dtype *dtype = t->setup.policy.dtype;
    s->model = t->setup.model;
    if (dtype[NPT_ROLE_COMPUTE] == NPT_F32 && dtype[NPT_ROLE_ACT] == NPT_F32) return NPT_OK;
    npt_model *model;
    NPT_TRY(npt_model_open(&model, t->setup.model->directory));
    s->model = model;
    s->own_model = true;
    npt_sites *sites = npt_sites_for(&s->policy, &model->config, NULL);
    if (sites == NULL) return NPT_E_NOMEM;
    npt_status status = npt_model_load(model, t->setup.exec, &s->policy, sites);
    npt_sites_destroy(sites);
    return status;
}

/* The masters of the run's adapters, unrounded. */
static void copy_masters(const npt_adapters *from, npt_adapters *to)
{
    for (int layer = 0; layer < from->layers; layer++)
        for (int i = 0; i < from->adapter[layer].count; i++) {
            const npt_parameter *p = &from->adapter[layer].parameters[i];
            memcpy(to->adapter[layer].parameters[i].master, p->master,
                   (size_t)(p->rows * p->cols) * sizeof(float));
        }
}

static npt_status open_shadow(const npt_trainer *t, shadow_run *s)
{
    const npt_train_options *o = &t->options;
    const npt_adapters_options adapters = {o->adapter_rank, o->modulation, o->modulation_scale,
                                           o->layers, o->seed};
    *s = (shadow_run){0};
    NPT_TRY(decide_shadow(t, s));
    NPT_TRY(open_shadow_model(t, s));
    s->arena = npt_arena_create("shadow");
    s->seen = npt_shadow_create((int)s->model->config.layers);
    if (s->arena == NULL || s->seen == NULL) return NPT_E_NOMEM;
    NPT_TRY(
        npt_adapters_init(&s->adapters, &adapters, &s->model->config, &s->policy, s->arena, true));
    copy_masters(&t->adapters, &s->adapters);
    NPT_TRY(npt_distiller_init(&s->distiller, t->setup.exec, s->model, &s->policy, &s->adapters,
                               &t->distiller.objective));
    s->distiller.observer = npt_shadow_observer(s->seen);
    return NPT_OK;
}

/* What it saw stays. */
static void close_shadow(shadow_run *s)
{
    if (s->distiller.exec != NULL) npt_distiller_fini(&s->distiller);
    npt_arena_destroy(s->arena);
    if (s->own_model) npt_model_close(s->model);
}

/* ---- The run ---- */

static npt_status run_batch(npt_trainer *t, npt_distiller *d, npt_distill_sums *sums)
{
    const npt_term_weights weights = {1, t->options.regularization_lambda};
    *sums = (npt_distill_sums){0};
    return npt_trainer_micro_batch(t, d, 0, weights, sums);
}

/* What narrowing the weights on load lost comes before every result. */
static npt_status add_weights(npt_probe *probe)
{
    const npt_model *m = probe->trainer->setup.model;
    if (m->narrowed == 0) return NPT_OK;
    probe->rows = npt_alloc(256, sizeof *probe->rows);
    if (probe->rows == NULL) return NPT_E_NOMEM;
    probe->capacity = 256;
    probe->rows[probe->count++] =
        (npt_probe_row){.site = NPT_SITE_WEIGHT,
                        .layer = -1,
                        .student = true,
                        .dtype = probe->trainer->setup.policy.dtype[NPT_ROLE_COMPUTE],
                        .elements = m->narrowed,
                        .survey = {.nonfinite = (int64_t)m->narrowing.overflowed,
                                   .zeros = (int64_t)m->narrowing.flushed},
                        .largest = NAN,
                        .rms = NAN,
                        .headroom = NAN,
                        .footroom = NAN,
                        .flushed = (double)m->narrowing.flushed / (double)m->narrowed,
                        .error = NAN,
                        .growth = NAN,
                        .shadow_largest = NAN};
    return NPT_OK;
}

static npt_status observe(npt_trainer *t, npt_shadow *shadow, npt_probe *probe)
{
    const npt_config *c = &t->setup.model->config;
    npt_row_observer rows;
    npt_distill_sums sums;
    NPT_TRY(add_weights(probe));
    NPT_TRY(npt_row_observer_init(&rows, probe, shadow));
    npt_gradients_clear(&t->adapters);
    t->distiller.observer = &rows.observer;
    npt_status status = run_batch(t, &t->distiller, &sums);
    t->distiller.observer = NULL;
    npt_row_observer_fini(&rows);
    if (status == NPT_OK && npt_sites_check(t->distiller.student_sites) != NPT_OK)
        snprintf(probe->breach, sizeof probe->breach, "%s", npt_error_message());
    const double per_token = 1 / ((double)c->layers * (double)probe->tokens);
    probe->loss = sums.distance * per_token / (double)c->hidden +
                  t->options.regularization_lambda * sums.regularizer * per_token;
    probe->digest = npt_sites_digest(t->distiller.student_sites);
    return status;
}

/* ---- The loss scale ---- */

static void judge_scales(npt_probe *probe, const npt_shadow *shadow)
{
    double largest = 0;
    bool any = false;
    probe->settles_at = NAN;
    if (!probe->trainer->state.scaler.enabled) return;
    for (size_t i = 0; i < probe->count; i++) {
        const npt_probe_row *row = &probe->rows[i];
        if (row->direction != NPT_BACKWARD || row->dtype != NPT_F16) continue;
        any = true;
        largest = fmax(largest, row->shadow_largest);
    }
    if (!any) return;
    for (int i = 0; i < NPT_PROBE_SCALES; i++) {
        const double factor = ldexp(1, -2 * i);
        probe->scales[probe->scale_count++] =
            (npt_probe_scale){probe->loss_scale * factor, npt_shadow_flushed(shadow, probe, factor),
                              log2(65504 / (largest * factor))};
    }
    if (largest > 0 && isfinite(largest))
        probe->settles_at = exp2(floor(log2(probe->loss_scale * 65504 / largest)));
}

/* ---- The update ---- */

/* The values updates are added to, of all adapters, one after the other: the masters, or, where
 * that is damaged on purpose, the rounded weights. */
static float *save_values(const npt_trainer *t)
{
    const npt_adapters *adapters = &t->adapters;
    float *saved = npt_alloc((size_t)npt_adapters_size(adapters), sizeof *saved), *at = saved;
    for (int layer = 0; saved != NULL && layer < adapters->layers; layer++)
        for (int k = 0; k < adapters->adapter[layer].count; k++) {
            const npt_parameter *p = &adapters->adapter[layer].parameters[k];
            for (int64_t i = 0; i < p->rows * p->cols; i++)
                *at++ = t->optimizer.no_master ? npt_load(p->value, adapters->dtype, (size_t)i)
                                               : p->master[i];
        }
    return saved;
}

typedef struct update_counts {
    int64_t moved, lost_without, lost_with;
} update_counts;

/* Weight i, that was `before`; its master is what the step made of it, unrounded. Without a master
 * the update is added to the rounded weight and the sum is rounded. */
static void count_update(const npt_trainer *t, const npt_parameter *p, int64_t i, float before,
                         update_counts *counts)
{
    const npt_dtype dtype = t->adapters.dtype;
    const float update = p->master[i] - before;
    uint32_t bits;
    if (update == 0 && p->moment1[i] == 0) return;
    npt_store(&bits, dtype, 0, before);
    const float stored = npt_load(&bits, dtype, 0);
    npt_store(&bits, dtype, 0, stored + update);
    const bool lost = npt_load(&bits, dtype, 0) == stored;
    counts->moved++;
    counts->lost_without += lost;
    counts->lost_with += t->optimizer.no_master ? lost : update == 0;
}

static void count_updates(npt_probe *probe, const npt_trainer *t, const float *before)
{
    update_counts counts[NPT_ADAPTER_MAX_PARAMETERS] = {{0}};
    const npt_adapters *adapters = &t->adapters;
    for (int layer = 0; layer < adapters->layers; layer++)
        for (int k = 0; k < adapters->adapter[layer].count; k++) {
            const npt_parameter *p = &adapters->adapter[layer].parameters[k];
            for (int64_t i = 0; i < p->rows * p->cols; i++)
                count_update(t, p, i, *before++, &counts[k]);
            probe->updates[k].parameter = p->name;
            if (k >= probe->update_count) probe->update_count = k + 1;
        }
    for (int k = 0; k < probe->update_count; k++) {
        const double all = counts[k].moved > 0 ? (double)counts[k].moved : 1;
        probe->updates[k].moved = counts[k].moved;
        probe->updates[k].lost_without_master = (double)counts[k].lost_without / all;
        probe->updates[k].lost_with_master = (double)counts[k].lost_with / all;
    }
}

/* The step at the full learning rate; not where the gradients are not finite. */
static npt_status observe_update(npt_trainer *t, npt_probe *probe)
{
    npt_gradient_fault fault;
    const double norm = npt_gradients_norm(&t->adapters, t->setup.exec, probe->loss_scale, &fault);
    probe->update_rate = t->options.learning_rate;
    if (fault.found) return NPT_OK;
    float *before = save_values(t);
    if (before == NULL) return NPT_E_NOMEM;
    npt_optimizer_step(&t->adapters, t->setup.exec, t->distiller.student_sites, &t->optimizer,
                       t->state.step + 1, t->options.learning_rate, probe->loss_scale, norm);
    count_updates(probe, t, before);
    npt_free(before);
    return NPT_OK;
}

/* ---- All of it ---- */

/* Bytes of activations of a batch in these dtypes. */
static double activations_of(const npt_trainer *t, const npt_policy *policy, int64_t tokens)
{
    return (double)npt_budget_activations(policy, &t->setup.model->config, &t->adapters,
                                          t->options.distill, tokens);
}

/* A probe that would run out of memory says so before it begins: the shadow keeps activations and
 * adapters in F32, then the run keeps its own. */
static npt_status check_memory(const npt_trainer *t, int64_t tokens)
{
    const double gib = 1024.0 * 1024 * 1024, available = (double)npt_memory_available();
    npt_policy f32;
    const npt_policy_request request = {.base_is_quantized = t->setup.model->config.quantized};
    NPT_TRY(npt_policy_decide(&request, &f32));
    const double needed =
        fmax(activations_of(t, &t->setup.policy, tokens), activations_of(t, &f32, tokens)) +
        5.0 * sizeof(float) * (double)npt_adapters_size(&t->adapters);
    if (available == 0 || needed < available) return NPT_OK;
    return npt_fail(NPT_E_NOMEM,
                    "the probe of %" PRId64 " tokens needs about %.1f GiB beside the weights, and "
                    "%.1f GiB are there; take fewer rows (--batch_size) or tokens (--max_length)",
                    tokens, needed / gib, available / gib);
}

static npt_status probe_run(npt_trainer *t, npt_probe *probe)
{
    shadow_run shadow;
    npt_distill_sums sums;
    npt_batch batch;
    NPT_TRY(npt_loader_fill(&t->loader, true));
    NPT_TRY(npt_loader_batch(&t->loader, 0, &batch));
    *probe = (npt_probe){.trainer = t,
                         .tokens = batch.tokens,
                         .sequences = batch.sequences,
                         .loss_scale = t->state.scaler.scale,
                         .settles_at = NAN};
    NPT_TRY(check_memory(t, batch.tokens));
    npt_status status = open_shadow(t, &shadow);
    if (status == NPT_OK) status = run_batch(t, &shadow.distiller, &sums);
    close_shadow(&shadow); /* before the run needs as much */
    if (status == NPT_OK) status = observe(t, shadow.seen, probe);
    if (status == NPT_OK) judge_scales(probe, shadow.seen);
    npt_shadow_destroy(shadow.seen);
    if (status == NPT_OK) status = observe_update(t, probe);
    if (status == NPT_OK) npt_probe_judge(probe);
    return status;
}

static npt_status report_probe(const npt_probe *probe, const npt_doctor_options *doctor, FILE *out)
{
    const int layers = (int)probe->trainer->setup.model->config.layers;
    const char *named = doctor->layers != NULL ? doctor->layers : probe->trainer->options.layers;
    bool *shown = npt_alloc((size_t)layers, sizeof *shown);
    npt_status status = shown != NULL ? npt_layers_parse(named, layers, shown) : NPT_E_NOMEM;
    if (status == NPT_OK && doctor->json) status = npt_probe_print_json(probe, out);
    if (status == NPT_OK && !doctor->json) npt_probe_print(probe, doctor, shown, out);
    npt_free(shown);
    return status;
}

npt_status npt_doctor_probe(const npt_train_options *options, const npt_doctor_options *doctor,
                            FILE *out, npt_verdict *verdict)
{
    npt_train_report report = {0};
    npt_trainer t = {.options = *options, .report = &report};
    npt_probe probe = {0};
    t.options.dry_run = true; /* no output directory is needed */
    t.options.eval_dataset = NULL;
    t.options.memory_limit = 0;
    if (options->memory_limit > 0)
        npt_log(NPT_LOG_WARNING, "--memory_limit is not kept: the probe holds all weights and runs "
                                 "every block twice, the second time in F32");
    NPT_TRY(npt_train_options_check(&t.options));
    npt_status status = npt_trainer_open(&t);
    if (status == NPT_OK) status = npt_trainer_open_data(&t);
    if (status == NPT_OK) status = npt_trainer_load(&t, false);
    if (status == NPT_OK) status = probe_run(&t, &probe);
    if (status == NPT_OK) {
        *verdict = probe.verdict;
        status = report_probe(&probe, doctor, out);
    }
    npt_free(probe.rows);
    npt_trainer_close(&t);
    return status;
}
