/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "golden/golden_case.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "files/files.h"

/* Everything here goes through npt's own doors (npt_model_open, npt_adapters_load,
 * npt_distiller_run, npt_optimizer_step); only reading case.json and the arithmetic of means is the
 * test's own. */

#define REQUIRE(call)                                                                              \
    do {                                                                                           \
        if ((call) != NPT_OK) fail_msg("%s: %s", #call, npt_error_message());                      \
    } while (0)

/* ---- The case ---- */

double golden_real(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_number(value)) fail_msg("case.json: no number \"%s\"", key);
    return json_number_value(value);
}

const char *golden_word(const json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));
    if (value == NULL) fail_msg("case.json: no string \"%s\"", key);
    return value;
}

void golden_open(golden_case *c, const char *name)
{
    *c = (golden_case){.name = name};
    char *cases = npt_test_path("tests/golden/cases");
    c->directory = npt_path_join(cases, name);
    free(cases);
    char *path = npt_path_join(c->directory, "case.json");
    REQUIRE(npt_json_load(path, 0, &c->json));
    npt_free(path);
    const json_t *layers = json_object_get(c->json, "layers");
    for (size_t i = 0, used = 0; i < json_array_size(layers); i++)
        used +=
            (size_t)snprintf(c->layers + used, sizeof c->layers - used, "%s%d", i > 0 ? "," : "",
                             (int)json_integer_value(json_array_get(layers, i)));
}

static char *path_of_draws(const char *name, const char *extension)
{
    char file[96];
    snprintf(file, sizeof file, "tests/golden/draws/%s%s", name, extension);
    return npt_test_path(file);
}

bool golden_open_draw(golden_case *c, const char *name, size_t draw)
{
    json_t *json;
    char *path = path_of_draws(name, ".json");
    REQUIRE(npt_json_load(path, 0, &json));
    free(path);
    json_t *own = json_array_get(json_object_get(json, "draws"), draw);
    if (own != NULL) {
        golden_open(c, name);
        assert_int_equal(json_object_update(c->json, own), 0);
        path = path_of_draws(name, ".safetensors");
        REQUIRE(npt_st_open(&c->draws, path, false));
        free(path);
        c->draw = draw;
    }
    json_decref(json);
    return own != NULL;
}

void golden_close(golden_case *c)
{
    npt_st_close(c->draws);
    json_decref(c->json);
    npt_free(c->directory);
}

npt_st *golden_tensors(const golden_case *c, const char *file)
{
    npt_st *st = NULL;
    char *path = npt_path_join(c->directory, file);
    if (npt_path_exists(path)) REQUIRE(npt_st_open(&st, path, false));
    npt_free(path);
    return st;
}

/* ---- A run ---- */

bool golden_has_backend(const char *backend)
{
    npt_exec *exec;
    if (npt_exec_create(&exec, backend, 1) != NPT_OK) return false;
    npt_exec_destroy(exec);
    return true;
}

static npt_objective objective_of(const json_t *json)
{
    bool layerwise = strcmp(golden_word(json, "distill"), "layerwise") == 0;
    bool plain = strcmp(golden_word(json, "loss"), "plain") == 0;
    return (npt_objective){.loss = plain ? NPT_LOSS_PLAIN : NPT_LOSS_NORMALIZED,
                           .lambda = golden_real(json, "regularization_lambda"),
                           .distill = layerwise ? NPT_DISTILL_LAYERWISE : NPT_DISTILL_END_TO_END};
}

static npt_modulation modulation_of(const json_t *json)
{
    const char *word = golden_word(json, "modulation");
    if (strcmp(word, "additive") == 0) return NPT_MODULATION_ADDITIVE;
    if (strcmp(word, "multiplicative") == 0) return NPT_MODULATION_MULTIPLICATIVE;
    return NPT_MODULATION_BOTH;
}

static void open_model(golden_run *run, const golden_setup *setup)
{
    char *path = setup->model == NULL ? npt_test_path(golden_word(run->c->json, "model")) : NULL;
    REQUIRE(npt_model_open(&run->model, path != NULL ? path : setup->model));
    free(path);
    run->model->double_quantization = !setup->no_double_quantization;
    npt_policy_request request = setup->request;
    request.base_is_quantized = run->model->config.quantized;
    REQUIRE(npt_policy_decide(&request, &run->policy));
    run->load_sites = npt_sites_for(&run->policy, &run->model->config, NULL);
    assert_non_null(run->load_sites);
    REQUIRE(npt_model_load(run->model, run->exec, &run->policy, run->load_sites));
    REQUIRE(npt_sites_check(run->load_sites));
}

