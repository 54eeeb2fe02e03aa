/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include <math.h>

#include "doctor_plan.h"
#include "model/model.h"
#include "temp_dir.h"
#include "tensor/dtype.h"
#include "train/distill.h"
#include "train/setup.h"

/* Checkpoints that are broken in one way each, and what the plan says of them. They are small
 * random models whose tensors are written again in other dtypes, shapes or values. npt pretrain
 * must refuse exactly those that the plan says it would. */

static npt_make_model_options small(const char *path)
{
    npt_make_model_options o;
    npt_make_model_options_init(&o);
    o.path = path;
    o.hidden = 32;
    o.inter = 64;
    o.layers = 2;
    o.heads = 4;
    o.kv_heads = 2;
    o.vocab = 272;
    o.dtype = NPT_BF16;
    return o;
}

/* ---- Writing a model again ---- */

/* What becomes of a tensor; `skip`: it is left out. Values are zero but for `values`. */
typedef struct altered {
    const char *part; /* of the names of those that are meant */
    npt_dtype dtype;  /* NONE: as it was */
    int64_t rows;     /* 0: as it was */
    bool skip;
    const float *values; /* first values; of F32, F16, BF16 */
    size_t value_count;
} altered;

static const altered *alteration(const altered *list, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strstr(name, list[i].part) != NULL) return &list[i];
    return NULL;
}

static void *altered_data(const npt_st_tensor *t, const altered *a, npt_dtype dtype, int64_t count)
{
    const size_t bytes = npt_st_dtype_bytes(dtype) * (size_t)count;
    void *data = calloc(1, bytes + 1);
    assert_non_null(data);
    if (a == NULL) memcpy(data, t->data, bytes);
    for (size_t i = 0; a != NULL && i < a->value_count; i++)
        npt_store(data, dtype, i, a->values[i]);
    return data;
}

/* The weights in `directory` once more, altered; one shard or two. */
static void rewrite(const char *directory, const altered *list, size_t count, const char *name,
                    bool second_half, bool halves)
{
    npt_st *st;
    npt_st_writer *writer;
    void *data[64];
    char *from = npt_path_join(directory, "from.safetensors"), *to = npt_path_join(directory, name);
    size_t used = 0;
    assert_int_equal(npt_st_open(&st, from, false), NPT_OK);
    assert_int_equal(npt_st_writer_create(&writer, to), NPT_OK);
    for (size_t i = 0; i < npt_st_count(st); i++) {
        const npt_st_tensor *t = npt_st_at(st, i);
        const altered *a = alteration(list, count, t->name);
        if ((halves && (i >= npt_st_count(st) / 2) != second_half) || (a != NULL && a->skip))
            continue;
        const npt_dtype dtype = a != NULL && a->dtype != NPT_DTYPE_NONE ? a->dtype : t->dtype;
        int64_t shape[NPT_MAX_RANK], elements = 1;
        memcpy(shape, t->shape, sizeof shape);
        if (a != NULL && a->rows != 0) shape[0] = a->rows;
        for (int k = 0; k < t->rank; k++) elements *= shape[k];
        assert_true(used < NPT_COUNT(data));
        data[used] = altered_data(t, a, dtype, elements);
        assert_int_equal(
            npt_st_writer_add(writer, t->name, dtype, t->rank, shape, data[used++], NULL, NULL),
            NPT_OK);
    }
    if (npt_st_writer_commit(writer) != NPT_OK) fail_msg("%s", npt_error_message());
    npt_st_writer_destroy(writer);
    npt_st_close(st);
    while (used > 0) free(data[--used]);
    npt_free(from);
    npt_free(to);
}

static void set_config(const char *directory, const char *key, const char *json)
{
    json_t *root;
    char *path = npt_path_join(directory, "config.json");
    assert_int_equal(npt_json_load(path, 0, &root), NPT_OK);
    json_object_set_new(root, key, json_loads(json, JSON_DECODE_ANY, NULL));
    assert_int_equal(npt_json_save(path, root), NPT_OK);
    json_decref(root);
    npt_free(path);
}

