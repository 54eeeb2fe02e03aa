/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "doctor/would.h"

/* One table: a fact, and the choices it belongs to. Both are data; that each fact is what was seen
 * is checked against tests/golden/would.json, letter for letter. The order is that of a run:
 * creation, forward, backward, scaler, optimizer, saving. */

/* What a fact may need besides dtypes. */
enum {
    HAS_MIXED = 1 << 0, /* --mixed_precision beside a half model: autocast */
    HAS_SCALER = 1 << 1,
    HAS_CLIPPING = 1 << 2,
    HAS_NO_CLIPPING = 1 << 3,
    HAS_ACCUMULATION = 1 << 4,
    HAS_REGULARIZER = 1 << 5,
    HAS_ADAMW = 1 << 6,
    HAS_ADAM = 1 << 7,
    HAS_SMALL_RATE = 1 << 8,
    HAS_TINY_FIRST_RATE = 1 << 9,
    HAS_SMALL_DECAY = 1 << 10
};

/* From these on, the shares of weights that stay in place are next to nothing (the rows' texts). */
static const double small_rate = 1e-4, tiny_rate = 5e-6;
/* Below it w·(1 − rate·decay) rounds to w for every w: the least half ulp of BF16 beside its w. */
static const double small_decay = 0x1p-9;

/* Sets of rules and dtypes, one bit each; an empty set asks nothing. */
#define R(n)       (1u << (n))
#define D(name)    (1u << NPT_##name)
#define HALF_MODEL (R(2) | R(3))

typedef struct would_when {
    unsigned rules, act, compute, adapter;
    unsigned needs; /* all of these */
} would_when;

typedef struct would_row {
    npt_would fact;
    would_when when;
} would_row;

#define TORCH     "PyTorch 2.15.0 (CPU)"
#define BNB       "bitsandbytes 0.50.2, " TORCH
#define HF_4BIT   "transformers 5.23.0, " BNB
#define PEFT      "PEFT 0.21.2, " TORCH
#define PEFT_4BIT "PEFT 0.21.2, " HF_4BIT

/* clang-format off */
/* Texts that several rows have. */
#define MISMATCH(a, b) "expected m1 and m2 to have the same dtype, but got: " a " != " b
#define UNSCALE_F16 "Attempting to unscale FP16 gradients."
#define PRODUCT_OVERFLOWS "silu(255.9) * 261.8 is inf in F16; in F32 it is 66975"
#define SQUARES_OVERFLOW "the sum of 14336 squares of 2.2 is inf in F16; in F32 it is 69337"
#define SUM_LOSES "1 and seven times 0.0004 add up to 1.0000; in F32 to 1.0028"
#define RUNS_AWAY "a weight that F32 takes to -1.00 goes to -19"
#define UNMOVED_F16 \
    "weights that the first step does not move: 92 % at lr 5e-07, 44 % at lr 5e-06, 0 % at lr " \
    "5e-05"
#define UNMOVED_BF16 \
    "weights that the first step does not move: 99 % at lr 5e-07, 44 % at lr 5e-05, 12 % at lr " \
    "0.0001, 0 % at lr 0.001"
#define STALLS "a weight that F32 takes to -1.00 stops at -0.5"

