/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "npt_test.h"
#include "unit/temp_dir.h"

#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/log.h"
#include "train/calibration.h"
#include "train/describe.h"
#include "train/distill.h"
#include "train/rates.h"
#include "train/setup.h"

/* Measured routes: kept, read back, disbelieved where they are not this machine's, followed by a
 * step exactly as recorded, and never seen in its casts. */

enum { TOKENS = 6, RANK = 4 };
static const npt_compute_options any = {.threads = 1};

/* ---- A cache of its own ---- */

static char *cache;

static void open_cache(void)
{
    cache = temp_dir();
    setenv("XDG_CACHE_HOME", cache, 1);
    setenv("NPT_CALIBRATION", "on", 1);
}

static void close_cache(void)
{
    temp_dir_remove(cache);
    unsetenv("XDG_CACHE_HOME");
    setenv("NPT_CALIBRATION", "off", 1);
}

static npt_exec *create(void)
{
    npt_exec *exec = NULL;
    if (npt_exec_create(&exec, NULL, 1) != NPT_OK) fail_msg("%s", npt_error_message());
    return exec;
}

/* Of the machine that this process is on; npt_free. */
static char *file_of(npt_exec *exec, char machine[NPT_CALIBRATION_MACHINE])
{
    char *path = NULL;
    npt_calibration_machine(exec, machine);
    assert_int_equal(npt_calibration_path(machine, &path), NPT_OK);
    return path;
}

static const npt_matmul_desc wide = {
    .m = 512, .n = 4096, .k = 2048, .trans_w = true, .a = NPT_F32, .w = NPT_F32, .c = NPT_F32};

static npt_route route_to(const npt_matmul_desc *desc, const char *backend)
{
    npt_route route = {.kind = npt_route_kind_of(desc), .gflops = 2, .gflops_before = 1};
    snprintf(route.backend, sizeof route.backend, "%s", backend);
    snprintf(route.before, sizeof route.before, "native");
    return route;
}

/* ---- Kinds ---- */

static void kinds(void **state)
{
    (void)state;
    npt_matmul_desc d = wide;
    char text[NPT_ROUTE_TEXT];
    npt_route_kind kind = npt_route_kind_of(&d);
    assert_string_equal(npt_route_kind_text(&kind, text),
                        "F32 x F32 -> F32, y, 257- tokens, medium");
    static const struct {
        int64_t tokens;
        const char *name;
    } buckets[] = {{1, "1"},       {2, "2-8"},      {8, "2-8"},    {9, "9-64"},      {64, "9-64"},
                   {65, "65-256"}, {256, "65-256"}, {257, "257-"}, {1 << 20, "257-"}};
    for (size_t i = 0; i < NPT_COUNT(buckets); i++) {
        d.m = buckets[i].tokens;
        kind = npt_route_kind_of(&d);
        assert_string_equal(npt_token_bucket_name(kind.tokens), buckets[i].name);
    }
    d = wide;
    d.trans_w = false; /* n and k trade places: the same weights */
    assert_int_equal(npt_route_kind_of(&d).pass, NPT_PASS_DX);
    assert_int_equal(npt_route_kind_of(&d).size, npt_route_kind_of(&wide).size);
    d = (npt_matmul_desc){.m = 4096, .n = 16, .k = 300, .trans_a = true, .c = NPT_F32};
    kind = npt_route_kind_of(&d); /* the gradient of an adapter: k is the tokens */
    assert_int_equal(kind.pass, NPT_PASS_DW);
    assert_int_equal(kind.size, NPT_SIZE_THIN);
    assert_string_equal(npt_token_bucket_name(kind.tokens), "257-");
    d = wide;
    d.n = 14336;
    d.k = 4096;
    assert_int_equal(npt_route_kind_of(&d).size, NPT_SIZE_LARGE);
    d.n = d.k = 1024;
    assert_int_equal(npt_route_kind_of(&d).size, NPT_SIZE_SMALL);
}

