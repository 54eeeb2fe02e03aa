/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "doctor/diff.h"

#include <math.h>
#include <unistd.h>

#include "files/json.h"
#include "npt_test.h"
#include "tensor/exec.h"
#include "unit/temp_dir.h"

/* Real probes of the models in tests/golden/models, and the same with values changed by hand: what
 * is healthy is within its tolerance, what is changed is found where it was changed. */

static char *directory, *data;

static void say_nothing(void *context, npt_log_level level, const char *line)
{
    (void)context;
    (void)level;
    (void)line;
}

static void set_up(void)
{
    char text[4096] = "";
    npt_log_set(say_nothing, NULL);
    directory = temp_dir();
    for (int row = 0; row < 3; row++) {
        strcat(text, "{\"input_ids\":[");
        for (int i = 0; i < 20; i++)
            sprintf(text + strlen(text), "%s%d", i > 0 ? "," : "",
                    2 + (37 * row + 11 * i * i) % 90);
        strcat(text, "]}\n");
    }
    data = temp_file(directory, "rows.jsonl", text, strlen(text));
}

/* ---- Probes ---- */

typedef struct setting {
    const char *model, *backend, *fault;
    npt_precision_options precision;
    npt_distill distill;
    npt_modulation modulation;
    double learning_rate; /* 0: the default */
} setting;

static const npt_precision_options fp16 = {.use_fp16 = true}, bf16 = {.use_bf16 = true}, f32 = {0},
                                   mixed = {.mixed_precision = NPT_F16};

/* A probe in a file of this name; the caller frees the path. */
static char *probe(const setting *s, const char *name)
{
    npt_train_options options;
    npt_verdict verdict;
    char relative[128];
    const npt_doctor_options doctor = {.json = true};
    snprintf(relative, sizeof relative, "tests/golden/models/%s", s->model);
    char *model = npt_test_path(relative), *path = npt_path_join(directory, name);
    npt_train_options_init(&options, NPT_RECIPE_PRETRAIN);
    options.model_name = model;
    options.precision = s->precision;
    options.compute = (npt_compute_options){.backend = s->backend, .threads = 1};
    options.data = (npt_data_options){.dataset_name = data, .max_length = 20};
    options.batch_size = 3;
    options.adapter_rank = 4;
    options.distill = s->distill;
    options.modulation = s->modulation;
    if (s->learning_rate > 0) options.learning_rate = s->learning_rate;
    if (s->fault != NULL) setenv("NPT_DEBUG_FAULT", s->fault, 1);
    FILE *out = fopen(path, "w");
    assert_non_null(out);
    if (npt_doctor_probe(&options, &doctor, out, &verdict) != NPT_OK)
        fail_msg("%s", npt_error_message());
    assert_int_equal(fclose(out), 0);
    unsetenv("NPT_DEBUG_FAULT");
    free(model);
    return path;
}

static npt_status compare(npt_diff *diff, const char *a, const char *b)
{
    *diff = (npt_diff){0};
    NPT_TRY(npt_diff_side_open(&diff->side[0], a));
    NPT_TRY(npt_diff_side_open(&diff->side[1], b));
    return npt_diff_run(diff);
}

static const char *first_label(const npt_diff *diff, char label[80])
{
    if (diff->first == NULL) return "nothing";
    return npt_probe_label(npt_diff_either(diff->first), label, 80);
}

static void expect_fine(const setting *a, const setting *b)
{
    char label[80], *x = probe(a, "a.json"), *y = probe(b, "b.json");
    npt_diff diff;
    if (compare(&diff, x, y) != NPT_OK) fail_msg("%s", npt_error_message());
    if (diff.first != NULL)
        fail_msg("%s, %s and %s: %s differs in %s by %g, its limit is %g", a->model, a->backend,
                 b->backend, first_label(&diff, label), npt_diff_measure_name(diff.first->measure),
                 diff.first->distance, diff.first->limit);
    assert_int_equal(diff.verdict, NPT_VERDICT_FINE);
    assert_true(diff.compared > 50);
    npt_diff_fini(&diff);
    npt_free(x);
    npt_free(y);
}

/* ---- Healthy pairs ---- */

static const char *const models[] = {"llama", "qwen3", "nf4"};

static bool has_backends(const char *names)
{
    npt_exec *exec;
    if (npt_exec_create(&exec, names, 1) != NPT_OK) return false;
    npt_exec_destroy(exec);
    return true;
}

