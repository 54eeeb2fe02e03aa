/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "model/tensors.h"

#include <stdio.h>

#include "model/model.h"
#include "tensor/dtype.h"

/* A block as a table: name, shape and presence of every tensor. Names and shapes are those of
 * Hugging Face's files. */

typedef enum part_width {
    WIDTH_NONE,
    WIDTH_HIDDEN,
    WIDTH_INTER,
    WIDTH_Q,
    WIDTH_KV,
    WIDTH_HEAD
} part_width;
typedef enum part_presence { ALWAYS, QKV_BIAS, O_BIAS, MLP_BIAS, QK_NORM } part_presence;

#define AT(field) offsetof(npt_block_weights, field)
static const char attention[] = "q/k/v/o", mlp[] = "gate/up/down", biases[] = "biases",
                  norms[] = "norms";
static const struct block_part {
    const char *name, *group;
    npt_tensor_kind kind;
    part_width rows, cols;
    part_presence presence;
    size_t offset;
} parts[] = {
    {"self_attn.q_proj.weight", attention, NPT_TENSOR_LINEAR, WIDTH_Q, WIDTH_HIDDEN, ALWAYS, AT(q)},
    {"self_attn.q_proj.bias", biases, NPT_TENSOR_BIAS, WIDTH_Q, WIDTH_NONE, QKV_BIAS, AT(q)},
    {"self_attn.k_proj.weight", attention, NPT_TENSOR_LINEAR, WIDTH_KV, WIDTH_HIDDEN, ALWAYS,
     AT(k)},
    {"self_attn.k_proj.bias", biases, NPT_TENSOR_BIAS, WIDTH_KV, WIDTH_NONE, QKV_BIAS, AT(k)},
    {"self_attn.v_proj.weight", attention, NPT_TENSOR_LINEAR, WIDTH_KV, WIDTH_HIDDEN, ALWAYS,
     AT(v)},
    {"self_attn.v_proj.bias", biases, NPT_TENSOR_BIAS, WIDTH_KV, WIDTH_NONE, QKV_BIAS, AT(v)},
    {"self_attn.o_proj.weight", attention, NPT_TENSOR_LINEAR, WIDTH_HIDDEN, WIDTH_Q, ALWAYS, AT(o)},
    {"self_attn.o_proj.bias", biases, NPT_TENSOR_BIAS, WIDTH_HIDDEN, WIDTH_NONE, O_BIAS, AT(o)},
    {"mlp.gate_proj.weight", mlp, NPT_TENSOR_LINEAR, WIDTH_INTER, WIDTH_HIDDEN, ALWAYS, AT(gate)},
    {"mlp.gate_proj.bias", biases, NPT_TENSOR_BIAS, WIDTH_INTER, WIDTH_NONE, MLP_BIAS, AT(gate)},
    {"mlp.up_proj.weight", mlp, NPT_TENSOR_LINEAR, WIDTH_INTER, WIDTH_HIDDEN, ALWAYS, AT(up)},
    {"mlp.up_proj.bias", biases, NPT_TENSOR_BIAS, WIDTH_INTER, WIDTH_NONE, MLP_BIAS, AT(up)},
    {"mlp.down_proj.weight", mlp, NPT_TENSOR_LINEAR, WIDTH_HIDDEN, WIDTH_INTER, ALWAYS, AT(down)},
    {"mlp.down_proj.bias", biases, NPT_TENSOR_BIAS, WIDTH_HIDDEN, WIDTH_NONE, MLP_BIAS, AT(down)},
    {"input_layernorm.weight", norms, NPT_TENSOR_NORM, WIDTH_HIDDEN, WIDTH_NONE, ALWAYS,
     AT(norm_in)},
    {"post_attention_layernorm.weight", norms, NPT_TENSOR_NORM, WIDTH_HIDDEN, WIDTH_NONE, ALWAYS,
     AT(norm_post)},
    {"self_attn.q_norm.weight", norms, NPT_TENSOR_NORM, WIDTH_HEAD, WIDTH_NONE, QK_NORM,
     AT(q_norm)},
    {"self_attn.k_norm.weight", norms, NPT_TENSOR_NORM, WIDTH_HEAD, WIDTH_NONE, QK_NORM,
     AT(k_norm)},
};
#undef AT
enum { PARTS = sizeof parts / sizeof parts[0] };
_Static_assert((int)PARTS == (int)NPT_BLOCK_TENSORS_MAX, "a list has room for every part");