/* A model whose weights are altered; the caller removes it. */
static char *broken(const altered *list, size_t count)
{
    char *directory = temp_dir();
    const npt_make_model_options o = small(directory);
    if (npt_make_model(&o) != NPT_OK) fail_msg("%s", npt_error_message());
    char *from = npt_path_join(directory, "model.safetensors"),
         *to = npt_path_join(directory, "from.safetensors");
    assert_int_equal(rename(from, to), 0);
    rewrite(directory, list, count, "model.safetensors", false, false);
    npt_free(from);
    npt_free(to);
    return directory;
}

/* ---- Asking ---- */

/* What npt pretrain would come to: opening and loading, without a step. */
static bool loads(const npt_train_options *o)
{
    npt_setup setup;
    const npt_compute_options compute = {.threads = 1};
    if (npt_setup_open(&setup, o->model_name, &o->precision, &compute) != NPT_OK) return false;
    npt_sites *sites = npt_sites_for(&setup.policy, &setup.model->config, NULL);
    const bool well = npt_model_load(setup.model, setup.exec, &setup.policy, sites) == NPT_OK;
    npt_sites_destroy(sites);
    npt_setup_close(&setup);
    return well;
}

/* The plan's verdict, and a finding of this kind about this group; the plan stays for more. */
static planned expect(const npt_train_options *o, bool scan, npt_verdict verdict, const char *kind,
                      const char *group)
{
    planned p = plan_of(o, scan);
    const json_t *found = plan_find(&p, "findings", "kind", kind, "group", group);
    if (found == NULL) fail_msg("no finding %s about %s", kind, group);
    assert_string_equal(plan_text(found, "site"), strcmp(group, "embed") == 0 ? "embed" : "weight");
    assert_true(plan_text(found, "text")[0] != '\0');
    assert_int_equal(p.verdict, verdict);
    assert_int_equal(loads(o), verdict != NPT_VERDICT_WOULD_FAIL);
    return p;
}

static void check_action(const planned *p, const char *group, const char *file, const char *action)
{
    const json_t *g = plan_find(p, "files.groups", "group", group, "file", file);
    if (g == NULL) fail_msg("no group %s in %s", group, file);
    assert_string_equal(plan_text(g, "action"), action);
}

static void done(planned p, char *directory)
{
    json_decref(p.root);
    temp_dir_remove(directory);
}

/* ---- Cases ---- */

static void config_says_another_float(void **state)
{
    (void)state;
    char *directory = broken(NULL, 0);
    set_config(directory, "torch_dtype", "\"float16\"");
    set_config(directory, "dtype", "\"float16\"");
    npt_train_options o = plan_options(directory);
    planned p = expect(&o, false, NPT_VERDICT_WARNING, "config-dtype", "gate/up/down");
    const json_t *g = plan_find(&p, "files.groups", "group", "gate/up/down", "file", "BF16");
    assert_true(json_is_true(json_object_get(g, "mismatch")));
    assert_string_equal(plan_text(g, "config"), "F16");
    done(p, directory);
}

static void integers_without_record(void **state)
{
    (void)state;
    static const npt_dtype dtypes[] = {NPT_U8, NPT_I8, NPT_F8_E4M3};
    for (size_t i = 0; i < NPT_COUNT(dtypes); i++) {
        const altered list[] = {{.part = "_proj", .dtype = dtypes[i]}};
        char *directory = broken(list, NPT_COUNT(list));
        npt_train_options o = plan_options(directory);
        o.precision.use_bf16 = true;
        planned p = expect(&o, false, NPT_VERDICT_WOULD_FAIL, "integer-without-record", "q/k/v/o");
        check_action(&p, "gate/up/down", npt_dtype_name(dtypes[i]), "refused");
        check_action(&p, "norms", "BF16", "in_place");
        assert_int_equal(plan_number(&p, "memory.weights_copied"), 0);
        done(p, directory);
    }
}

/* Only one linear of the last layer: opening the model does not see it. */
static void one_integer_in_the_last_layer(void **state)
{
    (void)state;
    const altered list[] = {{.part = "layers.1.self_attn.o_proj", .dtype = NPT_I8}};
    char *directory = broken(list, NPT_COUNT(list));
    npt_train_options o = plan_options(directory);
    planned p = expect(&o, false, NPT_VERDICT_WOULD_FAIL, "integer-without-record", "q/k/v/o");
    assert_string_equal(plan_text(plan_find(&p, "files.groups", "file", "I8", NULL, NULL), "first"),
                        "model.layers.1.self_attn.o_proj.weight");
    assert_non_null(plan_find(&p, "findings", "kind", "mixed-dtypes", "group", "q/k/v/o"));
    done(p, directory);
}

