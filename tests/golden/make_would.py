#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""What the same precision choices do in PyTorch, bitsandbytes and PEFT, seen by doing them.

    python3 tests/golden/make_would.py [OUT]            every case; OUT is would.json here if absent
    python3 tests/golden/make_would.py --against OLD    every case, compared with OLD: TAP

A case is a function that does one thing. Where it raises, the exception's type and text are the
result; where it returns, the sentence that it returns, made of numbers it measured, is. Nothing is
written down that did not happen. All on the CPU, seeded, one thread; kernels for other devices have
other texts, and none of them is claimed here.
"""
import contextlib
import io
import json
import os
import re
import sys
import tempfile
import warnings

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch
from torch import nn

F16, BF16, F32 = torch.float16, torch.bfloat16, torch.float32
HERE = os.path.dirname(os.path.abspath(__file__))
NAMES = {F16: "F16", BF16: "BF16", F32: "F32", torch.uint8: "uint8"}
PACKAGES = {"torch": "PyTorch", "bitsandbytes": "bitsandbytes", "transformers": "transformers",
            "peft": "PEFT"}
CASES = []  # (id, where, what ran, packages, context, function), in the order a run meets them


def case(name, where, ran, packages=("torch",), context=False):
    def keep(function):
        CASES.append((name, where, ran, packages, context, function))
        return function
    return keep


def percent(share):
    return "< 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


# ---- the adapter and the layer around it, as a person writes them ------------------------------

HIDDEN, INTER, RANK = 64, 128, 4


def linear(n_in, n_out, dtype, std=0.02):
    layer = nn.Linear(n_in, n_out, bias=False, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(n_out, n_in) * std)
    return layer


class Adapter(nn.Module):
    def __init__(self, dtype, hidden=HIDDEN):
        super().__init__()
        self.A, self.B_add, self.B_mult = (linear(hidden, RANK, dtype), linear(RANK, INTER, dtype),
                                           linear(RANK, INTER, dtype))

    def forward(self, a):
        z = self.A(a)
        return self.B_add(z), 0.5 * torch.sigmoid(self.B_mult(z)) + 0.5


def block(act, adapter, cast_input):
    """The modulated MLP of a block of dtype `act` with an adapter of another."""
    gate, up, down = (linear(HIDDEN, INTER, act), linear(HIDDEN, INTER, act),
                      linear(INTER, HIDDEN, act))
    modulate = Adapter(adapter)
    x = torch.randn(2, 5, HIDDEN).to(act)
    add, mult = modulate(x.to(adapter) if cast_input else x)
    return down(nn.functional.silu(gate(x) * mult + 0.1 * add) * up(x))


# ---- creation on a 4-bit base ------------------------------------------------------------------

BNB = ("bitsandbytes", "torch")
HF4 = ("transformers", "bitsandbytes", "torch")


def linear4bit(weight_dtype=F32, compute=F32):
    import bitsandbytes as bnb
    layer = bnb.nn.Linear4bit(HIDDEN, INTER, bias=False, compute_dtype=compute, quant_type="nf4")
    layer.weight = bnb.nn.Params4bit(torch.randn(INTER, HIDDEN).to(weight_dtype),
                                     quant_type="nf4", requires_grad=False)
    return layer.to("cpu")


@case("bnb.first_parameter", "bitsandbytes, dtype of the base asked of its first parameter",
      "next(Linear4bit.parameters()).dtype; hasattr(weight, 'CB')", BNB)
def _():
    weight = next(linear4bit().parameters())
    return (f"the answer is {weight.dtype}, shape {list(weight.shape)}; the weight has "
            f"{'an' if hasattr(weight, 'CB') else 'no'} attribute CB to tell it by")


@case("bnb.adapter.uint8", "bitsandbytes, adapter of that dtype",
      "nn.Linear(64, 4, bias=False, dtype=next(Linear4bit.parameters()).dtype)", BNB)
def _():
    nn.Linear(HIDDEN, RANK, bias=False, dtype=next(linear4bit().parameters()).dtype)
    return "goes through"


@case("bnb.normal.uint8", "bitsandbytes, initial values of that dtype",
      "nn.init.normal_(torch.empty(4, 64, dtype=next(Linear4bit.parameters()).dtype))", BNB)
def _():
    nn.init.normal_(torch.empty(RANK, HIDDEN, dtype=next(linear4bit().parameters()).dtype))
    return "goes through"


@case("bnb.normal.int8", "the same of an int8 base", "nn.init.normal_ on torch.int8", context=True)
def _():
    nn.init.normal_(torch.empty(RANK, HIDDEN, dtype=torch.int8))
    return "goes through"


@case("bnb.to.uint8", "an adapter moved to that dtype", "nn.Linear(…).to(torch.uint8)",
      context=True)
def _():
    linear(HIDDEN, RANK, F32).to(torch.uint8)
    return "goes through"


# ---- PEFT and transformers on tiny models ------------------------------------------------------

PEFT = ("peft", "torch")
PEFT4 = ("peft",) + HF4
IDS = torch.arange(12).view(1, 12)


def llama(dtype):
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        hidden_size=HIDDEN, intermediate_size=INTER, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=96)).to(dtype)


def llama4bit(compute):
    from transformers import BitsAndBytesConfig, LlamaForCausalLM
    with tempfile.TemporaryDirectory() as folder:
        llama(F16).save_pretrained(folder)
        return LlamaForCausalLM.from_pretrained(
            folder, device_map="cpu", quantization_config=BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=compute))


def lora(model, **settings):
    from peft import LoraConfig, get_peft_model
    return get_peft_model(model, LoraConfig(
        r=RANK, target_modules=["q_proj", "gate_proj"], task_type="CAUSAL_LM"), **settings)


def trained(model):
    return [p for n, p in model.named_parameters() if "lora_" in n]


def dtypes(tensors):
    return " and ".join(sorted({NAMES[t.dtype] for t in tensors}))


def peft_step(model):
    out = model(input_ids=IDS, labels=IDS)
    out.loss.backward()
    return (f"goes through: adapters {dtypes(trained(model))}, logits {NAMES[out.logits.dtype]}, "
            f"adapter gradients {dtypes([p.grad for p in trained(model)])}")


for act in (F16, BF16):
    @case(f"peft.{NAMES[act].lower()}.default",
          f"PEFT, LoRA on a model in {NAMES[act]}, as it comes",
          "get_peft_model; forward and backward, no autocast", PEFT)
    def _(act=act):
        return peft_step(lora(llama(act)))

    @case(f"peft.{NAMES[act].lower()}.nocast",
          f"PEFT, LoRA on a model in {NAMES[act]}, autocast_adapter_dtype=False",
          "get_peft_model(…, autocast_adapter_dtype=False); forward and backward", PEFT)
    def _(act=act):
        return peft_step(lora(llama(act), autocast_adapter_dtype=False))


@case("peft.4bit.default", "PEFT, LoRA on a 4-bit model, as it comes",
      "load_in_4bit of an F16 model, compute dtype F32; get_peft_model; forward, backward", PEFT4)
def _():
    return peft_step(lora(llama4bit(F32)))


@case("peft.4bit.nocast", "PEFT, LoRA on a 4-bit model, autocast_adapter_dtype=False",
      "the same for compute dtypes F32, F16, BF16", PEFT4)
def _():
    seen = [f"{dtypes(trained(lora(llama4bit(c), autocast_adapter_dtype=False)))} for "
            f"bnb_4bit_compute_dtype {NAMES[c]}" for c in (F32, F16, BF16)]
    return "adapters take the compute dtype: " + ", ".join(seen)


@case("peft.4bit.prepare", "PEFT, prepare_model_for_kbit_training",
      "prepare_model_for_kbit_training(use_gradient_checkpointing=False) on that model", PEFT4)
def _():
    from peft import prepare_model_for_kbit_training

    def floats(model):
        return [p for p in model.parameters() if p.dtype.is_floating_point]

    def size(tensors):
        return sum(p.numel() * p.element_size() for p in tensors)
    model = llama4bit(F16)
    before, was = size(floats(model)), dtypes(floats(model))
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    after, now = size(floats(model)), dtypes(floats(model))
    return (f"every weight that is not 4-bit goes from {was} to {now}: "
            f"{after / before:.1f} times the bytes")


# ---- forward -----------------------------------------------------------------------------------

@case("hf.4bit.f32_adapter", "transformers, 4-bit model, adapter left in F32, no autocast",
      "nn.Linear F32 on the hidden states of a 4-bit model, files F16, compute dtype F32", HF4)
def _():
    hidden = llama4bit(F32).model(input_ids=IDS).last_hidden_state
    Adapter(F32)(hidden)
    return f"goes through: hidden states {NAMES[hidden.dtype]}"


@case("bnb.input_decides", "bitsandbytes, input dtype against compute dtype",
      "Linear4bit of compute dtype F32, BF16, F16 on inputs of each dtype", BNB)
def _():
    seen = []
    for x in (F16, BF16, F32):
        out = {linear4bit(F32, c)(torch.randn(2, 3, HIDDEN).to(x)).dtype for c in (F32, BF16, F16)}
        seen.append(f"{NAMES[x]} in, {' or '.join(sorted(NAMES[o] for o in out))} out")
    return "the output has the input's dtype whatever bnb_4bit_compute_dtype says: " + \
        "; ".join(seen)


@case("bnb.dequant", "bitsandbytes, weight dequantized by hand, recorded as BF16",
      "x F32 @ dequantize_4bit(weight recorded as BF16).t()", BNB)
def _():
    import bitsandbytes.functional as bf
    layer = linear4bit(BF16, F32)
    weight = bf.dequantize_4bit(layer.weight, layer.weight.quant_state)
    torch.randn(5, HIDDEN) @ weight.t()
    return f"goes through: dequantized to {NAMES[weight.dtype]}"


@case("bnb.linear.recorded", "bitsandbytes, the same through Linear4bit",
      "Linear4bit, weight recorded as BF16, compute dtype F32, F32 in; forward and backward", BNB,
      context=True)
def _():
    x = torch.randn(5, HIDDEN, requires_grad=True)
    out = linear4bit(BF16, F32)(x)
    out.sum().backward()
    return f"goes through: {NAMES[out.dtype]} out, gradient {NAMES[x.grad.dtype]}"


@case("bnb.dense", "bitsandbytes, packed weight used as a dense one",
      "nn.functional.linear(x, Linear4bit.weight)", BNB)
def _():
    nn.functional.linear(torch.randn(5, HIDDEN), linear4bit().weight)
    return "goes through"


def kept(dtype):
    """nn.Linear is F32 unless told otherwise."""
    return "left in F32" if dtype == F32 else f"in {NAMES[dtype]}"


for act in (F16, BF16, F32):
    for adapter in (F32, F16, BF16):
        if act == adapter:
            continue

        @case(f"eager.linear.{NAMES[act].lower()}-{NAMES[adapter].lower()}",
              f"PyTorch eager, activations {NAMES[act]}, adapter {kept(adapter)}, no autocast",
              "the modulated MLP; the attention output goes into the adapter as it is")
        def _(act=act, adapter=adapter):
            return f"goes through: {NAMES[block(act, adapter, cast_input=False).dtype]}"

for act, adapter in ((F16, F32), (BF16, F32), (F16, BF16), (BF16, F16)):
    @case(f"eager.promoted.{NAMES[act].lower()}-{NAMES[adapter].lower()}",
          f"PyTorch eager, activations {NAMES[act]}, adapter {kept(adapter)}, its input cast by "
          "hand", "the same with x.to(adapter dtype); g * mult + s * add is promoted")
    def _(act=act, adapter=adapter):
        return f"goes through: {NAMES[block(act, adapter, cast_input=True).dtype]}"


@case("eager.bias.f16-f32", "PyTorch eager, the same with a bias", "nn.Linear with bias, F32, on "
      "F16", context=True)
def _():
    nn.Linear(HIDDEN, RANK)(torch.randn(5, HIDDEN).to(F16))
    return "goes through"


def autocast_facts(dtype):
    dense, x = nn.Linear(HIDDEN, HIDDEN, bias=False), torch.randn(5, HIDDEN)
    with torch.autocast("cpu", dtype=dtype):
        y = dense(x)
        facts = {"linear": y, "residual": x + y, "silu": nn.functional.silu(y), "product": y * y,
                 "sum of squares": y.pow(2).sum(-1)}
    y.float().sum().backward()
    facts["weight gradient"] = dense.weight.grad
    return "goes through: " + ", ".join(f"{k} {NAMES[v.dtype]}" for k, v in facts.items())


for half in (F16, BF16):
    @case(f"autocast.{NAMES[half].lower()}", f"PyTorch autocast {NAMES[half]}, weights F32",
          'torch.autocast("cpu", dtype) around a linear and what follows it')
    def _(half=half):
        return autocast_facts(half)


for half in (F16, BF16):
    @case(f"autocast.{NAMES[half].lower()}.adapter_f32",
          f"PyTorch autocast {NAMES[half]}, activations {NAMES[half]}, adapter {kept(F32)}",
          "the modulated MLP inside torch.autocast")
    def _(half=half):
        with torch.autocast("cpu", dtype=half):
            return f"goes through: {NAMES[block(half, F32, cast_input=False).dtype]} out"


@case("autocast.f64", "PyTorch autocast to a dtype it does not have",
      'torch.autocast("cpu", dtype=torch.float64)', context=True)
def _():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with torch.autocast("cpu", dtype=torch.float64):
            pass
    return "goes through"


def overflow(where):
    g, up = torch.tensor([255.9]).to(F16), torch.tensor([261.8]).to(F16)
    with where:
        product = nn.functional.silu(g) * up
    return (f"silu(255.9) * 261.8 is {product.item():g} in {NAMES[product.dtype]}; in F32 it is "
            f"{(nn.functional.silu(g.float()) * up.float()).item():.0f}")


def regularizer(where, rms=2.2, inter=14336):
    add = torch.full((1, inter), rms).to(F16)
    with where:
        reg = add.pow(2).sum(-1).mean()
    return (f"the sum of {inter} squares of {rms} is {reg.item():g} in {NAMES[reg.dtype]}; in F32 "
            f"it is {add.float().pow(2).sum().item():.0f}")


for prefix, title, around in (
        ("eager.f16", "PyTorch eager, F16", contextlib.nullcontext),
        ("autocast.f16", "PyTorch autocast F16", lambda: torch.autocast("cpu", dtype=F16))):
    @case(f"{prefix}.mlp_act", f"{title}, MLP product", "silu(gate) * up of half operands")
    def _(around=around):
        return overflow(around())

    @case(f"{prefix}.regularizer", f"{title}, regularizer", "add.pow(2).sum(-1).mean() of F16 add")
    def _(around=around):
        return regularizer(around())


# ---- accumulation ------------------------------------------------------------------------------

for half in (F16, BF16):
    @case(f"eager.accumulate.{NAMES[half].lower()}",
          f"PyTorch eager, adapter {NAMES[half]}, gradients of 8 micro-batches",
          "eight backward passes into one .grad: 1, then seven times 4e-4")
    def _(half=half):
        sums = {}
        for dtype in (half, F32):
            weight = nn.Parameter(torch.ones(1, dtype=dtype))
            for gradient in [1.0] + 7 * [4e-4]:
                (weight * gradient).sum().backward()
            sums[dtype] = weight.grad.item()
        return f"1 and seven times 0.0004 add up to {sums[half]:.4f}; in F32 to {sums[F32]:.4f}"


# ---- the gradient scaler -----------------------------------------------------------------------

def scaled(dtype):
    """An adapter of that dtype after one scaled backward, torch.amp.GradScaler("cpu")."""
    adapter = Adapter(dtype)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=5e-5)
    scaler = torch.amp.GradScaler("cpu")
    add, mult = adapter(torch.randn(5, HIDDEN).to(dtype))
    scaler.scale((add.float() + mult.float()).mean()).backward()
    return adapter, optimizer, scaler


@case("scaler.unscale.f16", "PyTorch GradScaler, adapter F16, unscale_ before clipping",
      'torch.amp.GradScaler("cpu"); scale(loss).backward(); unscale_(AdamW)')
def _():
    adapter, optimizer, scaler = scaled(F16)
    scaler.unscale_(optimizer)
    return "goes through"


@case("scaler.step.f16", "PyTorch GradScaler, adapter F16, step",
      'torch.amp.GradScaler("cpu"); scale(loss).backward(); step(AdamW)')
def _():
    adapter, optimizer, scaler = scaled(F16)
    scaler.step(optimizer)
    return "goes through"


@case("scaler.bf16", "PyTorch GradScaler, adapter BF16",
      'the same with BF16: unscale_, clip_grad_norm_, step, update')
def _():
    adapter, optimizer, scaler = scaled(BF16)
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(adapter.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
    return (f"goes through on the CPU: gradients unscaled in "
            f"{dtypes([p.grad for p in adapter.parameters()])}, scale {scaler.get_scale():.0f}")


@case("scaler.clip.f16", "PyTorch GradScaler, adapter F16, clipped without unscale_",
      "clip_grad_norm_(1.0) on the gradients as they are, at scale 65536, against F32 unscaled")
def _():
    adapter, optimizer, scaler = scaled(F16)
    norm = nn.utils.clip_grad_norm_(adapter.parameters(), 1.0).item()
    left = torch.cat([p.grad.float().flatten() for p in adapter.parameters()]).norm().item()
    return (f"a gradient of norm {norm / scaler.get_scale():.1g} is taken for one of "
            f"{float(f'{norm:.1g}'):.0f} and clipped to {left / scaler.get_scale():.1g}, "
            "where 1.0 was asked for")


@case("scaler.unscale_twice", "PyTorch GradScaler, unscale_ for every micro-batch",
      "unscale_(optimizer) twice without update(), adapter F32")
def _():
    adapter, optimizer, scaler = scaled(F32)
    scaler.unscale_(optimizer)
    scaler.unscale_(optimizer)
    return "goes through"


@case("scaler.no_gradient", "PyTorch GradScaler, no trained weight got a gradient",
      "step(optimizer) without a backward", context=True)
def _():
    optimizer = torch.optim.AdamW(Adapter(F32).parameters())
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones(()))
    scaler.step(optimizer)
    return "goes through"


@case("peft.scaler.default", "PEFT, LoRA on a model in F16, as it comes, under GradScaler",
      'scale(loss).backward(); unscale_(AdamW)', PEFT)
def _():
    return peft_scaled()


@case("peft.scaler.nocast", "PEFT, LoRA on a model in F16, autocast_adapter_dtype=False, under "
      "GradScaler", 'scale(loss).backward(); unscale_(AdamW)', PEFT)
def _():
    return peft_scaled(autocast_adapter_dtype=False)


def peft_scaled(**settings):
    model, scaler = lora(llama(F16), **settings), torch.amp.GradScaler("cpu")
    optimizer = torch.optim.AdamW(trained(model), lr=5e-5)
    scaler.scale(model(input_ids=IDS, labels=IDS).loss).backward()
    scaler.unscale_(optimizer)
    return f"goes through: gradients {dtypes([p.grad for p in trained(model)])}"


# ---- the optimizer -----------------------------------------------------------------------------

KINDS = {"for-loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}


def first_step(optimizer, dtype, gradient, lr, **kind):
    """Weights before and after one step; 65536 of them, N(0, 0.02²) as A_proj begins."""
    torch.manual_seed(0)
    weight = nn.Parameter((torch.randn(1 << 16) * 0.02).to(dtype))
    before = weight.detach().clone()
    weight.grad = gradient(weight)
    optimizer([weight], lr=lr, weight_decay=0.01, **kind).step()
    return before, weight.detach()


def by_kind(optimizer, dtype, value):
    """What a first step with every gradient `value` leaves, said once for the kinds that agree."""
    groups = {}
    for kind, settings in KINDS.items():
        _, after = first_step(optimizer, dtype, lambda w: torch.full_like(w, value), 5e-5,
                              **settings)
        shares = [f"{percent(found.float().mean().item())} of the weights {what}"
                  for what, found in (("NaN", after.isnan()), ("infinite", after.isinf()))
                  if found.any()]
        groups.setdefault(" and ".join(shares) or "no weight NaN or infinite", []).append(kind)
    return f"a gradient of {value:g} leaves " + ", ".join(
        f"{what} ({', '.join(kinds)})" for what, kinds in groups.items())


def unmoved(optimizer, dtype, lr):
    before, after = first_step(optimizer, dtype, lambda w: torch.randn(w.shape).to(w.dtype), lr,
                               fused=True)
    return (before == after).float().mean().item()


def walk(optimizer, dtype, gradient=1e-4, lr=1e-3, steps=1000, **kind):
    weight = nn.Parameter(torch.zeros(1, dtype=dtype))
    stepper = optimizer([weight], lr=lr, weight_decay=0.0, **kind)
    for _ in range(steps):
        weight.grad = torch.full_like(weight, gradient)
        stepper.step()
    return weight.item()


for name, chosen in (("AdamW", torch.optim.AdamW), ("Adam", torch.optim.Adam)):
    low = name.lower()

    for label, value in (("zero", 0.0), ("small", 1e-4)):
        @case(f"{low}.f16.{label}", f"PyTorch {name} on F16 weights, first step",
              f"every gradient {value:g}, lr 5e-5, eps 1e-8, weight decay 0.01")
        def _(chosen=chosen, value=value):
            return by_kind(chosen, F16, value)

    @case(f"{low}.f16.fused", f"PyTorch {name}(fused=True) on F16 weights, 1000 steps",
          "one weight from 0, gradient 1e-4, lr 1e-3, no decay")
    def _(chosen=chosen):
        return (f"a weight that F32 takes to {walk(chosen, F32, fused=True):.2f} goes to "
                f"{walk(chosen, F16, fused=True):.0f}")

    @case(f"{low}.f16.warmup", f"PyTorch {name} on F16 weights, fused",
          "65536 weights N(0, 0.02²), gradients N(0, 1), one step")
    def _(chosen=chosen):
        return "weights that the first step does not move: " + ", ".join(
            f"{percent(unmoved(chosen, F16, lr))} at lr {lr:g}" for lr in (5e-7, 5e-6, 5e-5))

    @case(f"{low}.bf16.unmoved", f"PyTorch {name} on BF16 weights",
          "65536 weights N(0, 0.02²), gradients N(0, 1), one step, fused")
    def _(chosen=chosen):
        return "weights that the first step does not move: " + ", ".join(
            f"{percent(unmoved(chosen, BF16, lr))} at lr {lr:g}" for lr in (5e-7, 5e-5, 1e-4, 1e-3))

    @case(f"{low}.bf16.stall", f"PyTorch {name} on BF16 weights, 1000 steps",
          "one weight from 0, gradient 1e-4, lr 1e-3, no decay, for-loop and fused")
    def _(chosen=chosen):
        ends = sorted({walk(chosen, BF16, foreach=False), walk(chosen, BF16, fused=True)})
        return (f"a weight that F32 takes to {walk(chosen, F32, fused=True):.2f} stops at "
                + " or ".join(f"{end:g}" for end in ends))


@case("adamw.bf16.decay", "PyTorch AdamW on BF16 weights, weight decay",
      "one step of lr 1e-3, decay 0.01, every gradient 0")
def _():
    before, after = first_step(torch.optim.AdamW, BF16, torch.zeros_like, 1e-3, foreach=False)
    return (f"decay 0.01 at lr 1e-3 leaves {percent((before == after).float().mean().item())} of "
            "the weights unchanged")


@case("adamw.f32", "PyTorch AdamW on F32 weights", "the same steps on F32 weights", context=True)
def _():
    return (f"weights that the first step does not move: "
            f"{percent(unmoved(torch.optim.AdamW, F32, 5e-7))} at lr 5e-07; "
            + by_kind(torch.optim.AdamW, F32, 0.0))


# ---- saving, loading, merging ------------------------------------------------------------------

def reload(act, saved, loaded):
    from peft import PeftModel
    from safetensors import safe_open
    with tempfile.TemporaryDirectory() as folder:
        lora(llama(act), autocast_adapter_dtype=saved).save_pretrained(folder)
        with safe_open(os.path.join(folder, "adapter_model.safetensors"), "pt") as file:
            stored = {file.get_slice(key).get_dtype() for key in file.keys()}
        model = PeftModel.from_pretrained(llama(act), folder, is_trainable=True,
                                          autocast_adapter_dtype=loaded)
        return f"{' and '.join(sorted(stored))} in the file, {dtypes(trained(model))} once loaded"


for act in (F16, BF16):
    @case(f"peft.{NAMES[act].lower()}.reload",
          f"PEFT, adapters on a model in {NAMES[act]}, reloaded",
          "save_pretrained, PeftModel.from_pretrained(is_trainable=True); autocast_adapter_dtype "
          "first as it comes, then False", PEFT)
    def _(act=act):
        return (f"kept in {NAMES[act]}: {reload(act, False, True)}; kept in F32 and loaded with "
                f"autocast_adapter_dtype=False: {reload(act, True, False)}")


@case("peft.4bit.merge", "PEFT, merge_and_unload on a 4-bit model",
      "merge_and_unload, warnings raised", PEFT4)
def _():
    model = lora(llama4bit(F16))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Merge", category=UserWarning)
        model.merge_and_unload()
    return "goes through"


# ---- running them ------------------------------------------------------------------------------

def versions():
    found = {}
    for package in PACKAGES:
        try:
            module = __import__(package)
        except ImportError:
            continue
        found[package] = re.sub(r"\+.*", "", module.__version__)
    return found


def seen_in(packages, found):
    return ", ".join(f"{PACKAGES[p]} {found[p]}" for p in packages) + " (CPU)"


def run(function):
    torch.manual_seed(0)
    try:
        return "", function()
    except Exception as error:  # the exception is the result
        return type(error).__name__, str(error)


def observe():
    found, cases = versions(), {}
    for name, where, ran, packages, context, function in CASES:
        if any(package not in found for package in packages):
            continue
        exception, text = run(function)
        cases[name] = {"where": where, "ran": ran, "exception": exception, "text": text,
                       "seen": seen_in(packages, found)}
        if context:
            cases[name]["context"] = True
    return {"versions": found, "cases": cases}


def differs(old, new):
    return old["exception"] != new["exception"] or old["text"] != new["text"]


def compare(old, new):
    """TAP: a case of the same versions must be the same; others are only told."""
    print(f"1..{len(old['cases'])}")
    for number, (name, was) in enumerate(old["cases"].items(), 1):
        now = new["cases"].get(name)
        if now is None:
            print(f"ok {number} - {name} # SKIP not here: {was['seen']}")
            continue
        same_version = now["seen"] == was["seen"]
        if differs(was, now):
            print(f"# {name}\n#   {was['seen']}: {was['exception']} {json.dumps(was['text'])}\n"
                  f"#   {now['seen']}: {now['exception']} {json.dumps(now['text'])}")
        print(f"{'not ok' if differs(was, now) and same_version else 'ok'} {number} - {name}")
    for name in sorted(set(new["cases"]) - set(old["cases"])):
        print(f"# {name} is not in the committed file")


def main(arguments):
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    against = arguments[1] if arguments[:1] == ["--against"] else None
    quiet, sys.stderr = sys.stderr, io.StringIO()  # progress bars and advice of the libraries
    try:
        seen = observe()
    finally:
        sys.stderr = quiet
    if against is not None:
        with open(against, encoding="utf-8") as file:
            compare(json.load(file), seen)
        return
    missing = set(PACKAGES) - set(seen["versions"])
    if missing:
        sys.exit(f"the file needs every package; missing: {', '.join(sorted(missing))}")
    out = arguments[0] if arguments else os.path.join(HERE, "would.json")
    with open(out, "w", encoding="utf-8") as file:
        json.dump(seen, file, indent=1, ensure_ascii=False)
        file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1:])
