/* SPDX-License-Identifier: BSD-2-Clause */
/* One transformer block, standard (the teacher's) or NPT (method.md §1): forward and backward.
 *
 * Every tensor a block writes is announced at its cast site, which gives it its dtype. What
 * backward needs is kept in a npt_block_state, in the step arena; everything else is scratch that
 * is rewound before the call returns. */
#ifndef NPT_MODEL_BLOCK_H
#define NPT_MODEL_BLOCK_H

#include "model/adapter.h"
#include "model/mat.h"

/* What an adapter keeps between forward and backward. */
typedef struct npt_adapter_state {
    npt_mat a, z;       /* P */
    double regularizer; /* Σ over tokens of reg (method.md §2) */
} npt_adapter_state;

typedef struct npt_block_state {
    npt_mat x;             /* the block's input */
    npt_mat q_in, k_in;    /* before q_norm, k_norm (qwen3); else the same as q, k */
    npt_mat q, k, v, attn; /* q, k after RoPE */
    float *lse;
    npt_mat y; /* input of norm_post */
    npt_mat gate, up;
    npt_adapter_state adapter;
} npt_block_state;

/* The interface behind which the kinds of adapter stand. */
struct npt_adapter_kind {
    const char *name;
    /* Names and shapes of the parameters of one layer, and the deviations of their initial values.
     */
    int (*describe)(const npt_adapters *adapters, const npt_config *config,
                    npt_parameter *parameters, double *deviations);
    /* From a to z; kept in `state`. */
    npt_status (*forward)(const npt_env *env, const npt_adapters *adapters, int layer, npt_mat a,
                          npt_adapter_state *state);
    /* dst = silu(g')·up, or g' where up.data is NULL, in the act dtype; sets state->regularizer.
     * NPT_RECOMPUTE: the same bits again. What it needs besides stays in the step arena. */
    npt_status (*gate)(const npt_env *env, const npt_adapters *adapters, int layer,
                       npt_direction direction, npt_adapter_state *state, npt_mat gate, npt_mat up,
                       npt_mat dst);
    /* From dy, the gradient of silu(g')·up (overwritten, by dgate unless `da` is NULL): dup unless
     * dup.data is NULL (not finished yet), adapter gradients += …, da in the act dtype. `penalty`:
     * factor of d(regularizer). */
    npt_status (*backward)(const npt_env *env, npt_adapters *adapters, int layer,
                           const npt_adapter_state *state, npt_mat gate, npt_mat up, npt_mat dy,
                           npt_mat dup, double penalty, npt_mat *da);
};

const npt_adapter_kind *npt_adapter_kind_for(npt_modulation modulation);

/* ---- The block ---- */

/* Token embeddings → [tokens, hidden]. */
npt_status npt_embed(const npt_env *env, npt_mat *h);
/* One of up to two models that go through a block side by side: they read the same weights, and
 * products of both are made at once (npt_matmul_two). The bits are those of one after the other. */
enum { NPT_SIDES = 2 };
typedef struct npt_side {
    const npt_env *env;           /* of all sides: the same exec, model, policy, batch and arena */
    const npt_adapters *adapters; /* NULL: a standard block */
    npt_mat x;
    npt_block_state *state;
    bool keeps;   /* what backward reads stays where `state` says; of the last side only */
    npt_mat a, h; /* made here: after attention, after the block */
} npt_side;

/* a = o_proj(attention(rmsnorm(x))) of every side. */
npt_status npt_block_attention(npt_side *sides, int count, int layer);
/* From a and x to h: the rest of a standard block or of an NPT block, of every side. */
npt_status npt_block_mlp(npt_side *sides, int count, int layer);
/* dh, the gradient at h, becomes the gradient at x where `input` is true (else only the adapter's
 * gradients are taken). `penalty` as in npt_adapter_kind.backward. */
npt_status npt_block_backward(const npt_env *env, npt_adapters *adapters, int layer,
                              const npt_block_state *state, double penalty, bool input, npt_mat dh);
/* Final norm and output head of some rows → F32 logits [rows, vocab] in `logits`. */
npt_status npt_logits(const npt_env *env, npt_mat h, int64_t first, int64_t rows, float *logits);

#endif
