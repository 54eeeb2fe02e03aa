/* SPDX-License-Identifier: BSD-2-Clause */
/* config.json of the four families npt knows: llama, mistral, qwen2, qwen3 (formats.md). */
#ifndef NPT_MODEL_CONFIG_H
#define NPT_MODEL_CONFIG_H

#include "base/status.h"

typedef enum npt_family { NPT_LLAMA, NPT_MISTRAL, NPT_QWEN2, NPT_QWEN3 } npt_family;
typedef enum npt_rope_kind { NPT_ROPE_DEFAULT, NPT_ROPE_LINEAR, NPT_ROPE_LLAMA3 } npt_rope_kind;

typedef struct npt_config {
    npt_family family;
    int64_t hidden, inter, layers, heads, kv_heads, head_dim, vocab, max_positions;
    double norm_epsilon;
    /* RoPE */
    npt_rope_kind rope;
    double rope_theta, rope_factor, rope_low, rope_high, rope_old_positions;
    int64_t window;            /* sliding window in tokens; 0: none */
    int64_t window_from_layer; /* qwen: layers below this attend to everything */
    bool qkv_bias, o_bias, mlp_bias, qk_norm, tied;
    npt_dtype dtype;       /* what config.json says of the tensors; NONE where it does not */
    bool quantized;        /* a quantization_config is present, and npt reads it (NF4) */
    char quantization[64]; /* what it says, "bitsandbytes 4-bit nf4"; "" where there is none */
    int64_t bos, eos;      /* -1: none */
} npt_config;

/* `directory`/config.json. NPT_E_IO, NPT_E_FORMAT (a value that makes no sense), NPT_E_UNSUPPORTED
 * (family, RoPE type or activation npt does not know, by name); a quantization that npt does not
 * know is only written down. */
npt_status npt_config_examine(const char *directory, npt_config *config);
/* NPT_E_UNSUPPORTED where npt_config_examine() wrote down such a one. */
npt_status npt_config_check_quantization(const char *directory, const npt_config *config);
const char *npt_family_name(npt_family family);
/* NPT_E_USAGE for an unknown name. */
npt_status npt_family_from_name(const char *name, npt_family *family);

/* RoPE inverse frequencies, head_dim/2 of F32 (formats.md, "RoPE"), computed in F32 as Hugging Face
 * does. */
void npt_config_inverse_frequencies(const npt_config *config, float *inverse);

#endif
