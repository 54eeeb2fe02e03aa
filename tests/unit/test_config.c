/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "model/config.h"

#include <math.h>

#include "npt_test.h"
#include "temp_dir.h"

/* config.json: both spellings, the defaults of each family, and refusals by name (formats.md). */

/* A key that a file states again after these would be a duplicate: rows bring their own sizes. */
#define SIZES                                                                                      \
    "\"hidden_size\":64,\"intermediate_size\":176,\"num_hidden_layers\":3,"                        \
    "\"num_attention_heads\":8,\"vocab_size\":100"
#define LLAMA   "{\"model_type\":\"llama\"," SIZES
#define MISTRAL "{\"model_type\":\"mistral\"," SIZES
#define QWEN2   "{\"model_type\":\"qwen2\",\"num_key_value_heads\":2," SIZES
#define QWEN3   "{\"model_type\":\"qwen3\",\"num_key_value_heads\":2," SIZES

static bool was_read; /* by the last load(), whatever became of its quantization */

static npt_status load(const char *text, npt_config *config)
{
    char *directory = temp_dir();
    npt_free(temp_file(directory, "config.json", text, strlen(text)));
    memset(config, 0x5a, sizeof *config);
    npt_status status = npt_config_examine(directory, config);
    was_read = status == NPT_OK;
    if (was_read) status = npt_config_check_quantization(directory, config);
    temp_dir_remove(directory);
    return status;
}

static npt_config good(const char *text)
{
    npt_config config;
    if (load(text, &config) != NPT_OK) fail_msg("%s: %s", text, npt_error_message());
    return config;
}

/* ---- What is read ---- */

static void families_have_their_own_defaults(void **state)
{
    static const struct {
        const char *text;
        npt_family family;
        int64_t kv_heads, head_dim, window;
        bool bias, norms;
    } rows[] = {
        {LLAMA "}", NPT_LLAMA, 8, 8, 0, false, false},
        {MISTRAL "}", NPT_MISTRAL, 8, 8, 4096, false, false},
        {QWEN2 "}", NPT_QWEN2, 2, 8, 0, true, false},
        {QWEN3 "}", NPT_QWEN3, 2, 128, 0, false, true},
    };
    (void)state;
    for (size_t i = 0; i < NPT_COUNT(rows); i++) {
        npt_config c = good(rows[i].text);
        assert_int_equal(c.family, rows[i].family);
        assert_int_equal(c.hidden, 64);
        assert_int_equal(c.inter, 176);
        assert_int_equal(c.layers, 3);
        assert_int_equal(c.heads, 8);
        assert_int_equal(c.vocab, 100);
        assert_int_equal(c.kv_heads, rows[i].kv_heads);
        assert_int_equal(c.head_dim, rows[i].head_dim);
        assert_int_equal(c.window, rows[i].window);
        assert_int_equal(c.qkv_bias, rows[i].bias);
        assert_int_equal(c.qk_norm, rows[i].norms);
        assert_false(c.o_bias || c.mlp_bias || c.tied || c.quantized);
        assert_int_equal(c.dtype, NPT_DTYPE_NONE);
        assert_int_equal(c.rope, NPT_ROPE_DEFAULT);
        assert_true(c.rope_theta == 10000 && c.norm_epsilon == 1e-6);
        assert_int_equal(c.bos, -1);
        assert_int_equal(c.eos, -1);
    }
}

static void an_absent_number_of_kv_heads_is_the_familys(void **state)
{
    static const struct {
        const char *family, *key;
        int64_t wanted;
    } rows[] = {
        {"llama", "", 64},  {"llama", "\"num_key_value_heads\":null,", 64},
        {"mistral", "", 8}, {"mistral", "\"num_key_value_heads\":null,", 64},
        {"qwen2", "", 32},  {"qwen2", "\"num_key_value_heads\":null,", 64},
        {"qwen3", "", 32},  {"qwen3", "\"num_key_value_heads\":16,", 16},
    };
    (void)state;
    for (size_t i = 0; i < NPT_COUNT(rows); i++) {
        char text[512];
        snprintf(text, sizeof text,
                 "{\"model_type\":\"%s\",%s\"hidden_size\":512,\"intermediate_size\":9,"
                 "\"num_hidden_layers\":1,\"num_attention_heads\":64,\"vocab_size\":5}",
                 rows[i].family, rows[i].key);
        assert_int_equal(good(text).kv_heads, rows[i].wanted);
    }
}

