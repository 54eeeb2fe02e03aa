/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "model/config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "files/files.h"
#include "files/json.h"
#include "tensor/dtype.h"

/* Reads config.json strictly: a key that is absent gets the default of its family, a key that is
 * present must make sense, and what npt does not compute is refused by name. */

enum { MAX_SIZE = 1 << 24, MAX_LAYERS = 4096 };

static const struct family_row {
    const char *name;
    int64_t kv_heads; /* where the key is absent; 0: as heads */
    int64_t head_dim; /* where the key is absent; 0: hidden / heads */
    int64_t window;   /* where the key is absent */
    bool qkv_bias, qk_norm;
} families[] = {
    [NPT_LLAMA] = {"llama", 0, 0, 0, false, false},
    [NPT_MISTRAL] = {"mistral", 8, 0, 4096, false, false},
    [NPT_QWEN2] = {"qwen2", 32, 0, 0, true, false},
    [NPT_QWEN3] = {"qwen3", 32, 128, 0, false, true},
};

const char *npt_family_name(npt_family family)
{
    return families[family].name;
}

npt_status npt_family_from_name(const char *name, npt_family *family)
{
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++)
        if (strcmp(families[i].name, name) == 0) {
            *family = (npt_family)i;
            return NPT_OK;
        }
    return npt_fail(NPT_E_USAGE, "unknown family \"%s\"; npt knows llama, mistral, qwen2 and qwen3",
                    name);
}

static npt_status load_family(const json_t *root, const char *what, npt_config *config)
{
    const char *type;
    NPT_TRY(npt_json_string(root, "model_type", what, NULL, &type));
    if (type == NULL)
        return npt_fail(
            NPT_E_FORMAT,
            "%s: no \"model_type\"; this is not the config.json of a Hugging Face model", what);
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++)
        if (strcmp(families[i].name, type) == 0) {
            config->family = (npt_family)i;
            return NPT_OK;
        }
    return npt_fail(
        NPT_E_UNSUPPORTED,
        "%s: model_type \"%s\" is not supported; npt knows llama, mistral, qwen2 and qwen3", what,
        type);
}

static npt_status load_sizes(const json_t *root, const char *what, npt_config *c)
{
    const struct family_row *family = &families[c->family];
    NPT_TRY(npt_json_int(root, "hidden_size", what, 0, 1, MAX_SIZE, &c->hidden));
    NPT_TRY(npt_json_int(root, "intermediate_size", what, 0, 1, MAX_SIZE, &c->inter));
    NPT_TRY(npt_json_int(root, "num_hidden_layers", what, 0, 1, MAX_LAYERS, &c->layers));
    NPT_TRY(npt_json_int(root, "num_attention_heads", what, 0, 1, 65536, &c->heads));
    NPT_TRY(npt_json_int(root, "vocab_size", what, 0, 1, MAX_SIZE, &c->vocab));
    if (c->hidden == 0 || c->inter == 0 || c->layers == 0 || c->heads == 0 || c->vocab == 0)
        return npt_fail(NPT_E_FORMAT,
                        "%s: one of hidden_size, intermediate_size, num_hidden_layers, "
                        "num_attention_heads, vocab_size is missing",
                        what);
    /* null says "as many as heads" in every family; only an absent key has the family's default */
    bool silent = family->kv_heads == 0 || json_object_get(root, "num_key_value_heads") != NULL;
    NPT_TRY(npt_json_int(root, "num_key_value_heads", what, silent ? c->heads : family->kv_heads, 1,
                         65536, &c->kv_heads));
    NPT_TRY(npt_json_int(root, "head_dim", what, family->head_dim, 1, 65536, &c->head_dim));
    NPT_TRY(npt_json_int(root, "max_position_embeddings", what, 1 << 20, 1, INT32_MAX,
                         &c->max_positions));
    if (c->head_dim == 0) {
        if (c->hidden % c->heads != 0)
            return npt_fail(NPT_E_FORMAT,
                            "%s: hidden_size %lld is no multiple of num_attention_heads %lld", what,
                            (long long)c->hidden, (long long)c->heads);
        c->head_dim = c->hidden / c->heads;
    }
    if (c->heads % c->kv_heads != 0)
        return npt_fail(NPT_E_FORMAT,
                        "%s: num_attention_heads %lld is no multiple of num_key_value_heads %lld",
                        what, (long long)c->heads, (long long)c->kv_heads);
    if (c->head_dim % 2 != 0 || c->head_dim > 512)
        return npt_fail(NPT_E_FORMAT, "%s: head_dim %lld; it must be even and at most 512", what,
                        (long long)c->head_dim);
    return NPT_OK;
}