static void digests(void **state)
{
    npt_routes *a = calloc(1, sizeof *a), *b = calloc(1, sizeof *b);
    npt_matmul_desc other = wide;
    (void)state;
    other.trans_w = false;
    npt_route first = route_to(&wide, "openblas"), second = route_to(&other, "native");
    assert_int_equal(npt_routes_digest(a), 0);
    npt_routes_put(a, &first);
    npt_routes_put(a, &second);
    second.gflops = 77;
    npt_routes_put(b, &second);
    npt_routes_put(b, &first);
    assert_true(npt_routes_digest(a) == npt_routes_digest(b));
    first = route_to(&wide, "onednn");
    npt_routes_put(b, &first); /* replaces */
    assert_int_equal(b->count, 2);
    assert_true(npt_routes_digest(a) != npt_routes_digest(b));
    free(a);
    free(b);
}

/* ---- The file ---- */

static void round_trip(void **state)
{
    npt_routes *routes = calloc(1, sizeof *routes), *back = calloc(1, sizeof *back);
    char machine[NPT_CALIBRATION_MACHINE];
    (void)state;
    open_cache();
    npt_exec *exec = create();
    char *path = file_of(exec, machine);
    assert_int_equal(npt_calibration_load(path, machine, back), NPT_OK); /* none is no failure */
    assert_int_equal(back->count, 0);
    for (int64_t m = 1; m <= 512; m *= 8)
        for (int turned = 0; turned < 2; turned++) {
            npt_matmul_desc d = wide;
            d.m = m;
            d.trans_w = turned == 0;
            d.w = NPT_NF4;
            npt_route route = route_to(&d, turned == 0 ? "native" : "reference");
            route.gflops = 1 / (double)(m + 2);
            assert_true(npt_routes_put(routes, &route));
        }
    routes->rates[NPT_F32][NPT_RATE_ATTENTION_BACK] = 1e11 / 3;
    routes->rates[NPT_BF16][NPT_RATE_ROWS] = 12345.5;
    assert_int_equal(npt_calibration_save(path, machine, routes), NPT_OK);
    assert_int_equal(npt_calibration_load(path, machine, back), NPT_OK);
    assert_memory_equal(back->rates, routes->rates, sizeof back->rates);
    assert_int_equal(back->count, routes->count);
    for (size_t i = 0; i < routes->count; i++) {
        const npt_route *was = &routes->list[i], *is = &back->list[i];
        assert_true(npt_route_kind_same(&was->kind, &is->kind));
        assert_string_equal(was->backend, is->backend);
        assert_string_equal(was->before, is->before);
        assert_true(was->gflops == is->gflops && was->gflops_before == is->gflops_before);
    }
    npt_exec_destroy(exec);
    npt_free(path);
    free(routes);
    free(back);
    close_cache();
}

/* ---- Rates ---- */

/* Every kind in every precision, by kernels that run; and seconds from them by division. */
static void rates(void **state)
{
    static const npt_policy_request requests[] = {
        {0}, {.use_bf16 = true}, {.use_fp16 = true}, {.use_quantization = true}};
    static const npt_config config = {
        .hidden = 64, .inter = 100, .layers = 2, .heads = 4, .kv_heads = 2, .head_dim = 16};
    (void)state;
    npt_exec *exec = create();
    for (size_t i = 0; i < NPT_COUNT(requests); i++) {
        npt_routes *routes = calloc(1, sizeof *routes);
        npt_beside beside;
        npt_policy policy;
        double attention, rest, expected = 0;
        assert_int_equal(npt_policy_decide(&requests[i], &policy), NPT_OK);
        const npt_dtype act = policy.dtype[NPT_ROLE_ACT];
        for (int kind = 0; kind < NPT_RATES; kind++) beside.amount[kind] = 1000 + kind;
        assert_false(npt_rates_predict(routes, act, &beside, &attention, &rest));
        assert_int_equal(npt_rates_measure(exec, &config, &policy, 40, RANK, 0.001, routes),
                         NPT_OK);
        for (int kind = 0; kind < NPT_RATES; kind++) {
            assert_true(routes->rates[act][kind] > 0);
            expected += beside.amount[kind] / routes->rates[act][kind];
        }
        assert_true(npt_rates_predict(routes, act, &beside, &attention, &rest));
        assert_true(attention > 0 && rest > 0 &&
                    fabs(attention + rest - expected) < 1e-12 * expected);
        routes->rates[act][NPT_RATE_GATE] = 0;
        assert_false(npt_rates_predict(routes, act, &beside, &attention, &rest));
        beside.amount[NPT_RATE_GATE] = 0; /* nor is it needed */
        assert_true(npt_rates_predict(routes, act, &beside, &attention, &rest));
        free(routes);
    }
    npt_exec_destroy(exec);
}