/* One parameter's values of this draw, in a tensor that has them of every draw. */
static const npt_st_tensor *tensor_of_draw(const golden_case *c, const char *kind, int layer,
                                           const npt_parameter *p)
{
    char name[128], full[192];
    const npt_st_tensor *tensor;
    npt_parameter_name(layer, p, name, sizeof name);
    snprintf(full, sizeof full, "%s.%s", kind, name);
    tensor = npt_st_find(c->draws, full);
    if (tensor == NULL) fail_msg("%s: the draws have no %s", c->name, full);
    assert_true(tensor->rank == 3 && tensor->shape[0] > (int64_t)c->draw);
    assert_true(tensor->shape[1] == p->rows && tensor->shape[2] == p->cols);
    return tensor;
}

static npt_status load_draw(void *context, int layer, npt_parameter *p)
{
    const golden_case *c = context;
    const npt_st_tensor *init = tensor_of_draw(c, "init", layer, p);
    const size_t n = (size_t)(p->rows * p->cols);
    for (size_t i = 0; i < n; i++)
        p->master[i] = npt_load(init->data, init->dtype, c->draw * n + i);
    return NPT_OK;
}

static void load_adapters(golden_run *run)
{
    if (run->c->draws != NULL) {
        REQUIRE(npt_adapters_visit(&run->adapters, load_draw, (void *)run->c));
        return;
    }
    npt_st *init = golden_tensors(run->c, "init.safetensors");
    REQUIRE(npt_adapters_load(&run->adapters, init));
    npt_st_close(init);
}

static void open_adapters(golden_run *run)
{
    const json_t *json = run->c->json;
    const npt_adapters_options options = {.rank = (int)golden_real(json, "rank"),
                                          .modulation = modulation_of(json),
                                          .strength = golden_real(json, "modulation_scale"),
                                          .layers = run->c->layers,
                                          .seed = 1};
    run->arena = npt_arena_create("run");
    assert_non_null(run->arena);
    REQUIRE(npt_adapters_init(&run->adapters, &options, &run->model->config, &run->policy,
                              run->arena, true));
    load_adapters(run);
}

void golden_run_open(golden_run *run, const golden_case *c, const golden_setup *setup)
{
    const json_t *json = c->json;
    bool adam = strcmp(golden_word(json, "optimizer"), "adam") == 0;
    *run = (golden_run){.c = c, .loss_scale = setup->loss_scale > 0 ? setup->loss_scale : 1};
    run->optimizer =
        (npt_optimizer_settings){.kind = adam ? NPT_OPTIMIZER_ADAM : NPT_OPTIMIZER_ADAMW,
                                 .weight_decay = golden_real(json, "weight_decay"),
                                 .max_grad_norm = golden_real(json, "max_grad_norm")};
    REQUIRE(npt_exec_create(&run->exec, setup->backend, setup->threads));
    npt_exec_set_precision(run->exec, setup->precision);
    open_model(run, setup);
    open_adapters(run);
    npt_objective objective = objective_of(json);
    run->lambda = objective.lambda;
    REQUIRE(npt_distiller_init(&run->distiller, run->exec, run->model, &run->policy, &run->adapters,
                               &objective));
}

void golden_run_close(golden_run *run)
{
    npt_distiller_fini(&run->distiller);
    npt_arena_destroy(run->arena);
    npt_sites_destroy(run->load_sites);
    npt_model_close(run->model);
    npt_exec_destroy(run->exec);
}

/* ---- Steps ---- */

void golden_batch(golden_run *run, const json_t *rows)
{
    const json_t *all = json_object_get(run->c->json, "rows");
    npt_batch *batch = &run->batch;
    *batch = (npt_batch){.sequences = (int64_t)json_array_size(rows),
                         .offsets = run->offsets,
                         .ids = run->ids,
                         .positions = run->positions};
    run->offsets[0] = 0;
    for (size_t s = 0; s < json_array_size(rows); s++) {
        const json_t *row =
            json_array_get(all, (size_t)json_integer_value(json_array_get(rows, s)));
        const int64_t count = (int64_t)json_array_size(row);
        assert_true(batch->tokens + count <= (int64_t)NPT_COUNT(run->ids));
        for (int64_t t = 0; t < count; t++) {
            run->ids[batch->tokens] = (int32_t)json_integer_value(json_array_get(row, (size_t)t));
            run->positions[batch->tokens++] = (int32_t)t;
        }
        run->offsets[s + 1] = batch->tokens;
        if (count > batch->longest) batch->longest = count;
    }
}

