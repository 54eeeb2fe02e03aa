/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "train/products.h"

#include <stdio.h>
#include <string.h>

/* Follows block.c and adapter_lowrank.c from top to bottom. Three dtypes are enough to say it:
 * what enters a product as an activation, the same for what the adapter computes, and the weights
 * as they are held. */

typedef struct lister {
    npt_products *products;
    npt_dtype act;             /* H */
    npt_dtype adapter;         /* P */
    npt_dtype operand;         /* activations as operands */
    npt_dtype adapter_operand; /* activations and weights of the adapter as operands */
    npt_dtype weight;          /* frozen linears as held */
    int64_t tokens, rank;
} lister;

/* Products of one descriptor are of one pass: the three turn their operands differently. */
static void add(lister *l, const char *name, const char *pass, int64_t times, npt_matmul_desc desc)
{
    npt_products *products = l->products;
    if (times == 0) return;
    for (size_t i = 0; i < products->count; i++) {
        npt_product *product = &products->list[i];
        if (!npt_matmul_desc_same(&product->desc, &desc)) continue;
        const size_t used = strlen(product->name);
        snprintf(product->name + used, sizeof product->name - used, ", %s", name);
        product->per_step += times;
        return;
    }
    NPT_ASSERT(products->count < NPT_MAX_PRODUCTS);
    npt_product *product = &products->list[products->count++];
    *product = (npt_product){.pass = pass, .desc = desc, .per_step = times};
    snprintf(product->name, sizeof product->name, "%s", name);
}

/* ---- Frozen linears ---- */

static void forward(lister *l, const char *name, int64_t times, int64_t rows, int64_t cols,
                    bool bias)
{
    add(l, name, "y", times,
        (npt_matmul_desc){.m = l->tokens,
                          .n = rows,
                          .k = cols,
                          .trans_w = true,
                          .a = l->operand,
                          .w = l->weight,
                          .c = l->act,
                          .bias = bias});
}

/* Alone, or one of several that are summed in F32: the first of them, or a later one. */
typedef enum place { ALONE, FIRST, LATER } place;

static void backward(lister *l, const char *name, int64_t times, int64_t rows, int64_t cols,
                     place where)
{
    add(l, name, "dx", times,
        (npt_matmul_desc){.m = l->tokens,
                          .n = cols,
                          .k = rows,
                          .a = l->operand,
                          .w = l->weight,
                          .c = where == ALONE ? l->act : NPT_F32,
                          .accumulate = where == LATER});
}

static void list_frozen(lister *l, const npt_config *c, const npt_passes *n)
{
    const int64_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    forward(l, "q", n->attention, q, c->hidden, c->qkv_bias);
    forward(l, "k", n->attention, kv, c->hidden, c->qkv_bias);
    forward(l, "v", n->attention, kv, c->hidden, c->qkv_bias);
    forward(l, "o", n->attention, c->hidden, q, c->o_bias);
    forward(l, "gate", n->mlp, c->inter, c->hidden, c->mlp_bias);
    forward(l, "up", n->mlp, c->inter, c->hidden, c->mlp_bias);
    forward(l, "down", n->mlp, c->hidden, c->inter, c->mlp_bias);
    backward(l, "down", n->down_back, c->hidden, c->inter, ALONE);
    backward(l, "gate", n->back, c->inter, c->hidden, FIRST);
    backward(l, "up", n->back, c->inter, c->hidden, LATER);
    backward(l, "o", n->back, c->hidden, q, ALONE);
    backward(l, "q", n->back, q, c->hidden, FIRST);
    backward(l, "k", n->back, kv, c->hidden, LATER);
    backward(l, "v", n->back, kv, c->hidden, LATER);
}

/* ---- Adapters ---- */

static void adapter_forward(lister *l, const char *name, int64_t times, int64_t rows, int64_t cols)
{
    add(l, name, "y", times,
        (npt_matmul_desc){.m = l->tokens,
                          .n = rows,
                          .k = cols,
                          .trans_w = true,
                          .a = l->adapter_operand,
                          .w = l->adapter_operand,
                          .c = l->adapter});
}