static char *notes;

static void keep_note(void *context, npt_log_level level, const char *line)
{
    (void)context;
    if (level == NPT_LOG_VERBOSE) return;
    char *all = npt_format("%s%s\n", notes != NULL ? notes : "", line);
    npt_free(notes);
    notes = all;
}

/* Reads the cache's file into use; what was said is in `notes`. */
static npt_exec *apply(const npt_compute_options *compute)
{
    npt_exec *exec = NULL;
    npt_free(notes);
    notes = NULL;
    npt_log_set(keep_note, NULL);
    if (npt_exec_create(&exec, compute->backend, compute->threads) != NPT_OK)
        fail_msg("%s", npt_error_message());
    assert_int_equal(npt_calibration_apply(exec, compute), NPT_OK);
    npt_log_set(NULL, NULL);
    return exec;
}

static void expect_ignored(const char *text, size_t bytes, const char *said)
{
    char machine[NPT_CALIBRATION_MACHINE];
    npt_exec *exec = create();
    char *path = file_of(exec, machine), *folder = npt_path_join(cache, "npt");
    npt_exec_destroy(exec);
    assert_int_equal(npt_make_directories(folder), NPT_OK);
    assert_int_equal(npt_write_file(path, text, bytes), NPT_OK);
    exec = apply(&any);
    assert_null(npt_exec_routes(exec));
    if (notes == NULL || strstr(notes, said) == NULL)
        fail_msg("%.60s: '%s' is not in the notes: %s", text, said, notes != NULL ? notes : "none");
    npt_exec_destroy(exec);
    npt_free(path);
    npt_free(folder);
}

static char *good_text(const char *machine)
{
    return npt_format("{\"format\": \"npt calibration 1\", \"machine\": \"%s\", \"routes\": [{"
                      "\"a\": \"F32\", \"w\": \"F32\", \"c\": \"F32\", \"pass\": \"y\", "
                      "\"tokens\": \"257-\", \"size\": \"medium\", \"backend\": \"reference\", "
                      "\"before\": \"native\", \"gflops\": 2.5, \"gflops_before\": 1}], "
                      "\"rates\": [{\"act\": \"F16\", \"kind\": \"attention\", "
                      "\"per_second\": 5e9}]}",
                      machine);
}

