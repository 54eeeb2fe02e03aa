/* SPDX-License-Identifier: BSD-2-Clause */
/* The precision policy, R1–R7 (precision.md §2): every dtype of a run, and the rule that decided
 * it, before a weight is read. */
#ifndef NPT_TENSOR_POLICY_H
#define NPT_TENSOR_POLICY_H

#include "base/status.h"

/* What a dtype is for (precision.md §1). */
typedef enum npt_role {
    NPT_ROLE_FROZEN,  /* frozen linears as held: F32, F16, BF16, NF4 */
    NPT_ROLE_PLAIN,   /* frozen norms, embeddings, biases */
    NPT_ROLE_ACT,     /* H: residual stream and activations */
    NPT_ROLE_COMPUTE, /* operand of a matmul */
    NPT_ROLE_ACCUM,   /* inside a matmul, and elementwise arithmetic: always F32 */
    NPT_ROLE_ADAPTER, /* P: the adapter as used and saved */
    NPT_ROLE_MASTER,  /* what the optimizer updates; NONE: the adapter itself */
    NPT_ROLE_GRAD,    /* adapter gradients: always F32 */
    NPT_ROLE_OPT,     /* moments: always F32 */
    NPT_ROLE_LOSS,    /* always F32 */
    NPT_ROLE_COUNT
} npt_role;

typedef enum npt_rule { NPT_R1 = 1, NPT_R2, NPT_R3, NPT_R4, NPT_R5, NPT_R6, NPT_R7 } npt_rule;

typedef struct npt_policy_request {
    bool use_fp16, use_bf16, use_quantization;
    npt_dtype mixed_precision; /* NONE, F16 or BF16 */
    npt_dtype adapter_dtype;   /* NONE: inferred */
    bool base_is_quantized;    /* the checkpoint has a quantization record */
} npt_policy_request;

typedef struct npt_policy {
    npt_dtype dtype[NPT_ROLE_COUNT];
    npt_rule rule[NPT_ROLE_COUNT];
    npt_rule base_rule;      /* the row of the table */
    bool dynamic_loss_scale; /* else off */
    bool quantize_on_load;   /* R1 on a checkpoint that is not quantized */
    bool mixed_switched_off; /* quantization with --mixed_precision: said, not refused */
} npt_policy;

/* Of what an adapter multiplies: its own, or where products are of another dtype than activations
 * (R4), that. */
static inline npt_dtype npt_policy_adapter_operand(const npt_policy *policy)
{
    const npt_dtype *dtype = policy->dtype;
    return dtype[NPT_ROLE_COMPUTE] != dtype[NPT_ROLE_ACT] ? dtype[NPT_ROLE_COMPUTE]
                                                          : dtype[NPT_ROLE_ADAPTER];
}

/* NPT_E_USAGE with a sentence that says what to drop where the request contradicts itself. */
npt_status npt_policy_decide(const npt_policy_request *request, npt_policy *policy);

/* R7, for callers that hand over an existing base: what npt_policy_decide() would be asked. The
 * first that is known decides: quantization record, dtype of the float tensors (of the linears,
 * never "the first parameter"), dtype in config.json. An integer tensor dtype is never a base
 * dtype. */
npt_policy_request npt_policy_infer(bool quantization_record, npt_dtype tensor_dtype,
                                    npt_dtype config_dtype);

const char *npt_role_name(npt_role role);
/* One line: "base F16, act F16, adapter F16 + F32 master, loss F32, loss scale dynamic  R2: …". */
void npt_policy_describe(const npt_policy *policy, char *line, size_t bytes);
/* "R2: --use_fp16" */
const char *npt_rule_text(npt_rule rule);

#endif