static void biases_follow_the_family(void **state)
{
    static const struct {
        const char *text;
        bool qkv, o, mlp;
    } rows[] = {
        {LLAMA ",\"attention_bias\":true}", true, true, false},
        {LLAMA ",\"mlp_bias\":true}", false, false, true},
        {MISTRAL ",\"attention_bias\":true,\"mlp_bias\":true}", false, false, false},
        {QWEN2 ",\"attention_bias\":false}", true, false, false},
        {QWEN3 ",\"attention_bias\":true}", true, true, false},
    };
    (void)state;
    for (size_t i = 0; i < NPT_COUNT(rows); i++) {
        npt_config c = good(rows[i].text);
        assert_int_equal(c.qkv_bias, rows[i].qkv);
        assert_int_equal(c.o_bias, rows[i].o);
        assert_int_equal(c.mlp_bias, rows[i].mlp);
    }
}

static void both_spellings_are_read(void **state)
{
    static const struct {
        const char *text;
        npt_dtype dtype;
        npt_rope_kind rope;
        double theta, factor;
    } rows[] = {
        {LLAMA ",\"torch_dtype\":\"bfloat16\"}", NPT_BF16, NPT_ROPE_DEFAULT, 1e4, 0},
        {LLAMA ",\"dtype\":\"float16\"}", NPT_F16, NPT_ROPE_DEFAULT, 1e4, 0},
        {LLAMA ",\"dtype\":\"float32\",\"torch_dtype\":\"float16\"}", NPT_F32, NPT_ROPE_DEFAULT,
         1e4, 0},
        {LLAMA ",\"torch_dtype\":null,\"rope_scaling\":null,\"rope_theta\":500000.0}",
         NPT_DTYPE_NONE, NPT_ROPE_DEFAULT, 5e5, 0},
        {LLAMA ",\"rope_theta\":1000000,\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}}",
         NPT_DTYPE_NONE, NPT_ROPE_LINEAR, 1e6, 2},
        {LLAMA ",\"rope_parameters\":{\"rope_theta\":1e6,\"rope_type\":\"linear\",\"factor\":4.0}}",
         NPT_DTYPE_NONE, NPT_ROPE_LINEAR, 1e6, 4},
        {LLAMA ",\"rope_parameters\":{\"rope_theta\":7e5,\"rope_type\":\"default\"},"
               "\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}}",
         NPT_DTYPE_NONE, NPT_ROPE_DEFAULT, 7e5, 0},
        {LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"rope_type\":\"default\"}}", NPT_DTYPE_NONE,
         NPT_ROPE_DEFAULT, 1e4, 0},
        {LLAMA ",\"rope_theta\":500000,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,"
               "\"low_freq_factor\":1,\"high_freq_factor\":4,"
               "\"original_max_position_embeddings\":8192}}",
         NPT_DTYPE_NONE, NPT_ROPE_LLAMA3, 5e5, 8},
    };
    (void)state;
    for (size_t i = 0; i < NPT_COUNT(rows); i++) {
        npt_config c = good(rows[i].text);
        assert_int_equal(c.dtype, rows[i].dtype);
        assert_int_equal(c.rope, rows[i].rope);
        assert_true(c.rope_theta == rows[i].theta && c.rope_factor == rows[i].factor);
    }
}

