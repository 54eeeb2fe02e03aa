/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "npt.h"

#include <math.h>
#include <stdlib.h>

#include "base/rng.h"
#include "files/json.h"
#include "model/model.h"
#include "model/random_weights.h"
#include "npt_test.h"
#include "temp_dir.h"
#include "text/tokenizer.h"

/* Random models: what is written can be read again, is what the formula says, and depends on the
 * seed alone. */

static npt_make_model_options small(const char *path)
{
    npt_make_model_options o;
    npt_make_model_options_init(&o);
    o.path = path;
    o.hidden = 48;
    o.inter = 80;
    o.layers = 3;
    o.heads = 6;
    o.kv_heads = 2;
    o.vocab = 300;
    return o;
}

static void make(const npt_make_model_options *options)
{
    if (npt_make_model(options) != NPT_OK) fail_msg("%s", npt_error_message());
}

/* ---- Shapes ---- */

static void expect_tensor(const npt_model *model, const char *name, npt_dtype dtype, int64_t rows,
                          int64_t cols)
{
    const int64_t shape[2] = {rows, cols};
    const npt_st_tensor *tensor;
    if (npt_st_require(model->st, name, dtype, cols == 0 ? 1 : 2, shape, &tensor) != NPT_OK)
        fail_msg("%s", npt_error_message());
}

static void expect_model(const npt_make_model_options *o, npt_family family)
{
    npt_model *model = NULL;
    if (npt_model_open(&model, o->path) != NPT_OK) fail_msg("%s", npt_error_message());
    const npt_config *c = &model->config;
    const int64_t head = o->head_dim != 0 ? o->head_dim : o->hidden / o->heads;
    const bool bias = family == NPT_QWEN2, norms = family == NPT_QWEN3;
    assert_int_equal(c->family, family);
    assert_int_equal(c->hidden, o->hidden);
    assert_int_equal(c->inter, o->inter);
    assert_int_equal(c->layers, o->layers);
    assert_int_equal(c->heads, o->heads);
    assert_int_equal(c->kv_heads, o->kv_heads);
    assert_int_equal(c->head_dim, head);
    assert_int_equal(c->vocab, o->vocab);
    assert_int_equal(c->dtype, o->dtype);
    assert_int_equal(c->tied, o->tie_embeddings);
    assert_int_equal(c->qkv_bias, bias);
    assert_int_equal(c->qk_norm, norms);
    assert_int_equal(c->window, family == NPT_MISTRAL ? 4096 : 0);
    assert_int_equal(model->file_dtype, o->dtype);
    /* 3 or 2 outside; 9 in a block, and what the family adds */
    size_t tensors = (o->tie_embeddings ? 2 : 3) + (size_t)o->layers * (9u + 3 * bias + 2 * norms);
    assert_int_equal(npt_st_count(model->st), tensors);
    expect_tensor(model, "model.embed_tokens.weight", o->dtype, o->vocab, o->hidden);
    expect_tensor(model, "model.layers.2.self_attn.k_proj.weight", o->dtype, o->kv_heads * head,
                  o->hidden);
    expect_tensor(model, "model.layers.0.self_attn.o_proj.weight", o->dtype, o->hidden,
                  o->heads * head);
    expect_tensor(model, "model.layers.1.mlp.down_proj.weight", o->dtype, o->hidden, o->inter);
    if (bias)
        expect_tensor(model, "model.layers.0.self_attn.q_proj.bias", o->dtype, o->heads * head, 0);
    if (norms) expect_tensor(model, "model.layers.0.self_attn.k_norm.weight", o->dtype, head, 0);
    npt_model_close(model);
}

static void every_family_and_dtype_can_be_opened(void **state)
{
    static const char *const families[] = {"llama", "mistral", "qwen2", "qwen3"};
    static const npt_dtype dtypes[] = {NPT_F32, NPT_F16, NPT_BF16};
    (void)state;
    char *top = temp_dir();
    for (size_t f = 0; f < NPT_COUNT(families); f++)
        for (size_t d = 0; d < NPT_COUNT(dtypes); d++) {
            char *path = npt_format("%s/%s-%s", top, families[f], npt_dtype_name(dtypes[d]));
            npt_make_model_options o = small(path);
            o.family = families[f];
            o.dtype = dtypes[d];
            o.tie_embeddings = d == 1;
            o.head_dim = f == 3 ? 16 : 0; /* other than hidden / heads */
            make(&o);
            expect_model(&o, (npt_family)f);
            npt_free(path);
        }
    assert_int_equal(temp_dir_count(top), 12); /* nothing temporary is left */
    temp_dir_remove(top);
}

