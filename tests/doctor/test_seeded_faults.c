/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "golden/golden_case.h"

#include <math.h>

#include "unit/temp_dir.h"

/* Every site that holds a result is damaged in every way that it can be, on every backend, and the
 * probe must name that site and no other; an undamaged run must give no finding. The damage is
 * npt_fault's, through the environment, as a person would do it. */

static bool full(void)
{
    const char *word = getenv("NPT_FULL");
    return word != NULL && strcmp(word, "1") == 0;
}

static void say_nothing(void *context, npt_log_level level, const char *line)
{
    (void)context;
    (void)level;
    (void)line;
}

static char *directory, *rows; /* of the test; token ids of the case, one row a line */

/* What one probe is made of. */
typedef struct trial {
    const char *model; /* a golden case */
    npt_precision_options precision;
    const char *backend;
    int threads;
    const char *fault;
    double learning_rate, loss_scale;
    npt_distill distill;
} trial;

static void write_rows(const char *name)
{
    golden_case c;
    golden_open(&c, name);
    FILE *file = fopen(rows, "w");
    assert_non_null(file);
    const json_t *all = json_object_get(c.json, "rows");
    for (size_t i = 0; i < json_array_size(all); i++) {
        char *ids = json_dumps(json_array_get(all, i), JSON_COMPACT);
        fprintf(file, "{\"input_ids\":%s}\n", ids);
        free(ids);
    }
    assert_int_equal(fclose(file), 0);
    golden_close(&c);
}

/* The probe's JSON; the caller's. */
static json_t *probe(const trial *t, npt_verdict *verdict)
{
    golden_case c;
    npt_train_options o;
    const npt_doctor_options doctor = {.json = true};
    golden_open(&c, t->model);
    char *model = npt_test_path(golden_word(c.json, "model"));
    char *init = npt_path_join(c.directory, "init.safetensors"), *text = NULL;
    size_t bytes = 0;
    npt_train_options_init(&o, NPT_RECIPE_PRETRAIN);
    o.model_name = model;
    o.data.dataset_name = rows;
    o.init_adapter = init;
    o.adapter_rank = (int)golden_real(c.json, "rank");
    o.batch_size = 8;
    o.loss = NPT_LOSS_NORMALIZED;
    o.distill = t->distill;
    o.precision = t->precision;
    o.compute = (npt_compute_options){.backend = t->backend, .threads = t->threads};
    if (t->learning_rate > 0) o.learning_rate = t->learning_rate;
    if (t->loss_scale > 0) o.initial_loss_scale = t->loss_scale;
    FILE *out = open_memstream(&text, &bytes);
    if (t->fault != NULL) setenv("NPT_DEBUG_FAULT", t->fault, 1);
    npt_status status = npt_doctor_probe(&o, &doctor, out, verdict);
    unsetenv("NPT_DEBUG_FAULT");
    fclose(out);
    if (status != NPT_OK) fail_msg("%s: %s", t->fault ? t->fault : "", npt_error_message());
    json_t *json = json_loads(text, 0, NULL);
    assert_non_null(json);
    free(text);
    npt_free(init);
    free(model);
    golden_close(&c);
    return json;
}

static const char *culprit_of(const json_t *json)
{
    const char *word = json_string_value(json_object_get(json, "first_culprit"));
    return word != NULL ? word : "(none)";
}

static void expect_culprit(const trial *t, const char *site, npt_verdict wanted)
{
    npt_verdict verdict;
    json_t *json = probe(t, &verdict);
    if (strcmp(culprit_of(json), site) != 0 || verdict != wanted)
        fail_msg("%s on %s, %d threads: %s with verdict %d, not %s with %d", t->fault, t->backend,
                 t->threads, culprit_of(json), (int)verdict, site, (int)wanted);
    json_decref(json);
}

/* ---- Every site ---- */

static const char *const kinds[] = {"overflow", "underflow", "nan"};

/* What is rounded without a result of its own: weights and tables on load, mult inside gate_mod,
 * the head, which training does not have, and the update, which has a test of its own. */
static bool has_result(npt_site_id site, npt_direction direction)
{
    switch (site) {
    case NPT_SITE_WEIGHT:
    case NPT_SITE_ROPE_TABLE:
    case NPT_SITE_MULT:
    case NPT_SITE_NORM_FINAL:
    case NPT_SITE_LOGITS:
    case NPT_SITE_UPDATE: return false;
    /* the sum over the heads that share a key is rounded at rope and at v */
    default: return direction != NPT_RECOMPUTE || site == NPT_SITE_GATE_MOD;
    }
}