void golden_batch_run(golden_run *run, int64_t tokens, bool backward, golden_losses *losses)
{
    const npt_config *config = &run->model->config;
    const double layers = (double)config->layers, here = (double)run->batch.tokens;
    double d[GOLDEN_MAX_LAYERS] = {0}, reg[GOLDEN_MAX_LAYERS] = {0};
    npt_distill_sums sums = {.layer_distance = d, .layer_regularizer = reg};
    const npt_distill_request request = {
        .batch = &run->batch,
        .backward = backward,
        .distance_factor = run->loss_scale / (layers * (double)tokens * (double)config->hidden),
        .regularizer_factor = run->lambda * run->loss_scale / (layers * (double)tokens)};
    REQUIRE(npt_distiller_run(&run->distiller, &request, &sums));
    *losses = (golden_losses){.tokens = run->batch.tokens,
                              .mse = sums.distance / (layers * here * (double)config->hidden),
                              .regularization = sums.regularizer / (layers * here)};
    losses->loss = losses->mse + run->lambda * losses->regularization;
    for (int64_t i = 0; i < config->layers; i++) {
        losses->d[i] = d[i] / (here * (double)config->hidden);
        losses->reg[i] = reg[i] / here;
    }
}

static void add_losses(golden_losses *sum, const golden_losses *part, int64_t tokens)
{
    const double share = (double)part->tokens / (double)tokens;
    sum->tokens += part->tokens;
    sum->mse += share * part->mse;
    sum->regularization += share * part->regularization;
    sum->loss += share * part->loss;
    for (int i = 0; i < GOLDEN_MAX_LAYERS; i++) {
        sum->d[i] += share * part->d[i];
        sum->reg[i] += share * part->reg[i];
    }
}

void golden_accumulate(golden_run *run, size_t step, golden_losses *losses, golden_losses *parts)
{
    const json_t *expect = json_array_get(json_object_get(run->c->json, "steps"), step);
    const json_t *batches = json_object_get(expect, "micro_batches");
    const int64_t tokens = (int64_t)golden_real(expect, "tokens");
    *losses = (golden_losses){0};
    npt_gradients_clear(&run->adapters);
    for (size_t i = 0; i < json_array_size(batches); i++) {
        golden_losses part;
        golden_batch(run, json_array_get(batches, i));
        golden_batch_run(run, tokens, true, &part);
        add_losses(losses, &part, tokens);
        if (parts != NULL) parts[i] = part;
    }
    assert_int_equal(losses->tokens, tokens);
}

double golden_step(golden_run *run, size_t step, golden_losses *losses)
{
    const json_t *expect = json_array_get(json_object_get(run->c->json, "steps"), step);
    npt_gradient_fault fault;
    golden_accumulate(run, step, losses, NULL);
    double norm = npt_gradients_norm(&run->adapters, run->exec, run->loss_scale, &fault);
    if (fault.found)
        fail_msg("%s: step %zu: gradient of L%d %s is not finite", run->c->name, step, fault.layer,
                 fault.parameter);
    npt_optimizer_step(&run->adapters, run->exec, run->distiller.student_sites, &run->optimizer,
                       (int64_t)step + 1, golden_real(expect, "learning_rate"), run->loss_scale,
                       norm);
    REQUIRE(npt_sites_check(run->distiller.student_sites));
    return norm;
}

/* ---- Distances ---- */

void golden_gap_add(golden_gap *gap, double value, double truth)
{
    gap->difference += (value - truth) * (value - truth);
    gap->truth += truth * truth;
}

double golden_gap_relative(const golden_gap *gap)
{
    if (gap->difference == 0) return 0;
    return gap->truth > 0 ? sqrt(gap->difference / gap->truth) : (double)INFINITY;
}

typedef struct compare_context {
    golden_run *run;
    golden_kind kind;
    const npt_st *expect, *init; /* of a case */
    const char *weights;         /* of a draw */
    golden_gaps *gaps;
} compare_context;