/* Opens and loads a model. */
static void load_as(const char *path, npt_policy_request request, npt_model **model,
                    npt_exec **exec)
{
    npt_policy policy;
    npt_site_block blocks[3] = {{0}};
    assert_int_equal(npt_policy_decide(&request, &policy), NPT_OK);
    npt_sites *sites = npt_sites_create(&policy, 3, blocks);
    assert_int_equal(npt_exec_create(exec, "reference", 1), NPT_OK);
    assert_int_equal(npt_model_open(model, path), NPT_OK);
    if (npt_model_load(*model, *exec, &policy, sites) != NPT_OK ||
        npt_model_load_head(*model, *exec, &policy, sites) != NPT_OK ||
        npt_sites_check(sites) != NPT_OK)
        fail_msg("%s", npt_error_message());
    npt_sites_destroy(sites);
}

static void load(const char *path, bool use_fp16, npt_model **model, npt_exec **exec)
{
    load_as(path, (npt_policy_request){.use_fp16 = use_fp16}, model, exec);
}

static void every_weight_can_be_loaded(void **state)
{
    (void)state;
    char *top = temp_dir(), *path = npt_path_join(top, "m");
    npt_make_model_options o = small(path);
    npt_model *model;
    npt_exec *exec;
    o.family = "qwen3";
    make(&o);
    load(path, true, &model, &exec);
    assert_int_equal(model->blocks[2].down.dtype, NPT_F16);
    assert_int_equal(model->blocks[0].q_norm.dtype, NPT_F16);
    assert_int_equal(((const uint16_t *)model->blocks[0].q_norm.data)[7], 0x3c00); /* 1 */
    assert_int_equal(model->lm_head.rows, 300);
    assert_int_equal(model->narrowing.overflowed, 0);
    npt_model_close(model);
    npt_exec_destroy(exec);
    npt_free(path);
    temp_dir_remove(top);
}

static void expect_same_linear(const npt_weight *x, const npt_weight *y)
{
    const size_t count = (size_t)(x->rows * x->cols);
    assert_int_equal(x->dtype, NPT_NF4);
    assert_int_equal(y->dtype, NPT_NF4);
    assert_memory_equal(x->data, y->data, (count + 1) / 2);
    assert_memory_equal(x->absmax, y->absmax, (count + 63) / 64 * sizeof(float));
    assert_memory_equal(x->levels, y->levels, 16 * sizeof(float));
}

/* What quantizing on load makes of the same values was itself compared with bitsandbytes. */
static void what_is_stored_in_4_bits_is_what_loading_would_quantize(void **state)
{
    static const npt_dtype dtypes[] = {NPT_F32, NPT_F16, NPT_BF16};
    (void)state;
    char *top = temp_dir();
    for (size_t d = 0; d < NPT_COUNT(dtypes); d++) {
        npt_model *plain, *stored;
        npt_exec *execs[2];
        char *paths[2] = {npt_format("%s/plain%zu", top, d), npt_format("%s/stored%zu", top, d)};
        npt_make_model_options o = small(paths[0]);
        o.family = "qwen2";
        o.dtype = dtypes[d];
        make(&o);
        o.path = paths[1];
        o.quantize = true;
        make(&o);
        load_as(paths[0], (npt_policy_request){.use_quantization = true}, &plain, &execs[0]);
        load_as(paths[1], (npt_policy_request){.base_is_quantized = true}, &stored, &execs[1]);
        assert_true(stored->config.quantized);
        for (int layer = 0; layer < 3; layer++) {
            const npt_block_weights *x = &plain->blocks[layer], *y = &stored->blocks[layer];
            const npt_weight *xs[] = {&x->q, &x->k, &x->v, &x->o, &x->gate, &x->up, &x->down};
            const npt_weight *ys[] = {&y->q, &y->k, &y->v, &y->o, &y->gate, &y->up, &y->down};
            for (int i = 0; i < 7; i++) expect_same_linear(xs[i], ys[i]);
            assert_memory_equal(x->q.bias, y->q.bias, 48 * sizeof(float));
        }
        npt_model_close(plain);
        npt_model_close(stored);
        for (int i = 0; i < 2; i++) {
            npt_exec_destroy(execs[i]);
            npt_free(paths[i]);
        }
    }
    temp_dir_remove(top);
}