static void adapter_backward(lister *l, const char *name, int64_t times, int64_t rows, int64_t cols,
                             npt_dtype c, bool accumulate)
{
    add(l, name, "dx", times,
        (npt_matmul_desc){.m = l->tokens,
                          .n = cols,
                          .k = rows,
                          .a = l->adapter_operand,
                          .w = l->adapter_operand,
                          .c = c,
                          .accumulate = accumulate});
}

static void adapter_gradient(lister *l, const char *name, int64_t times, int64_t rows, int64_t cols)
{
    add(l, name, "dw", times,
        (npt_matmul_desc){.m = rows,
                          .n = cols,
                          .k = l->tokens,
                          .trans_a = true,
                          .a = l->adapter_operand,
                          .w = l->adapter_operand,
                          .c = NPT_F32,
                          .accumulate = true});
}

/* B_add and B_mult have no product forward: the gate's kernel multiplies with them. */
static void list_adapters(lister *l, const npt_config *c, const npt_passes *n,
                          npt_modulation modulation)
{
    const int64_t add = modulation == NPT_MODULATION_MULTIPLICATIVE ? 0 : n->adapters_back,
                  mult = modulation == NPT_MODULATION_ADDITIVE ? 0 : n->adapters_back;
    adapter_forward(l, "A_proj", n->adapters, l->rank, c->hidden);
    adapter_gradient(l, "B_add", add, c->inter, l->rank);
    adapter_gradient(l, "B_mult", mult, c->inter, l->rank);
    adapter_backward(l, "B_add", add, c->inter, l->rank, NPT_F32, false);
    adapter_backward(l, "B_mult", mult, c->inter, l->rank, NPT_F32, add > 0);
    adapter_gradient(l, "A_proj", n->adapters_back, l->rank, c->hidden);
    adapter_backward(l, "A_proj", n->adapters_input, l->rank, c->hidden, l->adapter, false);
}

/* Layer by layer as run_blocks() of distill.c goes, and back as segment_backward() does. */
npt_passes npt_products_passes(const npt_config *config, const npt_products_run *run)
{
    npt_passes n = {0};
    bool differs = false; /* the student's h from the teacher's, after the block before */
    for (int64_t layer = 0; layer < config->layers; layer++) {
        const bool shared = !differs || run->distill == NPT_DISTILL_LAYERWISE;
        const bool active = run->active == NULL || run->active[layer];
        differs = active || !shared;
        n.attention += shared ? 1 : 2;
        n.mlp += differs ? 2 : 1;
        n.down_back += differs;
        n.back += !shared;
        n.adapters += active;
        n.adapters_back += active;
        n.adapters_input += active && !shared;
    }
    if (run->again && run->distill != NPT_DISTILL_LAYERWISE) {
        n.attention += n.down_back;
        n.mlp += n.down_back;
        n.adapters += n.adapters_back;
    }
    return n;
}

/* As model.c holds them: F32 may stay in the file's bytes. */
static npt_dtype held_dtype(const npt_model *model, const npt_policy *policy)
{
    if (policy->dtype[NPT_ROLE_FROZEN] == NPT_NF4) return NPT_NF4;
    const npt_dtype wanted = policy->dtype[NPT_ROLE_COMPUTE];
    return wanted == NPT_F32 && npt_dtype_is_float(model->file_dtype) ? model->file_dtype : wanted;
}

void npt_products_list(const npt_model *model, const npt_policy *policy,
                       const npt_products_run *run, npt_products *products)
{
    const npt_dtype *dtype = policy->dtype;
    const npt_passes passes = npt_products_passes(&model->config, run);
    lister l = {.products = products, .tokens = run->tokens, .rank = run->rank};
    products->count = 0;
    l.act = dtype[NPT_ROLE_ACT];
    l.adapter = dtype[NPT_ROLE_ADAPTER];
    l.operand = dtype[NPT_ROLE_COMPUTE];
    l.adapter_operand = npt_policy_adapter_operand(policy);
    l.weight = held_dtype(model, policy);
    list_frozen(&l, &model->config, &passes);
    list_adapters(&l, &model->config, &passes, run->modulation);
}
