/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/log.h"
#include "files/files.h"
#include "files/json.h"
#include "train/distill.h"
#include "train/loader.h"
#include "train/setup.h"

/* npt_evaluate(): teacher and student side by side on held-back text. The student runs on its own
 * states (end-to-end) whatever it was trained with. Logits exist for a few rows at a time only. */

enum { LOGIT_BYTES = 32 << 20 }; /* teacher and student together, about */

typedef struct evaluator {
    npt_evaluate_options options;
    npt_setup setup;
    npt_arena *arena;
    npt_adapters adapters;
    npt_distiller distiller;
    npt_loader loader;
    npt_evaluate_report *report;
    npt_distill_sums sums;
    int64_t rows_at_once; /* of logits */
    float *teacher, *student;
    int32_t *targets;
    double *nll_teacher, *nll_student, *kl;
    uint8_t *agree;
    double sum_teacher, sum_student, sum_kl;
    int64_t sum_agree, states; /* states: tokens that went through the blocks */
} evaluator;

/* ---- What the adapter directory says of itself ---- */

static npt_status read_modulation(const json_t *root, const char *path, npt_modulation *modulation)
{
    static const char *const names[] = {"both", "additive", "multiplicative"};
    const char *name;
    NPT_TRY(npt_json_string(root, "modulation", path, "both", &name));
    for (int i = 0; i < 3; i++)
        if (strcmp(name, names[i]) == 0) {
            *modulation = (npt_modulation)i;
            return NPT_OK;
        }
    return npt_fail(NPT_E_UNSUPPORTED, "%s: modulation \"%s\" is not known to this version", path,
                    name);
}

static npt_status read_adapter_config(evaluator *e, const json_t *root, const char *path,
                                      npt_adapters_options *adapters, bool *active)
{
    const char *type;
    int64_t rank;
    NPT_TRY(npt_json_string(root, "peft_type", path, "", &type));
    if (strcmp(type, "NPT") != 0)
        return npt_fail(NPT_E_FORMAT, "%s: peft_type is \"%s\"; this is not an NPT adapter", path,
                        type);
    NPT_TRY(npt_json_int(root, "r", path, 16, 1, 65536, &rank));
    NPT_TRY(npt_json_real(root, "modulation_scale", path, 0.1, 0, 1e6, &adapters->strength));
    NPT_TRY(read_modulation(root, path, &adapters->modulation));
    adapters->rank = (int)rank;
    const json_t *layers = json_object_get(root, "layers");
    for (size_t i = 0; i < json_array_size(layers); i++) {
        json_int_t layer = json_integer_value(json_array_get(layers, i));
        if (layer < 0 || layer >= e->setup.model->config.layers)
            return npt_fail(NPT_E_FORMAT,
                            "%s: it is for layer %" JSON_INTEGER_FORMAT ", the model has %" PRId64
                            " layers",
                            path, layer, e->setup.model->config.layers);
        active[layer] = true;
    }
    return NPT_OK;
}

/* "0,2,3" of the layers that are on. */
static char *layer_list(const bool *active, int64_t layers)
{
    char *text = npt_alloc((size_t)layers * 12 + 1, 1), *at = text;
    for (int64_t i = 0; text != NULL && i < layers; i++)
        if (active[i]) at += sprintf(at, at == text ? "%" PRId64 : ",%" PRId64, i);
    return text;
}

static npt_status make_adapters(evaluator *e)
{
    const npt_evaluate_options *o = &e->options;
    char *adapter = NULL;
    if (o->adapter != NULL) NPT_TRY(npt_setup_find_adapter(o->adapter, &adapter));
    npt_adapters_options adapters = {o->adapter_rank, o->modulation, o->modulation_scale, o->layers,
                                     o->seed};
    const npt_config *config = &e->setup.model->config;
    char *path = NULL, *selection = NULL;
    json_t *root = NULL;
    bool *active = npt_alloc((size_t)config->layers, sizeof *active);
    npt_status status = active != NULL ? NPT_OK : NPT_E_NOMEM;
    if (status == NPT_OK && adapter != NULL && npt_path_is_directory(adapter)) {
        path = npt_path_join(adapter, "adapter_config.json");
        status = path != NULL ? npt_json_load(path, 0, &root) : NPT_E_NOMEM;
        if (status == NPT_OK) status = read_adapter_config(e, root, path, &adapters, active);
        if (status == NPT_OK && (selection = layer_list(active, config->layers)) == NULL)
            status = NPT_E_NOMEM;
        if (selection != NULL && selection[0] != '\0') adapters.layers = selection;
    }
    if (status == NPT_OK)
        status =
            npt_adapters_init(&e->adapters, &adapters, config, &e->setup.policy, e->arena, false);
    if (status == NPT_OK && adapter != NULL)
        status = npt_setup_load_adapters(&e->adapters, adapter);
    json_decref(root);
    npt_free(active);
    npt_free(selection);
    npt_free(path);
    npt_free(adapter);
    return status;
}