static void doubles_are_not_computed_with(void **state)
{
    (void)state;
    const altered list[] = {{.part = "norm", .dtype = NPT_F64}};
    char *directory = broken(list, NPT_COUNT(list));
    npt_train_options o = plan_options(directory);
    planned p = expect(&o, false, NPT_VERDICT_WOULD_FAIL, "unsupported-dtype", "norms");
    done(p, directory);
}

static const char nf4_record[] = "{\"quant_method\":\"bitsandbytes\",\"load_in_4bit\":true,"
                                 "\"bnb_4bit_quant_type\":\"nf4\"}";

static void record_says_nf4_but_tensors_are_floats(void **state)
{
    (void)state;
    char *directory = broken(NULL, 0);
    set_config(directory, "quantization_config", nf4_record);
    npt_train_options o = plan_options(directory);
    planned p = expect(&o, false, NPT_VERDICT_WARNING, "record-dtype", "q/k/v/o");
    const json_t *g = plan_find(&p, "files.groups", "group", "q/k/v/o", NULL, NULL);
    assert_string_equal(plan_text(g, "record"), "NF4");
    assert_string_equal(plan_text(g, "planned"), "F32");
    assert_true(json_is_true(json_object_get(g, "mismatch")));
    done(p, directory);
}

static void pieces_of_four_bits_are_missing(void **state)
{
    (void)state;
    const altered list[] = {{.part = "_proj", .dtype = NPT_U8}};
    char *directory = broken(list, NPT_COUNT(list));
    set_config(directory, "quantization_config", nf4_record);
    npt_train_options o = plan_options(directory);
    planned p = expect(&o, false, NPT_VERDICT_WOULD_FAIL, "broken-record", "gate/up/down");
    done(p, directory);
}

static void other_quantizations_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *record, *said;
    } cases[] = {
        {"{\"quant_method\":\"gptq\",\"bits\":4}", "gptq"},
        {"{\"quant_method\":\"bitsandbytes\",\"load_in_8bit\":true}", "bitsandbytes"},
        {"{\"quant_method\":\"bitsandbytes\",\"load_in_4bit\":true,"
         "\"bnb_4bit_quant_type\":\"fp4\"}",
         "bitsandbytes 4-bit fp4"},
    };
    for (size_t i = 0; i < NPT_COUNT(cases); i++) {
        const altered list[] = {{.part = "_proj", .dtype = NPT_I8}};
        char *directory = broken(list, NPT_COUNT(list));
        set_config(directory, "quantization_config", cases[i].record);
        npt_train_options o = plan_options(directory);
        planned p = expect(&o, false, NPT_VERDICT_WOULD_FAIL, "unsupported-quantization", "");
        assert_string_equal(plan_text(plan_at(&p, "model"), "quantization"), cases[i].said);
        check_action(&p, "gate/up/down", "I8", "refused");
        done(p, directory);
    }
}

static void missing_and_misshapen_tensors(void **state)
{
    (void)state;
    const altered gone[] = {{.part = "layers.1.mlp.up_proj", .skip = true}};
    char *directory = broken(gone, 1);
    npt_train_options o = plan_options(directory);
    planned p = expect(&o, false, NPT_VERDICT_WOULD_FAIL, "missing-tensor", "gate/up/down");
    done(p, directory);
    const altered longer[] = {{.part = "embed_tokens", .rows = 300}};
    directory = broken(longer, 1);
    o = plan_options(directory);
    p = expect(&o, false, NPT_VERDICT_WOULD_FAIL, "wrong-shape", "embed");
    done(p, directory);
}

/* Training does not read the head. */
static void what_evaluation_needs_is_a_warning(void **state)
{
    (void)state;
    const altered gone[] = {{.part = "lm_head", .skip = true}};
    char *directory = broken(gone, 1);
    npt_train_options o = plan_options(directory);
    planned p = expect(&o, false, NPT_VERDICT_WARNING, "missing-tensor", "lm_head");
    done(p, directory);
}