static void backends_agree(void **state)
{
    static const char *const others[] = {"native,reference", "openblas,reference",
                                         "onednn,reference"};
    const npt_precision_options *const precisions[] = {&f32, &fp16, &bf16, &mixed};
    (void)state;
    for (size_t m = 0; m < NPT_COUNT(models); m++)
        for (size_t p = 0; p < (m == 2 ? 1 : NPT_COUNT(precisions)); p++)
            for (size_t o = 0; o < NPT_COUNT(others); o++) {
                if (!has_backends(others[o])) continue;
                setting a = {models[m], "reference", NULL, *precisions[p], 0, 0, 0}, b = a;
                b.backend = others[o];
                expect_fine(&a, &b);
            }
}

static void precisions_agree(void **state)
{
    const npt_precision_options *const precisions[] = {&fp16, &bf16, &mixed};
    (void)state;
    for (int distill = 0; distill < 2; distill++)
        for (int modulation = 0; modulation < 3; modulation++)
            for (size_t p = 0; p < NPT_COUNT(precisions); p++) {
                setting a = {"llama", "reference",          NULL,
                             f32,     (npt_distill)distill, (npt_modulation)modulation,
                             0};
                setting b = a;
                b.precision = *precisions[p];
                expect_fine(&a, &b);
            }
}

/* ---- Faults ---- */

static void expect_first(const setting *healthy, const char *fault, const char *site, npt_verdict v)
{
    setting damaged = *healthy;
    npt_diff diff;
    char label[80];
    damaged.fault = fault;
    char *x = probe(healthy, "a.json"), *y = probe(&damaged, "b.json");
    if (compare(&diff, x, y) != NPT_OK) fail_msg("%s", npt_error_message());
    if (strcmp(first_label(&diff, label), site) != 0)
        fail_msg("%s: found at %s", fault, first_label(&diff, label));
    assert_int_equal(diff.verdict, v);
    npt_diff_fini(&diff);
    npt_free(x);
    npt_free(y);
}

static void faults_are_found_where_they_are(void **state)
{
    static const struct {
        const char *fault, *site;
        npt_verdict verdict;
    } faults[] = {
        {"overflow:L02.gate_mod", "L02.gate_mod", NPT_VERDICT_NUMERIC},
        {"nan:L01.z", "L01.z", NPT_VERDICT_NUMERIC},
        {"nan:teacher.L01.v", "teacher L01.v", NPT_VERDICT_NUMERIC},
        {"overflow:L01.up.backward", "L01.up.backward", NPT_VERDICT_NUMERIC},
        {"underflow:L00.z", "L00.z", NPT_VERDICT_WARNING},
        {"underflow:L02.mlp_act.backward", "L02.mlp_act.backward", NPT_VERDICT_WARNING},
        {"underflow:L01.gate_mod", "L01.gate_mod", NPT_VERDICT_WARNING},
        {"nan:L01.gate_mod.recompute", "L01.gate_mod.recompute", NPT_VERDICT_NUMERIC},
    };
    const npt_precision_options *const precisions[] = {&f32, &fp16, &bf16};
    (void)state;
    for (size_t p = 0; p < NPT_COUNT(precisions); p++)
        for (size_t i = 0; i < NPT_COUNT(faults); i++) {
            const setting healthy = {"llama", "reference", NULL, *precisions[p], 0, 0, 0};
            expect_first(&healthy, faults[i].fault, faults[i].site, faults[i].verdict);
        }
}

static void updates_without_a_master_are_found(void **state)
{
    const setting healthy = {"llama", "reference", NULL, bf16, 0, 0, 1e-6};
    (void)state;
    expect_first(&healthy, "no_master", "nothing", NPT_VERDICT_WARNING);
}

/* ---- Values changed by hand ---- */

/* The last F32 probe with every row of `site` (and, where `on` is set, every later one) × factor;
 * `error`: what the row says of its own. */
