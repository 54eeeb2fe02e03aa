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
    npt_mat a, z, add, u; /* P; add, u: data NULL where the kind has no such term */
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
    /* From a to what modulates; kept in `state`. */
    npt_status (*forward)(const npt_env *env, const npt_adapters *adapters, int layer, npt_mat a,
                          npt_adapter_state *state);
    /* g → g', at forward time and again (bit for bit) in backward. */
    npt_status (*modulate)(const npt_env *env, const npt_adapters *adapters, int layer,
                           npt_direction direction, const npt_adapter_state *state, npt_mat gate,
                           npt_mat *modulated);
    /* Σ over tokens of reg (method.md §2), F64. */
    double (*regularizer)(const npt_env *env, const npt_adapter_state *state);
    /* From dg' (overwritten by dgate, which is skipped where `da` is NULL): adapter gradients += …;
     * da in the act dtype. `penalty`: factor of d(regularizer). dg'.data NULL: only the penalty. */
    npt_status (*backward)(const npt_env *env, npt_adapters *adapters, int layer,
                           const npt_adapter_state *state, npt_mat gate, npt_mat dmodulated,
                           double penalty, npt_mat *da);
};

const npt_adapter_kind *npt_adapter_kind_for(npt_modulation modulation);

/* ---- The block ---- */

/* Token embeddings → [tokens, hidden]. */
npt_status npt_embed(const npt_env *env, npt_mat *h);
/* a = o_proj(attention(rmsnorm(x))). state NULL: nothing is kept. */
npt_status npt_block_attention(const npt_env *env, int layer, npt_mat x, npt_block_state *state,
                               npt_mat *a);
/* The rest of a standard block (adapters NULL) or of an NPT block. */
npt_status npt_block_mlp(const npt_env *env, const npt_adapters *adapters, int layer, npt_mat x,
                         npt_mat a, npt_block_state *state, npt_mat *h);
/* dh, the gradient at h, becomes the gradient at x where `input` is true (else only the adapter's
 * gradients are taken). `penalty` as in npt_adapter_kind.backward. */
npt_status npt_block_backward(const npt_env *env, npt_adapters *adapters, int layer,
                              const npt_block_state *state, double penalty, bool input, npt_mat dh);
/* Final norm and output head of some rows → F32 logits [rows, vocab] in `logits`. */
npt_status npt_logits(const npt_env *env, npt_mat h, int64_t first, int64_t rows, float *logits);

#endif
