/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "npt.h"

#include <unistd.h>

#include "files/json.h"
#include "npt_test.h"
#include "temp_dir.h"
#include "train/distill.h"
#include "train/products.h"
#include "train/rates.h"
#include "train/setup.h"

/* npt backends: what it lists is what a step really multiplies. */

enum { TOKENS = 6, RANK = 4 };

static char *make_model(const char *top, const char *family)
{
    npt_make_model_options o;
    npt_make_model_options_init(&o);
    char *path = npt_path_join(top, family);
    o.path = path;
    o.family = family;
    o.hidden = 64;
    o.inter = 96;
    o.layers = 3;
    o.heads = 4;
    o.kv_heads = 2;
    o.head_dim = 32; /* q is wider than hidden: no two shapes are the same by chance */
    o.vocab = 20;
    if (npt_make_model(&o) != NPT_OK) fail_msg("%s", npt_error_message());
    return path;
}

/* ---- Descriptors, as the context tells them when it first meets them ---- */

typedef struct lines {
    char *line[64];
    size_t count;
} lines;

static void keep_line(void *context, npt_log_level level, const char *line)
{
    lines *kept = context;
    if (level != NPT_LOG_VERBOSE || strncmp(line, "matmul ", 7) != 0) return;
    if (strstr(line, ": reference") == NULL || kept->count == NPT_COUNT(kept->line)) return;
    kept->line[kept->count++] = npt_strdup(line);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void lines_sort(lines *kept)
{
    qsort(kept->line, kept->count, sizeof kept->line[0], by_text);
}

static void lines_fini(lines *kept)
{
    for (size_t i = 0; i < kept->count; i++) npt_free(kept->line[i]);
}

static npt_setup open_setup(const char *path, const npt_precision_options *precision)
{
    const npt_compute_options compute = {.backend = "reference", .threads = 1};
    npt_setup setup;
    if (npt_setup_open(&setup, path, precision, &compute) != NPT_OK)
        fail_msg("%s", npt_error_message());
    return setup;
}

/* One micro-batch, forward and backward, as training does it. */
static void run_step_of(npt_setup *setup, const npt_adapters_options *options, npt_distill distill)
{
    static const int64_t offsets[] = {0, 2, TOKENS};
    static const int32_t ids[TOKENS] = {1, 2, 3, 4, 5, 6}, positions[TOKENS] = {0, 1, 0, 1, 2, 3};
    const npt_batch batch = {2, TOKENS, 4, offsets, ids, positions};
    const npt_objective objective = {
        .distill = distill, .loss = NPT_LOSS_NORMALIZED, .lambda = 1e-3};
    const npt_distill_request request = {
        .batch = &batch, .backward = true, .distance_factor = 1, .regularizer_factor = 1};
    npt_arena *arena = npt_arena_create("run");
    npt_adapters adapters;
    npt_distiller distiller = {0};
    npt_distill_sums sums = {0};
    assert_non_null(arena);
    if (npt_adapters_init(&adapters, options, &setup->model->config, &setup->policy, arena, true) !=
            NPT_OK ||
        npt_distiller_init(&distiller, setup->exec, setup->model, &setup->policy, &adapters,
                           &objective) != NPT_OK ||
        npt_model_load(setup->model, setup->exec, &setup->policy, distiller.student_sites) !=
            NPT_OK ||
        npt_distiller_run(&distiller, &request, &sums) != NPT_OK)
        fail_msg("%s", npt_error_message());
    npt_distiller_fini(&distiller);
    npt_arena_destroy(arena);
}

static void run_step(npt_setup *setup)
{
    const npt_adapters_options options = {.rank = RANK, .strength = 1, .seed = 1};
    run_step_of(setup, &options, NPT_DISTILL_END_TO_END);
}

static void expect_same_products(const char *path, const npt_precision_options *precision)
{
    lines real = {0}, listed = {0};
    npt_setup setup = open_setup(path, precision);
    npt_log_set(keep_line, &real);
    run_step(&setup);
    npt_log_set(NULL, NULL);
    npt_setup_close(&setup);

    npt_products products;
    setup = open_setup(path, precision);
    npt_products_list(setup.model, &setup.policy,
                      &(npt_products_run){.tokens = TOKENS, .rank = RANK}, &products);
    npt_log_set(keep_line, &listed);
    for (size_t i = 0; i < products.count; i++)
        assert_non_null(npt_exec_choose(setup.exec, &products.list[i].desc));
    npt_log_set(NULL, NULL);
    npt_setup_close(&setup);

    lines_sort(&real);
    lines_sort(&listed);
    for (size_t i = 0; i < real.count && i < listed.count; i++)
        assert_string_equal(listed.line[i], real.line[i]);
    assert_int_equal(listed.count, real.count);
    assert_int_equal(listed.count, products.count); /* each is there once */
    lines_fini(&real);
    lines_fini(&listed);
}

static void the_list_is_what_a_step_multiplies(void **state)
{
    static const npt_precision_options precisions[] = {
        {0},
        {.use_fp16 = true},
        {.use_bf16 = true},
        {.use_quantization = true},
        {.mixed_precision = NPT_F16},
        {.mixed_precision = NPT_BF16},
        {.use_fp16 = true, .adapter_dtype = NPT_F32},
        {.adapter_dtype = NPT_F16},
        {.mixed_precision = NPT_F16, .adapter_dtype = NPT_BF16},
    };
    static const char *const families[] = {"llama", "qwen2", "qwen3"};
    (void)state;
    char *top = temp_dir();
    setenv("NPT_VERBOSE", "1", 1);
    for (size_t f = 0; f < NPT_COUNT(families); f++) {
        char *path = make_model(top, families[f]);
        for (size_t p = 0; p < NPT_COUNT(precisions); p++)
            expect_same_products(path, &precisions[p]);
        npt_free(path);
    }
    unsetenv("NPT_VERBOSE");
    temp_dir_remove(top);
}

static void expect_same_counts(const char *path, const npt_adapters_options *options,
                               npt_distill distill)
{
    const npt_precision_options precision = {0};
    npt_setup setup = open_setup(path, &precision);
    npt_tally *tally = calloc(1, sizeof *tally);
    npt_products products;
    bool active[3];
    assert_non_null(tally);
    npt_exec_tally(setup.exec, tally);
    run_step_of(&setup, options, distill);
    npt_exec_tally(setup.exec, NULL);
    assert_int_equal(npt_layers_parse(options->layers, 3, active), NPT_OK);
    npt_products_list(setup.model, &setup.policy,
                      &(npt_products_run){.tokens = TOKENS,
                                          .rank = RANK,
                                          .active = active,
                                          .modulation = options->modulation,
                                          .distill = distill},
                      &products);
    assert_int_equal(products.count, tally->count);
    for (size_t i = 0; i < products.count; i++) {
        const npt_product *p = &products.list[i];
        size_t row = 0;
        while (row < tally->count && !npt_matmul_desc_same(&p->desc, &tally->rows[row].desc)) row++;
        if (row == tally->count || tally->rows[row].count != p->per_step)
            fail_msg("layers %s, modulation %d, distill %d: %s, %s: %d listed, %d made",
                     options->layers, (int)options->modulation, (int)distill, p->name, p->pass,
                     (int)p->per_step, row < tally->count ? (int)tally->rows[row].count : 0);
    }
    free(tally);
    npt_setup_close(&setup);
}

static void the_list_counts_what_a_step_multiplies(void **state)
{
    static const char *const layers[] = {"all", "0", "1", "2", "0,2", "1-2"};
    static const npt_modulation modulations[] = {NPT_MODULATION_BOTH, NPT_MODULATION_ADDITIVE,
                                                 NPT_MODULATION_MULTIPLICATIVE};
    (void)state;
    char *top = temp_dir(), *path = make_model(top, "llama");
    for (size_t l = 0; l < NPT_COUNT(layers); l++)
        for (size_t m = 0; m < NPT_COUNT(modulations); m++) {
            const npt_adapters_options options = {.rank = RANK,
                                                  .strength = 1,
                                                  .seed = 1,
                                                  .layers = layers[l],
                                                  .modulation = modulations[m]};
            expect_same_counts(path, &options, NPT_DISTILL_END_TO_END);
            expect_same_counts(path, &options, NPT_DISTILL_LAYERWISE);
        }
    npt_free(path);
    temp_dir_remove(top);
}

/* Worked out by hand for three layers. */
static void products_are_counted(void **state)
{
    static const struct {
        const char *name, *pass;
        int64_t per_step, m, n, k;
    } rows[] = {
        {"q", "y", 5, 6, 128, 64},
        {"k, v", "y", 5 + 5, 6, 64, 64},
        {"o", "y", 5, 6, 64, 128},
        {"gate, up", "y", 6 + 6, 6, 96, 64},
        {"down", "y", 6, 6, 64, 96},
        {"down", "dx", 3, 6, 96, 64},
        {"gate", "dx", 2, 6, 64, 96},
        {"up", "dx", 2, 6, 64, 96},
        {"o", "dx", 2, 6, 128, 64},
        {"q", "dx", 2, 6, 64, 128},
        {"k, v", "dx", 2 + 2, 6, 64, 64},
        {"A_proj", "y", 3, 6, 4, 64},
        {"B_add, B_mult", "dw", 6, 96, 4, 6},
        {"B_add", "dx", 3, 6, 4, 96},
        {"B_mult", "dx", 3, 6, 4, 96},
        {"A_proj", "dw", 3, 4, 64, 6},
        {"A_proj", "dx", 2, 6, 64, 4},
    };
    (void)state;
    char *top = temp_dir(), *path = make_model(top, "llama");
    const npt_precision_options precision = {.use_bf16 = true};
    npt_setup setup = open_setup(path, &precision);
    npt_products products;
    npt_products_list(setup.model, &setup.policy,
                      &(npt_products_run){.tokens = TOKENS, .rank = RANK}, &products);
    assert_int_equal(products.count, NPT_COUNT(rows));
    for (size_t i = 0; i < products.count; i++) {
        const npt_product *p = &products.list[i];
        assert_string_equal(p->name, rows[i].name);
        assert_string_equal(p->pass, rows[i].pass);
        assert_int_equal(p->per_step, rows[i].per_step);
        assert_int_equal(p->desc.m, rows[i].m);
        assert_int_equal(p->desc.n, rows[i].n);
        assert_int_equal(p->desc.k, rows[i].k);
    }
    npt_setup_close(&setup);
    npt_free(path);
    temp_dir_remove(top);
}

/* Worked out by hand for three layers, 2 heads of 64, 1 of keys. */
static void what_lies_between_is_counted(void **state)
{
    static const struct {
        int64_t rows;
        double amounts[NPT_RATES];
    } cases[] = {
        {1, /* 21 pairs a head */
         {[NPT_RATE_ATTENTION] = 5 * 2 * 2 * 128 * 21,
          [NPT_RATE_ATTENTION_BACK] = 2 * 5 * 2 * 128 * 21,
          [NPT_RATE_GATE] = 3 * 6 * 96,
          [NPT_RATE_GATE_TERMS] = 3 * 6 * 96,
          [NPT_RATE_GATE_TERMS_BACK] = 3 * 6 * 96,
          [NPT_RATE_ROWS] = (5 + 2 * 6 + 3 + 3 + 4 * 2) * 6 * 64 + (5 + 2) * 6 * (128 + 64)}},
        {2, /* 6 pairs a row and head */
         {[NPT_RATE_ATTENTION] = 5 * 2 * 2 * 128 * 12,
          [NPT_RATE_ATTENTION_BACK] = 2 * 5 * 2 * 128 * 12,
          [NPT_RATE_GATE] = 3 * 6 * 96,
          [NPT_RATE_GATE_TERMS] = 3 * 6 * 96,
          [NPT_RATE_GATE_TERMS_BACK] = 3 * 6 * 96,
          [NPT_RATE_ROWS] = (5 + 2 * 6 + 3 + 3 + 4 * 2) * 6 * 64 + (5 + 2) * 6 * (128 + 64)}},
    };
    (void)state;
    char *top = temp_dir(), *path = make_model(top, "llama");
    const npt_precision_options precision = {0};
    npt_setup setup = open_setup(path, &precision);
    for (size_t i = 0; i < NPT_COUNT(cases); i++) {
        const npt_products_run run = {.tokens = TOKENS, .rank = RANK};
        const npt_beside beside = npt_beside_products(setup.model, &run, cases[i].rows);
        for (int kind = 0; kind < NPT_RATES; kind++)
            if (beside.amount[kind] != cases[i].amounts[kind])
                fail_msg("%s: %g, not %g", npt_rate_name((npt_rate_kind)kind), beside.amount[kind],
                         cases[i].amounts[kind]);
    }
    npt_setup_close(&setup);
    npt_free(path);
    temp_dir_remove(top);
}

/* ---- What is printed ---- */

/* The caller frees. */
static char *print(const npt_backends_options *options)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    assert_non_null(out);
    npt_status status = npt_backends(options, out);
    fclose(out);
    if (status != NPT_OK) fail_msg("%s", npt_error_message());
    return text;
}