static npt_status load_switches(const json_t *root, const char *what, npt_config *c)
{
    const struct family_row *family = &families[c->family];
    bool attention_bias;
    int64_t tensor_parallel;
    const char *activation;
    NPT_TRY(npt_json_bool(root, "attention_bias", what, false, &attention_bias));
    NPT_TRY(npt_json_bool(root, "mlp_bias", what, false, &c->mlp_bias));
    NPT_TRY(npt_json_bool(root, "tie_word_embeddings", what, false, &c->tied));
    NPT_TRY(npt_json_real(root, "rms_norm_eps", what, 1e-6, 0, 1, &c->norm_epsilon));
    NPT_TRY(npt_json_string(root, "hidden_act", what, "silu", &activation));
    NPT_TRY(npt_json_int(root, "pretraining_tp", what, 1, 1, 1 << 20, &tensor_parallel));
    if (strcmp(activation, "silu") != 0)
        return npt_fail(NPT_E_UNSUPPORTED, "%s: hidden_act \"%s\" is not supported; npt knows silu",
                        what, activation);
    if (tensor_parallel != 1)
        return npt_fail(NPT_E_UNSUPPORTED, "%s: pretraining_tp %lld is not supported; npt knows 1",
                        what, (long long)tensor_parallel);
    bool by_key = c->family == NPT_LLAMA || c->family == NPT_QWEN3;
    c->qkv_bias = family->qkv_bias || (by_key && attention_bias);
    c->o_bias = by_key && attention_bias;
    if (c->family != NPT_LLAMA) c->mlp_bias = false;
    c->qk_norm = family->qk_norm;
    return NPT_OK;
}

/* Mistral: null switches the window off. Qwen: only with use_sliding_window, from layer
 * max_window_layers. */
static npt_status load_window(const json_t *root, const char *what, npt_config *c)
{
    const json_t *value = json_object_get(root, "sliding_window");
    bool used = c->family == NPT_MISTRAL;
    if (c->family == NPT_LLAMA) return NPT_OK;
    if (c->family != NPT_MISTRAL) {
        NPT_TRY(npt_json_bool(root, "use_sliding_window", what, false, &used));
        NPT_TRY(npt_json_int(root, "max_window_layers", what, 28, 0, MAX_LAYERS,
                             &c->window_from_layer));
    }
    if (!used || (value != NULL && json_is_null(value))) return NPT_OK;
    return npt_json_int(root, "sliding_window", what, 4096, 1, INT32_MAX, &c->window);
}

/* Newer files also list the kind of each layer. It must say what the window says. */
static npt_status check_layer_types(const json_t *root, const char *what, const npt_config *c)
{
    const json_t *types = json_object_get(root, "layer_types");
    if (types == NULL || json_is_null(types)) return NPT_OK;
    if (json_array_size(types) != (size_t)c->layers)
        return npt_fail(NPT_E_FORMAT, "%s: layer_types is not a list of %lld entries, one a layer",
                        what, (long long)c->layers);
    for (int64_t layer = 0; layer < c->layers; layer++) {
        const char *type = json_string_value(json_array_get(types, (size_t)layer));
        bool slides = type != NULL && strcmp(type, "sliding_attention") == 0;
        if (!slides && (type == NULL || strcmp(type, "full_attention") != 0))
            return npt_fail(
                NPT_E_UNSUPPORTED,
                "%s: layer_types has \"%s\" for layer %lld; npt knows full_attention and "
                "sliding_attention",
                what, type != NULL ? type : "no name", (long long)layer);
        if (slides != (c->window > 0 && layer >= c->window_from_layer))
            return npt_fail(
                NPT_E_UNSUPPORTED,
                "%s: layer_types says %s for layer %lld, the keys of the sliding window say "
                "otherwise; npt does not mix them in another way",
                what, type, (long long)layer);
    }
    return NPT_OK;
}