static const would_row table[] = {
    {{"bnb.first_parameter", "bitsandbytes, dtype of the base asked of its first parameter", "",
      "the answer is torch.uint8, shape [4096, 1]; the weight has no attribute CB to tell it by",
      BNB, "the dtype comes from the quantization record, never from the first parameter (R7)",
      NPT_SITE_COUNT, NPT_VERDICT_WARNING}, {.rules = R(1)}},
    {{"bnb.adapter.uint8", "bitsandbytes, adapter of that dtype", "RuntimeError",
      "Only Tensors of floating point and complex dtype can require gradients", BNB,
      "adapters on a quantized base are F32 (R1)", NPT_SITE_ADAPTER_IN, NPT_VERDICT_WOULD_FAIL},
      {.rules = R(1)}},
    {{"bnb.normal.uint8", "bitsandbytes, initial values of that dtype", "NotImplementedError",
      "\"normal_kernel_cpu\" not implemented for 'Byte'", BNB, "initial values are drawn in F32",
      NPT_SITE_ADAPTER_IN, NPT_VERDICT_WOULD_FAIL}, {.rules = R(1)}},
    {{"peft.4bit.default", "PEFT, LoRA on a 4-bit model, as it comes", "",
      "goes through: adapters F32, logits F16, adapter gradients F32", PEFT_4BIT,
      "the same: F32 adapters; and activations are F32, too",
      NPT_SITE_ADAPTER_IN, NPT_VERDICT_FINE}, {.rules = R(1)}},
    {{"peft.4bit.nocast", "PEFT, LoRA on a 4-bit model, autocast_adapter_dtype=False", "",
      "adapters take the compute dtype: F32 for bnb_4bit_compute_dtype F32, F16 for "
      "bnb_4bit_compute_dtype F16, BF16 for bnb_4bit_compute_dtype BF16", PEFT_4BIT,
      "adapters on a quantized base are F32, whatever it computes in (R1)",
      NPT_SITE_ADAPTER_IN, NPT_VERDICT_WARNING}, {.rules = R(1)}},
    {{"peft.4bit.prepare", "PEFT, prepare_model_for_kbit_training", "",
      "every weight that is not 4-bit goes from F16 to F32: 2.0 times the bytes", PEFT_4BIT,
      "embeddings and norms stay mapped in the file's dtype, which F32 holds exactly",
      NPT_SITE_EMBED, NPT_VERDICT_WARNING}, {.rules = R(1)}},
    {{"hf.4bit.f32_adapter", "transformers, 4-bit model, adapter left in F32, no autocast",
      "RuntimeError", MISMATCH("c10::Half", "float"), HF_4BIT,
      "activations over a quantized base are F32, as its adapters are",
      NPT_SITE_ADAPTER_IN, NPT_VERDICT_WOULD_FAIL}, {.rules = R(1)}},
    {{"bnb.input_decides", "bitsandbytes, input dtype against compute dtype", "",
      "the output has the input's dtype whatever bnb_4bit_compute_dtype says: F16 in, F16 out; "
      "BF16 in, BF16 out; F32 in, F32 out", BNB, "products over NF4 weights leave F32, by plan",
      NPT_SITE_COUNT, NPT_VERDICT_WARNING}, {.rules = R(1)}},
    {{"bnb.dequant", "bitsandbytes, weight dequantized by hand, recorded as BF16", "RuntimeError",
      MISMATCH("float", "c10::BFloat16"), BNB,
      "one dequantization, to the planned dtype, forward and backward",
      NPT_SITE_WEIGHT, NPT_VERDICT_WOULD_FAIL}, {.rules = R(1)}},
    {{"bnb.dense", "bitsandbytes, packed weight used as a dense one", "RuntimeError",
      "mm: mat1 and mat2 shapes cannot be multiplied (5x64 and 1x4096)", BNB,
      "a packed weight has a dtype of its own; no dense operation takes it",
      NPT_SITE_GATE, NPT_VERDICT_WOULD_FAIL}, {.rules = R(1)}},
    {{"eager.linear.f16-f32", "PyTorch eager, activations F16, adapter left in F32, no autocast",
      "RuntimeError", MISMATCH("c10::Half", "float"), TORCH, "adapter_in casts by plan",
      NPT_SITE_ADAPTER_IN, NPT_VERDICT_WOULD_FAIL},
      {.rules = HALF_MODEL, .act = D(F16), .adapter = D(F32) | D(F16)}},
    {{"eager.linear.f16-bf16", "PyTorch eager, activations F16, adapter in BF16, no autocast",
      "RuntimeError", MISMATCH("c10::Half", "c10::BFloat16"), TORCH, "adapter_in casts by plan",
      NPT_SITE_ADAPTER_IN, NPT_VERDICT_WOULD_FAIL},
      {.rules = HALF_MODEL, .act = D(F16), .adapter = D(BF16)}},
    {{"eager.linear.bf16-f32", "PyTorch eager, activations BF16, adapter left in F32, no autocast",
      "RuntimeError", MISMATCH("c10::BFloat16", "float"), TORCH, "adapter_in casts by plan",
      NPT_SITE_ADAPTER_IN, NPT_VERDICT_WOULD_FAIL},
      {.rules = HALF_MODEL, .act = D(BF16), .adapter = D(F32) | D(BF16)}},
    {{"eager.linear.bf16-f16", "PyTorch eager, activations BF16, adapter in F16, no autocast",
      "RuntimeError", MISMATCH("c10::BFloat16", "c10::Half"), TORCH, "adapter_in casts by plan",
      NPT_SITE_ADAPTER_IN, NPT_VERDICT_WOULD_FAIL},
      {.rules = HALF_MODEL, .act = D(BF16), .adapter = D(F16)}},
    {{"eager.linear.f32-f16", "PyTorch eager, activations F32, adapter in F16, no autocast",
      "RuntimeError", MISMATCH("float", "c10::Half"), TORCH, "adapter_in casts by plan",
      NPT_SITE_ADAPTER_IN, NPT_VERDICT_WOULD_FAIL}, {.rules = R(5), .adapter = D(F16)}},
    {{"eager.linear.f32-bf16", "PyTorch eager, activations F32, adapter in BF16, no autocast",
      "RuntimeError", MISMATCH("float", "c10::BFloat16"), TORCH, "adapter_in casts by plan",
      NPT_SITE_ADAPTER_IN, NPT_VERDICT_WOULD_FAIL}, {.rules = R(5), .adapter = D(BF16)}},
    {{"eager.promoted.f16-f32",
      "PyTorch eager, activations F16, adapter left in F32, its input cast by hand", "RuntimeError",
      MISMATCH("float", "c10::Half"), TORCH,
      "gate_mod rounds once, to the dtype of the activations",
      NPT_SITE_DOWN, NPT_VERDICT_WOULD_FAIL},
      {.rules = HALF_MODEL, .act = D(F16), .adapter = D(F32) | D(F16)}},
    {{"eager.promoted.bf16-f32",
      "PyTorch eager, activations BF16, adapter left in F32, its input cast by hand",
      "RuntimeError", MISMATCH("float", "c10::BFloat16"), TORCH,
      "gate_mod rounds once, to the dtype of the activations",
      NPT_SITE_DOWN, NPT_VERDICT_WOULD_FAIL},
      {.rules = HALF_MODEL, .act = D(BF16), .adapter = D(F32) | D(BF16)}},
    {{"eager.promoted.f16-bf16",
      "PyTorch eager, activations F16, adapter in BF16, its input cast by hand", "RuntimeError",
      MISMATCH("float", "c10::Half"), TORCH,
      "gate_mod rounds once, to the dtype of the activations",
      NPT_SITE_DOWN, NPT_VERDICT_WOULD_FAIL},
      {.rules = HALF_MODEL, .act = D(F16), .adapter = D(BF16)}},
    {{"eager.promoted.bf16-f16",
      "PyTorch eager, activations BF16, adapter in F16, its input cast by hand", "RuntimeError",
      MISMATCH("float", "c10::BFloat16"), TORCH,
      "gate_mod rounds once, to the dtype of the activations",
      NPT_SITE_DOWN, NPT_VERDICT_WOULD_FAIL},
      {.rules = HALF_MODEL, .act = D(BF16), .adapter = D(F16)}},
    {{"peft.f16.default", "PEFT, LoRA on a model in F16, as it comes", "",
      "goes through: adapters F32, logits F16, adapter gradients F32", PEFT,
      "trained in F32, too: as a master behind a half adapter",
      NPT_SITE_ADAPTER_IN, NPT_VERDICT_FINE}, {.act = D(F16), .adapter = D(F32) | D(F16)}},
    {{"peft.f16.nocast", "PEFT, LoRA on a model in F16, autocast_adapter_dtype=False", "",
      "goes through: adapters F16, logits F16, adapter gradients F16", PEFT,
      "adapter gradients are F32", NPT_SITE_ADAPTER_IN, NPT_VERDICT_WARNING},
      {.act = D(F16), .adapter = D(F16)}},
    {{"peft.bf16.default", "PEFT, LoRA on a model in BF16, as it comes", "",
      "goes through: adapters F32, logits BF16, adapter gradients F32", PEFT,
      "trained in F32, too: as a master behind a half adapter",
      NPT_SITE_ADAPTER_IN, NPT_VERDICT_FINE}, {.act = D(BF16), .adapter = D(F32) | D(BF16)}},
    {{"peft.bf16.nocast", "PEFT, LoRA on a model in BF16, autocast_adapter_dtype=False", "",
      "goes through: adapters BF16, logits BF16, adapter gradients BF16", PEFT,
      "adapter gradients are F32", NPT_SITE_ADAPTER_IN, NPT_VERDICT_WARNING},
      {.act = D(BF16), .adapter = D(BF16)}},
    {{"autocast.f16", "PyTorch autocast F16, weights F32", "",
      "goes through: linear F16, residual F32, silu F16, product F16, sum of squares F16, "
      "weight gradient F32", TORCH,
      "only operands of products are cast; what is between them stays F32",
      NPT_SITE_OPERAND, NPT_VERDICT_FINE}, {.rules = R(4), .compute = D(F16)}},
    {{"autocast.bf16", "PyTorch autocast BF16, weights F32", "",
      "goes through: linear BF16, residual F32, silu BF16, product BF16, sum of squares BF16, "
      "weight gradient F32", TORCH,
      "only operands of products are cast; what is between them stays F32",
      NPT_SITE_OPERAND, NPT_VERDICT_FINE}, {.rules = R(4), .compute = D(BF16)}},
    {{"autocast.f16.adapter_f32", "PyTorch autocast F16, activations F16, adapter left in F32", "",
      "goes through: F16 out", TORCH, "the same dtypes without autocast, in backward, too",
      NPT_SITE_ADAPTER_IN, NPT_VERDICT_FINE},
      {.act = D(F16), .adapter = D(F32) | D(F16), .needs = HAS_MIXED}},
    {{"autocast.bf16.adapter_f32", "PyTorch autocast BF16, activations BF16, adapter left in F32",
      "", "goes through: BF16 out", TORCH, "the same dtypes without autocast, in backward, too",
      NPT_SITE_ADAPTER_IN, NPT_VERDICT_FINE},
      {.act = D(BF16), .adapter = D(F32) | D(BF16), .needs = HAS_MIXED}},
    {{"eager.f16.mlp_act", "PyTorch eager, F16, MLP product", "", PRODUCT_OVERFLOWS, TORCH,
      "F16 overflows here, too: doctor probe shows the headroom and names the layer",
      NPT_SITE_MLP_ACT, NPT_VERDICT_NUMERIC}, {.act = D(F16)}},
    {{"eager.f16.regularizer", "PyTorch eager, F16, regularizer", "", SQUARES_OVERFLOW, TORCH,
      "the regularizer is summed in F32", NPT_SITE_COUNT, NPT_VERDICT_NUMERIC},
      {.adapter = D(F16), .needs = HAS_REGULARIZER}},
    {{"autocast.f16.mlp_act", "PyTorch autocast F16, MLP product", "", PRODUCT_OVERFLOWS, TORCH,
      "the product stays F32; only the operand of down is F16, and doctor probe shows its headroom",
      NPT_SITE_MLP_ACT, NPT_VERDICT_NUMERIC}, {.rules = R(4), .compute = D(F16)}},
    {{"autocast.f16.regularizer", "PyTorch autocast F16, regularizer", "", SQUARES_OVERFLOW, TORCH,
      "the regularizer is summed in F32", NPT_SITE_COUNT, NPT_VERDICT_NUMERIC},
      {.rules = R(4), .compute = D(F16), .needs = HAS_REGULARIZER}},
    {{"eager.accumulate.f16", "PyTorch eager, adapter F16, gradients of 8 micro-batches", "",
      SUM_LOSES, TORCH, "gradients are summed in F32 over the whole accumulated batch",
      NPT_SITE_UPDATE, NPT_VERDICT_NUMERIC}, {.adapter = D(F16), .needs = HAS_ACCUMULATION}},
    {{"eager.accumulate.bf16", "PyTorch eager, adapter BF16, gradients of 8 micro-batches", "",
      SUM_LOSES, TORCH, "gradients are summed in F32 over the whole accumulated batch",
      NPT_SITE_UPDATE, NPT_VERDICT_NUMERIC}, {.adapter = D(BF16), .needs = HAS_ACCUMULATION}},
    {{"scaler.unscale.f16", "PyTorch GradScaler, adapter F16, unscale_ before clipping",
      "ValueError", UNSCALE_F16, TORCH, "gradients and master are F32; unscaled once, then clipped",
      NPT_SITE_UPDATE, NPT_VERDICT_WOULD_FAIL},
      {.adapter = D(F16), .needs = HAS_SCALER | HAS_CLIPPING}},
    {{"scaler.step.f16", "PyTorch GradScaler, adapter F16, step", "ValueError", UNSCALE_F16, TORCH,
      "gradients and master are F32", NPT_SITE_UPDATE, NPT_VERDICT_WOULD_FAIL},
      {.adapter = D(F16), .needs = HAS_SCALER | HAS_NO_CLIPPING}},
    {{"scaler.bf16", "PyTorch GradScaler, adapter BF16", "",
      "goes through on the CPU: gradients unscaled in BF16, scale 65536", TORCH,
      "no loss scale where nothing is F16; gradients are F32",
      NPT_SITE_UPDATE, NPT_VERDICT_WARNING}, {.adapter = D(BF16), .rules = R(2) | R(3) | R(4)}},
    {{"scaler.clip.f16", "PyTorch GradScaler, adapter F16, clipped without unscale_", "",
      "a gradient of norm 0.02 is taken for one of 1000 and clipped to 2e-05, where 1.0 was "
      "asked for", TORCH, "the norm is that of the unscaled gradient",
      NPT_SITE_UPDATE, NPT_VERDICT_NUMERIC},
      {.adapter = D(F16), .needs = HAS_SCALER | HAS_CLIPPING}},
    {{"scaler.unscale_twice", "PyTorch GradScaler, unscale_ for every micro-batch", "RuntimeError",
      "unscale_() has already been called on this optimizer since the last update().", TORCH,
      "unscaled once an optimizer step, after all micro-batches",
      NPT_SITE_UPDATE, NPT_VERDICT_WOULD_FAIL},
      {.needs = HAS_SCALER | HAS_CLIPPING | HAS_ACCUMULATION}},
    {{"peft.scaler.default", "PEFT, LoRA on a model in F16, as it comes, under GradScaler", "",
      "goes through: gradients F32", PEFT, "gradients are F32 here, too",
      NPT_SITE_UPDATE, NPT_VERDICT_FINE},
      {.act = D(F16), .adapter = D(F32) | D(F16), .needs = HAS_SCALER}},
    {{"peft.scaler.nocast",
      "PEFT, LoRA on a model in F16, autocast_adapter_dtype=False, under GradScaler", "ValueError",
      UNSCALE_F16, PEFT, "gradients and master are F32", NPT_SITE_UPDATE, NPT_VERDICT_WOULD_FAIL},
      {.act = D(F16), .adapter = D(F16), .needs = HAS_SCALER}},
    {{"adamw.f16.zero", "PyTorch AdamW on F16 weights, first step", "",
      "a gradient of 0 leaves 100 % of the weights NaN (for-loop, foreach), no weight NaN or "
      "infinite (fused)", TORCH, "moments, ε and the update are F32, on the master",
      NPT_SITE_UPDATE, NPT_VERDICT_NUMERIC}, {.adapter = D(F16), .needs = HAS_ADAMW}},
    {{"adamw.f16.small", "PyTorch AdamW on F16 weights, first step", "",
      "a gradient of 0.0001 leaves 100 % of the weights infinite (for-loop, foreach), no weight "
      "NaN or infinite (fused)", TORCH, "moments, ε and the update are F32, on the master",
      NPT_SITE_UPDATE, NPT_VERDICT_NUMERIC}, {.adapter = D(F16), .needs = HAS_ADAMW}},
    {{"adamw.f16.fused", "PyTorch AdamW(fused=True) on F16 weights, 1000 steps", "", RUNS_AWAY,
      TORCH, "moments are kept in F32", NPT_SITE_UPDATE, NPT_VERDICT_NUMERIC},
      {.adapter = D(F16), .needs = HAS_ADAMW}},
    {{"adamw.f16.warmup", "PyTorch AdamW on F16 weights, fused", "", UNMOVED_F16, TORCH,
      "the F32 master keeps what F16 would lose; doctor probe counts it",
      NPT_SITE_UPDATE, NPT_VERDICT_NUMERIC},
      {.adapter = D(F16), .needs = HAS_ADAMW | HAS_TINY_FIRST_RATE}},
    {{"adamw.bf16.unmoved", "PyTorch AdamW on BF16 weights", "", UNMOVED_BF16, TORCH,
      "the F32 master keeps what BF16 would lose; doctor probe counts it",
      NPT_SITE_UPDATE, NPT_VERDICT_NUMERIC},
      {.adapter = D(BF16), .needs = HAS_ADAMW | HAS_SMALL_RATE}},
    {{"adamw.bf16.stall", "PyTorch AdamW on BF16 weights, 1000 steps", "", STALLS, TORCH,
      "the F32 master moves on", NPT_SITE_UPDATE, NPT_VERDICT_NUMERIC},
      {.adapter = D(BF16), .needs = HAS_ADAMW}},
    {{"adam.f16.zero", "PyTorch Adam on F16 weights, first step", "",
      "a gradient of 0 leaves < 1 % of the weights NaN and 100 % of the weights infinite "
      "(for-loop, foreach), no weight NaN or infinite (fused)", TORCH,
      "moments, ε and the update are F32, on the master", NPT_SITE_UPDATE, NPT_VERDICT_NUMERIC},
      {.adapter = D(F16), .needs = HAS_ADAM}},
    {{"adam.f16.small", "PyTorch Adam on F16 weights, first step", "",
      "a gradient of 0.0001 leaves < 1 % of the weights NaN and 100 % of the weights infinite "
      "(for-loop, foreach), no weight NaN or infinite (fused)", TORCH,
      "moments, ε and the update are F32, on the master", NPT_SITE_UPDATE, NPT_VERDICT_NUMERIC},
      {.adapter = D(F16), .needs = HAS_ADAM}},
    {{"adam.f16.fused", "PyTorch Adam(fused=True) on F16 weights, 1000 steps", "", RUNS_AWAY, TORCH,
      "moments are kept in F32", NPT_SITE_UPDATE, NPT_VERDICT_NUMERIC},
      {.adapter = D(F16), .needs = HAS_ADAM}},
    {{"adam.f16.warmup", "PyTorch Adam on F16 weights, fused", "", UNMOVED_F16, TORCH,
      "the F32 master keeps what F16 would lose; doctor probe counts it",
      NPT_SITE_UPDATE, NPT_VERDICT_NUMERIC},
      {.adapter = D(F16), .needs = HAS_ADAM | HAS_TINY_FIRST_RATE}},
    {{"adam.bf16.unmoved", "PyTorch Adam on BF16 weights", "", UNMOVED_BF16, TORCH,
      "the F32 master keeps what BF16 would lose; doctor probe counts it",
      NPT_SITE_UPDATE, NPT_VERDICT_NUMERIC},
      {.adapter = D(BF16), .needs = HAS_ADAM | HAS_SMALL_RATE}},
    {{"adam.bf16.stall", "PyTorch Adam on BF16 weights, 1000 steps", "", STALLS, TORCH,
      "the F32 master moves on", NPT_SITE_UPDATE, NPT_VERDICT_NUMERIC},
      {.adapter = D(BF16), .needs = HAS_ADAM}},
    {{"adamw.bf16.decay", "PyTorch AdamW on BF16 weights, weight decay", "",
      "decay 0.01 at lr 1e-3 leaves 100 % of the weights unchanged", TORCH,
      "decay acts on the F32 master", NPT_SITE_UPDATE, NPT_VERDICT_NUMERIC},
      {.adapter = D(BF16), .needs = HAS_ADAMW | HAS_SMALL_DECAY}},
    {{"peft.f16.reload", "PEFT, adapters on a model in F16, reloaded", "",
      "kept in F16: F16 in the file, F32 once loaded; kept in F32 and loaded with "
      "autocast_adapter_dtype=False: F32 in the file, F16 once loaded", PEFT,
      "the adapter's dtype is recorded and kept", NPT_SITE_COUNT, NPT_VERDICT_WARNING},
      {.act = D(F16), .adapter = D(F32) | D(F16)}},
    {{"peft.bf16.reload", "PEFT, adapters on a model in BF16, reloaded", "",
      "kept in BF16: BF16 in the file, F32 once loaded; kept in F32 and loaded with "
      "autocast_adapter_dtype=False: F32 in the file, BF16 once loaded", PEFT,
      "the adapter's dtype is recorded and kept", NPT_SITE_COUNT, NPT_VERDICT_WARNING},
      {.act = D(BF16), .adapter = D(F32) | D(BF16)}},
    {{"peft.4bit.merge", "PEFT, merge_and_unload on a 4-bit model", "UserWarning",
      "Merge lora module to 4-bit linear may get different generations due to rounding errors.",
      PEFT_4BIT, "an adapter is never written into a quantized base",
      NPT_SITE_WEIGHT, NPT_VERDICT_WARNING}, {.rules = R(1)}},
};
/* clang-format on */