static json_t *print_json(npt_backends_options options)
{
    json_t *root = NULL;
    options.json = true;
    char *text = print(&options);
    if (npt_json_parse(text, strlen(text), 0, "output", &root) != NPT_OK)
        fail_msg("%s", npt_error_message());
    free(text);
    return root;
}

static void json_has_the_machine_and_the_routes(void **state)
{
    (void)state;
    char *top = temp_dir(), *path = make_model(top, "qwen2");
    npt_backends_options options = {.tokens = TOKENS, .adapter_rank = RANK};
    json_t *root = print_json(options);
    assert_string_equal(json_string_value(json_object_get(root, "version")), npt_version());
    assert_true(json_array_size(json_object_get(root, "backends")) >= 1);
    assert_null(json_object_get(root, "products"));
    json_decref(root);

    options.model_name = path;
    options.precision.use_quantization = true;
    root = print_json(options);
    const json_t *products = json_object_get(root, "products");
    const json_t *backends = json_object_get(root, "backends");
    assert_int_equal(json_array_size(products), 17);
    for (size_t i = 0; i < json_array_size(products); i++) {
        const json_t *product = json_array_get(products, i);
        const json_t *refused = json_object_get(product, "refused");
        /* those that refused, in order, and then the one that did not */
        size_t before = json_array_size(refused);
        for (size_t k = 0; k < before; k++) {
            const json_t *entry = json_array_get(refused, k);
            assert_true(json_equal(json_object_get(entry, "backend"), json_array_get(backends, k)));
            assert_true(json_string_length(json_object_get(entry, "reason")) > 2);
        }
        assert_true(
            json_equal(json_object_get(product, "backend"), json_array_get(backends, before)));
    }
    const json_t *q = json_array_get(products, 0);
    assert_string_equal(json_string_value(json_object_get(q, "w")), "NF4");
    assert_true(json_is_true(json_object_get(q, "bias")));
    json_decref(root);
    npt_free(path);
    temp_dir_remove(top);
}

