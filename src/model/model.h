/* SPDX-License-Identifier: BSD-2-Clause */
/* A frozen checkpoint: its configuration, and its weights as the policy wants them.
 *
 * Weights stay where the file maps them wherever their bytes can be used as they are: the dtype is
 * the planned one, or the planned one is F32 (widening is exact). Otherwise one copy is made on
 * load, in the model arena. Teacher and student share everything. */
#ifndef NPT_MODEL_MODEL_H
#define NPT_MODEL_MODEL_H

#include "base/memory.h"
#include "files/safetensors.h"
#include "model/config.h"
#include "tensor/exec.h"
#include "tensor/sites.h"

/* A frozen linear, [rows, cols] = [outputs, inputs], row-major. */
typedef struct npt_weight {
    int64_t rows, cols;
    npt_dtype dtype; /* F32, F16, BF16 or NF4 */
    const void *data;
    const float *absmax; /* NF4: one per 64 elements */
    const float *levels; /* NF4: 16 */
    const float *bias;   /* [rows], or NULL */
} npt_weight;

typedef struct npt_block_weights {
    npt_weight q, k, v, o, gate, up, down;
    npt_in norm_in, norm_post, q_norm, k_norm; /* the last two only with config.qk_norm */
} npt_block_weights;

typedef struct npt_model {
    npt_config config;
    char *directory;
    npt_st *st;
    npt_arena *arena;
    npt_dtype file_dtype; /* of the linears in the file; NF4 for a quantized checkpoint */
    npt_in embed;         /* [vocab, hidden], as in the file */
    npt_in norm_final;
    npt_weight lm_head;         /* data NULL until npt_model_load_head() */
    npt_block_weights *blocks;  /* [layers] */
    float *inverse_frequencies; /* [head_dim / 2] */
    npt_cast_stats narrowing;   /* what conversions on load lost */
    int64_t narrowed;           /* elements converted */
    bool double_quantization;   /* of weights quantized on load */
} npt_model;

/* Configuration and headers only: enough to decide the policy. `name`: a directory, or a Hub name
 * in the local cache. */
npt_status npt_model_open(npt_model **model, const char *name);
/* The same for those who look at what cannot be loaded, too: opens where the headers can be read,
 * and npt_model_check() says what npt_model_open() would: NPT_E_UNSUPPORTED or NPT_E_FORMAT. */
npt_status npt_model_examine(npt_model **model, const char *name);
npt_status npt_model_check(const npt_model *model);
/* Maps, converts or quantizes the blocks' weights as `policy` says; conversions are announced to
 * `sites` (NPT_SITE_WEIGHT). NPT_E_FORMAT where a tensor is missing or has another shape. */
npt_status npt_model_load(npt_model *model, npt_exec *exec, const npt_policy *policy,
                          npt_sites *sites);
/* The output head as well (evaluation). */
npt_status npt_model_load_head(npt_model *model, npt_exec *exec, const npt_policy *policy,
                               npt_sites *sites);
void npt_model_close(npt_model *model);

/* Window of a layer; 0 = none. */
int64_t npt_model_window(const npt_model *model, int layer);

#endif