static void shards_of_mixed_dtypes(void **state)
{
    (void)state;
    const altered f32[] = {{.part = "", .dtype = NPT_F32}};
    char *directory = broken(NULL, 0), name[2][64];
    char *whole = npt_path_join(directory, "model.safetensors");
    assert_int_equal(remove(whole), 0);
    npt_free(whole);
    json_t *map = json_object();
    for (int half = 0; half < 2; half++) {
        snprintf(name[half], sizeof name[half], "model-0000%d-of-00002.safetensors", half + 1);
        rewrite(directory, f32, (size_t)half, name[half], half == 1, true);
        char *path = npt_path_join(directory, name[half]);
        npt_st *st;
        assert_int_equal(npt_st_open(&st, path, true), NPT_OK);
        for (size_t i = 0; i < npt_st_count(st); i++)
            json_object_set_new(map, npt_st_at(st, i)->name, json_string(name[half]));
        npt_st_close(st);
        npt_free(path);
    }
    json_t *index = json_pack("{s:o}", "weight_map", map);
    char *path = npt_path_join(directory, "model.safetensors.index.json");
    assert_int_equal(npt_json_save(path, index), NPT_OK);
    npt_free(path);
    json_decref(index);
    npt_train_options o = plan_options(directory);
    planned p = expect(&o, false, NPT_VERDICT_WARNING, "mixed-dtypes", "q/k/v/o");
    check_action(&p, "q/k/v/o", "F32", "in_place");
    check_action(&p, "q/k/v/o", "BF16", "widened");
    done(p, directory);
}

static const char *const extremes_in = "layers.1.mlp.up_proj";
static const float extremes[] = {70000.0f, -65536.0f, 1e-30f, -1e-9f, 65504.0f, 65519.0f, 1.0f};

static int64_t scanned(const planned *p, const char *group, const char *key)
{
    const json_t *g = plan_find(p, "files.groups", "group", group, NULL, NULL);
    return json_integer_value(json_object_get(json_object_get(g, "scan"), key));
}

/* 70000 and 65536 are beyond; 65504 and 65519 are not; two are below half the smallest. */
static void values_beyond_the_range_are_counted(void **state)
{
    (void)state;
    const altered list[] = {{extremes_in, NPT_F32, 0, false, extremes, NPT_COUNT(extremes)}};
    char *directory = broken(list, NPT_COUNT(list));
    set_config(directory, "torch_dtype", "null");
    set_config(directory, "dtype", "null");
    npt_train_options o = plan_options(directory);
    o.precision.use_fp16 = true;
    planned p = expect(&o, true, NPT_VERDICT_NUMERIC, "narrowing-overflow", "gate/up/down");
    const json_t *found =
        plan_find(&p, "findings", "kind", "narrowing-overflow", "group", "gate/up/down");
    assert_string_equal(plan_text(found, "tensor"), "model.layers.1.mlp.up_proj.weight");
    const json_t *g = plan_find(&p, "files.groups", "group", "gate/up/down", "file", "F32"),
                 *scan = json_object_get(g, "scan");
    assert_int_equal(json_integer_value(json_object_get(scan, "become_infinite")), 2);
    assert_int_equal(json_integer_value(json_object_get(scan, "become_zero")), 2);
    assert_int_equal(json_integer_value(json_object_get(scan, "not_finite")), 0);
    assert_int_equal(json_integer_value(json_object_get(scan, "values")), 64 * 32);
    assert_float_equal(json_real_value(json_object_get(scan, "largest")), 70000, 0);
    json_decref(p.root);
    /* without --scan nothing is read, with BF16 the range is wide enough */
    p = plan_of(&o, false);
    assert_int_equal(p.verdict, NPT_VERDICT_WARNING); /* F32 among BF16 */
    assert_int_equal(scanned(&p, "gate/up/down", "values"), 0);
    json_decref(p.root);
    o.precision = (npt_precision_options){.use_bf16 = true};
    p = plan_of(&o, true);
    assert_int_equal(p.verdict, NPT_VERDICT_WARNING);
    done(p, directory);
}

static void the_embedding_is_scanned_for_its_lookups(void **state)
{
    (void)state;
    const altered list[] = {{"embed_tokens", NPT_BF16, 0, false, extremes, 2}};
    char *directory = broken(list, NPT_COUNT(list));
    npt_train_options o = plan_options(directory);
    o.precision.use_fp16 = true;
    planned p = expect(&o, true, NPT_VERDICT_NUMERIC, "narrowing-overflow", "embed");
    check_action(&p, "embed", "BF16", "rounded_on_lookup");
    done(p, directory);
}