/* Products of F32 activations, which the quantized base makes of all of them. */
static void plain_f32_is_done_where_it_is_asked_for(void **state)
{
    (void)state;
    char *top = temp_dir(), *path = make_model(top, "llama");
    npt_backends_options options = {.model_name = path,
                                    .tokens = TOKENS,
                                    .adapter_rank = RANK,
                                    .precision.use_quantization = true,
                                    .compute.matmul_precision = NPT_MATMUL_FMA};
    json_t *root = print_json(options);
    const json_t *products = json_object_get(root, "products");
    assert_string_equal(json_string_value(json_object_get(root, "matmul_precision")), "fma");
    for (size_t i = 0; i < json_array_size(products); i++) {
        const json_t *route = json_object_get(json_array_get(products, i), "route");
        assert_true(json_is_string(route));
        assert_null(strstr(json_string_value(route), "pieces"));
    }
    json_decref(root);
    npt_free(path);
    temp_dir_remove(top);
}

static void the_named_backends_are_the_ones_listed(void **state)
{
    (void)state;
    npt_backends_options options = {.compute.backend = "reference", .compute.threads = 1};
    json_t *root = print_json(options);
    assert_int_equal(json_array_size(json_object_get(root, "backends")), 1);
    assert_int_equal(json_integer_value(json_object_get(root, "threads")), 1);
    json_decref(root);
}