/* The same file with its packed weights called something else; their bytes stay. */
static void store_as(const char *from, const char *to, npt_dtype storage)
{
    npt_st_writer *writer = NULL;
    npt_model *model = NULL;
    char *path = npt_format("%s/model.safetensors", to),
         *copy = npt_format("mkdir '%s' && cp '%s/config.json' '%s'", to, from, to);
    assert_int_equal(system(copy), 0);
    assert_int_equal(npt_model_open(&model, from), NPT_OK);
    assert_int_equal(npt_st_writer_create(&writer, path), NPT_OK);
    for (size_t i = 0; i < npt_st_count(model->st); i++) {
        const npt_st_tensor *t = npt_st_at(model->st, i);
        const bool packed = t->dtype == NPT_U8 && t->rank == 2;
        const int64_t column[2] = {(int64_t)(t->bytes / npt_dtype_bytes(storage)), 1};
        assert_int_equal(npt_st_writer_add(writer, t->name, packed ? storage : t->dtype, t->rank,
                                           packed ? column : t->shape, t->data, NULL, NULL),
                         NPT_OK);
    }
    assert_int_equal(npt_st_writer_commit(writer), NPT_OK);
    npt_st_writer_destroy(writer);
    npt_model_close(model);
    npt_free(path);
    npt_free(copy);
}

/* The doctor, too, must not take the storage for floats. */
static void expect_fine_plan(const char *path)
{
    npt_train_options o;
    npt_doctor_options doctor = {0};
    npt_verdict verdict;
    FILE *out = fopen("/dev/null", "w");
    assert_non_null(out);
    npt_train_options_init(&o, NPT_RECIPE_PRETRAIN);
    o.model_name = path;
    if (npt_doctor_plan(&o, &doctor, out, &verdict) != NPT_OK) fail_msg("%s", npt_error_message());
    assert_int_equal(verdict, NPT_VERDICT_FINE);
    fclose(out);
}

static void the_storage_dtype_of_packed_weights_does_not_matter(void **state)
{
    static const npt_dtype storages[] = {NPT_BF16, NPT_F16, NPT_F32};
    (void)state;
    char *top = temp_dir(), *path = npt_path_join(top, "u8");
    npt_make_model_options o = small(path);
    npt_model *models[2];
    npt_exec *execs[2];
    o.quantize = true;
    make(&o);
    load_as(path, (npt_policy_request){.base_is_quantized = true}, &models[0], &execs[0]);
    for (size_t i = 0; i < NPT_COUNT(storages); i++) {
        char *other = npt_path_join(top, npt_dtype_name(storages[i]));
        store_as(path, other, storages[i]);
        load_as(other, (npt_policy_request){.base_is_quantized = true}, &models[1], &execs[1]);
        expect_same_linear(&models[0]->blocks[2].down, &models[1]->blocks[2].down);
        expect_same_linear(&models[0]->blocks[0].q, &models[1]->blocks[0].q);
        assert_int_equal(models[1]->file_dtype, NPT_NF4);
        expect_fine_plan(other);
        npt_model_close(models[1]);
        npt_exec_destroy(execs[1]);
        npt_free(other);
    }
    npt_model_close(models[0]);
    npt_exec_destroy(execs[0]);
    npt_free(path);
    temp_dir_remove(top);
}

/* ---- Values ---- */

/* The definition, in F64, from the published generator. */
static double by_definition(const npt_random_weights *w, uint64_t index)
{
    const uint32_t key[2] = {(uint32_t)w->seed, (uint32_t)(w->seed >> 32)};
    const uint32_t counter[4] = {(uint32_t)(index / 2), (uint32_t)(index / 2 >> 32),
                                 (uint32_t)w->stream, (uint32_t)(w->stream >> 32)};
    uint32_t out[4];
    npt_philox(counter, key, out);
    double sum = 0;
    for (int i = 0; i < 2; i++) {
        uint32_t word = out[2 * (index % 2) + (unsigned)i];
        sum += word % 65536 + word / 65536;
    }
    return w->mean + w->deviation * (sum - 4 * 32767.5) / sqrt(4 * (65536.0 * 65536.0 - 1) / 12);
}