static void damaged(void **state)
{
    char machine[NPT_CALIBRATION_MACHINE];
    (void)state;
    open_cache();
    npt_exec *exec = create();
    npt_calibration_machine(exec, machine);
    npt_exec_destroy(exec);
    char *good = good_text(machine);
    npt_routes *routes = calloc(1, sizeof *routes);
    assert_int_equal(npt_calibration_parse(good, strlen(good), "good", machine, routes), NPT_OK);
    assert_int_equal(routes->count, 1);
    for (size_t bytes = 0; bytes < strlen(good); bytes++)
        assert_int_equal(npt_calibration_parse(good, bytes, "cut", machine, routes), NPT_E_FORMAT);
    assert_int_equal(routes->count, 1); /* as it was */
    expect_ignored(good, strlen(good) / 2, "not valid JSON");
    static const struct {
        const char *from, *to, *said;
    } faults[] = {
        {"npt calibration 1", "npt calibration 0", "not a calibration of this version"},
        {"\"a\": \"F32\"", "\"a\": \"NF4\"", "not a dtype of a product"},
        {"\"w\": \"F32\"", "\"w\": \"I64\"", "not a dtype of a product"},
        {"\"c\": \"F32\"", "\"d\": \"F32\"", "without 'c'"},
        {"257-", "258-", "'tokens'"},
        {"medium", "middle", "'size'"},
        {"\"y\"", "\"z\"", "'pass'"},
        {"\"backend\": \"reference", "\"backend\": \"../../etc", "not the name of a backend"},
        {"\"backend\": \"reference", "\"backend\": \"a_name_beyond_all_reason",
         "not the name of a backend"},
        {"2.5", "-1", "gflops"},
        {"2.5", "\"fast\"", "gflops"},
        {"[{", "[7, {", "not an object"},
        {"\"routes\"", "\"roots\"", "'routes'"},
        {"\"F16\"", "\"NF4\"", "not a dtype of a product"},
        {"attention", "detention", "'kind'"},
        {"5e9", "-1", "per_second"},
        {"[{\"act", "[7, {\"act", "a rate is not an object"},
        {"\"rates\": [{", "\"rates\": 7, \"more\": [{", "'rates'"},
    };
    for (size_t i = 0; i < NPT_COUNT(faults); i++) {
        const char *at = strstr(good, faults[i].from);
        assert_non_null(at);
        char *bad = npt_format("%.*s%s%s", (int)(at - good), good, faults[i].to,
                               at + strlen(faults[i].from));
        expect_ignored(bad, strlen(bad), faults[i].said);
        npt_free(bad);
    }
    npt_free(good);
    free(routes);
    close_cache();
}

static void another_machine(void **state)
{
    (void)state;
    open_cache();
    char *text = good_text("Intel 8086; reference, features 0; 1 threads; npt 0.0.1");
    expect_ignored(text, strlen(text), "made for another machine");
    npt_free(text);
    close_cache();
    npt_exec *one = NULL, *two = NULL; /* the number of threads is of the machine */
    char first[NPT_CALIBRATION_MACHINE], second[NPT_CALIBRATION_MACHINE];
    assert_int_equal(npt_exec_create(&one, NULL, 1), NPT_OK);
    assert_int_equal(npt_exec_create(&two, NULL, 2), NPT_OK);
    assert_string_not_equal(npt_calibration_machine(one, first),
                            npt_calibration_machine(two, second));
    npt_exec_destroy(one);
    npt_exec_destroy(two);
}

static void no_place(void **state)
{
    char machine[NPT_CALIBRATION_MACHINE];
    npt_routes *routes = calloc(1, sizeof *routes);
    (void)state;
    open_cache();
    npt_free(temp_file(cache, "plain", "x", 1));
    char *plain = npt_path_join(cache, "plain");
    setenv("XDG_CACHE_HOME", plain, 1); /* a file where a directory belongs */
    npt_exec *exec = apply(&any);
    char *path = file_of(exec, machine);
    assert_null(npt_exec_routes(exec));
    assert_int_equal(npt_calibration_save(path, machine, routes), NPT_E_IO);
    npt_exec_destroy(exec);
    npt_free(path);
    setenv("XDG_CACHE_HOME", "relative", 1);
    char *home = getenv("HOME") != NULL ? npt_strdup(getenv("HOME")) : NULL;
    unsetenv("HOME");
    assert_int_equal(npt_calibration_path(machine, &path), NPT_E_IO);
    setenv("HOME", cache, 1);
    assert_int_equal(npt_calibration_path(machine, &path), NPT_OK);
    char *expected = npt_path_join(cache, ".cache/npt/calibration-");
    assert_int_equal(strncmp(path, expected, strlen(expected)), 0);
    if (home != NULL) setenv("HOME", home, 1);
    npt_free(home);
    npt_free(expected);
    npt_free(path);
    npt_free(plain);
    free(routes);
    close_cache();
}

/* ---- Use ---- */

static void save_routes(const npt_routes *routes)
{
    char machine[NPT_CALIBRATION_MACHINE];
    npt_exec *exec = create();
    char *path = file_of(exec, machine);
    assert_int_equal(npt_calibration_save(path, machine, routes), NPT_OK);
    npt_exec_destroy(exec);
    npt_free(path);
}

