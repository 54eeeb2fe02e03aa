#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Golden losses, gradients and adapters of the NPT layer, by PyTorch: models/ and cases/ beside this file.

Every value is computed in F64 by plain tensor operations and autograd. The frozen block is checked
against the transformers model of the same weights in every dtype before anything is written. The same
is then run in F32, BF16 and F16 the way eager PyTorch does it, and its distance from F64 is recorded.
Needs torch, transformers, safetensors, tokenizers. The layout of the output is in README.md.

    python3 tests/golden/make_golden.py [case ...]
"""
import json
import math
import os
import re
import shutil
import sys
import zlib

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import (AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM,
                          Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM, get_scheduler)
from transformers.utils import logging

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
LOW = {"f32": F32, "bf16": BF16, "f16": F16}
LENGTHS = (7, 11, 4, 9, 12, 3, 1, 10)  # of the rows of a case; some longer than mistral's window of 5

SMALL = dict(hidden_size=48, intermediate_size=104, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
             vocab_size=96, max_position_embeddings=128, bos_token_id=0, eos_token_id=1, tie_word_embeddings=False)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
# name: model class, configuration, dtype of the file; all but the F32 one hold values exact in BF16 and F16
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig, dict(SMALL, rms_norm_eps=1e-5), BF16),
    "llama-rope-llama3": (LlamaForCausalLM, LlamaConfig, dict(
        SMALL, num_hidden_layers=2, tie_word_embeddings=True, rope_parameters=dict(LLAMA3, rope_theta=10000.0)), BF16),
    "llama-rope-linear-bias": (LlamaForCausalLM, LlamaConfig, dict(
        SMALL, num_hidden_layers=2, attention_bias=True, mlp_bias=True,
        rope_parameters=dict(rope_type="linear", factor=4.0, rope_theta=5000.0)), BF16),
    "mistral": (MistralForCausalLM, MistralConfig, dict(
        SMALL, num_hidden_layers=2, hidden_size=64, intermediate_size=100, head_dim=16, sliding_window=5), F16),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, dict(
        SMALL, num_hidden_layers=2, hidden_size=56, intermediate_size=120, tie_word_embeddings=True), BF16),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, dict(
        SMALL, num_hidden_layers=2, intermediate_size=136, head_dim=16, vocab_size=128), F32),
}
DEFAULT = dict(objective="pretrain", loss="normalized", distill="end-to-end", modulation="both", modulation_scale=0.1,
               rank=4, layers=None, regularization_lambda=0.01, optimizer="adamw", weight_decay=0.01,
               learning_rate=1e-3, scheduler="constant", warmup_steps=0, max_steps=5, max_grad_norm=0.1,
               batch_size=2, gradient_accumulation_steps=2)
QUANTIZED = ("nf4", "nf4-double")  # models that make_nf4.py writes; rule R1, so F32 is their only lower dtype
CASES = {
    "llama": {}, "llama-rope-llama3": {}, "llama-rope-linear-bias": {}, "mistral": {}, "qwen2": {},
    "qwen3": dict(rank=6),
    "llama-plain": dict(loss="plain"),
    "llama-layerwise": dict(distill="layerwise"),
    "llama-layerwise-plain": dict(distill="layerwise", loss="plain", layers=[0, 2]),
    "llama-additive": dict(modulation="additive"),
    "llama-multiplicative": dict(modulation="multiplicative"),
    "llama-layers-upper": dict(layers=[1, 2]),
    "llama-layers-lower": dict(layers=[0, 1]),
    "llama-lambda-0": dict(regularization_lambda=0.0),
    "llama-scale-0.5": dict(modulation_scale=0.5, max_grad_norm=0.5),
    "llama-adam": dict(optimizer="adam", weight_decay=0.1),
    "llama-linear": dict(scheduler="linear", warmup_steps=2, max_steps=8),
    "llama-cosine": dict(scheduler="cosine", warmup_steps=2, max_steps=8),
    "llama-ragged": dict(rows=7),
    "llama-finetune": dict(objective="finetune", regularization_lambda=0.001),
    "nf4": {}, "nf4-double": {},
    "tiny-llama": dict(rank=8, rows=4, layers=[0, 2, 4]),
}
STEPS = 5


def representable(t):
    """The nearest value that BF16 and F16 both hold exactly, so that one truth serves every dtype."""
    return t.to(BF16).to(F16).to(BF16).to(F32)


def relative(a, b):
    a, b = [torch.cat([x.detach().double().flatten() for x in v]) for v in (a, b)]
    return ((a - b).norm() / b.norm()).item()


# ---------------------------------------------------------------- models

def make_model(name):
    """A random model far from any trivial point, saved as a Hugging Face directory."""
    cls, config_cls, config, dtype = MODELS[name]
    gen = torch.Generator().manual_seed(zlib.crc32(b"model " + name.encode()))
    model = cls(config_cls(**config))
    for key, p in sorted(model.named_parameters()):
        value = torch.randn(p.shape, generator=gen)
        if "norm" in key:
            value = 1 + 0.2 * value
        elif key.endswith("bias"):
            value = 0.2 * value
        else:
            value = (0.5 if "embed" in key else 0.15) * value
        p.data = (value if dtype == F32 else representable(value)).to(dtype)
    out = os.path.join(HERE, "models", name)
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    tensors = {k: p.data for k, p in model.named_parameters()}
    save_file(tensors, os.path.join(out, "model.safetensors"), metadata={"format": "pt"})
    write_config(out, name, model.config, dtype)


def write_config(out, name, config, dtype):
    """As transformers 5 writes it, but with the older spelling of RoPE and dtype for some."""
    c = config.to_dict()
    c["architectures"] = [MODELS[name][0].__name__]
    c["dtype"] = str(dtype).removeprefix("torch.")
    if name in ("llama", "llama-rope-llama3", "llama-rope-linear-bias"):
        c["torch_dtype"] = c.pop("dtype")
        rope = dict(c.pop("rope_parameters"))
        c["rope_theta"] = rope.pop("rope_theta")
        if name == "llama-rope-linear-bias":
            rope["type"] = rope.pop("rope_type")
        c["rope_scaling"] = None if rope.get("rope_type") == "default" else rope
    with open(os.path.join(out, "config.json"), "w") as f:
        f.write(json.dumps(c, indent=2, sort_keys=True) + "\n")


def decoded(raw):
    """A checkpoint's tensors, with 4-bit weights decoded as their stored maps say."""
    mark, out = ".quant_state.bitsandbytes__nf4", {}
    for key in [k.removesuffix(mark) for k in raw if k.endswith(mark)]:
        state = json.loads(bytes(raw[key + mark].tolist()))
        absmax = raw[key + ".absmax"]
        if key + ".nested_absmax" in raw:
            outer = raw[key + ".nested_absmax"].repeat_interleave(state["nested_blocksize"])[:absmax.numel()]
            absmax = raw[key + ".nested_quant_map"][absmax.long()] * outer + state["nested_offset"]
        byte = raw[key].view(-1).long()
        level = raw[key + ".quant_map"][torch.stack((byte >> 4, byte & 15), 1).view(-1)[:math.prod(state["shape"])]]
        out[key] = (level * absmax.repeat_interleave(state["blocksize"])[:level.numel()]).view(state["shape"])
    out.update({k: v for k, v in raw.items() if not any(k.startswith(q) for q in list(out))})
    return out