/* ---- Logits ---- */

static npt_status make_room(evaluator *e)
{
    const int64_t vocab = e->setup.model->config.vocab;
    int64_t rows = LOGIT_BYTES / (2 * vocab * (int64_t)sizeof(float));
    e->rows_at_once = rows < 1 ? 1 : rows > 512 ? 512 : rows;
    size_t n = (size_t)e->rows_at_once, all = n * (size_t)vocab;
    e->teacher = npt_arena_alloc(e->arena, NPT_MEM_SCRATCH, all, sizeof(float));
    e->student = npt_arena_alloc(e->arena, NPT_MEM_SCRATCH, all, sizeof(float));
    e->targets = npt_arena_alloc(e->arena, NPT_MEM_SCRATCH, n, sizeof(int32_t));
    e->nll_teacher = npt_arena_alloc(e->arena, NPT_MEM_SCRATCH, n, sizeof(double));
    e->nll_student = npt_arena_alloc(e->arena, NPT_MEM_SCRATCH, n, sizeof(double));
    e->kl = npt_arena_alloc(e->arena, NPT_MEM_SCRATCH, n, sizeof(double));
    e->agree = npt_arena_alloc(e->arena, NPT_MEM_SCRATCH, n, 1);
    bool ok = e->teacher && e->student && e->targets && e->nll_teacher && e->nll_student && e->kl &&
              e->agree;
    return ok ? NPT_OK : NPT_E_NOMEM;
}

/* The id after each token of its own sequence; -1 after the last. */
static void set_targets(evaluator *e, const npt_batch *batch, int64_t first, int64_t rows)
{
    for (int64_t i = 0; i < rows; i++) {
        int64_t t = first + i;
        bool last = t + 1 == batch->tokens || batch->positions[t + 1] == 0;
        e->targets[i] = last ? -1 : batch->ids[t + 1];
    }
}

static npt_status compare_logits(evaluator *e, const npt_batch *batch)
{
    const npt_distiller *d = &e->distiller;
    const npt_kernels *kernels = npt_exec_kernels(d->exec);
    npt_env env = {.exec = d->exec,
                   .model = d->model,
                   .policy = d->policy,
                   .sites = d->teacher_sites,
                   .arena = d->step,
                   .batch = batch};
    for (int64_t first = 0; first < batch->tokens; first += e->rows_at_once) {
        int64_t rows =
            batch->tokens - first < e->rows_at_once ? batch->tokens - first : e->rows_at_once;
        env.sites = d->teacher_sites;
        NPT_TRY(npt_logits(&env, e->sums.teacher_h, first, rows, e->teacher));
        env.sites = d->student_sites;
        NPT_TRY(npt_logits(&env, e->sums.student_h, first, rows, e->student));
        set_targets(e, batch, first, rows);
        const npt_compare_args args = {.rows = rows,
                                       .width = d->model->lm_head.rows,
                                       .teacher = e->teacher,
                                       .student = e->student,
                                       .targets = e->targets,
                                       .nll_teacher = e->nll_teacher,
                                       .nll_student = e->nll_student,
                                       .kl = e->kl,
                                       .agree = e->agree};
        kernels->compare(npt_exec_run(d->exec), &args);
        for (int64_t i = 0; i < rows; i++) {
            if (e->targets[i] < 0) continue;
            e->sum_teacher += e->nll_teacher[i];
            e->sum_student += e->nll_student[i];
            e->sum_kl += e->kl[i];
            e->sum_agree += e->agree[i];
            e->report->tokens++;
        }
    }
    return NPT_OK;
}