static void when_it_counts(void **state)
{
    npt_routes *routes = calloc(1, sizeof *routes);
    const npt_route route = route_to(&wide, "reference");
    char label[NPT_CALIBRATION_LABEL];
    (void)state;
    open_cache();
    npt_routes_put(routes, &route);
    save_routes(routes);
    npt_exec *exec = apply(&any);
    assert_true(npt_exec_choose(exec, &wide) == &npt_matmul_reference);
    npt_matmul_desc other = wide; /* of another kind: the built-in order */
    other.m = 1;
    const npt_matmul_backend *list[NPT_MAX_BACKENDS];
    npt_cpu_backends(npt_exec_cpu(exec), list);
    assert_true(npt_exec_choose(exec, &other) == npt_exec_choose(exec, &other));
    assert_string_not_equal(npt_calibration_label(exec, label), "none");
    npt_exec_destroy(exec);

    npt_compute_options o = any;
    o.no_calibration = true;
    exec = apply(&o);
    assert_null(npt_exec_routes(exec));
    assert_string_equal(npt_calibration_label(exec, label), "none");
    npt_exec_destroy(exec);

    exec = create();
    const char *first = npt_exec_backend(exec, 0)->name;
    npt_exec_destroy(exec);
    o = (npt_compute_options){.backend = first, .threads = 1}; /* asked for: fixed */
    exec = apply(&o);
    assert_null(npt_exec_routes(exec));
    npt_exec_destroy(exec);
    setenv("NPT_BACKEND", first, 1);
    exec = apply(&any);
    assert_null(npt_exec_routes(exec));
    npt_exec_destroy(exec);
    unsetenv("NPT_BACKEND");

    setenv("NPT_CALIBRATION", "off", 1);
    exec = apply(&any);
    assert_null(npt_exec_routes(exec));
    setenv("NPT_CALIBRATION", "perhaps", 1);
    assert_int_equal(npt_calibration_apply(exec, &any), NPT_E_USAGE);
    npt_exec_destroy(exec);
    free(routes);
    close_cache();
}

/* A route to a backend that refuses the product, or that is not here, is none. */
static void who_refuses(void **state)
{
    npt_routes *routes = calloc(1, sizeof *routes);
    (void)state;
    npt_exec *exec = create();
    npt_matmul_desc d = wide;
    d.w = NPT_NF4;
    npt_route route = route_to(&d, "openblas");
    const npt_matmul_backend *built_in = npt_exec_choose(exec, &d);
    npt_routes_put(routes, &route);
    assert_int_equal(npt_exec_use_routes(exec, routes), NPT_OK);
    assert_true(npt_exec_choose(exec, &d) == built_in);
    route = route_to(&d, "abacus");
    npt_routes_put(routes, &route);
    assert_int_equal(npt_exec_use_routes(exec, routes), NPT_OK);
    assert_true(npt_exec_choose(exec, &d) == built_in);
    npt_exec_destroy(exec);
    free(routes);
}

/* ---- A step ---- */

typedef struct outcome {
    npt_tally tally;
    uint64_t plan, executed;
    float *gradients;
    size_t count;
} outcome;

static char *make_model(const char *top)
{
    npt_make_model_options o;
    npt_make_model_options_init(&o);
    char *path = npt_path_join(top, "model");
    o.path = path;
    o.hidden = 64;
    o.inter = 96;
    o.layers = 2;
    o.heads = 4;
    o.kv_heads = 2;
    o.vocab = 20;
    o.dtype = NPT_F32;
    if (npt_make_model(&o) != NPT_OK) fail_msg("%s", npt_error_message());
    return path;
}

static npt_status keep_gradient(void *context, int layer, npt_parameter *p)
{
    outcome *o = context;
    const size_t more = (size_t)(p->rows * p->cols);
    (void)layer;
    o->gradients = realloc(o->gradients, (o->count + more) * sizeof(float));
    memcpy(o->gradients + o->count, p->grad, more * sizeof(float));
    o->count += more;
    return NPT_OK;
}

