/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include <inttypes.h>

#include "doctor_plan.h"
#include "tensor/dtype.h"
#include "train/trainer.h"

/* The plan says what a run does: its policy is the table of the specification; its digest, casts
 * and memory are those of a trainer that was really set up, with its weights loaded. */

/* ---- What is asked for ---- */

typedef struct choice {
    npt_precision_options precision;
    /* the rows of the specification: frozen, act, compute, adapter, master, base rule */
    const char *frozen, *act, *compute, *adapter, *master;
    int rule, adapter_rule;
    const char *loss_scale;
} choice;

static const choice choices[] = {
    {{.use_quantization = true}, "NF4", "F32", "F32", "F32", NULL, 1, 1, "off"},
    {{.use_quantization = true, .mixed_precision = NPT_F16},
     "NF4",
     "F32",
     "F32",
     "F32",
     NULL,
     1,
     1,
     "off"},
    {{.use_quantization = true, .no_double_quantization = true},
     "NF4",
     "F32",
     "F32",
     "F32",
     NULL,
     1,
     1,
     "off"},
    {{.use_fp16 = true}, "F16", "F16", "F16", "F16", "F32", 2, 2, "dynamic"},
    {{.use_fp16 = true, .mixed_precision = NPT_F16},
     "F16",
     "F16",
     "F16",
     "F16",
     "F32",
     2,
     2,
     "dynamic"},
    {{.use_bf16 = true}, "BF16", "BF16", "BF16", "BF16", "F32", 3, 3, "off"},
    {{.mixed_precision = NPT_F16}, "F32", "F32", "F16", "F32", NULL, 4, 4, "dynamic"},
    {{.mixed_precision = NPT_BF16}, "F32", "F32", "BF16", "F32", NULL, 4, 4, "off"},
    {{0}, "F32", "F32", "F32", "F32", NULL, 5, 5, "off"},
    {{.use_fp16 = true, .adapter_dtype = NPT_F32},
     "F16",
     "F16",
     "F16",
     "F32",
     NULL,
     2,
     6,
     "dynamic"},
    {{.adapter_dtype = NPT_BF16}, "F32", "F32", "F32", "BF16", "F32", 5, 6, "off"},
    {{.use_bf16 = true, .adapter_dtype = NPT_F16},
     "BF16",
     "BF16",
     "BF16",
     "F16",
     "F32",
     3,
     6,
     "off"},
};

static const char *const models[] = {
    "tests/golden/models/llama",
    "tests/golden/models/llama-rope-linear-bias",
    "tests/golden/models/mistral",
    "tests/golden/models/qwen2",
    "tests/golden/models/qwen3",
    "tests/golden/models/nf4",
    "data/tiny-llama",
    "tests/golden/models/nf4-double",
};

static bool is_quantized(const char *model)
{
    return strstr(model, "nf4") != NULL;
}

/* What a quantized model takes. */
static bool fits(const char *model, const choice *c)
{
    return !is_quantized(model) || (!c->precision.use_fp16 && !c->precision.use_bf16 &&
                                    (c->precision.adapter_dtype == NPT_DTYPE_NONE ||
                                     c->precision.adapter_dtype == NPT_F32));
}

static npt_train_options options_of(const char *model, const choice *c)
{
    npt_train_options o = plan_options(model);
    o.precision = c->precision;
    return o;
}

/* ---- The policy ---- */

static void check_role(const planned *p, const char *role, const char *dtype, int rule)
{
    const json_t *row = plan_find(p, "policy.roles", "role", role, NULL, NULL);
    assert_non_null(row);
    const json_t *found = json_object_get(row, "dtype");
    if (dtype == NULL)
        assert_true(json_is_null(found));
    else
        assert_string_equal(json_string_value(found), dtype);
    if (rule > 0) assert_int_equal(json_integer_value(json_object_get(row, "rule")), rule);
}

static void policy_is_the_table(void **state)
{
    (void)state;
    char *model = npt_test_path("tests/golden/models/llama");
    for (size_t i = 0; i < NPT_COUNT(choices); i++) {
        const choice *c = &choices[i];
        const npt_train_options o = options_of(model, c);
        planned p = plan_of(&o, false);
        assert_int_equal(plan_number(&p, "policy.rule"), c->rule);
        assert_string_equal(plan_text(plan_at(&p, "policy"), "loss_scale"), c->loss_scale);
        check_role(&p, "frozen", c->frozen, c->rule);
        check_role(&p, "act", c->act, c->rule);
        check_role(&p, "compute", c->compute, c->rule);
        check_role(&p, "adapter", c->adapter, c->adapter_rule);
        check_role(&p, "master", c->master, 0);
        check_role(&p, "accum", "F32", 0);
        check_role(&p, "grad", "F32", 0);
        check_role(&p, "opt", "F32", 0);
        check_role(&p, "loss", "F32", 0);
        const bool off = c->rule == 1 && c->precision.mixed_precision != NPT_DTYPE_NONE;
        /* adapters in F16 where nothing scales their gradients */
        const bool unscaled =
            strcmp(c->adapter, "F16") == 0 && strcmp(c->loss_scale, "dynamic") != 0;
        assert_int_equal(p.verdict, off || unscaled ? NPT_VERDICT_WARNING : NPT_VERDICT_FINE);
        assert_int_equal(plan_find(&p, "findings", "kind", "adapter-unscaled", NULL, NULL) != NULL,
                         unscaled);
        assert_int_equal(
            plan_find(&p, "findings", "kind", "mixed-precision-off", NULL, NULL) != NULL, off);
        json_decref(p.root);
    }
    free(model);
}