class Frozen:
    """Weights of one dtype, and what of the configuration the arithmetic needs."""

    def __init__(self, path, dtype):
        with open(os.path.join(path, "config.json")) as f:
            c = json.load(f)
        self.path, self.dtype = path, dtype
        self.inner = F64 if dtype == F64 else F32  # where transformers says float32
        raw = load_file(os.path.join(path, "model.safetensors"))
        self.w = {k: v.to(dtype) for k, v in decoded(raw).items()}
        self.d, self.f = c["hidden_size"], c["intermediate_size"]
        self.L, self.heads, self.kv = c["num_hidden_layers"], c["num_attention_heads"], c["num_key_value_heads"]
        self.head_dim = c.get("head_dim") or self.d // self.heads
        self.eps = c["rms_norm_eps"]
        self.vocab = c["vocab_size"]
        self.window = c["sliding_window"] if c["model_type"] == "mistral" else None
        rope = c.get("rope_parameters") or dict(c.get("rope_scaling") or {}, rope_theta=c["rope_theta"])
        self.inv_freq = self.frequencies(rope)

    def rounded_to(self, dtype):
        """These weights rounded to dtype, in F64: the inputs of the truth for a run in dtype."""
        other = Frozen(self.path, F64)
        other.w = {k: v.to(dtype).to(F64) for k, v in self.w.items()}
        return other

    def frequencies(self, rope):
        inv = rope["rope_theta"] ** (-torch.arange(0, self.head_dim, 2, dtype=F64) / self.head_dim)
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind == "linear":
            inv = inv / rope["factor"]
        elif kind == "llama3":
            old, low, high = (rope["original_max_position_embeddings"], rope["low_freq_factor"],
                              rope["high_freq_factor"])
            wl = 2 * math.pi / inv
            s = (old / wl - low) / (high - low)
            mid = (1 - s) * inv / rope["factor"] + s * inv
            inv = torch.where(wl > old / low, inv / rope["factor"], torch.where(wl < old / high, inv, mid))
        else:
            assert kind == "default", kind
        return inv.to(self.inner)

    def linear(self, i, name, x):
        key = f"model.layers.{i}.{name}"
        return F.linear(x, self.w[key + ".weight"], self.w.get(key + ".bias"))

    def norm(self, key, x):
        y = x.to(self.inner)
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.w[key] * y.to(x.dtype)

    def rotate(self, x):
        angle = torch.arange(x.shape[2], dtype=self.inner)[:, None] * self.inv_freq
        cos, sin = [torch.cat((t, t), -1).to(x.dtype) for t in (angle.cos(), angle.sin())]
        left, right = x.chunk(2, -1)
        return x * cos + torch.cat((-right, left), -1) * sin

    def attention(self, i, x, seen):
        """The output of o_proj, before any residual; `seen` [batch, T] is 1 for tokens, 0 for padding."""
        B, T, _ = x.shape
        p, n = f"model.layers.{i}.self_attn.", "self_attn."
        q, k, v = [self.linear(i, n + s + "_proj", x).view(B, T, -1, self.head_dim) for s in "qkv"]
        if p + "q_norm.weight" in self.w:
            q, k = self.norm(p + "q_norm.weight", q), self.norm(p + "k_norm.weight", k)
        q, k, v = [t.transpose(1, 2) for t in (q, k, v)]
        q, k = self.rotate(q), self.rotate(k)
        k, v = [t.repeat_interleave(self.heads // self.kv, 1) for t in (k, v)]
        row, col = torch.arange(T)[:, None], torch.arange(T)[None, :]
        mask = (col <= row) & seen[:, None, None, :].bool()
        if self.window is not None:
            mask = mask & (row - col < self.window)
        scores = (q @ k.transpose(2, 3)) * self.head_dim ** -0.5
        scores = scores.masked_fill(~mask, torch.finfo(x.dtype).min)
        prob = torch.softmax(scores, -1, dtype=self.inner).masked_fill(~mask, 0).to(x.dtype)
        return self.linear(i, n + "o_proj", (prob @ v).transpose(1, 2).reshape(B, T, -1))

    def teacher_block(self, i, x, seen):
        p = f"model.layers.{i}."
        y = x + self.attention(i, self.norm(p + "input_layernorm.weight", x), seen)
        m = self.norm(p + "post_attention_layernorm.weight", y)
        return y + self.linear(i, "mlp.down_proj", F.silu(self.linear(i, "mlp.gate_proj", m)) *
                               self.linear(i, "mlp.up_proj", m))

    def student_block(self, i, x, seen, adapter, scale):
        """The NPT block; returns its output and the two codes the regularizer reads (None if inactive)."""
        p = f"model.layers.{i}."
        a = self.attention(i, self.norm(p + "input_layernorm.weight", x), seen)
        z = F.linear(a, adapter["A_proj"])
        m = self.norm(p + "post_attention_layernorm.weight", x)
        g, add, u = self.linear(i, "mlp.gate_proj", m), None, None
        if "B_mult" in adapter:
            u = F.linear(z, adapter["B_mult"])
            g = g * (0.5 * torch.sigmoid(u) + 0.5)
        if "B_add" in adapter:
            add = F.linear(z, adapter["B_add"])
            g = g + scale * add
        out = x + self.linear(i, "mlp.down_proj", F.silu(g) * self.linear(i, "mlp.up_proj", m))
        return out, add, u

    def embed(self, ids):
        return self.w["model.embed_tokens.weight"][ids]

    def logits(self, h):
        head = self.w.get("lm_head.weight", self.w["model.embed_tokens.weight"])
        return F.linear(self.norm("model.norm.weight", h), head)

    @torch.no_grad()
    def teacher(self, ids, seen):
        h = [self.embed(ids)]
        for i in range(self.L):
            h.append(self.teacher_block(i, h[-1], seen))
        return h


def check_against_transformers(path, ids, seen):
    """Our frozen block must be theirs, on every token that is not padding, in every dtype."""
    for dtype, bound in ((F64, 2e-6), (F32, 2e-6), (BF16, 1e-2), (F16, 2e-3)):
        model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager", dtype=dtype).eval()
        got = []
        for layer in model.model.layers:
            layer.register_forward_hook(lambda _m, _i, o: got.append(o[0] if isinstance(o, tuple) else o))
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=seen, use_cache=False).logits
        ours = Frozen(path, dtype)
        h = ours.teacher(ids, seen)
        for a, b in zip(h[1:] + [ours.logits(h[-1])], got + [logits], strict=True):
            keep = seen.bool()
            assert relative([a[keep]], [b[keep]]) < bound, (path, dtype, relative([a[keep]], [b[keep]]))


# ---------------------------------------------------------------- the loss of one micro-batch

def distance(kind, s, t, keep, inner):
    s, t = s[keep].to(inner), t[keep].to(inner)
    if kind == "normalized":
        s, t = [v / v.norm(dim=-1, keepdim=True).clamp_min(1e-6) for v in (s, t)]
    return (s - t).pow(2).mean()


def regularizer(codes, keep, inner):
    terms = [c[keep].to(inner).pow(2).sum(-1).mean() for c in codes if c is not None]
    return sum(terms) / len(terms)


def student(frozen, case, adapters, ids, seen, teacher):
    """All block outputs of the student, and the regularizer's value per layer (0 where no adapter is)."""
    keep, h, reg = seen.bool(), [frozen.embed(ids)], []
    for i in range(frozen.L):
        x = teacher[i] if case["distill"] == "layerwise" else h[-1]
        if i in adapters:
            out, add, u = frozen.student_block(i, x, seen, adapters[i], case["modulation_scale"])
            reg.append(regularizer((add, u), keep, frozen.inner))
        else:
            out = frozen.teacher_block(i, x, seen)
            reg.append(torch.zeros((), dtype=frozen.inner))
        h.append(out)
    return h, torch.stack(reg)


def micro_batch_loss(frozen, case, adapters, rows):
    """Per layer D and reg, for finetune the cross-entropy and its count; all means over this micro-batch."""
    ids, seen, labels = batch_of(case, rows)
    teacher = frozen.teacher(ids, seen)
    h, reg = student(frozen, case, adapters, ids, seen, teacher)
    out = {"reg": reg, "tokens": int(seen.sum())}
    if case["objective"] == "finetune":
        logits, target = frozen.logits(h[-1])[:, :-1].to(frozen.inner), labels[:, 1:]
        out["counted"] = int((target != -100).sum())
        out["ce"] = F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-100)
    else:
        keep = seen.bool()
        out["D"] = torch.stack([distance(case["loss"], s, t, keep, frozen.inner)
                                for s, t in zip(h[1:], teacher[1:], strict=True)])
    return out