/* One micro-batch, forward and backward, as training does it, with the cache's routes in use. */
static outcome *run_step(const char *model, json_t **described)
{
    static const int64_t offsets[] = {0, 2, TOKENS};
    static const int32_t ids[TOKENS] = {1, 2, 3, 4, 5, 6}, positions[TOKENS] = {0, 1, 0, 1, 2, 3};
    const npt_batch batch = {2, TOKENS, 4, offsets, ids, positions};
    const npt_adapters_options adapter = {.rank = RANK, .strength = 1, .seed = 1};
    const npt_objective objective = {.loss = NPT_LOSS_NORMALIZED, .lambda = 1e-3};
    const npt_distill_request request = {
        .batch = &batch, .backward = true, .distance_factor = 1, .regularizer_factor = 1};
    const npt_precision_options precision = {0};
    npt_train_options options;
    npt_setup setup;
    npt_adapters adapters;
    npt_distiller d = {0};
    npt_distill_sums sums = {0};
    outcome *o = calloc(1, sizeof *o);
    npt_arena *arena = npt_arena_create("run");
    npt_train_options_init(&options, NPT_RECIPE_PRETRAIN);
    if (npt_setup_open(&setup, model, &precision, &any) != NPT_OK ||
        npt_adapters_init(&adapters, &adapter, &setup.model->config, &setup.policy, arena, true) !=
            NPT_OK ||
        npt_distiller_init(&d, setup.exec, setup.model, &setup.policy, &adapters, &objective) !=
            NPT_OK ||
        npt_model_load(setup.model, setup.exec, &setup.policy, d.student_sites) != NPT_OK)
        fail_msg("%s", npt_error_message());
    npt_exec_tally(setup.exec, &o->tally);
    if (npt_distiller_run(&d, &request, &sums) != NPT_OK) fail_msg("%s", npt_error_message());
    npt_exec_tally(setup.exec, NULL);
    o->plan = npt_sites_digest(d.student_sites);
    o->executed = npt_sites_executed_digest(d.student_sites);
    assert_int_equal(npt_adapters_visit(&adapters, keep_gradient, o), NPT_OK);
    json_t *settings = npt_describe_settings(&options, &setup, &adapters);
    *described = npt_describe_run(&options, &setup, &d, settings, 1);
    json_decref(settings);
    npt_distiller_fini(&d);
    npt_arena_destroy(arena);
    npt_setup_close(&setup);
    return o;
}

static void outcome_free(outcome *o)
{
    free(o->gradients);
    free(o);
}

/* A route for each kind of the products that were made. */
static void route_all(const npt_tally *tally, const char *backend, bool as_it_was)
{
    npt_routes *routes = calloc(1, sizeof *routes);
    for (size_t i = 0; i < tally->count; i++) {
        const npt_tally_row *row = &tally->rows[i];
        const npt_route route = route_to(&row->desc, as_it_was ? row->backend->name : backend);
        assert_true(npt_routes_put(routes, &route));
    }
    save_routes(routes);
    free(routes);
}

static void used_is_recorded(void **state)
{
    json_t *plain_run, *routed_run;
    char kind_text[NPT_ROUTE_TEXT];
    (void)state;
    open_cache();
    char *model = make_model(cache);
    outcome *plain = run_step(model, &plain_run);
    assert_true(plain->tally.count > 5 && plain->tally.dropped == 0);
    assert_int_equal(json_object_size(json_object_get(plain_run, "routes")), 0);
    route_all(&plain->tally, "reference", false);
    outcome *routed = run_step(model, &routed_run);
    const json_t *recorded = json_object_get(routed_run, "routes");
    assert_int_equal(routed->tally.count, plain->tally.count);
    for (size_t i = 0; i < routed->tally.count; i++) {
        const npt_tally_row *row = &routed->tally.rows[i];
        const npt_route_kind kind = npt_route_kind_of(&row->desc);
        assert_true(npt_matmul_desc_same(&row->desc, &plain->tally.rows[i].desc));
        assert_int_equal(row->count, plain->tally.rows[i].count);
        assert_true(row->backend == &npt_matmul_reference);
        assert_string_equal(
            row->backend->name,
            json_string_value(json_object_get(recorded, npt_route_kind_text(&kind, kind_text))));
    }
    const char *label =
        json_string_value(json_object_get(json_object_get(routed_run, "flags"), "calibration"));
    assert_int_equal(strlen(label), 16);
    /* routes are not casts */
    assert_true(plain->plan == routed->plan && plain->executed == routed->executed);
    json_decref(plain_run);
    json_decref(routed_run);
    outcome_free(plain);
    outcome_free(routed);
    npt_free(model);
    close_cache();
}