static void values_are_what_the_definition_says(void **state)
{
    const npt_random_weights w = {.seed = 0x123456789abcdefu,
                                  .stream = NPT_RNG_MAKE_MODEL + 5,
                                  .dtype = NPT_F32,
                                  .deviation = 0.02};
    static const uint64_t starts[] = {0, 1, 1023, 0x1ffffffffu};
    (void)state;
    for (size_t s = 0; s < NPT_COUNT(starts); s++) {
        float values[1500];
        npt_random_weights_fill(&w, (int64_t)starts[s], 1500, values);
        for (uint64_t i = 0; i < 1500; i++) {
            double wanted = by_definition(&w, starts[s] + i);
            if (!(fabs(values[i] - wanted) <= 1e-6 * 0.02)) fail_msg("%g != %g", values[i], wanted);
        }
    }
}

static void values_have_the_deviation_asked_for(void **state)
{
    enum { N = 1 << 20 };
    const npt_random_weights w = {.seed = 7, .stream = 1, .dtype = NPT_F32, .deviation = 0.5};
    (void)state;
    float *values = malloc(N * sizeof *values);
    assert_non_null(values);
    double sum = 0, squares = 0, largest = 0;
    npt_random_weights_fill(&w, 0, N, values);
    for (int i = 0; i < N; i++) {
        sum += values[i];
        squares += (double)values[i] * values[i];
        largest = fmax(largest, fabs(values[i]));
    }
    assert_true(fabs(sum / N) < 5 * 0.5 / 1024); /* five standard errors */
    assert_true(fabs(sqrt(squares / N) - 0.5) < 0.002);
    assert_true(largest < 0.5 * 3.47 && largest > 0.5 * 3.2);
    free(values);
}

static void values_do_not_depend_on_how_a_range_is_cut(void **state)
{
    enum { N = 5000 };
    static const npt_dtype dtypes[] = {NPT_F32, NPT_F16, NPT_BF16};
    (void)state;
    for (size_t d = 0; d < NPT_COUNT(dtypes); d++) {
        const npt_random_weights w = {.seed = 3, .stream = 9, .dtype = dtypes[d], .deviation = 1};
        const size_t size = npt_dtype_bytes(dtypes[d]);
        char *whole = malloc(N * size), *cut = malloc(N * size + 8);
        assert_true(whole != NULL && cut != NULL);
        npt_random_weights_fill(&w, 0, N, whole);
        memset(cut, 0x5a, N * size + 8);
        for (int64_t at = 0, step = 1; at < N; at += step, step = step * 5 % 1009) {
            if (step > N - at) step = N - at;
            npt_random_weights_fill(&w, at, step, cut + (size_t)at * size);
        }
        assert_memory_equal(whole, cut, N * size);
        for (int i = 0; i < 8; i++) assert_int_equal(cut[N * size + (size_t)i], 0x5a);
        free(whole);
        free(cut);
    }
}

static void a_tensor_larger_than_a_piece_is_written_whole(void **state)
{
    (void)state;
    char *top = temp_dir(), *path = npt_path_join(top, "m");
    npt_make_model_options o = small(path);
    npt_model *model;
    o.vocab = 12001; /* × 48 × 4 bytes: a bit more than two pieces of 1 MiB */
    make(&o);
    assert_int_equal(npt_model_open(&model, path), NPT_OK);
    const npt_st_tensor *embed = npt_st_find(model->st, "model.embed_tokens.weight");
    const npt_random_weights w = {
        .seed = o.seed, .stream = NPT_RNG_MAKE_MODEL, .dtype = NPT_F32, .deviation = 0.02};
    assert_non_null(embed);
    for (uint64_t i = 0; i < 12001 * 48; i += 997) {
        float value;
        memcpy(&value, (const char *)embed->data + 4 * i, 4);
        assert_true(fabs(value - by_definition(&w, i)) <= 1e-6 * 0.02);
    }
    npt_model_close(model);
    npt_free(path);
    temp_dir_remove(top);
}