static void token_ids_are_numbers_or_lists(void **state)
{
    (void)state;
    npt_config c = good(LLAMA ",\"bos_token_id\":1,\"eos_token_id\":[7,8]}");
    assert_int_equal(c.bos, 1);
    assert_int_equal(c.eos, 7);
    c = good(LLAMA ",\"bos_token_id\":null,\"eos_token_id\":[]}");
    assert_int_equal(c.bos, -1);
    assert_int_equal(c.eos, -1);
}

static void windows_follow_the_family(void **state)
{
    static const struct {
        const char *text;
        int64_t window, from;
    } rows[] = {
        {LLAMA ",\"sliding_window\":16}", 0, 0},
        {MISTRAL ",\"sliding_window\":16}", 16, 0},
        {MISTRAL ",\"sliding_window\":null}", 0, 0},
        {QWEN2 ",\"sliding_window\":16}", 0, 28},
        {QWEN2 ",\"sliding_window\":16,\"use_sliding_window\":true}", 16, 28},
        {QWEN3 ",\"use_sliding_window\":true,\"max_window_layers\":1}", 4096, 1},
        {QWEN3 ",\"use_sliding_window\":true,\"max_window_layers\":1,\"sliding_window\":null}", 0,
         1},
        /* with layer_types that agree */
        {LLAMA ",\"layer_types\":[\"full_attention\",\"full_attention\",\"full_attention\"]}", 0,
         0},
        {MISTRAL ",\"layer_types\":null}", 4096, 0},
        {QWEN3 ",\"use_sliding_window\":true,\"max_window_layers\":1,\"sliding_window\":9,"
               "\"layer_types\":[\"full_attention\",\"sliding_attention\",\"sliding_attention\"]}",
         9, 1},
    };
    (void)state;
    for (size_t i = 0; i < NPT_COUNT(rows); i++) {
        npt_config c = good(rows[i].text);
        assert_int_equal(c.window, rows[i].window);
        assert_int_equal(c.window_from_layer, rows[i].from);
    }
}

static void an_nf4_record_is_known(void **state)
{
    (void)state;
    npt_config c = good(LLAMA ",\"quantization_config\":{\"quant_method\":\"bitsandbytes\","
                              "\"load_in_4bit\":true,\"bnb_4bit_quant_type\":\"nf4\"}}");
    assert_true(c.quantized);
    assert_false(good(LLAMA ",\"quantization_config\":null}").quantized);
}

/* ---- What is refused ---- */