def batch_of(case, rows):
    """Right-padded with token 0."""
    ids = [case["rows"][r] for r in rows]
    labels = [case["labels"][r] for r in rows] if "labels" in case else ids
    width = max(map(len, ids))
    return (torch.tensor([r + [0] * (width - len(r)) for r in ids]),
            torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in ids]),
            torch.tensor([r + [-100] * (width - len(r)) for r in labels]))


def total(case, parts):
    """The loss of an accumulated batch: sums over its micro-batches divided by its own counts."""
    tokens = sum(p["tokens"] for p in parts)
    out = {"tokens": tokens, "reg": sum(p["reg"] * (p["tokens"] / tokens) for p in parts)}
    if case["objective"] == "finetune":
        out["counted"] = sum(p["counted"] for p in parts)
        out["ce"] = sum(p["ce"] * (p["counted"] / out["counted"]) for p in parts)
        main = out["ce"]
    else:
        out["D"] = sum(p["D"] * (p["tokens"] / tokens) for p in parts)
        out["loss_mse"] = main = out["D"].mean()
    out["loss_regularization"] = out["reg"].mean()
    out["loss"] = main + case["regularization_lambda"] * out["loss_regularization"]
    return out


# ---------------------------------------------------------------- training

def name_of(layer, part):
    return f"model.layers.{layer}.adapter.{part}.weight"


