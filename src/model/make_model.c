/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "model/random_nf4.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "base/threads.h"
#include "files/files.h"
#include "files/json.h"
#include "files/safetensors.h"
#include "model/byte_tokenizer.h"
#include "model/config.h"
#include "tensor/dtype.h"

/* A random model in the Hugging Face layout. Every tensor is a row of a plan: name, shape, and
 * what its values are; the writer asks for the values piece by piece, so that memory does not
 * grow with the model. The directory appears under its name when all of it is written.
 *
 * Linears have deviation 1/√inputs, and those that feed the residual stream 1/√(2·layers) of
 * that besides, so that activations keep the same size at any depth and fit into F16. */

enum {
    MAX_SIZE = 1 << 24, /* as config.c reads them */
    MAX_LAYERS = 4096,
    MAX_HEADS = 65536,
    MAX_HEAD_DIM = 512,
    MAX_NAME = 96,
    OUTER_TENSORS = 3,
    LAYER_TENSORS = 16, /* numbers set aside for a layer; not all are used */
    SLICE = 1 << 15     /* elements that one task makes */
};

/* ---- The plan ---- */

typedef struct planned {
    char name[MAX_NAME];
    int rank;
    int64_t shape[2];
    npt_random_weights values;
    npt_threads *threads;
    bool is_linear;        /* of a block */
    npt_random_nf4 stored; /* a linear in NF4 */
} planned;

typedef struct plan {
    const npt_make_model_options *options;
    npt_family family;
    int64_t head_dim;
    planned *tensors;
    size_t count;
    npt_threads *threads;
    npt_nf4_maker maker;
} plan;

/* Deviation 0: all ones. `number` names the stream, so that a tensor's values depend on its place
 * in the model alone. */
static void add_tensor(plan *p, int number, const char *name, int64_t rows, int64_t cols,
                       double deviation)
{
    planned *tensor = &p->tensors[p->count++];
    snprintf(tensor->name, sizeof tensor->name, "%s", name);
    tensor->rank = cols == 0 ? 1 : 2;
    tensor->shape[0] = rows;
    tensor->shape[1] = cols;
    tensor->threads = p->threads;
    tensor->values = (npt_random_weights){.seed = p->options->seed,
                                          .stream = (uint64_t)NPT_RNG_MAKE_MODEL + (uint64_t)number,
                                          .dtype = p->options->dtype,
                                          .mean = deviation == 0 ? 1 : 0,
                                          .deviation = deviation};
}

