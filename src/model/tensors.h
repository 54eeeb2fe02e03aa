/* SPDX-License-Identifier: BSD-2-Clause */
/* The tensors a checkpoint must have, and what loading does with each: one list and one decision,
 * for npt_model_load() and for those who only read headers. */
#ifndef NPT_MODEL_TENSORS_H
#define NPT_MODEL_TENSORS_H

#include <stddef.h>

#include "files/safetensors.h"
#include "model/config.h"
#include "tensor/policy.h"

typedef enum npt_tensor_kind {
    NPT_TENSOR_EMBED,
    NPT_TENSOR_LINEAR, /* frozen, of a block */
    NPT_TENSOR_BIAS,
    NPT_TENSOR_NORM,
    NPT_TENSOR_HEAD,
    NPT_TENSOR_SCALES /* F32 of a quantized linear */
} npt_tensor_kind;

typedef struct npt_wanted {
    char name[96];
    const char *group; /* "q/k/v/o": tensors that are alike */
    npt_tensor_kind kind;
    int rank;
    int64_t shape[2];
    bool evaluation; /* training does not read it */
    size_t offset;   /* in npt_block_weights: a linear's (or its bias's) npt_weight, a norm's npt_in
                      */
} npt_wanted;

enum { NPT_BLOCK_TENSORS_MAX = 18 };
enum { NPT_WANTED_EMBED, NPT_WANTED_FINAL_NORM, NPT_WANTED_HEAD, NPT_MODEL_TENSORS };

/* Those of block `layer`, a bias after its linear; returns how many. */
int npt_block_tensors(const npt_config *config, int layer, npt_wanted list[NPT_BLOCK_TENSORS_MAX]);
/* Those outside the blocks, in the order above; the head only where it is not the embedding. */
int npt_model_tensors(const npt_config *config, npt_wanted list[NPT_MODEL_TENSORS]);

typedef enum npt_load_action {
    NPT_LOAD_IN_PLACE,  /* the mapped bytes are the operand */
    NPT_LOAD_WIDENED,   /* the same, and whoever reads them widens them to F32, which is exact */
    NPT_LOAD_ALIGNED,   /* a copy, because the file has them at an odd address */
    NPT_LOAD_CONVERTED, /* a rounded copy */
    NPT_LOAD_QUANTIZED, /* a copy in NF4 */
    NPT_LOAD_STORED,    /* NF4 in the file */
    NPT_LOAD_ACTION_COUNT
} npt_load_action;

/* What a tensor must be, once loaded: what the policy says; the embedding as in the file. */
npt_dtype npt_tensor_planned(const npt_policy *policy, npt_tensor_kind kind, npt_dtype in_file);
/* How it becomes that. `stored`: config.json has a quantization record. */
npt_load_action npt_tensor_action(const npt_policy *policy, bool stored, npt_tensor_kind kind,
                                  const npt_st_tensor *tensor);
bool npt_tensor_is_aligned(const npt_st_tensor *tensor);
/* Of a linear in a checkpoint with a quantization record: 4-bit codes, in one column of bytes or of
 * what bnb_4bit_quant_storage names; else weights that were left as they are. */
bool npt_tensor_is_packed(const npt_st_tensor *tensor);

#endif