/* Parts of a head that are not turned, and angles that differ between kinds of layers. */
static npt_status check_rope_extras(const json_t *object, const char *what)
{
    double part;
    NPT_TRY(npt_json_real(object, "partial_rotary_factor", what, 1, 0, 1, &part));
    if (part != 1)
        return npt_fail(NPT_E_UNSUPPORTED,
                        "%s: partial_rotary_factor %g is not supported; npt knows 1", what, part);
    if (json_is_object(json_object_get(object, "full_attention")) ||
        json_is_object(json_object_get(object, "sliding_attention")))
        return npt_fail(
            NPT_E_UNSUPPORTED,
            "%s: RoPE parameters for each kind of layer are not supported; npt knows one set",
            what);
    return NPT_OK;
}

static npt_status load_rope(const json_t *root, const char *what, npt_config *c)
{
    const json_t *scaling = json_object_get(root, "rope_parameters");
    if (scaling == NULL || json_is_null(scaling)) scaling = json_object_get(root, "rope_scaling");
    NPT_TRY(npt_json_real(root, "rope_theta", what, 10000, 1, 1e12, &c->rope_theta));
    NPT_TRY(check_rope_extras(root, what));
    if (scaling == NULL || json_is_null(scaling)) return NPT_OK;
    if (!json_is_object(scaling))
        return npt_fail(NPT_E_FORMAT, "%s: the RoPE parameters are not an object", what);
    const char *type;
    NPT_TRY(check_rope_extras(scaling, what));
    NPT_TRY(npt_json_real(scaling, "rope_theta", what, c->rope_theta, 1, 1e12, &c->rope_theta));
    NPT_TRY(npt_json_string(scaling, "type", what, "default", &type));
    NPT_TRY(npt_json_string(scaling, "rope_type", what, type, &type));
    if (strcmp(type, "default") == 0) return NPT_OK;
    NPT_TRY(npt_json_real(scaling, "factor", what, 0, 1, 1e6, &c->rope_factor));
    if (strcmp(type, "linear") == 0) {
        c->rope = NPT_ROPE_LINEAR;
    } else if (strcmp(type, "llama3") == 0) {
        c->rope = NPT_ROPE_LLAMA3;
        NPT_TRY(npt_json_real(scaling, "low_freq_factor", what, 0, 1e-6, 1e6, &c->rope_low));
        NPT_TRY(npt_json_real(scaling, "high_freq_factor", what, 0, 1e-6, 1e6, &c->rope_high));
        NPT_TRY(npt_json_real(scaling, "original_max_position_embeddings", what, 0, 1, 1e9,
                              &c->rope_old_positions));
        if (c->rope_low == 0 || c->rope_old_positions == 0 || c->rope_high <= c->rope_low)
            return npt_fail(NPT_E_FORMAT,
                            "%s: RoPE type llama3 needs low_freq_factor < high_freq_factor and "
                            "original_max_position_embeddings",
                            what);
    } else {
        return npt_fail(
            NPT_E_UNSUPPORTED,
            "%s: RoPE type \"%s\" is not supported; npt knows default, linear and llama3", what,
            type);
    }
    if (c->rope_factor == 0)
        return npt_fail(NPT_E_FORMAT, "%s: RoPE type \"%s\" needs a factor", what, type);
    return NPT_OK;
}

static npt_status load_dtype(const json_t *root, const char *what, npt_config *c)
{
    const char *word;
    NPT_TRY(npt_json_string(root, "torch_dtype", what, NULL, &word));
    NPT_TRY(npt_json_string(root, "dtype", what, word, &word));
    const npt_dtype dtype = npt_dtype_from_word(word);
    if (npt_dtype_is_float(dtype)) c->dtype = dtype;
    return NPT_OK;
}