static void stored_quantization_is_r1(void **state)
{
    (void)state;
    char *model = npt_test_path("tests/golden/models/nf4-double");
    const npt_train_options o = plan_options(model);
    planned p = plan_of(&o, false);
    assert_int_equal(plan_number(&p, "policy.rule"), 1);
    assert_true(json_is_false(plan_at(&p, "policy.quantize_on_load")));
    assert_int_equal(p.verdict, NPT_VERDICT_FINE);
    json_decref(p.root);
    free(model);
}

static void contradictions_are_usage(void **state)
{
    (void)state;
    char *model = npt_test_path("tests/golden/models/llama"),
         *quantized = npt_test_path("tests/golden/models/nf4");
    const struct {
        const char *model;
        npt_precision_options precision;
    } cases[] = {
        {model, {.use_fp16 = true, .use_bf16 = true}},
        {model, {.use_quantization = true, .use_fp16 = true}},
        {model, {.use_fp16 = true, .mixed_precision = NPT_BF16}},
        {model, {.adapter_dtype = NPT_I8}},
        {quantized, {.use_bf16 = true}},
    };
    for (size_t i = 0; i < NPT_COUNT(cases); i++) {
        npt_train_options o = plan_options(cases[i].model);
        o.precision = cases[i].precision;
        assert_int_equal(plan_run(&o, false).status, NPT_E_USAGE);
    }
    npt_train_options o = plan_options(model);
    o.layers = "7-9";
    assert_int_equal(plan_run(&o, false).status, NPT_E_USAGE);
    o = plan_options("/nowhere/at/all");
    assert_int_equal(plan_run(&o, false).status, NPT_E_USAGE); /* neither path nor name */
    free(model);
    free(quantized);
}

/* ---- A run beside it ---- */

typedef struct beside {
    npt_trainer trainer;
    npt_train_report report;
} beside;

/* As npt_pretrain() begins, weights included. */
static void open_beside(beside *b, const npt_train_options *options)
{
    *b = (beside){.trainer = {.options = *options}};
    b->trainer.report = &b->report;
    b->trainer.options.compute.threads = 1;
    if (npt_trainer_open(&b->trainer) != NPT_OK ||
        npt_model_load(b->trainer.setup.model, b->trainer.setup.exec, &b->trainer.setup.policy,
                       b->trainer.distiller.student_sites) != NPT_OK)
        fail_msg("%s", npt_error_message());
}

static void check_digest(const planned *p, const char *path, const npt_sites *sites)
{
    char digest[32];
    snprintf(digest, sizeof digest, "%016" PRIx64, npt_sites_digest(sites));
    const json_t *found = plan_at(p, path);
    assert_string_equal(plan_text(found, "digest"), digest);
    assert_int_equal(json_integer_value(json_object_get(found, "casts")), npt_sites_count(sites));
}

static bool has_word(const json_t *list, const char *word)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        if (strcmp(json_string_value(json_array_get(list, i)), word) == 0) return true;
    return false;
}

/* A row says the same as the plan cell it stands for; counts the cell. */
static void check_cell(const json_t *row, const npt_sites *sites, npt_site_id site, int layer,
                       npt_direction direction, int *count)
{
    const npt_site_plan plan = npt_sites_planned(sites, site, layer, direction);
    const bool any_float = site == NPT_SITE_WEIGHT || site == NPT_SITE_EMBED;
    assert_string_equal(plan_text(row, "to"), npt_dtype_name(plan.to));
    if (!any_float) assert_string_equal(plan_text(row, "from"), npt_dtype_name(plan.from));
    assert_int_equal(json_integer_value(json_object_get(row, "elements_per_token")),
                     plan.per_token);
    assert_int_equal(json_integer_value(json_object_get(row, "bytes_per_token")),
                     plan.per_token * (int64_t)npt_dtype_bytes(plan.to));
    ++*count;
}