static void the_table_says_the_same(void **state)
{
    static const char *const parts[] = {"backends  reference\n", "policy    base F16, act F16",
                                        "step      6 tokens, adapters of rank 4", "k, v",
                                        "F16  F16  F16   reference -"};
    (void)state;
    char *top = temp_dir(), *path = make_model(top, "llama");
    npt_backends_options options = {.model_name = path,
                                    .tokens = TOKENS,
                                    .adapter_rank = RANK,
                                    .precision.use_fp16 = true,
                                    .compute.backend = "reference"};
    char *text = print(&options);
    for (size_t i = 0; i < NPT_COUNT(parts); i++)
        if (strstr(text, parts[i]) == NULL) fail_msg("'%s' is not in:\n%s", parts[i], text);
    free(text);
    npt_free(path);
    temp_dir_remove(top);
}

static void what_makes_no_sense_is_refused(void **state)
{
    (void)state;
    char *top = temp_dir(), *path = make_model(top, "llama");
    FILE *null = fopen("/dev/null", "w");
    assert_non_null(null);
    npt_backends_options options = {.model_name = path, .tokens = 0, .adapter_rank = RANK};
    assert_int_equal(npt_backends(&options, null), NPT_E_USAGE);
    assert_message_has("--tokens");
    options.tokens = 1;
    options.adapter_rank = 0;
    assert_int_equal(npt_backends(&options, null), NPT_E_USAGE);
    assert_message_has("--adapter_rank");
    options.adapter_rank = 1;
    options.precision = (npt_precision_options){.use_fp16 = true, .use_quantization = true};
    assert_int_equal(npt_backends(&options, null), NPT_E_USAGE);
    options.precision = (npt_precision_options){0};
    options.compute.backend = "abacus";
    assert_int_equal(npt_backends(&options, null), NPT_E_USAGE);
    assert_message_has("abacus");
    options.compute.backend = NULL;
    options.model_name = "/nowhere at all";
    assert_int_not_equal(npt_backends(&options, null), NPT_OK);
    fclose(null);
    npt_free(path);
    temp_dir_remove(top);
}