static void refusals_name_the_key(void **state)
{
    static const struct {
        const char *text;
        npt_status status;
        const char *says;
    } rows[] = {
        {"", NPT_E_FORMAT, "config.json"},
        {"[]", NPT_E_FORMAT, "config.json"},
        {"{}", NPT_E_FORMAT, "model_type"},
        {"{\"model_type\":7}", NPT_E_FORMAT, "model_type"},
        {"{\"model_type\":\"gpt2\"}", NPT_E_UNSUPPORTED, "gpt2"},
        {"{\"model_type\":\"llama\"}", NPT_E_FORMAT, "hidden_size"},
        {LLAMA ",\"vocab_size\":5}", NPT_E_FORMAT, "config.json"}, /* twice */
        {LLAMA ",\"num_key_value_heads\":3}", NPT_E_FORMAT, "num_key_value_heads"},
        {LLAMA ",\"num_key_value_heads\":\"2\"}", NPT_E_FORMAT, "num_key_value_heads"},
        {LLAMA ",\"num_key_value_heads\":0}", NPT_E_FORMAT, "num_key_value_heads"},
        {LLAMA ",\"head_dim\":7}", NPT_E_FORMAT, "head_dim"},
        {LLAMA ",\"head_dim\":1024}", NPT_E_FORMAT, "head_dim"},
        {LLAMA ",\"head_dim\":-8}", NPT_E_FORMAT, "head_dim"},
        {LLAMA ",\"hidden_act\":\"gelu\"}", NPT_E_UNSUPPORTED, "gelu"},
        {LLAMA ",\"pretraining_tp\":2}", NPT_E_UNSUPPORTED, "pretraining_tp"},
        {LLAMA ",\"attention_bias\":1}", NPT_E_FORMAT, "attention_bias"},
        {LLAMA ",\"rms_norm_eps\":-1}", NPT_E_FORMAT, "rms_norm_eps"},
        {LLAMA ",\"rope_theta\":0}", NPT_E_FORMAT, "rope_theta"},
        {LLAMA ",\"rope_scaling\":[]}", NPT_E_FORMAT, "RoPE"},
        {LLAMA ",\"rope_scaling\":{\"type\":\"linear\"}}", NPT_E_FORMAT, "factor"},
        {LLAMA ",\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}}", NPT_E_UNSUPPORTED,
         "dynamic"},
        {LLAMA ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":2}}", NPT_E_UNSUPPORTED,
         "yarn"},
        {LLAMA ",\"rope_parameters\":{\"rope_type\":\"longrope\",\"factor\":2}}", NPT_E_UNSUPPORTED,
         "longrope"},
        {LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,"
               "\"high_freq_factor\":1,\"original_max_position_embeddings\":8192}}",
         NPT_E_FORMAT, "low_freq_factor"},
        {LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8}}", NPT_E_FORMAT,
         "original_max_position_embeddings"},
        {LLAMA ",\"partial_rotary_factor\":0.5}", NPT_E_UNSUPPORTED, "partial_rotary_factor"},
        {LLAMA ",\"rope_parameters\":{\"rope_type\":\"default\",\"partial_rotary_factor\":0.25}}",
         NPT_E_UNSUPPORTED, "partial_rotary_factor"},
        {LLAMA ",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\"}}}",
         NPT_E_UNSUPPORTED, "kind of layer"},
        {MISTRAL ",\"sliding_window\":0}", NPT_E_FORMAT, "sliding_window"},
        {LLAMA ",\"layer_types\":\"full_attention\"}", NPT_E_FORMAT, "layer_types"},
        {LLAMA ",\"layer_types\":[\"full_attention\"]}", NPT_E_FORMAT, "layer_types"},
        {LLAMA ",\"layer_types\":[\"full_attention\",\"chunked_attention\",\"full_attention\"]}",
         NPT_E_UNSUPPORTED, "chunked_attention"},
        {LLAMA ",\"layer_types\":[\"full_attention\",1,\"full_attention\"]}", NPT_E_UNSUPPORTED,
         "layer 1"},
        {LLAMA ",\"layer_types\":[\"full_attention\",\"full_attention\",\"sliding_attention\"]}",
         NPT_E_UNSUPPORTED, "layer 2"},
        {MISTRAL
         ",\"layer_types\":[\"sliding_attention\",\"full_attention\",\"sliding_attention\"]}",
         NPT_E_UNSUPPORTED, "layer 1"},
        {LLAMA ",\"quantization_config\":{\"quant_method\":\"gptq\"}}", NPT_E_UNSUPPORTED, "gptq"},
        {LLAMA ",\"quantization_config\":{\"load_in_8bit\":true}}", NPT_E_UNSUPPORTED,
         "bitsandbytes"},
        {LLAMA ",\"quantization_config\":{\"load_in_4bit\":true,\"bnb_4bit_quant_type\":\"fp4\"}}",
         NPT_E_UNSUPPORTED, "fp4"},
        {LLAMA ",\"quantization_config\":4}", NPT_E_FORMAT, "quantization_config"},
    };
    (void)state;
    for (size_t i = 0; i < NPT_COUNT(rows); i++) {
        npt_config c, untouched;
        npt_status status = load(rows[i].text, &c);
        if (status != rows[i].status)
            fail_msg("%s: %s: %s", rows[i].text, npt_status_name(status), npt_error_message());
        assert_message_has(rows[i].says);
        assert_message_has("config.json");
        memset(&untouched, 0x5a, sizeof untouched);
        if (!was_read) assert_memory_equal(&c, &untouched, sizeof c);
    }
}

