/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "golden/golden_case.h"

#include <math.h>

/* Training in halves (R2, R3, R4) against the F64 truth, on every matmul backend. A run of npt may
 * be twice as far from the truth as eager PyTorch's run in the same dtype, which made the same
 * number of roundings. Where PyTorch was right by luck, the floors below hold: an ulp of the half
 * type for D, reg and the whole gradient, two for one tensor of it (the smallest have a few dozen
 * values), eight (BF16) or sixteen (F16) for the update, because Adam makes a full step of a
 * gradient near zero, whichever sign it was rounded to. */

static const char *const names[] = {"llama",
                                    "llama-adam",
                                    "llama-additive",
                                    "llama-cosine",
                                    "llama-lambda-0",
                                    "llama-layers-lower",
                                    "llama-layers-upper",
                                    "llama-layerwise",
                                    "llama-layerwise-plain",
                                    "llama-linear",
                                    "llama-multiplicative",
                                    "llama-plain",
                                    "llama-ragged",
                                    "llama-rope-linear-bias",
                                    "llama-rope-llama3",
                                    "llama-scale-0.5",
                                    "mistral",
                                    "qwen2",
                                    "qwen3",
                                    "tiny-llama"};

/* What the slower or less used backends run; the same arithmetic but for the products. */
static const char *const few[] = {
    "llama",   "llama-adam", "llama-layerwise", "llama-multiplicative", "llama-rope-linear-bias",
    "mistral", "qwen3"};

static const char *const backends[] = {"reference", "native", "openblas", "onednn"};

/* One row of the policy, and how its distances are judged. */
typedef struct precision {
    const char *text, *key, *expect,
        *truth; /* in case.json and its directory, where they differ from F32's */
    npt_policy_request request;
    double floor_losses, floor_gradient, floor_update;
    double typical; /* geometric mean over the cases of npt's distance / PyTorch's, at most */
} precision;

static const precision r2 = {
    "R2",   "f16", "expect_f16.safetensors", "truth_f16", {.use_fp16 = true}, 0x1p-10, 0x1p-10,
    0x1p-6, 1.1};
static const precision r3 = {
    "R3",   "bf16", "expect_bf16.safetensors", "truth_bf16", {.use_bf16 = true}, 0x1p-7, 0x1p-7,
    0x1p-4, 1.1};
/* Mixed: weights rounded for the products only, so the truth is F32's, and only operands are
 * rounded. */
static const precision r4_f16 = {"R4 fp16", "f16",   NULL,   NULL, {.mixed_precision = NPT_F16},
                                 0x1p-10,   0x1p-10, 0x1p-6, 0.8};
static const precision r4_bf16 = {"R4 bf16", "bf16", NULL,   NULL, {.mixed_precision = NPT_BF16},
                                  0x1p-7,    0x1p-7, 0x1p-4, 0.8};

typedef struct worst_ratio {
    double d, reg, gradient, tensor, update;
    double log_sum; /* of the ratios of D, reg and the whole gradient */
    int count;
} worst_ratio;

/* Fails where the gap is too wide; returns it as a multiple of PyTorch's. */
static double judge(double gap, double pytorch, double floor, double *worst, const char *name,
                    const char *what)
{
    const double allowed = 2 * pytorch > floor ? 2 * pytorch : floor;
    golden_assert_within(gap, allowed, "%s: %s", name, what);
    if (2 * gap / allowed > *worst) *worst = 2 * gap / allowed;
    return gap / pytorch;
}

static void weigh(worst_ratio *worst, double ratio)
{
    worst->log_sum += log(ratio);
    worst->count++;
}

/* D and reg of all layers and micro-batches of the first step, as one vector each. */
static void check_losses(golden_run *run, const json_t *truth, const golden_losses *parts,
                         const json_t *distance, const precision *p, worst_ratio *worst)
{
    golden_gap d = {0}, reg = {0};
    const json_t *batches = json_object_get(truth, "micro_batches");
    for (size_t i = 0; i < json_array_size(batches); i++) {
        const json_t *ds = json_object_get(json_array_get(batches, i), "D");
        const json_t *regs = json_object_get(json_array_get(batches, i), "reg");
        for (size_t layer = 0; layer < json_array_size(ds); layer++) {
            golden_gap_add(&d, parts[i].d[layer], json_number_value(json_array_get(ds, layer)));
            golden_gap_add(&reg, parts[i].reg[layer],
                           json_number_value(json_array_get(regs, layer)));
        }
    }
    weigh(worst, judge(golden_gap_relative(&d), golden_real(distance, "D"), p->floor_losses,
                       &worst->d, run->c->name, "D"));
    weigh(worst, judge(golden_gap_relative(&reg), golden_real(distance, "reg"), p->floor_losses,
                       &worst->reg, run->c->name, "reg"));
}