static void same_backend_same_bits(void **state)
{
    json_t *run;
    (void)state;
    open_cache();
    char *model = make_model(cache);
    outcome *plain = run_step(model, &run);
    json_decref(run);
    route_all(&plain->tally, NULL, true);
    outcome *routed = run_step(model, &run);
    json_decref(run);
    assert_int_equal(plain->count, routed->count);
    assert_memory_equal(plain->gradients, routed->gradients, plain->count * sizeof(float));
    assert_true(plain->executed == routed->executed);
    outcome_free(plain);
    outcome_free(routed);
    npt_free(model);
    close_cache();
}

/* ---- Measuring ---- */

static void measured(void **state)
{
    npt_routes *routes = calloc(1, sizeof *routes);
    npt_products products = {.count = 2};
    (void)state;
    npt_exec *exec = create();
    products.list[0] = (npt_product){.name = "x", .pass = "y", .desc = wide, .per_step = 2};
    products.list[0].desc.m = 4;
    products.list[0].desc.n = products.list[0].desc.k = 128;
    products.list[1] = products.list[0];
    products.list[1].desc.w = NPT_NF4; /* one backend takes it: a rate, and nothing to choose */
    npt_price prices[NPT_MAX_BACKENDS] = {{0}};
    assert_int_equal(npt_calibration_measure(exec, &products, 0.01, prices, routes), NPT_OK);
    const npt_route_kind kind = npt_route_kind_of(&products.list[0].desc);
    const npt_route_kind other = npt_route_kind_of(&products.list[1].desc);
    const npt_route *route = npt_routes_find(routes, &kind),
                    *only = npt_routes_find(routes, &other);
    for (size_t i = 0; i < routes->count; i++) {
        const npt_route *r = &routes->list[i];
        assert_true(r->gflops > 0 && r->gflops >= r->gflops_before);
    }
    assert_true(npt_calibration_predict(exec, &products) == 0); /* not in use yet */
    assert_int_equal(npt_exec_use_routes(exec, routes), NPT_OK);
    if (npt_exec_backend_count(exec) > 2 && only != NULL) {
        assert_string_equal(route->before, npt_exec_backend(exec, 0)->name);
        assert_string_equal(only->backend, only->before);
        const double flops = 2 * 4.0 * 128 * 128 * 2, rate = 1e9; /* each of them twice */
        const double predicted = flops / route->gflops / rate + flops / only->gflops / rate;
        assert_true(fabs(npt_calibration_predict(exec, &products) / predicted - 1) < 1e-9);
    }
    npt_exec_destroy(exec);
    free(routes);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("products fall into kinds by dtype, pass, tokens and size", kinds),
        NPT_CASE("the digest is of kinds and backends, not of order or figures", digests),
        NPT_CASE("what is saved is what is loaded", round_trip),
        NPT_CASE("what lies between products is measured in every precision", rates),
        NPT_CASE("a damaged file is ignored, with a note that says why", damaged),
        NPT_CASE("a file for another machine is ignored, with a note", another_machine),
        NPT_CASE("a cache that cannot be is no calibration, and a failure to save", no_place),
        NPT_CASE("routes count unless a flag, the environment or --backend says no",
                 when_it_counts),
        NPT_CASE("a route to who refuses, or is not here, is none", who_refuses),
        NPT_CASE("the routes used are those recorded, and the casts stay", used_is_recorded),
        NPT_CASE("routes that name the same backends give the same bits", same_backend_same_bits),
        NPT_CASE("kinds are measured, and what they take is predicted", measured),
    };
    return npt_test_run("calibration", cases, NPT_COUNT(cases));
}