/* ---- The run ---- */

static npt_status open_evaluation(evaluator *e)
{
    const npt_evaluate_options *o = &e->options;
    const npt_objective objective = {.loss = o->loss, .distill = NPT_DISTILL_END_TO_END};
    npt_dataset *dataset;
    NPT_TRY(npt_setup_open(&e->setup, o->model_name, &o->precision, &o->compute));
    e->arena = npt_arena_create("run");
    if (e->arena == NULL) return NPT_E_NOMEM;
    NPT_TRY(make_adapters(e));
    NPT_TRY(npt_distiller_init(&e->distiller, e->setup.exec, e->setup.model, &e->setup.policy,
                               &e->adapters, &objective));
    NPT_TRY(npt_distiller_guard(&e->distiller, o->precision.strict));
    NPT_TRY(npt_setup_dataset(&e->setup, &o->data, "eval.jsonl", &dataset));
    NPT_TRY(npt_loader_init(&e->loader, dataset, o->batch_size, 1));
    NPT_TRY(npt_model_load(e->setup.model, e->setup.exec, &e->setup.policy,
                           e->distiller.student_sites));
    NPT_TRY(npt_model_load_head(e->setup.model, e->setup.exec, &e->setup.policy,
                                e->distiller.student_sites));
    npt_setup_log_weights(&e->setup);
    return make_room(e);
}

static npt_status run(evaluator *e)
{
    while (true) {
        npt_batch batch;
        NPT_TRY(npt_loader_fill(&e->loader, false));
        if (e->loader.rows == 0) return NPT_OK;
        NPT_TRY(npt_loader_batch(&e->loader, 0, &batch));
        const npt_distill_request request = {.batch = &batch};
        NPT_TRY(npt_distiller_run(&e->distiller, &request, &e->sums));
        NPT_TRY(compare_logits(e, &batch));
        e->states += batch.tokens;
        e->report->rows += e->loader.rows;
    }
}

static npt_status conclude(evaluator *e)
{
    npt_evaluate_report *r = e->report;
    const npt_config *c = &e->setup.model->config;
    if (r->tokens == 0)
        return npt_fail(NPT_E_DATA,
                        "no row has two tokens, so there is nothing to predict; use longer rows");
    const double n = (double)r->tokens;
    r->teacher_perplexity = exp(e->sum_teacher / n);
    r->student_perplexity = exp(e->sum_student / n);
    r->kl = e->sum_kl / n;
    r->top1_agreement = (double)e->sum_agree / n;
    for (int layer = 0; layer < r->layers; layer++)
        r->layer_loss[layer] /= (double)e->states * (double)c->hidden;
    snprintf(r->model, sizeof r->model, "%s", e->setup.model->directory);
    npt_policy_describe(&e->setup.policy, r->policy, sizeof r->policy);
    return NPT_OK;
}

static void close_evaluation(evaluator *e)
{
    npt_loader_fini(&e->loader);
    npt_distiller_fini(&e->distiller);
    npt_arena_destroy(e->arena);
    npt_setup_close(&e->setup);
}

npt_status npt_evaluate(const npt_evaluate_options *options, npt_evaluate_report *report)
{
    evaluator e = {.options = *options, .report = report};
    *report = (npt_evaluate_report){0};
    if (options->batch_size < 1) return npt_fail(NPT_E_USAGE, "--batch_size must be at least 1");
    npt_status status = open_evaluation(&e);
    if (status == NPT_OK) {
        report->layers = (int)e.setup.model->config.layers;
        report->layer_loss = npt_alloc((size_t)report->layers, sizeof *report->layer_loss);
        e.sums.layer_distance = report->layer_loss;
        status = report->layer_loss != NULL ? run(&e) : NPT_E_NOMEM;
    }
    if (status == NPT_OK) status = conclude(&e);
    if (status != NPT_OK) npt_evaluate_report_fini(report);
    close_evaluation(&e);
    return status;
}

void npt_evaluate_report_fini(npt_evaluate_report *report)
{
    npt_free(report->layer_loss);
    *report = (npt_evaluate_report){0};
}