static npt_status load_quantization(const json_t *root, const char *what, npt_config *c)
{
    const json_t *record = json_object_get(root, "quantization_config");
    if (record == NULL || json_is_null(record)) return NPT_OK;
    if (!json_is_object(record))
        return npt_fail(NPT_E_FORMAT, "%s: quantization_config is not an object", what);
    const char *method, *type;
    bool four;
    NPT_TRY(npt_json_string(record, "quant_method", what, "bitsandbytes", &method));
    NPT_TRY(npt_json_bool(record, "load_in_4bit", what, false, &four));
    NPT_TRY(npt_json_string(record, "bnb_4bit_quant_type", what, "fp4", &type));
    snprintf(c->quantization, sizeof c->quantization, "%.40s%s%.12s", method, four ? " 4-bit " : "",
             four ? type : "");
    c->quantized = strcmp(method, "bitsandbytes") == 0 && four && strcmp(type, "nf4") == 0;
    return NPT_OK;
}

/* eos_token_id: a number, or a list whose first entry counts. */
static int64_t token_id(const json_t *root, const char *key)
{
    const json_t *value = json_object_get(root, key);
    if (json_is_array(value)) value = json_array_get(value, 0);
    return json_is_integer(value) ? (int64_t)json_integer_value(value) : -1;
}

npt_status npt_config_examine(const char *directory, npt_config *config)
{
    npt_config c = {0};
    json_t *root = NULL;
    char *path = npt_path_join(directory, "config.json");
    if (path == NULL) return NPT_E_NOMEM;
    npt_status status = npt_json_load(path, JSON_REJECT_DUPLICATES, &root);
    if (status != NPT_OK) goto out;
    NPT_TRY_GOTO(status, out, load_family(root, path, &c));
    NPT_TRY_GOTO(status, out, load_sizes(root, path, &c));
    NPT_TRY_GOTO(status, out, load_switches(root, path, &c));
    NPT_TRY_GOTO(status, out, load_window(root, path, &c));
    NPT_TRY_GOTO(status, out, check_layer_types(root, path, &c));
    NPT_TRY_GOTO(status, out, load_rope(root, path, &c));
    NPT_TRY_GOTO(status, out, load_dtype(root, path, &c));
    NPT_TRY_GOTO(status, out, load_quantization(root, path, &c));
    c.bos = token_id(root, "bos_token_id");
    c.eos = token_id(root, "eos_token_id");
    *config = c;
out:
    json_decref(root);
    npt_free(path);
    return status;
}

npt_status npt_config_check_quantization(const char *directory, const npt_config *config)
{
    if (config->quantized || config->quantization[0] == '\0') return NPT_OK;
    return npt_fail(NPT_E_UNSUPPORTED,
                    "%s/config.json: quantization %s is not supported; npt reads bitsandbytes NF4",
                    directory, config->quantization);
}

void npt_config_inverse_frequencies(const npt_config *config, float *inverse)
{
    const int64_t half = config->head_dim / 2;
    const double old = config->rope_old_positions, factor = config->rope_factor;
    for (int64_t i = 0; i < half; i++) {
        float plain =
            1.0f / powf((float)config->rope_theta, (float)(2 * i) / (float)config->head_dim);
        if (config->rope == NPT_ROPE_LINEAR) plain /= (float)factor;
        if (config->rope == NPT_ROPE_LLAMA3) {
            double wavelength = 2 * 3.14159265358979323846 / plain;
            if (wavelength > old / config->rope_low) {
                plain = (float)(plain / factor);
            } else if (wavelength >= old / config->rope_high) {
                double smooth =
                    (old / wavelength - config->rope_low) / (config->rope_high - config->rope_low);
                plain = (float)((1 - smooth) * plain / factor + smooth * plain);
            }
        }
        inverse[i] = plain;
    }
}