static bool same_weights(const char *a, const char *b)
{
    char *data[2],
        *paths[2] = {npt_path_join(a, "model.safetensors"), npt_path_join(b, "model.safetensors")};
    size_t bytes[2];
    for (int i = 0; i < 2; i++) {
        assert_int_equal(npt_read_file(paths[i], 1 << 30, &data[i], &bytes[i]), NPT_OK);
        npt_free(paths[i]);
    }
    bool same = bytes[0] == bytes[1] && memcmp(data[0], data[1], bytes[0]) == 0;
    npt_free(data[0]);
    npt_free(data[1]);
    return same;
}

static void the_seed_decides(void **state)
{
    (void)state;
    char *top = temp_dir(), *paths[3];
    for (int i = 0; i < 3; i++) {
        paths[i] = npt_format("%s/%d", top, i);
        npt_make_model_options o = small(paths[i]);
        o.seed = i == 2 ? 43 : 42;
        make(&o);
    }
    assert_true(same_weights(paths[0], paths[1]));
    assert_false(same_weights(paths[0], paths[2]));
    for (int i = 0; i < 3; i++) npt_free(paths[i]);
    temp_dir_remove(top);
}

/* ---- The tokenizer ---- */

static void its_tokenizer_takes_any_text(void **state)
{
    static const char text[] = "Na\xc3\xafve \xe2\x82\xac 5\n\ttabs, 'quotes' and \xf0\x9f\x99\x82";
    (void)state;
    char *top = temp_dir(), *path = npt_path_join(top, "m"), *back = NULL;
    npt_make_model_options o = small(path);
    npt_tokenizer *tokenizer = NULL;
    npt_ids ids = {0};
    o.vocab = 258;
    make(&o);
    if (npt_tokenizer_open(&tokenizer, path) != NPT_OK) fail_msg("%s", npt_error_message());
    assert_int_equal(npt_tokenizer_size(tokenizer), 258);
    assert_int_equal(npt_tokenizer_encode(tokenizer, text, strlen(text), true, &ids), NPT_OK);
    assert_int_equal(ids.count, 1 + strlen(text));
    assert_int_equal(ids.data[0], 256);
    for (size_t i = 1; i < ids.count; i++) assert_int_equal(ids.data[i], (uint8_t)text[i - 1]);
    assert_int_equal(npt_tokenizer_decode(tokenizer, ids.data, ids.count, true, &back, NULL),
                     NPT_OK);
    assert_string_equal(back, text);
    npt_free(back);
    npt_ids_fini(&ids);
    npt_tokenizer_close(tokenizer);
    npt_free(path);
    temp_dir_remove(top);
}

static void a_small_vocabulary_has_no_tokenizer(void **state)
{
    (void)state;
    char *top = temp_dir(), *path = npt_path_join(top, "m");
    npt_make_model_options o = small(path);
    npt_model *model;
    o.vocab = 257;
    make(&o);
    assert_int_equal(temp_dir_count(path), 2);
    assert_int_equal(npt_model_open(&model, path), NPT_OK);
    assert_int_equal(model->config.bos, -1);
    assert_int_equal(model->config.eos, -1);
    npt_model_close(model);
    npt_free(path);
    temp_dir_remove(top);
}

/* ---- Refusals ---- */