static double first_rate(const npt_train_options *o)
{
    if (o->scheduler == NPT_SCHEDULER_CONSTANT || o->warmup_steps <= 0) return o->learning_rate;
    return o->learning_rate / (double)o->warmup_steps; /* the first step that has a rate */
}

static unsigned features_of(const npt_policy *policy, const npt_train_options *o)
{
    const struct {
        unsigned bit;
        bool present;
    } features[] = {
        {HAS_MIXED, o->precision.mixed_precision != NPT_DTYPE_NONE},
        {HAS_SCALER, policy->dynamic_loss_scale},
        {HAS_CLIPPING, o->max_grad_norm > 0},
        {HAS_NO_CLIPPING, !(o->max_grad_norm > 0)},
        {HAS_ACCUMULATION, o->gradient_accumulation_steps > 1},
        {HAS_REGULARIZER, o->regularization_lambda > 0},
        {HAS_ADAMW, o->optimizer == NPT_OPTIMIZER_ADAMW},
        {HAS_ADAM, o->optimizer == NPT_OPTIMIZER_ADAM},
        {HAS_SMALL_RATE, o->learning_rate <= small_rate},
        {HAS_TINY_FIRST_RATE, first_rate(o) <= tiny_rate},
        {HAS_SMALL_DECAY, o->weight_decay > 0 && o->learning_rate * o->weight_decay < small_decay},
    };
    unsigned bits = 0;
    for (size_t i = 0; i < sizeof features / sizeof features[0]; i++)
        if (features[i].present) bits |= features[i].bit;
    return bits;
}

static bool is_in(unsigned set, unsigned value)
{
    return set == 0 || (set & (1u << value)) != 0;
}

static bool applies(const would_when *when, const npt_policy *policy, unsigned features)
{
    return is_in(when->rules, policy->base_rule) && is_in(when->act, policy->dtype[NPT_ROLE_ACT]) &&
           is_in(when->compute, policy->dtype[NPT_ROLE_COMPUTE]) &&
           is_in(when->adapter, policy->dtype[NPT_ROLE_ADAPTER]) && (when->needs & ~features) == 0;
}

size_t npt_would_list(const npt_policy *policy, const npt_train_options *options,
                      const npt_would **rows, size_t room)
{
    const unsigned features = features_of(policy, options);
    size_t count = 0;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (!applies(&table[i].when, policy, features)) continue;
        if (count < room) rows[count] = &table[i].fact;
        count++;
    }
    return count;
}

const npt_would *npt_would_at(size_t index)
{
    return index < sizeof table / sizeof table[0] ? &table[index].fact : NULL;
}
