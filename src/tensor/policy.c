/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "tensor/policy.h"

#include <stdio.h>

/* The table of precision.md §2 as data. One row of the table is chosen (R1–R5); R6 then replaces
 * the adapter's dtype. Nothing else in the program chooses a dtype. */

typedef struct policy_row {
    npt_rule rule;
    npt_dtype frozen, plain, act, compute, adapter;
    bool dynamic_loss_scale;
    const char *text;
} policy_row;

static const policy_row rows[] = {
    {NPT_R1, NPT_NF4, NPT_F32, NPT_F32, NPT_F32, NPT_F32, false, "R1: quantized base"},
    {NPT_R2, NPT_F16, NPT_F16, NPT_F16, NPT_F16, NPT_F16, true, "R2: --use_fp16"},
    {NPT_R3, NPT_BF16, NPT_BF16, NPT_BF16, NPT_BF16, NPT_BF16, false, "R3: --use_bf16"},
    {NPT_R4, NPT_F32, NPT_F32, NPT_F32, NPT_F16, NPT_F32, true, "R4: --mixed_precision fp16"},
    {NPT_R4, NPT_F32, NPT_F32, NPT_F32, NPT_BF16, NPT_F32, false, "R4: --mixed_precision bf16"},
    {NPT_R5, NPT_F32, NPT_F32, NPT_F32, NPT_F32, NPT_F32, false, "R5: no precision flag"},
};

enum { ROW_QUANTIZED, ROW_FP16, ROW_BF16, ROW_MIXED_FP16, ROW_MIXED_BF16, ROW_F32 };

static const char *const role_names[NPT_ROLE_COUNT] = {
    [NPT_ROLE_FROZEN] = "frozen",   [NPT_ROLE_PLAIN] = "plain", [NPT_ROLE_ACT] = "act",
    [NPT_ROLE_COMPUTE] = "compute", [NPT_ROLE_ACCUM] = "accum", [NPT_ROLE_ADAPTER] = "adapter",
    [NPT_ROLE_MASTER] = "master",   [NPT_ROLE_GRAD] = "grad",   [NPT_ROLE_OPT] = "opt",
    [NPT_ROLE_LOSS] = "loss",
};

static bool is_half(npt_dtype dtype)
{
    return dtype == NPT_F16 || dtype == NPT_BF16;
}

static npt_status check_quantized(const npt_policy_request *request)
{
    const char *base = request->use_quantization ? "--use_quantization" : "a quantized checkpoint";
    if (request->use_fp16 || request->use_bf16)
        return npt_fail(NPT_E_USAGE,
                        "%s and --use_%s exclude each other (R1: a quantized base computes in "
                        "F32); use one or the other",
                        base, request->use_fp16 ? "fp16" : "bf16");
    if (request->adapter_dtype != NPT_DTYPE_NONE && request->adapter_dtype != NPT_F32)
        return npt_fail(NPT_E_USAGE,
                        "--adapter_dtype %s on a quantized base: its adapters are always F32 (R1); "
                        "drop --adapter_dtype",
                        npt_dtype_name(request->adapter_dtype));
    return NPT_OK;
}

static npt_status check_request(const npt_policy_request *request)
{
    if (request->adapter_dtype != NPT_DTYPE_NONE && request->adapter_dtype != NPT_F32 &&
        !is_half(request->adapter_dtype))
        return npt_fail(
            NPT_E_USAGE,
            "--adapter_dtype %s: an adapter is F32, F16 or BF16 (R6); name one of these",
            npt_dtype_name(request->adapter_dtype));
    if (request->mixed_precision != NPT_DTYPE_NONE && !is_half(request->mixed_precision))
        return npt_fail(NPT_E_USAGE,
                        "--mixed_precision %s: products are in F16 or BF16 (R4); name one of these",
                        npt_dtype_name(request->mixed_precision));
    if (request->use_quantization || request->base_is_quantized) return check_quantized(request);
    if (request->use_fp16 && request->use_bf16)
        return npt_fail(NPT_E_USAGE, "--use_fp16 and --use_bf16 exclude each other; drop one");
    if (request->use_fp16 && request->mixed_precision == NPT_BF16)
        return npt_fail(
            NPT_E_USAGE,
            "--use_fp16 with --mixed_precision bf16: the model would be in fp16 and its "
            "products in bf16; drop one, or use --use_bf16");
    if (request->use_bf16 && request->mixed_precision == NPT_F16)
        return npt_fail(
            NPT_E_USAGE,
            "--use_bf16 with --mixed_precision fp16: the model would be in bf16 and its "
            "products in fp16; drop one, or use --use_fp16");
    return NPT_OK;
}