/* The sites of the student's and the teacher's plan, at the layer that has all of them. */
static size_t sites_of(const trial *t, char labels[][64], size_t room)
{
    golden_case c;
    golden_run run;
    size_t count = 0;
    const npt_policy_request request = {.use_fp16 = t->precision.use_fp16,
                                        .use_bf16 = t->precision.use_bf16,
                                        .use_quantization = t->precision.use_quantization,
                                        .mixed_precision = t->precision.mixed_precision};
    const golden_setup setup = {.backend = "reference", .threads = 1, .request = request};
    golden_open(&c, t->model);
    golden_run_open(&run, &c, &setup);
    for (int student = 0; student < 2; student++)
        for (int i = 0; i < NPT_SITE_COUNT; i++)
            for (int d = 0; d < NPT_DIRECTION_COUNT; d++) {
                const npt_sites *sites =
                    student ? run.distiller.student_sites : run.distiller.teacher_sites;
                const npt_site_id site = (npt_site_id)i;
                const npt_direction direction = (npt_direction)d;
                /* of the teacher, what the student has not */
                const bool wanted =
                    student ? site != NPT_SITE_EMBED
                            : direction == NPT_FORWARD &&
                                  (site == NPT_SITE_EMBED || site == NPT_SITE_RESIDUAL_ATTN);
                const int layer = site == NPT_SITE_EMBED ? -1 : 1;
                if (!wanted || !has_result(site, direction)) continue;
                if (npt_sites_planned(sites, site, layer, direction).to == NPT_DTYPE_NONE) continue;
                char label[48];
                assert_true(count < room);
                npt_site_label(site, layer, direction, label, sizeof label);
                snprintf(labels[count++], 64, "%s%s", student ? "" : "teacher.", label);
            }
    golden_run_close(&run);
    golden_close(&c);
    return count;
}

/* One site damaged in one way. Attention that both models make is the first to be seen there. */
static void damage_site(const trial *given, const char *label, const char *kind)
{
    const bool teacher = strncmp(label, "teacher.", 8) == 0;
    trial t = *given;
    char *fault = npt_format("%s:%s", kind, label);
    char *wanted = npt_format("%s%s", teacher ? "teacher " : "", teacher ? label + 8 : label);
    npt_verdict verdict;
    t.fault = fault;
    json_t *json = probe(&t, &verdict);
    const char *found = culprit_of(json);
    const bool same = strcmp(found, wanted) == 0 ||
                      (strncmp(found, "teacher ", 8) == 0 && strcmp(found + 8, wanted) == 0);
    if (!same || verdict != NPT_VERDICT_NUMERIC)
        fail_msg("%s on %s, %d threads: %s, verdict %d", fault, t.backend, t.threads, found,
                 (int)verdict);
    json_decref(json);
    npt_free(fault);
    npt_free(wanted);
}

/* Every way, or one that changes from site to site, beginning with the `turn`-th. */
static size_t damage_every_site(const trial *t, bool all_kinds, size_t turn)
{
    char labels[96][64];
    size_t count = sites_of(t, labels, NPT_COUNT(labels)), made = 0;
    assert_true(count > 20);
    write_rows(t->model);
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < NPT_COUNT(kinds); k++) {
            if (!all_kinds && (i + turn) % NPT_COUNT(kinds) != k) continue;
            damage_site(t, labels[i], kinds[k]);
            made++;
        }
    return made;
}

static const npt_precision_options fp16 = {.use_fp16 = true}, bf16 = {.use_bf16 = true},
                                   mixed = {.mixed_precision = NPT_F16}, f32 = {0},
                                   nf4 = {.use_quantization = true};

static void every_site_is_found_on_every_backend(void **state)
{
    static const char *const backends[] = {"reference", "native", "openblas", "onednn"};
    const bool all = full();
    size_t made = 0, turn = 0;
    (void)state;
    for (size_t b = 0; b < NPT_COUNT(backends); b++) {
        if (!golden_has_backend(backends[b])) continue;
        for (int threads = 1; threads <= 2; threads++) {
            const trial t = {
                .model = "llama", .precision = fp16, .backend = backends[b], .threads = threads};
            made += damage_every_site(&t, all || (b == 0 && threads == 1), turn++);
        }
    }
    print_message("%zu faults, all found where they were\n", made);
}

static void every_site_is_found_in_every_precision(void **state)
{
    const npt_precision_options precisions[] = {bf16, mixed, f32, nf4};
    size_t made = 0;
    (void)state;
    for (size_t p = 0; p < NPT_COUNT(precisions); p++) {
        const trial t = {
            .model = "llama", .precision = precisions[p], .backend = "native", .threads = 1};
        made += damage_every_site(&t, full(), p);
    }
    const trial qwen = {.model = "qwen3", .precision = fp16, .backend = "native", .threads = 1};
    made += damage_every_site(&qwen, true, 0);
    print_message("%zu faults, all found where they were\n", made);
}

/* ---- Other faults ---- */

static void a_nan_in_the_batch_is_found(void **state)
{
    const trial t = {.model = "llama",
                     .precision = bf16,
                     .backend = "native",
                     .threads = 1,
                     .fault = "nan-batch"};
    (void)state;
    write_rows("llama");
    expect_culprit(&t, "teacher embed", NPT_VERDICT_NUMERIC);
}

