/* SPDX-License-Identifier: BSD-2-Clause */
/* The named cast sites (precision.md §3): the one list of places where a value changes dtype.
 *
 * Forward, backward and the doctor read the same plan. A tensor that an operation writes gets its
 * dtype from npt_site(), nowhere else; the call checks the dtype that arrives against the plan and
 * counts the elements, so that casts executed can be compared with casts planned. Direction
 * NPT_BACKWARD at a site is the gradient with respect to what the site produced, × the loss scale.
 */
#ifndef NPT_TENSOR_SITES_H
#define NPT_TENSOR_SITES_H

#include "tensor/policy.h"

typedef enum npt_site_id {
    NPT_SITE_WEIGHT, /* on load: file dtype → frozen or compute dtype */
    NPT_SITE_EMBED,
    NPT_SITE_NORM_IN, /* two roundings an element: scaled, then × weight */
    NPT_SITE_Q,
    NPT_SITE_K,
    NPT_SITE_V,
    NPT_SITE_Q_NORM, /* qwen3; two roundings */
    NPT_SITE_K_NORM,
    NPT_SITE_ROPE_TABLE, /* cos and sin, once per position */
    NPT_SITE_ROPE,
    NPT_SITE_ATTN,
    NPT_SITE_ATTN_OUT,
    NPT_SITE_RESIDUAL_ATTN, /* x + a of a standard block */
    NPT_SITE_ADAPTER_IN,
    NPT_SITE_Z,
    NPT_SITE_ADD,
    NPT_SITE_U,
    NPT_SITE_MULT,
    NPT_SITE_NORM_POST,
    NPT_SITE_GATE,
    NPT_SITE_UP,
    NPT_SITE_GATE_MOD,
    NPT_SITE_MLP_ACT,
    NPT_SITE_DOWN,
    NPT_SITE_RESIDUAL,
    NPT_SITE_NORM_FINAL,
    NPT_SITE_LOGITS,  /* stays F32 */
    NPT_SITE_OPERAND, /* R4: a block's activations and gradients entering a matmul → compute dtype
                       */
    NPT_SITE_ADAPTER_OPERAND, /* R4: an adapter's, from its own dtype; and, besides per_token, its
                                 weights */
    NPT_SITE_UPDATE,          /* master → adapter */
    NPT_SITE_COUNT
} npt_site_id;

typedef enum npt_direction {
    NPT_FORWARD,
    NPT_BACKWARD,
    NPT_RECOMPUTE,
    NPT_DIRECTION_COUNT
} npt_direction;

/* One planned cast. */
typedef struct npt_site_plan {
    npt_dtype from, to; /* NONE, NONE: nothing planned there */
    int64_t per_token;  /* roundings per token (WEIGHT, UPDATE: 0) */
} npt_site_plan;

typedef struct npt_sites npt_sites;

/* What the plan of one block depends on. */
typedef struct npt_site_block {
    bool npt; /* an NPT block; else a standard one */
    bool additive, multiplicative;
    bool qk_norm;
    int64_t hidden, inter, q_width, kv_width, rank;
} npt_site_block;

/* A plan for one model: `blocks` has `layers` entries. `layer` below is 0 … layers-1, or -1 for
 * what belongs to no block. NULL on failure. */
npt_sites *npt_sites_create(const npt_policy *policy, int layers, const npt_site_block *blocks);
void npt_sites_destroy(npt_sites *sites);

/* Announces that `elements` values of dtype `from` are about to be rounded at a site; returns the
 * dtype they must have afterwards. A cast that is not in the plan is remembered as a breach (the
 * first one, with its site); the dtype returned is then the planned one, or `from` where nothing is
 * planned. Called from one thread, before the kernel runs. */
npt_dtype npt_site(npt_sites *sites, npt_site_id id, int layer, npt_direction direction,
                   npt_dtype from, int64_t elements);

npt_site_plan npt_sites_planned(const npt_sites *sites, npt_site_id id, int layer,
                                npt_direction direction);
uint64_t npt_sites_executed(const npt_sites *sites, npt_site_id id, int layer,
                            npt_direction direction);
void npt_sites_reset_counts(npt_sites *sites);
/* NPT_OK, or NPT_E_INTERNAL with the first unplanned cast: what PyTorch says of such operands,
 * layer, site, both dtypes, rule. */
npt_status npt_sites_check(const npt_sites *sites);
/* From now on this dtype arrives at that site instead of what does (npt_fault, CAST). */
void npt_sites_disturb(npt_sites *sites, npt_site_id id, int layer, npt_direction direction,
                       npt_dtype from);
/* FNV-1a 64 over every planned decision, in table order; and over every cell's executed count. */
uint64_t npt_sites_digest(const npt_sites *sites);
uint64_t npt_sites_executed_digest(const npt_sites *sites);
/* The decisions that there are: planned cells. */
int npt_sites_count(const npt_sites *sites);

const char *npt_site_name(npt_site_id id);
/* "L07.gate_mod", "embed", "L07.gate_mod.backward"; returns `text`. */
char *npt_site_label(npt_site_id id, int layer, npt_direction direction, char *text, size_t bytes);

#endif