static const policy_row *choose_row(const npt_policy_request *request)
{
    if (request->use_quantization || request->base_is_quantized) return &rows[ROW_QUANTIZED];
    if (request->use_fp16) return &rows[ROW_FP16];
    if (request->use_bf16) return &rows[ROW_BF16];
    if (request->mixed_precision == NPT_F16) return &rows[ROW_MIXED_FP16];
    if (request->mixed_precision == NPT_BF16) return &rows[ROW_MIXED_BF16];
    return &rows[ROW_F32];
}

npt_status npt_policy_decide(const npt_policy_request *request, npt_policy *policy)
{
    NPT_TRY(check_request(request));
    const policy_row *row = choose_row(request);
    npt_policy decided = {.base_rule = row->rule, .dynamic_loss_scale = row->dynamic_loss_scale};
    for (int role = 0; role < NPT_ROLE_COUNT; role++) {
        decided.dtype[role] = NPT_F32;
        decided.rule[role] = row->rule;
    }
    decided.dtype[NPT_ROLE_FROZEN] = row->frozen;
    decided.dtype[NPT_ROLE_PLAIN] = row->plain;
    decided.dtype[NPT_ROLE_ACT] = row->act;
    decided.dtype[NPT_ROLE_COMPUTE] = row->compute;
    decided.dtype[NPT_ROLE_ADAPTER] = row->adapter;
    if (request->adapter_dtype != NPT_DTYPE_NONE) {
        decided.dtype[NPT_ROLE_ADAPTER] = request->adapter_dtype;
        decided.rule[NPT_ROLE_ADAPTER] = decided.rule[NPT_ROLE_MASTER] = NPT_R6;
    }
    decided.dtype[NPT_ROLE_MASTER] =
        is_half(decided.dtype[NPT_ROLE_ADAPTER]) ? NPT_F32 : NPT_DTYPE_NONE;
    decided.quantize_on_load = row->rule == NPT_R1 && !request->base_is_quantized;
    decided.mixed_switched_off = row->rule == NPT_R1 && request->mixed_precision != NPT_DTYPE_NONE;
    *policy = decided;
    return NPT_OK;
}

npt_policy_request npt_policy_infer(bool quantization_record, npt_dtype tensor_dtype,
                                    npt_dtype config_dtype)
{
    npt_policy_request request = {.base_is_quantized = quantization_record};
    if (quantization_record) return request;
    npt_dtype base = tensor_dtype;
    if (base != NPT_F32 && !is_half(base)) base = config_dtype;
    request.use_fp16 = base == NPT_F16;
    request.use_bf16 = base == NPT_BF16;
    return request;
}

const char *npt_role_name(npt_role role)
{
    return role_names[role];
}

const char *npt_rule_text(npt_rule rule)
{
    if (rule == NPT_R6) return "R6: --adapter_dtype";
    if (rule == NPT_R7) return "R7: inferred from the base";
    if (rule == NPT_R4) return "R4: --mixed_precision";
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (rows[i].rule == rule) return rows[i].text;
    return "";
}

void npt_policy_describe(const npt_policy *policy, char *line, size_t bytes)
{
    const npt_dtype *dtype = policy->dtype;
    char products[32] = "", second[64] = "";
    if (dtype[NPT_ROLE_COMPUTE] != dtype[NPT_ROLE_ACT])
        snprintf(products, sizeof products, ", products %s",
                 npt_dtype_name(dtype[NPT_ROLE_COMPUTE]));
    if (policy->rule[NPT_ROLE_ADAPTER] != policy->base_rule)
        snprintf(second, sizeof second, ", %s", npt_rule_text(policy->rule[NPT_ROLE_ADAPTER]));
    snprintf(line, bytes, "base %s, act %s%s, adapter %s%s, loss F32, loss scale %s (%s%s)",
             npt_dtype_name(dtype[NPT_ROLE_FROZEN]), npt_dtype_name(dtype[NPT_ROLE_ACT]), products,
             npt_dtype_name(dtype[NPT_ROLE_ADAPTER]),
             dtype[NPT_ROLE_MASTER] == NPT_F32 ? " + F32 master" : "",
             policy->dynamic_loss_scale ? "dynamic" : "off", npt_rule_text(policy->base_rule),
             second);
}