def nested(flat):
    out = {}
    for key, value in flat.items():
        _, _, layer, _, part, _ = key.split(".")
        out.setdefault(int(layer), {})[part] = value
    return out


def plan(case):
    """Which rows each micro-batch of each step reads; an epoch's last step may be short."""
    b, k, n = case["batch_size"], case["gradient_accumulation_steps"], len(case["rows"])
    batches = [list(range(i, min(i + b, n))) for i in range(0, n, b)]
    epoch = [batches[i:i + k] for i in range(0, len(batches), k)]
    return [epoch[s % len(epoch)] for s in range(STEPS)]


def gradients(frozen, case, masters, step, loss_scale):
    """Gradients of one accumulated batch, unscaled, in the master's dtype, and the values of the loss."""
    parts, grads = [], {k: torch.zeros_like(m) for k, m in masters.items()}
    counts = [batch_of(case, rows) for rows in step]
    for rows in step:
        leaves = {k: m.detach().to(frozen.dtype).requires_grad_() for k, m in masters.items()}
        part = micro_batch_loss(frozen, case, nested(leaves), rows)
        tokens = part["tokens"] / sum(int(c[1].sum()) for c in counts)
        loss = case["regularization_lambda"] * part["reg"].mean() * tokens
        if case["objective"] == "finetune":
            loss = loss + part["ce"] * (part["counted"] / sum(int((c[2][:, 1:] != -100).sum()) for c in counts))
        else:
            loss = loss + part["D"].mean() * tokens
        (loss * loss_scale).backward()
        for key, leaf in leaves.items():
            grads[key] += leaf.grad.to(masters[key].dtype) / loss_scale
        parts.append({k: v.detach() if torch.is_tensor(v) else v for k, v in part.items()})
    return grads, parts