/* A step of 1e-5 is below half an ulp of most BF16 weights: kept by a master, lost without one. */
static void lost_updates_are_found(void **state)
{
    trial t = {.model = "llama",
               .precision = bf16,
               .backend = "native",
               .threads = 1,
               .fault = "no_master",
               .learning_rate = 1e-5};
    npt_verdict verdict;
    (void)state;
    write_rows("llama");
    expect_culprit(&t, "update", NPT_VERDICT_NUMERIC);
    t.fault = NULL;
    json_t *json = probe(&t, &verdict);
    const json_t *first = json_array_get(json_object_get(json, "updates"), 0);
    assert_int_equal(verdict, NPT_VERDICT_FINE);
    assert_true(golden_real(first, "lost_without_master") > 0.5);
    assert_true(golden_real(first, "lost_with_master") == 0);
    json_decref(json);
}

/* Gradients that overflow only because the scale is too high: a warning, and where it settles. */
static void a_loss_scale_too_high_is_told_from_a_fault(void **state)
{
    trial t = {.model = "llama",
               .precision = fp16,
               .backend = "native",
               .threads = 1,
               .loss_scale = 0x1p32};
    npt_verdict verdict;
    (void)state;
    write_rows("llama");
    json_t *json = probe(&t, &verdict);
    assert_int_equal(verdict, NPT_VERDICT_WARNING);
    const double settles = golden_real(json, "settles_at");
    assert_true(settles >= 1 && settles < 0x1p32 && log2(settles) == floor(log2(settles)));
    json_decref(json);
    /* at that scale nothing overflows; at twice that something does */
    t.loss_scale = settles;
    json = probe(&t, &verdict);
    assert_int_equal(verdict, NPT_VERDICT_FINE);
    json_decref(json);
    t.loss_scale = 2 * settles;
    json = probe(&t, &verdict);
    assert_int_equal(verdict, NPT_VERDICT_WARNING);
    json_decref(json);
}

/* The digest is that of the plan, whatever happens. An unplanned cast makes no number wrong here,
 * but the run would fail elsewhere. */
static void an_unplanned_cast_is_found(void **state)
{
    trial t = {.model = "llama",
               .precision = fp16,
               .backend = "native",
               .threads = 1,
               .fault = "cast:L01.adapter_in=F32"};
    npt_verdict verdict;
    (void)state;
    write_rows("llama");
    json_t *json = probe(&t, &verdict);
    assert_int_equal(verdict, NPT_VERDICT_WOULD_FAIL);
    const char *advice = golden_word(json, "advice");
    assert_non_null(strstr(advice, "L01.adapter_in"));
    assert_non_null(strstr(advice, "got: float != c10::Half"));
    json_decref(json);
}

/* ---- Health ---- */

static void healthy_runs_have_no_finding(void **state)
{
    static const char *const models[] = {"llama", "mistral", "qwen2", "qwen3"};
    const npt_precision_options precisions[] = {fp16, bf16, mixed, f32, nf4};
    const npt_distill ways[] = {NPT_DISTILL_END_TO_END, NPT_DISTILL_LAYERWISE};
    (void)state;
    for (size_t m = 0; m < NPT_COUNT(models); m++) {
        write_rows(models[m]);
        for (size_t p = 0; p < NPT_COUNT(precisions); p++)
            for (size_t w = 0; w < NPT_COUNT(ways); w++) {
                npt_verdict verdict;
                const trial t = {.model = models[m],
                                 .precision = precisions[p],
                                 .backend = "native",
                                 .threads = 2,
                                 .distill = ways[w]};
                json_t *json = probe(&t, &verdict);
                if (verdict != NPT_VERDICT_FINE)
                    fail_msg("%s, precision %zu, way %zu: %s: %s", models[m], p, w,
                             culprit_of(json), golden_word(json, "advice"));
                json_decref(json);
            }
    }
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("a fault at any site is named, on every backend and number of threads",
                 every_site_is_found_on_every_backend),
        NPT_CASE("a fault at any site is named, in every precision",
                 every_site_is_found_in_every_precision),
        NPT_CASE("a NaN in the batch is named", a_nan_in_the_batch_is_found),
        NPT_CASE("updates that are lost are named, and a master keeps them",
                 lost_updates_are_found),
        NPT_CASE("a loss scale that is too high is a warning that names the right one",
                 a_loss_scale_too_high_is_told_from_a_fault),
        NPT_CASE("a cast that is not planned is named with what PyTorch would say",
                 an_unplanned_cast_is_found),
        NPT_CASE("healthy runs of every family and precision have no finding",
                 healthy_runs_have_no_finding),
    };
    npt_log_set(say_nothing, NULL);
    directory = temp_dir();
    rows = npt_path_join(directory, "rows.jsonl");
    const int code = npt_test_run("doctor, seeded faults", cases, NPT_COUNT(cases));
    npt_free(rows);
    temp_dir_remove(directory);
    return code;
}