static void add_layer(plan *p, int layer)
{
    const npt_make_model_options *o = p->options;
    const int64_t q_width = o->heads * p->head_dim, kv_width = o->kv_heads * p->head_dim;
    const bool bias = p->family == NPT_QWEN2, norms = p->family == NPT_QWEN3;
    const double depth = 1 / sqrt(2.0 * (double)o->layers);
    const double hidden = 1 / sqrt((double)o->hidden);
    const struct {
        const char *name;
        int64_t rows, cols;
        double deviation;
        bool absent;
    } rows[] = {
        {"input_layernorm.weight", o->hidden, 0, 0, false},
        {"self_attn.q_proj.weight", q_width, o->hidden, hidden, false},
        {"self_attn.k_proj.weight", kv_width, o->hidden, hidden, false},
        {"self_attn.v_proj.weight", kv_width, o->hidden, hidden, false},
        {"self_attn.o_proj.weight", o->hidden, q_width, depth / sqrt((double)q_width), false},
        {"self_attn.q_proj.bias", q_width, 0, 0.02, !bias},
        {"self_attn.k_proj.bias", kv_width, 0, 0.02, !bias},
        {"self_attn.v_proj.bias", kv_width, 0, 0.02, !bias},
        {"self_attn.q_norm.weight", p->head_dim, 0, 0, !norms},
        {"self_attn.k_norm.weight", p->head_dim, 0, 0, !norms},
        {"post_attention_layernorm.weight", o->hidden, 0, 0, false},
        {"mlp.gate_proj.weight", o->inter, o->hidden, hidden, false},
        {"mlp.up_proj.weight", o->inter, o->hidden, hidden, false},
        {"mlp.down_proj.weight", o->hidden, o->inter, depth / sqrt((double)o->inter), false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char name[MAX_NAME];
        if (rows[i].absent) continue;
        snprintf(name, sizeof name, "model.layers.%d.%s", layer, rows[i].name);
        add_tensor(p, OUTER_TENSORS + LAYER_TENSORS * layer + (int)i, name, rows[i].rows,
                   rows[i].cols, rows[i].deviation);
        p->tensors[p->count - 1].is_linear = rows[i].cols != 0;
    }
}

static npt_status make_plan(plan *p)
{
    const npt_make_model_options *o = p->options;
    p->tensors = npt_alloc((size_t)(OUTER_TENSORS + LAYER_TENSORS * o->layers), sizeof *p->tensors);
    if (p->tensors == NULL) return NPT_E_NOMEM;
    p->threads = npt_threads_create(0);
    if (p->threads == NULL) return NPT_E_NOMEM;
    npt_nf4_maker_init(&p->maker, p->threads);
    add_tensor(p, 0, "model.embed_tokens.weight", o->vocab, o->hidden, 0.02);
    add_tensor(p, 1, "model.norm.weight", o->hidden, 0, 0);
    if (!o->tie_embeddings)
        add_tensor(p, 2, "lm_head.weight", o->vocab, o->hidden, 1 / sqrt((double)o->hidden));
    for (int layer = 0; layer < o->layers; layer++) add_layer(p, layer);
    return NPT_OK;
}

static void plan_fini(plan *p)
{
    for (size_t i = 0; i < p->count; i++) npt_free(p->tensors[i].stored.nested);
    npt_nf4_maker_fini(&p->maker);
    if (p->threads != NULL) npt_threads_destroy(p->threads);
    npt_free(p->tensors);
}

/* ---- Weights ---- */

typedef struct piece {
    const npt_random_weights *values;
    int64_t first, count;
    char *dst;
} piece;

static void fill_slice(void *context, int64_t index, int worker)
{
    const piece *p = context;
    const int64_t begin = index * SLICE, left = p->count - begin;
    (void)worker;
    npt_random_weights_fill(p->values, p->first + begin, left < SLICE ? left : SLICE,
                            p->dst + (size_t)begin * npt_dtype_bytes(p->values->dtype));
}

static npt_status produce(void *context, uint64_t offset, void *dst, size_t bytes)
{
    const planned *tensor = context;
    const size_t size = npt_dtype_bytes(tensor->values.dtype);
    NPT_ASSERT(offset % size == 0 && bytes % size == 0);
    piece p = {&tensor->values, (int64_t)(offset / size), (int64_t)(bytes / size), dst};
    npt_threads_run(tensor->threads, fill_slice, &p, (p.count + SLICE - 1) / SLICE);
    return NPT_OK;
}

static npt_status add_to_file(plan *p, planned *t, npt_st_writer *writer)
{
    if (p->options->quantize && t->is_linear)
        return npt_random_nf4_add(&t->stored, &p->maker, &t->values, t->name, t->shape, writer);
    return npt_st_writer_add(writer, t->name, t->values.dtype, t->rank, t->shape, NULL, produce, t);
}

static npt_status write_weights(plan *p, const char *directory)
{
    npt_st_writer *writer = NULL;
    char *path = npt_path_join(directory, "model.safetensors");
    if (path == NULL) return NPT_E_NOMEM;
    npt_status status = npt_st_writer_create(&writer, path);
    for (size_t i = 0; status == NPT_OK && i < p->count; i++)
        status = add_to_file(p, &p->tensors[i], writer);
    if (status == NPT_OK) status = npt_st_writer_commit(writer);
    npt_st_writer_destroy(writer);
    npt_free(path);
    return status;
}

/* ---- config.json ---- */

static const struct family_words {
    const char *architecture;
    double rope_theta, norm_epsilon;
} family_words[] = {
    [NPT_LLAMA] = {"LlamaForCausalLM", 500000, 1e-5},
    [NPT_MISTRAL] = {"MistralForCausalLM", 10000, 1e-5},
    [NPT_QWEN2] = {"Qwen2ForCausalLM", 1000000, 1e-6},
    [NPT_QWEN3] = {"Qwen3ForCausalLM", 1000000, 1e-6},
};

/* As transformers writes it for a model saved in 4 bits. */
static int set_quantization(json_t *root, npt_dtype dtype)
{
    json_t *record = json_pack(
        "{s:s, s:b, s:b, s:s, s:b, s:s, s:s}", "quant_method", "bitsandbytes", "load_in_4bit", 1,
        "load_in_8bit", 0, "bnb_4bit_quant_type", "nf4", "bnb_4bit_use_double_quant", 1,
        "bnb_4bit_compute_dtype", npt_random_dtype_word(dtype), "bnb_4bit_quant_storage", "uint8");
    return json_object_set_new(root, "quantization_config", record);
}

/* Keys that only some families have. */
static int set_family_keys(json_t *root, npt_family family)
{
    int bad = 0;
    if (family == NPT_LLAMA || family == NPT_QWEN3)
        bad |= json_object_set_new(root, "attention_bias", json_false());
    if (family == NPT_LLAMA) bad |= json_object_set_new(root, "mlp_bias", json_false());
    if (family == NPT_MISTRAL)
        bad |= json_object_set_new(root, "sliding_window", json_integer(4096));
    if (family == NPT_QWEN2 || family == NPT_QWEN3)
        bad |= json_object_set_new(root, "use_sliding_window", json_false());
    return bad;
}

static npt_status write_config(const plan *p, const char *directory)
{
    const npt_make_model_options *o = p->options;
    const struct family_words *words = &family_words[p->family];
    const bool named = o->vocab >= NPT_BYTE_TOKENIZER_SIZE;
    json_t *root = json_pack(
        "{s:[s], s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:b, s:b}",
        "architectures", words->architecture, "model_type", npt_family_name(p->family),
        "hidden_act", "silu", "torch_dtype", npt_random_dtype_word(o->dtype), "hidden_size",
        (json_int_t)o->hidden, "intermediate_size", (json_int_t)o->inter, "num_hidden_layers",
        (json_int_t)o->layers, "num_attention_heads", (json_int_t)o->heads, "num_key_value_heads",
        (json_int_t)o->kv_heads, "head_dim", (json_int_t)p->head_dim, "vocab_size",
        (json_int_t)o->vocab, "max_position_embeddings", (json_int_t)131072, "rms_norm_eps",
        words->norm_epsilon, "rope_theta", words->rope_theta, "initializer_range", 0.02,
        "tie_word_embeddings", (int)o->tie_embeddings, "use_cache", 1);
    char *path = npt_path_join(directory, "config.json");
    npt_status status = NPT_E_NOMEM;
    if (path == NULL) goto out;
    if (root == NULL || set_family_keys(root, p->family) != 0 ||
        (o->quantize && set_quantization(root, o->dtype) != 0) ||
        json_object_set_new(root, "bos_token_id",
                            named ? json_integer(NPT_BYTE_TOKENIZER_BOS) : json_null()) != 0 ||
        json_object_set_new(root, "eos_token_id",
                            named ? json_integer(NPT_BYTE_TOKENIZER_EOS) : json_null()) != 0) {
        status = npt_fail(NPT_E_NOMEM, "out of memory while writing '%s'", path);
        goto out;
    }
    status = npt_json_save(path, root);
out:
    json_decref(root);
    npt_free(path);
    return status;
}

/* ---- Checks ---- */

static npt_status check_sizes(const npt_make_model_options *o)
{
    const struct {
        const char *flag;
        int64_t value, low, high;
    } sizes[] = {
        {"hidden", o->hidden, 1, MAX_SIZE},      {"inter", o->inter, 1, MAX_SIZE},
        {"layers", o->layers, 1, MAX_LAYERS},    {"heads", o->heads, 1, MAX_HEADS},
        {"kv_heads", o->kv_heads, 1, MAX_HEADS}, {"head_dim", o->head_dim, 0, MAX_HEAD_DIM},
        {"vocab", o->vocab, 1, MAX_SIZE},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        if (sizes[i].value < sizes[i].low || sizes[i].value > sizes[i].high)
            return npt_fail(NPT_E_USAGE,
                            "--%s %" PRId64 ": it must be between %" PRId64 " and %" PRId64,
                            sizes[i].flag, sizes[i].value, sizes[i].low, sizes[i].high);
    return NPT_OK;
}

static npt_status check_options(const npt_make_model_options *o, plan *p)
{
    if (o->path == NULL || o->path[0] == '\0')
        return npt_fail(NPT_E_USAGE, "the directory to write the model into is missing");
    if (o->family == NULL) return npt_fail(NPT_E_USAGE, "--family is missing");
    NPT_TRY(npt_family_from_name(o->family, &p->family));
    NPT_TRY(check_sizes(o));
    if (!npt_dtype_is_float(o->dtype))
        return npt_fail(NPT_E_USAGE, "--dtype %s: a model is written in F32, F16 or BF16",
                        npt_dtype_name(o->dtype));
    if (o->heads % o->kv_heads != 0)
        return npt_fail(NPT_E_USAGE, "--kv_heads %" PRId64 " does not divide --heads %" PRId64,
                        o->kv_heads, o->heads);
    if (o->head_dim == 0 && o->hidden % o->heads != 0)
        return npt_fail(NPT_E_USAGE,
                        "--heads %" PRId64 " does not divide --hidden %" PRId64
                        "; change one, or give --head_dim",
                        o->heads, o->hidden);
    p->head_dim = o->head_dim != 0 ? o->head_dim : o->hidden / o->heads;
    if (p->head_dim % 2 != 0 || p->head_dim > MAX_HEAD_DIM)
        return npt_fail(NPT_E_USAGE,
                        "a head of %" PRId64
                        ": RoPE needs an even size, at most %d; give --head_dim",
                        p->head_dim, (int)MAX_HEAD_DIM);
    return NPT_OK;
}

/* ---- The directory ---- */

/* An empty directory may be there; it is replaced. rename() would refuse all else, too, but only
 * after everything was written. */
static npt_status check_place(const char *path)
{
    if (!npt_path_exists(path)) return NPT_OK;
    if (!npt_path_is_directory(path))
        return npt_fail(NPT_E_USAGE, "'%s' is there already, as a file; name a new directory",
                        path);
    DIR *directory = opendir(path);
    if (directory == NULL) return npt_fail(NPT_E_IO, "cannot open '%s': %s", path, strerror(errno));
    bool empty = true;
    for (struct dirent *entry; empty && (entry = readdir(directory)) != NULL;)
        empty = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
    closedir(directory);
    if (empty) return NPT_OK;
    return npt_fail(NPT_E_USAGE, "'%s' is there already and not empty; name a new directory", path);
}

/* The directory that `path` is in (npt_free). */
static char *parent_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (slash == NULL) return npt_strdup(".");
    return npt_strndup(path, slash == path ? 1 : (size_t)(slash - path));
}

/* The temporary directory lies beside where it goes. Nothing may fail for want of memory once it
 * has its name. */
static npt_status put_in_place(const char *temporary, const char *path)
{
    char *parent = parent_of(temporary);
    if (parent == NULL) return NPT_E_NOMEM;
    npt_status status = npt_sync_directory(temporary);
    if (status == NPT_OK && rename(temporary, path) != 0)
        status =
            npt_fail(NPT_E_IO, "cannot rename '%s' to '%s': %s", temporary, path, strerror(errno));
    if (status == NPT_OK) status = npt_sync_directory(parent);
    npt_free(parent);
    return status;
}

static npt_status write_all(plan *p, const char *directory)
{
    NPT_TRY(make_plan(p));
    NPT_TRY(write_config(p, directory));
    if (p->options->vocab >= NPT_BYTE_TOKENIZER_SIZE) NPT_TRY(npt_byte_tokenizer_save(directory));
    return write_weights(p, directory);
}

void npt_make_model_options_init(npt_make_model_options *options)
{
    *options = (npt_make_model_options){.family = "llama",
                                        .hidden = 256,
                                        .inter = 704,
                                        .layers = 4,
                                        .heads = 4,
                                        .kv_heads = 2,
                                        .vocab = 512,
                                        .dtype = NPT_F32,
                                        .seed = 42};
}

npt_status npt_make_model(const npt_make_model_options *options)
{
    plan p = {.options = options};
    char *temporary = NULL;
    NPT_TRY(check_options(options, &p));
    NPT_TRY(check_place(options->path));
    NPT_TRY(npt_seal_begin(options->path, &temporary));
    npt_status status = write_all(&p, temporary);
    if (status == NPT_OK) status = put_in_place(temporary, options->path);
    if (status != NPT_OK && npt_path_exists(temporary)) npt_seal_abandon(temporary);
    plan_fini(&p);
    npt_free(temporary);
    return status;
}