static bool is_present(const npt_config *c, part_presence presence)
{
    const bool present[] = {[ALWAYS] = true,
                            [QKV_BIAS] = c->qkv_bias,
                            [O_BIAS] = c->o_bias,
                            [MLP_BIAS] = c->mlp_bias,
                            [QK_NORM] = c->qk_norm};
    return present[presence];
}

static int64_t width_of(const npt_config *c, part_width width)
{
    const int64_t widths[] = {[WIDTH_NONE] = 0,
                              [WIDTH_HIDDEN] = c->hidden,
                              [WIDTH_INTER] = c->inter,
                              [WIDTH_Q] = c->heads * c->head_dim,
                              [WIDTH_KV] = c->kv_heads * c->head_dim,
                              [WIDTH_HEAD] = c->head_dim};
    return widths[width];
}

int npt_block_tensors(const npt_config *config, int layer, npt_wanted list[NPT_BLOCK_TENSORS_MAX])
{
    int count = 0;
    for (int i = 0; i < PARTS; i++) {
        const struct block_part *part = &parts[i];
        if (!is_present(config, part->presence)) continue;
        npt_wanted *wanted = &list[count++];
        *wanted = (npt_wanted){
            .group = part->group,
            .kind = part->kind,
            .rank = part->cols == WIDTH_NONE ? 1 : 2,
            .shape = {width_of(config, part->rows), width_of(config, part->cols)},
            .offset = part->offset,
        };
        snprintf(wanted->name, sizeof wanted->name, "model.layers.%d.%s", layer, part->name);
    }
    return count;
}

int npt_model_tensors(const npt_config *config, npt_wanted list[NPT_MODEL_TENSORS])
{
    const int64_t vocab = config->vocab, hidden = config->hidden;
    list[NPT_WANTED_EMBED] = (npt_wanted){
        "model.embed_tokens.weight", "embed", NPT_TENSOR_EMBED, 2, {vocab, hidden}, false, 0};
    list[NPT_WANTED_FINAL_NORM] =
        (npt_wanted){"model.norm.weight", "final norm", NPT_TENSOR_NORM, 1, {hidden, 0}, true, 0};
    list[NPT_WANTED_HEAD] =
        (npt_wanted){"lm_head.weight", "lm_head", NPT_TENSOR_HEAD, 2, {vocab, hidden}, true, 0};
    return config->tied ? NPT_WANTED_HEAD : NPT_MODEL_TENSORS;
}

npt_dtype npt_tensor_planned(const npt_policy *policy, npt_tensor_kind kind, npt_dtype in_file)
{
    switch (kind) {
    case NPT_TENSOR_EMBED: return in_file;
    case NPT_TENSOR_LINEAR:
        return policy->dtype[NPT_ROLE_FROZEN] == NPT_NF4 ? NPT_NF4
                                                         : policy->dtype[NPT_ROLE_COMPUTE];
    case NPT_TENSOR_BIAS:
    case NPT_TENSOR_NORM:
    case NPT_TENSOR_HEAD: return policy->dtype[NPT_ROLE_PLAIN];
    case NPT_TENSOR_SCALES: return NPT_F32;
    }
    return NPT_DTYPE_NONE;
}

/* Hugging Face files are aligned, but the format does not promise it. */
bool npt_tensor_is_aligned(const npt_st_tensor *tensor)
{
    const size_t bytes = npt_dtype_bytes(tensor->dtype);
    return bytes == 0 || tensor->begin % bytes == 0; /* files are mapped at pages */
}

bool npt_tensor_is_packed(const npt_st_tensor *tensor)
{
    return !npt_dtype_is_float(tensor->dtype) || (tensor->rank == 2 && tensor->shape[1] == 1);
}

npt_load_action npt_tensor_action(const npt_policy *policy, bool stored, npt_tensor_kind kind,
                                  const npt_st_tensor *tensor)
{
    npt_dtype planned = npt_tensor_planned(policy, kind, tensor->dtype);
    if (planned == NPT_NF4) {
        if (policy->quantize_on_load) return NPT_LOAD_QUANTIZED;
        if (stored && npt_tensor_is_packed(tensor)) return NPT_LOAD_STORED;
        planned = NPT_F32; /* a float in a quantized checkpoint stays what it is */
    }
    if (tensor->dtype != planned && planned != NPT_F32) return NPT_LOAD_CONVERTED;
    if (!npt_tensor_is_aligned(tensor)) return NPT_LOAD_ALIGNED;
    return tensor->dtype == planned ? NPT_LOAD_IN_PLACE : NPT_LOAD_WIDENED;
}