static void check_gradient(golden_run *run, const npt_st *expect, const json_t *distance,
                           const precision *p, worst_ratio *worst)
{
    golden_gaps gaps;
    const json_t *by_tensor = json_object_get(distance, "grad_by_tensor");
    golden_compare(run, GOLDEN_GRADIENT, expect, &gaps);
    weigh(worst, judge(golden_gap_relative(&gaps.whole), golden_real(distance, "grad"),
                       p->floor_gradient, &worst->gradient, run->c->name, "the gradient"));
    for (int i = 0; i < gaps.count; i++)
        judge(golden_gap_relative(&gaps.tensors[i]), golden_real(by_tensor, gaps.names[i]),
              2 * p->floor_gradient, &worst->tensor, run->c->name, gaps.names[i]);
}

static void check_case(const char *name, const char *backend, const precision *p,
                       worst_ratio *worst)
{
    golden_case c;
    golden_run run;
    golden_losses losses, parts[GOLDEN_MAX_BATCHES];
    golden_open(&c, name);
    const json_t *distance = json_object_get(json_object_get(c.json, "pytorch_distance"), p->key);
    const golden_setup setup = {.backend = backend,
                                .threads = 1,
                                .request = p->request,
                                .loss_scale = golden_real(distance, "loss_scale")};
    golden_run_open(&run, &c, &setup);
    /* where rounding the weights changes them, the truth is that of the rounded ones */
    npt_st *own = p->expect != NULL ? golden_tensors(&c, p->expect) : NULL;
    npt_st *expect = own != NULL ? own : golden_tensors(&c, "expect.safetensors");
    const json_t *truth = json_object_get(c.json, own != NULL ? p->truth : "first_step");
    golden_accumulate(&run, 0, &losses, parts);
    check_losses(&run, truth, parts, distance, p, worst);
    check_gradient(&run, expect, distance, p, worst);
    for (size_t i = 0; i < json_array_size(json_object_get(c.json, "steps")); i++)
        golden_step(&run, i, &losses);
    if (own == NULL && !json_is_true(json_object_get(c.json, "after_not_stored"))) {
        golden_gaps gaps;
        golden_compare(&run, GOLDEN_UPDATE, expect, &gaps);
        judge(golden_gap_relative(&gaps.whole), golden_real(distance, "update"), p->floor_update,
              &worst->update, name, "the update");
    }
    npt_st_close(expect);
    golden_run_close(&run);
    golden_close(&c);
}

static void check_precision(const precision *p)
{
    for (size_t b = 0; b < NPT_COUNT(backends); b++) {
        worst_ratio worst = {0};
        if (!golden_has_backend(backends[b])) continue;
        const bool all = strcmp(backends[b], "native") == 0;
        for (size_t i = 0; i < (all ? NPT_COUNT(names) : NPT_COUNT(few)); i++)
            check_case(all ? names[i] : few[i], backends[b], p, &worst);
        const double typical = exp(worst.log_sum / worst.count);
        printf("# %s, %s: distance as a multiple of PyTorch's: typical %.2f; worst D %.2f, reg "
               "%.2f, gradient %.2f, one tensor "
               "of it %.2f, update %.2f\n",
               p->text, backends[b], typical, worst.d, worst.reg, worst.gradient, worst.tensor,
               worst.update);
        golden_assert_within(typical, p->typical, "%s, %s: the typical ratio", p->text,
                             backends[b]);
    }
}

static void r2_agrees(void **state)
{
    (void)state;
    check_precision(&r2);
}

static void r3_agrees(void **state)
{
    (void)state;
    check_precision(&r3);
}

static void r4_f16_agrees(void **state)
{
    (void)state;
    check_precision(&r4_f16);
}

static void r4_bf16_agrees(void **state)
{
    (void)state;
    check_precision(&r4_bf16);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE(
            "fp16 training with its loss scale is as near the truth as PyTorch's, on every backend",
            r2_agrees),
        NPT_CASE("bf16 training is as near the truth as PyTorch's, on every backend", r3_agrees),
        NPT_CASE("mixed fp16, on F32 weights, is nearer the truth than PyTorch's fp16",
                 r4_f16_agrees),
        NPT_CASE("mixed bf16, on F32 weights, is nearer the truth than PyTorch's bf16",
                 r4_bf16_agrees),
    };
    return npt_test_run("golden, halves", cases, NPT_COUNT(cases));
}