static void values_that_are_not_finite_are_found(void **state)
{
    (void)state;
    static const float bad[] = {NAN, INFINITY, 1.0f};
    const altered list[] = {{"layers.0.self_attn.k_proj", NPT_BF16, 0, false, bad, NPT_COUNT(bad)}};
    char *directory = broken(list, NPT_COUNT(list));
    npt_train_options o = plan_options(directory);
    planned p = expect(&o, true, NPT_VERDICT_NUMERIC, "non-finite", "q/k/v/o");
    assert_int_equal(scanned(&p, "q/k/v/o", "not_finite"), 2);
    done(p, directory);
}

/* A header one byte longer puts every tensor at an odd address. */
static void make_odd(const char *directory)
{
    char *path = npt_path_join(directory, "model.safetensors"), *data;
    size_t bytes;
    assert_int_equal(npt_read_file(path, 1 << 24, &data, &bytes), NPT_OK);
    uint64_t header = 0;
    for (int i = 7; i >= 0; i--) header = header << 8 | (uint8_t)data[i];
    char *odd = malloc(bytes + 1);
    assert_non_null(odd);
    memcpy(odd, data, 8 + header);
    odd[8 + header] = ' ';
    memcpy(odd + 9 + header, data + 8 + header, bytes - 8 - header);
    header++;
    for (int i = 0; i < 8; i++) odd[i] = (char)(header >> (8 * i));
    assert_int_equal(npt_write_file(path, odd, bytes + 1), NPT_OK);
    free(odd);
    npt_free(data);
    npt_free(path);
}

static void tensors_at_odd_addresses(void **state)
{
    (void)state;
    char *directory = broken(NULL, 0);
    make_odd(directory);
    npt_train_options o = plan_options(directory);
    planned p = plan_of(&o, true);
    check_action(&p, "gate/up/down", "BF16", "aligned_copy");
    assert_true(loads(&o));
    /* all that training reads, once: BF16 */
    const int64_t head = 272 * 32 * 2, norm = 32 * 2;
    assert_int_equal(plan_number(&p, "memory.weights_copied"),
                     plan_number(&p, "memory.weights_mapped") - head - norm);
    json_decref(p.root);
    o.precision.use_quantization = true;
    p = expect(&o, false, NPT_VERDICT_WOULD_FAIL, "unaligned", "q/k/v/o");
    done(p, directory);
}

static void tensors_nobody_asked_for_do_not_matter(void **state)
{
    (void)state;
    char *directory = broken(NULL, 0);
    /* a model of two layers that is said to have one */
    set_config(directory, "num_hidden_layers", "1");
    npt_train_options o = plan_options(directory);
    planned p = plan_of(&o, false);
    assert_int_equal(p.verdict, NPT_VERDICT_FINE);
    check_action(&p, "others", "BF16", "not_read");
    done(p, directory);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("config.json says another float than the files have", config_says_another_float),
        NPT_CASE("integers without a quantization record", integers_without_record),
        NPT_CASE("one integer in the last layer", one_integer_in_the_last_layer),
        NPT_CASE("doubles are not computed with", doubles_are_not_computed_with),
        NPT_CASE("the record says NF4, but the tensors are floats",
                 record_says_nf4_but_tensors_are_floats),
        NPT_CASE("pieces of 4-bit linears are missing", pieces_of_four_bits_are_missing),
        NPT_CASE("other quantizations are named", other_quantizations_are_named),
        NPT_CASE("missing and misshapen tensors", missing_and_misshapen_tensors),
        NPT_CASE("what only evaluation needs is a warning", what_evaluation_needs_is_a_warning),
        NPT_CASE("shards of mixed dtypes", shards_of_mixed_dtypes),
        NPT_CASE("values beyond the range of the planned dtype are counted",
                 values_beyond_the_range_are_counted),
        NPT_CASE("the embedding is scanned for its look-ups",
                 the_embedding_is_scanned_for_its_lookups),
        NPT_CASE("values that are not finite are found", values_that_are_not_finite_are_found),
        NPT_CASE("tensors at odd addresses", tensors_at_odd_addresses),
        NPT_CASE("tensors nobody asked for do not matter", tensors_nobody_asked_for_do_not_matter),
    };
    return npt_test_run("doctor plan: files", cases, NPT_COUNT(cases));
}