static npt_site_id site_named(const char *name)
{
    for (int i = 0; i < NPT_SITE_COUNT; i++)
        if (strcmp(npt_site_name((npt_site_id)i), name) == 0) return (npt_site_id)i;
    fail_msg("there is no site %s", name);
    return NPT_SITE_COUNT;
}

static int teacher_cells(const npt_sites *sites, int layers)
{
    int count = 0;
    for (int layer = -1; layer < layers; layer++)
        for (int i = 0; i < NPT_SITE_COUNT; i++)
            count +=
                npt_sites_planned(sites, (npt_site_id)i, layer, NPT_FORWARD).to != NPT_DTYPE_NONE;
    return count;
}

/* Unfolded, the rows are the cells of both plans, each once. */
static void check_casts(const planned *p, const npt_distiller *d, int layers)
{
    static const char *const words[NPT_DIRECTION_COUNT] = {"forward", "backward", "recompute"};
    const json_t *casts = plan_at(p, "casts");
    int student = 0, teacher = 0;
    for (size_t i = 0; i < json_array_size(casts); i++) {
        const json_t *row = json_array_get(casts, i), *list = json_object_get(row, "layers");
        const npt_site_id site = site_named(plan_text(row, "site"));
        assert_true(plan_text(row, "why")[0] != '\0');
        for (size_t k = 0; k == 0 || k < json_array_size(list); k++) {
            const int layer =
                json_array_size(list) == 0 ? -1 : (int)json_integer_value(json_array_get(list, k));
            for (int way = 0; way < NPT_DIRECTION_COUNT; way++) {
                if (has_word(json_object_get(row, "student"), words[way]))
                    check_cell(row, d->student_sites, site, layer, (npt_direction)way, &student);
                if (has_word(json_object_get(row, "teacher"), words[way]))
                    check_cell(row, d->teacher_sites, site, layer, (npt_direction)way, &teacher);
            }
        }
    }
    assert_int_equal(student, npt_sites_count(d->student_sites));
    assert_int_equal(teacher, teacher_cells(d->teacher_sites, layers));
}

static void check_memory(const planned *p, const npt_trainer *t)
{
    const npt_arena *run = t->arena;
    const int64_t adapters = plan_number(p, "memory.adapters"),
                  masters = plan_number(p, "memory.masters"),
                  moments = plan_number(p, "memory.moments"),
                  gradients = plan_number(p, "memory.gradients"),
                  copies = plan_number(p, "memory.weights_copied");
    assert_int_equal(adapters, npt_arena_tag_bytes(run, NPT_MEM_ADAPTERS));
    assert_int_equal(masters, npt_arena_tag_bytes(run, NPT_MEM_MASTERS));
    assert_int_equal(moments, npt_arena_tag_bytes(run, NPT_MEM_MOMENTS));
    assert_int_equal(gradients, npt_arena_tag_bytes(run, NPT_MEM_GRADIENTS));
    assert_int_equal(copies, npt_arena_tag_bytes(t->setup.model->arena, NPT_MEM_WEIGHTS));
    assert_int_equal(plan_number(p, "memory.resident"), copies + adapters + masters + moments +
                                                            gradients +
                                                            plan_number(p, "memory.activations"));
}

static void check_beside(const npt_train_options *o)
{
    static beside b;
    planned p = plan_of(o, false);
    open_beside(&b, o);
    check_digest(&p, "digest.student", b.trainer.distiller.student_sites);
    check_digest(&p, "digest.teacher", b.trainer.distiller.teacher_sites);
    check_casts(&p, &b.trainer.distiller, (int)b.trainer.setup.model->config.layers);
    check_memory(&p, &b.trainer);
    npt_trainer_close(&b.trainer);
    json_decref(p.root);
}

static void plan_is_what_a_run_does(void **state)
{
    (void)state;
    for (size_t m = 0; m < NPT_COUNT(models); m++) {
        char *model = npt_test_path(models[m]);
        for (size_t i = 0; i < NPT_COUNT(choices); i++) {
            const npt_train_options o = options_of(model, &choices[i]);
            if (fits(models[m], &choices[i])) check_beside(&o);
        }
        free(model);
    }
}

static void options_of_adapters_count(void **state)
{
    (void)state;
    static const char *const layers[] = {"all", "0,2", "1", "upper_half"};
    char *model = npt_test_path("tests/golden/models/llama");
    for (size_t i = 0; i < NPT_COUNT(layers); i++)
        for (int modulation = 0; modulation < 3; modulation++) {
            npt_train_options o = plan_options(model);
            o.layers = layers[i];
            o.modulation = (npt_modulation)modulation;
            o.adapter_rank = 1 + (int)i;
            o.regularization_lambda = i % 2 == 0 ? 0 : 0.5;
            o.precision.use_fp16 = modulation == 1;
            check_beside(&o);
        }
    free(model);
}