static const npt_st_tensor *tensor_of(const npt_st *st, const char *prefix, const char *name)
{
    char full[160];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    const npt_st_tensor *tensor = npt_st_find(st, full);
    if (tensor == NULL) fail_msg("the golden values have no %s", full);
    return tensor;
}

/* The truth of one parameter and, for an update, what it was before; and where in them it starts.
 */
static size_t find_truth(const compare_context *compare, int layer, npt_parameter *p,
                         const npt_st_tensor **truth, const npt_st_tensor **before)
{
    const golden_case *c = compare->run->c;
    const char *kind = compare->kind == GOLDEN_GRADIENT ? "grad" : "after";
    char name[128], prefix[32];
    if (c->draws != NULL) {
        snprintf(prefix, sizeof prefix, "%s%s", kind, compare->weights);
        *truth = tensor_of_draw(c, prefix, layer, p);
        *before = tensor_of_draw(c, "init", layer, p);
        return c->draw * (size_t)(p->rows * p->cols);
    }
    npt_parameter_name(layer, p, name, sizeof name);
    snprintf(prefix, sizeof prefix, "%s.", kind);
    *truth = tensor_of(compare->expect, prefix, name);
    *before = tensor_of(compare->init, "", name);
    return 0;
}

static npt_status compare_parameter(void *context, int layer, npt_parameter *p)
{
    compare_context *compare = context;
    golden_gaps *gaps = compare->gaps;
    const bool gradient = compare->kind == GOLDEN_GRADIENT;
    const npt_st_tensor *truth, *before;
    const size_t at = find_truth(compare, layer, p, &truth, &before);
    assert_true(gaps->count < GOLDEN_MAX_TENSORS);
    golden_gap *gap = &gaps->tensors[gaps->count];
    npt_parameter_name(layer, p, gaps->names[gaps->count++], sizeof gaps->names[0]);
    for (size_t i = 0; i < (size_t)(p->rows * p->cols); i++) {
        const double start = gradient ? 0 : (double)npt_load(before->data, before->dtype, at + i);
        const double value =
            gradient ? (double)p->grad[i] / compare->run->loss_scale : (double)p->master[i];
        const double expected = (double)npt_load(truth->data, truth->dtype, at + i);
        golden_gap_add(gap, value - start, expected - start);
    }
    gaps->whole.difference += gap->difference;
    gaps->whole.truth += gap->truth;
    return NPT_OK;
}

void golden_compare(golden_run *run, golden_kind kind, const npt_st *expect, golden_gaps *gaps)
{
    compare_context context = {.run = run,
                               .kind = kind,
                               .expect = expect,
                               .init = golden_tensors(run->c, "init.safetensors"),
                               .gaps = gaps};
    *gaps = (golden_gaps){0};
    REQUIRE(npt_adapters_visit(&run->adapters, compare_parameter, &context));
    npt_st_close((npt_st *)context.init);
}

void golden_compare_draw(golden_run *run, golden_kind kind, const char *weights, golden_gaps *gaps)
{
    compare_context context = {.run = run, .kind = kind, .weights = weights, .gaps = gaps};
    *gaps = (golden_gaps){0};
    REQUIRE(npt_adapters_visit(&run->adapters, compare_parameter, &context));
}

typedef struct flat_context {
    golden_kind kind;
    float *to;
    size_t count;
} flat_context;

static npt_status flatten(void *context, int layer, npt_parameter *p)
{
    flat_context *flat = context;
    const size_t n = (size_t)(p->rows * p->cols);
    (void)layer;
    memcpy(flat->to + flat->count, flat->kind == GOLDEN_GRADIENT ? p->grad : p->master,
           n * sizeof(float));
    flat->count += n;
    return NPT_OK;
}

float *golden_flat(golden_run *run, golden_kind kind, size_t *count)
{
    flat_context flat = {kind, npt_alloc((size_t)npt_adapters_size(&run->adapters), sizeof(float)),
                         0};
    assert_non_null(flat.to);
    REQUIRE(npt_adapters_visit(&run->adapters, flatten, &flat));
    *count = flat.count;
    return flat.to;
}

void golden_assert_within(double value, double limit, const char *format, ...)
{
    if (value <= limit) return; /* false for NaN, too */
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fail_msg("%s: %g is more than %g", text, value, limit);
}