static void a_full_disk_is_an_io_error(void **state)
{
    (void)state;
    FILE *full = fopen("/dev/full", "w");
    if (full == NULL) return;
    const npt_backends_options options = {0};
    assert_int_equal(npt_backends(&options, full), NPT_E_IO);
    fclose(full);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("the list is what a step multiplies, for every row of the policy",
                 the_list_is_what_a_step_multiplies),
        NPT_CASE("products are as many as a step makes, whatever is trained",
                 the_list_counts_what_a_step_multiplies),
        NPT_CASE("products are counted", products_are_counted),
        NPT_CASE("what lies between the products is counted", what_lies_between_is_counted),
        NPT_CASE("the JSON has the machine and the routes", json_has_the_machine_and_the_routes),
        NPT_CASE("plain F32 is done where it is asked for",
                 plain_f32_is_done_where_it_is_asked_for),
        NPT_CASE("the named backends are the ones listed", the_named_backends_are_the_ones_listed),
        NPT_CASE("the table says the same", the_table_says_the_same),
        NPT_CASE("what makes no sense is refused", what_makes_no_sense_is_refused),
        NPT_CASE("a full disk is an I/O error", a_full_disk_is_an_io_error),
    };
    return npt_test_run("backends", cases, NPT_COUNT(cases));
}