def train(frozen, case, init, loss_scale=1.0):
    """STEPS optimizer steps on master weights (F64 for the truth, else F32); everything seen on the way."""
    start = {k: v.to(frozen.dtype).to(frozen.inner) for k, v in init.items()}
    masters = {k: v.clone().requires_grad_() for k, v in start.items()}
    cls = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[case["optimizer"]]
    opt = cls(masters.values(), lr=case["learning_rate"], weight_decay=case["weight_decay"], foreach=False)
    sched = get_scheduler(case["scheduler"], opt, case["warmup_steps"], case["max_steps"])
    run = {"steps": [], "start": start}
    for step in plan(case):
        grads, parts = gradients(frozen, case, masters, step, loss_scale)
        if not all(g.isfinite().all() for g in grads.values()):
            return None
        for key, m in masters.items():
            m.grad = grads[key].clone()
        norm = torch.nn.utils.clip_grad_norm_(masters.values(), case["max_grad_norm"]).item()
        rate = opt.param_groups[0]["lr"]
        opt.step()
        sched.step()
        run["steps"].append({"rows": step, "parts": parts, "sum": total(case, parts), "grad_norm": norm, "rate": rate})
        run.setdefault("grads", grads)
    run["after"] = {k: m.detach() for k, m in masters.items()}
    return run


