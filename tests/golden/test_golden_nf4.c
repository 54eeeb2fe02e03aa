/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "golden/golden_case.h"

#include "base/memory.h"
#include "files/files.h"
#include "tensor/nf4.h"
#include "unit/temp_dir.h"

/* A 4-bit base is nothing but its decoded values: training on it is F32 training on an F32
 * checkpoint that holds level × absmax. (That both are PyTorch's is test_golden_f32's to say.) */

typedef struct decoder {
    const npt_model *model;
    npt_st_writer *writer;
    float *kept[64]; /* written at commit */
    int count;
} decoder;

static void add_floats(decoder *d, const char *name, const npt_weight *w)
{
    const int64_t shape[2] = {w->rows, w->cols};
    float *values = npt_alloc((size_t)(w->rows * w->cols), sizeof *values);
    assert_non_null(values);
    assert_int_equal(w->dtype, NPT_NF4);
    npt_nf4_dequantize(w->data, w->absmax, w->levels, (size_t)(w->rows * w->cols), values, NPT_F32);
    assert_true(d->count < (int)NPT_COUNT(d->kept));
    d->kept[d->count++] = values;
    assert_int_equal(npt_st_writer_add(d->writer, name, NPT_F32, 2, shape, values, NULL, NULL),
                     NPT_OK);
}

static void add_block(decoder *d, int layer)
{
    const npt_block_weights *b = &d->model->blocks[layer];
    const struct {
        const char *part;
        const npt_weight *w;
    } linears[] = {{"self_attn.q_proj", &b->q}, {"self_attn.k_proj", &b->k},
                   {"self_attn.v_proj", &b->v}, {"self_attn.o_proj", &b->o},
                   {"mlp.gate_proj", &b->gate}, {"mlp.up_proj", &b->up},
                   {"mlp.down_proj", &b->down}};
    for (size_t i = 0; i < NPT_COUNT(linears); i++) {
        char name[128];
        snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer, linears[i].part);
        add_floats(d, name, linears[i].w);
    }
}

static bool is_float(const npt_st_tensor *t)
{
    const size_t length = strlen(t->name);
    return length > 7 && strcmp(t->name + length - 7, ".weight") == 0 &&
           npt_dtype_is_float(t->dtype);
}

/* The loaded model as an F32 checkpoint in `directory`. */
static void write_decoded(const npt_model *model, const char *directory)
{
    decoder d = {.model = model};
    char *path = npt_path_join(directory, "model.safetensors");
    assert_int_equal(npt_st_writer_create(&d.writer, path), NPT_OK);
    for (size_t i = 0; i < npt_st_count(model->st); i++) {
        const npt_st_tensor *t = npt_st_at(model->st, i);
        if (is_float(t))
            assert_int_equal(npt_st_writer_add(d.writer, t->name, t->dtype, t->rank, t->shape,
                                               t->data, NULL, NULL),
                             NPT_OK);
    }
    for (int layer = 0; layer < (int)model->config.layers; layer++) add_block(&d, layer);
    assert_int_equal(npt_st_writer_commit(d.writer), NPT_OK);
    npt_st_writer_destroy(d.writer);
    for (int i = 0; i < d.count; i++) npt_free(d.kept[i]);
    npt_free(path);
    json_t *config;
    path = npt_path_join(model->directory, "config.json");
    assert_int_equal(npt_json_load(path, 0, &config), NPT_OK);
    npt_free(path);
    assert_int_equal(json_object_del(config, "quantization_config"), 0);
    path = npt_path_join(directory, "config.json");
    assert_int_equal(npt_json_save(path, config), NPT_OK);
    npt_free(path);
    json_decref(config);
}

/* `limit` 0: bit for bit. */
static void check_same(golden_run *run, golden_run *decoded, golden_kind kind, double limit)
{
    size_t count, count_decoded;
    golden_gap gap = {0};
    float *a = golden_flat(run, kind, &count), *b = golden_flat(decoded, kind, &count_decoded);
    assert_int_equal(count, count_decoded);
    if (limit == 0) assert_memory_equal(a, b, count * sizeof *a);
    for (size_t i = 0; i < count; i++) golden_gap_add(&gap, (double)a[i], (double)b[i]);
    golden_assert_within(golden_gap_relative(&gap), limit,
                         "%s: decoded weights give another result", run->c->name);
    npt_free(a);
    npt_free(b);
}