static void what_makes_no_sense_is_refused(void **state)
{
    static const struct {
        const char *family;
        int64_t hidden, heads, kv_heads, head_dim, layers;
        npt_dtype dtype;
        const char *says;
    } rows[] = {
        {"gpt2", 48, 6, 2, 0, 1, NPT_F32, "gpt2"},
        {"llama", 0, 6, 2, 0, 1, NPT_F32, "--hidden"},
        {"llama", 48, 6, 4, 0, 1, NPT_F32, "--kv_heads"},
        {"llama", 50, 6, 2, 0, 1, NPT_F32, "--heads"},
        {"llama", 18, 6, 2, 0, 1, NPT_F32, "--head_dim"},
        {"llama", 48, 6, 2, 15, 1, NPT_F32, "--head_dim"},
        {"llama", 48, 6, 2, -2, 1, NPT_F32, "--head_dim"},
        {"llama", 48, 6, 2, 0, 0, NPT_F32, "--layers"},
        {"llama", 48, 6, 2, 0, 5000, NPT_F32, "--layers"},
        {"llama", 48, 6, 2, 0, 1, NPT_NF4, "--dtype"},
        {"llama", 48, 6, 2, 0, 1, NPT_I8, "I8"},
    };
    (void)state;
    char *top = temp_dir(), *path = npt_path_join(top, "m");
    for (size_t i = 0; i < NPT_COUNT(rows); i++) {
        npt_make_model_options o = small(path);
        o.family = rows[i].family;
        o.hidden = rows[i].hidden;
        o.heads = rows[i].heads;
        o.kv_heads = rows[i].kv_heads;
        o.head_dim = rows[i].head_dim;
        o.layers = rows[i].layers;
        o.dtype = rows[i].dtype;
        assert_int_equal(npt_make_model(&o), NPT_E_USAGE);
        assert_message_has(rows[i].says);
    }
    npt_make_model_options o = small(NULL);
    assert_int_equal(npt_make_model(&o), NPT_E_USAGE);
    assert_int_equal(temp_dir_count(top), 0);
    npt_free(path);
    temp_dir_remove(top);
}

static void what_is_there_is_never_overwritten(void **state)
{
    (void)state;
    char *top = temp_dir(), *full = npt_path_join(top, "full"),
         *empty = npt_path_join(top, "empty/");
    assert_int_equal(npt_make_directories(full), NPT_OK);
    assert_int_equal(npt_make_directories(empty), NPT_OK);
    char *kept = temp_file(full, "kept", "x", 1);
    npt_make_model_options o = small(full);
    assert_int_equal(npt_make_model(&o), NPT_E_USAGE);
    assert_message_has("not empty");
    o.path = kept;
    assert_int_equal(npt_make_model(&o), NPT_E_USAGE);
    o.path = empty;
    make(&o);
    assert_int_equal(temp_dir_count(full), 1);
    assert_int_equal(temp_dir_count(top), 2);
    npt_free(kept);
    npt_free(full);
    npt_free(empty);
    temp_dir_remove(top);
}

static void lack_of_memory_leaves_nothing_behind(void **state)
{
    (void)state;
    char *top = temp_dir(), *path = npt_path_join(top, "m");
    npt_make_model_options o = small(path);
    o.layers = 1;
    for (long n = 1;; n++) {
        npt_alloc_fail_at(n);
        npt_status status = npt_make_model(&o);
        npt_alloc_fail_at(0);
        if (status == NPT_OK) break;
        if (n > 10000) fail_msg("no end: %s", npt_error_message());
        assert_int_equal(status, NPT_E_NOMEM);
        assert_int_equal(temp_dir_count(top), 0);
    }
    npt_free(path);
    temp_dir_remove(top);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("every family can be opened in every dtype", every_family_and_dtype_can_be_opened),
        NPT_CASE("every weight can be loaded", every_weight_can_be_loaded),
        NPT_CASE("what is stored in 4 bits is what loading would quantize",
                 what_is_stored_in_4_bits_is_what_loading_would_quantize),
        NPT_CASE("the storage dtype of packed weights does not matter",
                 the_storage_dtype_of_packed_weights_does_not_matter),
        NPT_CASE("values are what the definition says", values_are_what_the_definition_says),
        NPT_CASE("values have the deviation asked for", values_have_the_deviation_asked_for),
        NPT_CASE("values do not depend on how a range is cut",
                 values_do_not_depend_on_how_a_range_is_cut),
        NPT_CASE("a tensor larger than a piece is written whole",
                 a_tensor_larger_than_a_piece_is_written_whole),
        NPT_CASE("the seed decides every byte", the_seed_decides),
        NPT_CASE("its tokenizer takes any text and gives it back", its_tokenizer_takes_any_text),
        NPT_CASE("a vocabulary too small for bytes has no tokenizer",
                 a_small_vocabulary_has_no_tokenizer),
        NPT_CASE("what makes no sense is refused by the name of its flag",
                 what_makes_no_sense_is_refused),
        NPT_CASE("what is there is never overwritten", what_is_there_is_never_overwritten),
        NPT_CASE("lack of memory leaves nothing behind", lack_of_memory_leaves_nothing_behind),
    };
    return npt_test_run("make_model", cases, NPT_COUNT(cases));
}