/* ---- Files ---- */

/* Every tensor of the files is in one group, and their bytes add up. */
static void files_are_counted(void **state)
{
    (void)state;
    for (size_t m = 0; m < NPT_COUNT(models); m++) {
        char *model = npt_test_path(models[m]);
        npt_train_options o = plan_options(model);
        planned p = plan_of(&o, true);
        const json_t *groups = plan_at(&p, "files.groups");
        int64_t tensors = 0, bytes = 0;
        for (size_t i = 0; i < json_array_size(groups); i++) {
            const json_t *g = json_array_get(groups, i);
            tensors += json_integer_value(json_object_get(g, "tensors"));
            bytes += json_integer_value(json_object_get(g, "bytes"));
            assert_true(json_is_false(json_object_get(g, "mismatch")));
        }
        assert_int_equal(tensors, plan_number(&p, "files.tensors"));
        assert_int_equal(bytes, plan_number(&p, "memory.weights_mapped"));
        assert_int_equal(p.verdict, NPT_VERDICT_FINE);
        const json_t *mlp = plan_find(&p, "files.groups", "group", "gate/up/down", NULL, NULL);
        assert_int_equal(json_integer_value(json_object_get(mlp, "tensors")),
                         3 * plan_number(&p, "model.layers"));
        assert_string_equal(plan_text(mlp, "file"), is_quantized(models[m])                ? "U8"
                                                    : strstr(models[m], "mistral") != NULL ? "F16"
                                                    : strstr(models[m], "qwen3") != NULL   ? "F32"
                                                                                         : "BF16");
        assert_string_equal(plan_text(mlp, "record"), is_quantized(models[m]) ? "NF4" : "");
        assert_string_equal(plan_text(mlp, "planned"), is_quantized(models[m]) ? "NF4" : "F32");
        assert_string_equal(plan_text(mlp, "action"), is_quantized(models[m]) ? "stored_nf4"
                                                      : strstr(models[m], "qwen3") != NULL
                                                          ? "in_place"
                                                          : "widened");
        json_decref(p.root);
        free(model);
    }
}

static void would_rows_are_those_of_the_table(void **state)
{
    (void)state;
    char *model = npt_test_path("tests/golden/models/llama");
    npt_train_options o = plan_options(model);
    o.precision.use_fp16 = true;
    planned p = plan_of(&o, false);
    const json_t *row = plan_find(&p, "would", "id", "scaler.unscale.f16", NULL, NULL);
    assert_non_null(row);
    assert_string_equal(plan_text(row, "exception"), "ValueError");
    assert_string_equal(plan_text(row, "text"), "Attempting to unscale FP16 gradients.");
    assert_string_equal(plan_text(row, "severity_there"), "would_fail");
    assert_int_equal(p.verdict, NPT_VERDICT_FINE); /* what others do is not held against it */
    json_decref(p.root);
    free(model);
}

/* Whatever allocation fails, the plan says so and gives everything back. */
static void every_allocation_may_fail(void **state)
{
    (void)state;
    static const char *const names[] = {"tests/golden/models/nf4-double",
                                        "tests/golden/models/qwen2"};
    for (size_t m = 0; m < NPT_COUNT(names); m++) {
        char *model = npt_test_path(names[m]);
        npt_train_options o = plan_options(model);
        o.compute.threads = 1;
        o.precision.mixed_precision = NPT_F16;
        npt_status status = NPT_E_NOMEM;
        long n = 0;
        while (status != NPT_OK && n < 100000) {
            npt_alloc_fail_at(++n);
            planned p = plan_run(&o, true);
            npt_alloc_fail_at(0);
            status = p.status;
            json_decref(p.root);
            if (status != NPT_OK) assert_int_equal(status, NPT_E_NOMEM);
        }
        assert_int_equal(status, NPT_OK);
        assert_true(n > 20);
        free(model);
    }
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("the policy is the table of the specification, rule by rule", policy_is_the_table),
        NPT_CASE("a checkpoint that is quantized is R1", stored_quantization_is_r1),
        NPT_CASE("contradictions are refused as usage", contradictions_are_usage),
        NPT_CASE("digest, casts and memory are those of a run with its weights loaded",
                 plan_is_what_a_run_does),
        NPT_CASE("layers, modulation, rank and regularizer count", options_of_adapters_count),
        NPT_CASE("every tensor of the files is counted once", files_are_counted),
        NPT_CASE("every allocation may fail", every_allocation_may_fail),
        NPT_CASE("WOULD rows do not change the verdict", would_rows_are_those_of_the_table),
    };
    return npt_test_run("doctor plan", cases, NPT_COUNT(cases));
}