def check_gradient(frozen, case, run):
    """Autograd against central differences, one weight of each tensor."""
    step = run["steps"][0]["rows"]
    for key, grad in run["grads"].items():
        at, eps, side = tuple(x // 2 for x in grad.shape), 1e-5, []
        for sign in (1, -1):
            moved = {k: v.clone() for k, v in run["start"].items()}
            moved[key][at] += sign * eps
            with torch.no_grad():
                parts = [micro_batch_loss(frozen, case, nested(moved), rows) for rows in step]
            side.append(total(case, parts)["loss"].item())
        slope = (side[0] - side[1]) / (2 * eps)
        assert abs(slope - grad[at].item()) < 1e-6 * (abs(slope) + grad.abs().max().item()), (key, slope, grad[at])


def compare(run, truth):
    """Relative L2 distances of a run from the truth; `update` compares what five steps added."""
    def losses(r, key):
        return [p[key].reshape(-1) for p in r["steps"][0]["parts"]]
    keys = ("ce", "reg") if "ce" in truth["steps"][0]["sum"] else ("D", "reg")
    out = {k: relative(losses(run, k), losses(truth, k)) for k in keys}
    order = sorted(truth["grads"])
    out["grad"] = relative([run["grads"][k] for k in order], [truth["grads"][k] for k in order])
    out["grad_by_tensor"] = {k: relative([run["grads"][k]], [truth["grads"][k]]) for k in order}
    out["update"] = relative([run["after"][k].double() - run["start"][k].double() for k in order],
                             [truth["after"][k] - truth["start"][k] for k in order])
    return out


# ---------------------------------------------------------------- cases

def random_rows(lengths, vocab, seed):
    gen = torch.Generator().manual_seed(seed)
    return [torch.randint(2, vocab, (n,), generator=gen).tolist() for n in lengths]


def rows_of(case, frozen, name):
    lengths = LENGTHS[:case.pop("rows", len(LENGTHS))]
    if name == "tiny-llama":
        from tokenizers import Tokenizer
        tok = Tokenizer.from_file(os.path.join(ROOT, "data", "tiny-llama", "tokenizer.json"))
        with open(os.path.join(ROOT, "data", "eval.jsonl"), encoding="utf-8") as f:
            texts = [json.loads(line)["text"] for line in f][:len(lengths)]
        return [tok.encode(t).ids[:3 * n] for t, n in zip(texts, lengths)]
    return random_rows(lengths, frozen.vocab, 77)


def initial(case, frozen, label, exact):
    """Adapters of a size that keeps every gradient alive; `exact`: representable in every dtype."""
    gen = torch.Generator().manual_seed(zlib.crc32(label.encode()))
    size = {"A_proj": (case["rank"], frozen.d, 0.1), "B_add": (frozen.f, case["rank"], 0.05),
            "B_mult": (frozen.f, case["rank"], 0.3)}
    parts = {"both": ("A_proj", "B_add", "B_mult"), "additive": ("A_proj", "B_add"),
             "multiplicative": ("A_proj", "B_mult")}[case["modulation"]]
    out = {}
    for layer in case["layers"]:
        for part in parts:
            rows, cols, std = size[part]
            value = std * torch.randn(rows, cols, generator=gen)
            out[name_of(layer, part)] = representable(value) if exact else value
    return out


def numbers(part):
    return {k: v.tolist() if torch.is_tensor(v) else v for k, v in part.items()}


def describe(case, run):
    """What case.json says about the truth."""
    first = run["steps"][0]
    micro = [dict(numbers(total(case, [p])), rows=r) for p, r in zip(first["parts"], first["rows"], strict=True)]
    steps = [dict({k: v for k, v in numbers(s["sum"]).items() if k not in ("D", "reg")},
                  micro_batches=s["rows"], learning_rate=s["rate"], grad_norm=s["grad_norm"]) for s in run["steps"]]
    return {"first_step": dict(numbers(first["sum"]), micro_batches=micro, grad_norm=first["grad_norm"]), "steps": steps}


def hidden(frozen, case, init):
    """Block outputs and logits of the first micro-batch, non-padding tokens only, row after row."""
    ids, seen, _ = batch_of(case, plan(case)[0][0])
    keep = seen.bool()
    with torch.no_grad():
        teacher = frozen.teacher(ids, seen)
        h, _ = student(frozen, case, nested({k: v.to(F64) for k, v in init.items()}), ids, seen, teacher)
        out = {"teacher.logits": frozen.logits(teacher[-1])[keep], "student.logits": frozen.logits(h[-1])[keep]}
    for i in range(frozen.L):
        out[f"teacher.h.{i}"], out[f"student.h.{i}"] = teacher[i + 1][keep], h[i + 1][keep]
    return out


def half_run(path, case, init, dtype):
    """A run in a lower dtype with the largest loss scale that stays finite."""
    for scale in ((65536.0, 1024.0, 1.0) if dtype == F16 else (1.0,)):
        run = train(Frozen(path, dtype), case, init, scale)
        if run is not None:
            return run, scale
    raise SystemExit(f"{path}: not finite in {dtype}")


def write(out, case, tensors):
    for name, group in tensors.items():
        save_file({k: v.to(F32).contiguous() for k, v in group.items()}, os.path.join(out, name))
    with open(os.path.join(out, "case.json"), "w") as f:
        text = json.dumps(case, indent=1, sort_keys=True)
        f.write(re.sub(r"\[[^\[\]{}]*\]", lambda m: re.sub(r"\s+", " ", m.group()), text) + "\n")


def make_case(name):
    case = dict(DEFAULT, **CASES[name])
    model = name if name in (*MODELS, *QUANTIZED) else "llama"
    path = os.path.join(ROOT, "data", "tiny-llama") if name == "tiny-llama" else os.path.join(HERE, "models", model)
    frozen = Frozen(path, F64)
    case["model"] = os.path.relpath(path, ROOT)
    case["rows"] = rows_of(case, frozen, name)
    case["layers"] = case["layers"] if case["layers"] is not None else list(range(frozen.L))
    if case["objective"] == "finetune":  # the first two tokens of a row are a prompt, and one row is all prompt
        case["labels"] = [[-100] * min(2, len(r)) + r[2:] if n != 2 else [-100] * len(r)
                          for n, r in enumerate(case["rows"])]
    init = initial(case, frozen, f"case {name}", name != "qwen3")
    if name not in QUANTIZED:
        check_against_transformers(path, *batch_of(case, plan(case)[0][0])[:2])
    truth = train(frozen, case, init)
    check_gradient(frozen, case, truth)
    expect = {f"grad.{k}": v for k, v in truth["grads"].items()}
    if name == "tiny-llama":
        case["after_not_stored"] = True
    else:
        expect.update({f"after.{k}": v for k, v in truth["after"].items()})
    if name in MODELS:
        expect.update(hidden(frozen, case, init))
    tensors, measured = {"init.safetensors": init, "expect.safetensors": expect}, {}
    for key, dtype in [("f32", F32)] if name in QUANTIZED else LOW.items():
        low, scale = half_run(path, case, init, dtype)
        exact = frozen.rounded_to(dtype)
        reference = truth
        if any(not torch.equal(exact.w[k], v) for k, v in frozen.w.items()):
            reference = train(exact, case, {k: v.to(dtype) for k, v in init.items()})
            case[f"truth_{key}"] = describe(case, reference)["first_step"]
            tensors[f"expect_{key}.safetensors"] = {f"grad.{k}": v for k, v in reference["grads"].items()}
        measured[key] = dict(compare(low, reference), loss_scale=scale)
    out = os.path.join(HERE, "cases", name)
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    write(out, dict(case, **describe(case, truth), pytorch_distance=measured), tensors)
    brief = {k: [f"{v:.1e}" for n, v in m.items() if n != "grad_by_tensor"] for k, m in measured.items()}
    print(f"{name:24} loss {truth['steps'][0]['sum']['loss'].item():.5f} "
          f"norm {[round(s['grad_norm'], 3) for s in truth['steps']]} {brief}", flush=True)


def main():
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    wanted = sys.argv[1:]
    if not wanted:
        for name in MODELS:
            make_model(name)
    for name in wanted or CASES:
        if name in QUANTIZED and not os.path.isdir(os.path.join(HERE, "models", name)):
            print(f"{name}: run make_nf4.py, then make_golden.py {' '.join(QUANTIZED)}")
        else:
            make_case(name)


if __name__ == "__main__":
    main()