static char *tampered(const char *from, const char *site, double factor, double error, bool on)
{
    json_t *root;
    assert_int_equal(npt_json_load(from, 0, &root), NPT_OK);
    json_t *row, *sites = json_object_get(root, "sites");
    size_t i;
    bool reached = false;
    json_array_foreach(sites, i, row)
    {
        const bool here = strcmp(json_string_value(json_object_get(row, "site")), site) == 0;
        reached = here || (reached && on);
        if (!reached) continue;
        static const char *const keys[] = {"min", "max", "rms"};
        for (size_t k = 0; k < 3; k++) {
            const double value = json_number_value(json_object_get(row, keys[k]));
            json_object_set_new(row, keys[k], json_real(factor * value));
        }
        json_object_set_new(row, "error", json_real(error));
        json_t *number, *sample = json_object_get(row, "sample");
        size_t j;
        json_array_foreach(sample, j, number)
            json_array_set_new(sample, j, json_real(factor * json_number_value(number)));
    }
    char *path = npt_path_join(directory, "tampered.json");
    assert_int_equal(npt_json_save(path, root), NPT_OK);
    json_decref(root);
    return path;
}

static void a_small_systematic_change_is_found(void **state)
{
    static const struct {
        const npt_precision_options *precision;
        double factor;
    } rows[] = {{&f32, 1.0001}, {&fp16, 1.02}, {&bf16, 1.1}};
    char label[80];
    (void)state;
    for (size_t i = 0; i < NPT_COUNT(rows); i++) {
        const setting s = {"llama", "reference", NULL, *rows[i].precision, 0, 0, 0};
        npt_diff diff;
        char *x = probe(&s, "a.json"), *y = tampered(x, "L01.up", rows[i].factor, 0.9, true);
        assert_int_equal(compare(&diff, x, y), NPT_OK);
        if (strcmp(first_label(&diff, label), "L01.up") != 0)
            fail_msg("× %g: found at %s", rows[i].factor, first_label(&diff, label));
        assert_int_equal(diff.verdict, NPT_VERDICT_WARNING);
        npt_diff_fini(&diff);
        npt_free(x);
        npt_free(y);
    }
}

static void what_follows_is_told_from_what_does_not(void **state)
{
    const setting s = {"llama", "reference", NULL, f32, 0, 0, 0};
    char *x = probe(&s, "a.json"), *y = tampered(x, "L01.up", 2, 0, false);
    char *z = npt_path_join(directory, "b.json");
    npt_diff diff;
    (void)state;
    assert_int_equal(rename(y, z), 0);
    npt_free(y);
    y = tampered(z, "L01.mlp_act", 2, 0, false);
    assert_int_equal(rename(y, z), 0);
    npt_free(y);
    y = tampered(z, "L02.q", 2, 0, false);
    assert_int_equal(compare(&diff, x, y), NPT_OK);
    for (size_t i = 0; i < diff.count; i++) {
        char label[80];
        npt_probe_label(npt_diff_either(&diff.rows[i]), label, sizeof label);
        const npt_diff_kind wanted = strcmp(label, "L01.up") == 0        ? NPT_DIFF_FIRST
                                     : strcmp(label, "L01.mlp_act") == 0 ? NPT_DIFF_FOLLOWS
                                     : strcmp(label, "L02.q") == 0       ? NPT_DIFF_ALSO
                                                                         : NPT_DIFF_SAME;
        if (diff.rows[i].kind != wanted) fail_msg("%s is of kind %d", label, diff.rows[i].kind);
    }
    npt_diff_fini(&diff);
    npt_free(x);
    npt_free(y);
    npt_free(z);
}

static void other_batches_are_refused(void **state)
{
    const setting s = {"llama", "reference", NULL, f32, 0, 0, 0};
    setting other = s;
    npt_diff diff;
    (void)state;
    other.model = "qwen3";
    char *x = probe(&s, "a.json"), *y = probe(&other, "b.json");
    assert_int_equal(compare(&diff, x, y), NPT_E_USAGE);
    assert_message_has("family");
    npt_diff_fini(&diff);
    npt_free(x);
    npt_free(y);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("backends agree within the tolerance of every site", backends_agree),
        NPT_CASE("precisions agree within the tolerance of every site", precisions_agree),
        NPT_CASE("a fault is found at the site where it is", faults_are_found_where_they_are),
        NPT_CASE("updates without a master are found", updates_without_a_master_are_found),
        NPT_CASE("a small systematic change is found, whatever it says of its own error",
                 a_small_systematic_change_is_found),
        NPT_CASE("what follows is told from what does not",
                 what_follows_is_told_from_what_does_not),
        NPT_CASE("probes of another model are refused", other_batches_are_refused),
    };
    set_up();
    const int code = npt_test_run("doctor diff", cases, NPT_COUNT(cases));
    npt_free(data);
    temp_dir_remove(directory);
    return code;
}