static void check_decoded(const char *name, const char *backend, npt_matmul_precision precision,
                          double limit)
{
    golden_case c;
    golden_run run, decoded;
    golden_losses losses, losses_decoded;
    if (!golden_has_backend(backend)) return;
    char *directory = temp_dir();
    golden_open(&c, name);
    golden_setup setup = {.backend = backend, .threads = 1, .precision = precision};
    golden_run_open(&run, &c, &setup);
    assert_int_equal(run.policy.base_rule, NPT_R1);
    write_decoded(run.model, directory);
    setup.model = directory;
    golden_run_open(&decoded, &c, &setup);
    assert_int_equal(decoded.policy.base_rule, NPT_R5);
    for (size_t step = 0; step < 3; step++) {
        golden_step(&run, step, &losses);
        golden_step(&decoded, step, &losses_decoded);
        if (limit == 0) assert_memory_equal(&losses, &losses_decoded, sizeof losses);
        check_same(&run, &decoded, GOLDEN_GRADIENT, limit);
    }
    check_same(&run, &decoded, GOLDEN_UPDATE, limit);
    golden_run_close(&decoded);
    golden_run_close(&run);
    golden_close(&c);
    temp_dir_remove(directory);
}

static void decoded_bits(void **state)
{
    (void)state;
    check_decoded("nf4", "reference", NPT_MATMUL_AUTO, 0);
    check_decoded("nf4-double", "reference", NPT_MATMUL_AUTO, 0);
    check_decoded("nf4", "native", NPT_MATMUL_FMA, 0);
    check_decoded("nf4-double", "native", NPT_MATMUL_FMA, 0);
    check_decoded("nf4", "native", NPT_MATMUL_PIECES, 0);
    check_decoded("nf4-double", "native", NPT_MATMUL_PIECES, 0);
}

static void decoded_nearly(void **state)
{
    (void)state;
    check_decoded("nf4-double", "openblas", NPT_MATMUL_AUTO, 1e-6);
    check_decoded("nf4-double", "onednn", NPT_MATMUL_AUTO, 1e-6);
}

/* --use_quantization on a checkpoint that is not: the weights bitsandbytes would have stored. */
static void quantized_on_load(void **state)
{
    static const char *const stored[] = {"nf4", "nf4-double"};
    (void)state;
    for (int twice = 0; twice < 2; twice++) {
        golden_case c;
        golden_run run, plain;
        golden_losses losses;
        golden_open(&c, stored[twice]);
        const golden_setup setup = {.backend = "reference", .threads = 1};
        golden_run_open(&run, &c, &setup);
        char *model = npt_test_path("tests/golden/models/llama-rope-llama3");
        const golden_setup on_load = {.backend = "reference",
                                      .threads = 1,
                                      .model = model,
                                      .request = {.use_quantization = true},
                                      .no_double_quantization = twice == 0};
        golden_run_open(&plain, &c, &on_load);
        assert_true(plain.policy.quantize_on_load);
        golden_accumulate(&run, 0, &losses, NULL);
        golden_accumulate(&plain, 0, &losses, NULL);
        /* torch's mean of absmax, the offset, differs in its last bits */
        check_same(&run, &plain, GOLDEN_GRADIENT, twice == 0 ? 0 : 1e-5);
        golden_run_close(&plain);
        golden_run_close(&run);
        golden_close(&c);
        free(model);
    }
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("training on NF4 is, bit for bit, F32 training on the decoded weights",
                 decoded_bits),
        NPT_CASE("the same with vendor products, to rounding", decoded_nearly),
        NPT_CASE("quantizing on load gives what the stored checkpoint gives", quantized_on_load),
    };
    return npt_test_run("golden, NF4", cases, NPT_COUNT(cases));
}