static void a_directory_without_config_is_an_io_error(void **state)
{
    (void)state;
    npt_config c;
    char *directory = temp_dir();
    assert_int_equal(npt_config_examine(directory, &c), NPT_E_IO);
    assert_message_has("config.json");
    temp_dir_remove(directory);
}

static void family_names_go_both_ways(void **state)
{
    (void)state;
    for (int i = NPT_LLAMA; i <= NPT_QWEN3; i++) {
        npt_family family;
        assert_int_equal(npt_family_from_name(npt_family_name((npt_family)i), &family), NPT_OK);
        assert_int_equal(family, i);
    }
    npt_family family;
    assert_int_equal(npt_family_from_name("Llama", &family), NPT_E_USAGE);
    assert_message_has("Llama");
}

/* ---- RoPE ---- */

/* The formula of formats.md in F64. */
static double inverse_of(const npt_config *c, int64_t i)
{
    double inv = pow(c->rope_theta, -2.0 * (double)i / (double)c->head_dim);
    double wl = 2 * 3.14159265358979323846 / inv;
    if (c->rope == NPT_ROPE_LINEAR) return inv / c->rope_factor;
    if (c->rope == NPT_ROPE_DEFAULT || wl < c->rope_old_positions / c->rope_high) return inv;
    if (wl > c->rope_old_positions / c->rope_low) return inv / c->rope_factor;
    double s = (c->rope_old_positions / wl - c->rope_low) / (c->rope_high - c->rope_low);
    return (1 - s) * inv / c->rope_factor + s * inv;
}

static void inverse_frequencies_are_the_formulas(void **state)
{
    static const char *const texts[] = {
        LLAMA ",\"head_dim\":128}",
        LLAMA ",\"head_dim\":128,\"rope_scaling\":{\"type\":\"linear\",\"factor\":2.5}}",
        LLAMA ",\"head_dim\":128,\"rope_theta\":500000,\"rope_scaling\":{\"rope_type\":\"llama3\","
              "\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
              "\"original_max_position_embeddings\":8192}}",
        LLAMA ",\"head_dim\":64,\"rope_theta\":500000,\"rope_scaling\":{\"rope_type\":\"llama3\","
              "\"factor\":32.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
              "\"original_max_position_embeddings\":8192}}",
    };
    (void)state;
    for (size_t t = 0; t < NPT_COUNT(texts); t++) {
        npt_config c = good(texts[t]);
        float inverse[64];
        npt_config_inverse_frequencies(&c, inverse);
        for (int64_t i = 0; i < c.head_dim / 2; i++) {
            double wanted = inverse_of(&c, i);
            if (!(fabs(inverse[i] - wanted) <= 4e-6 * wanted))
                fail_msg("%s: %d: %.9g, not %.9g", texts[t], (int)i, inverse[i], wanted);
        }
    }
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("families have their own defaults", families_have_their_own_defaults),
        NPT_CASE("an absent number of kv heads is the family's, null is the number of heads",
                 an_absent_number_of_kv_heads_is_the_familys),
        NPT_CASE("biases follow the family", biases_follow_the_family),
        NPT_CASE("both spellings are read", both_spellings_are_read),
        NPT_CASE("token ids are numbers or lists", token_ids_are_numbers_or_lists),
        NPT_CASE("windows follow the family", windows_follow_the_family),
        NPT_CASE("an NF4 record is known", an_nf4_record_is_known),
        NPT_CASE("refusals name the key", refusals_name_the_key),
        NPT_CASE("a directory without config.json is an I/O error",
                 a_directory_without_config_is_an_io_error),
        NPT_CASE("family names go both ways", family_names_go_both_ways),
        NPT_CASE("inverse frequencies are the formula's", inverse_frequencies_are_the_formulas),
    };
    return npt_test_run("config", cases, NPT_COUNT(cases));
}
