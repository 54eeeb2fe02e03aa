#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Train data/tiny-llama from nothing: a byte-level BPE tokenizer, then a small Llama on the made-up world.

The texts come from make_corpus.py with a third seed; no row of eval.jsonl is among them. Needs torch,
transformers, tokenizers, safetensors. Eight to fifteen minutes on one core.

    python3 data/train_model.py [--rows 36000] [--minutes 18]
"""
import argparse
import copy
import json
import math
import os
import time

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM

import make_corpus

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "tiny-llama")
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 128,
    "initializer_range": 0.02,
    "intermediate_size": 288,
    "max_position_embeddings": 512,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 5,
    "num_key_value_heads": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                     "original_max_position_embeddings": 64, "rope_type": "llama3"},
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 1024,
}
BATCH, PEAK, WARMUP = 16, 3e-3, 100


def make_tokenizer(texts):
    tok = Tokenizer(models.BPE(ignore_merges=True))
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"], special_tokens=[BOS, EOS], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    tok.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, 0)])
    return tok


def batch_of(ids):
    """Right-padded ids and labels; padding is EOS, masked, and not counted."""
    width = max(map(len, ids))
    x = torch.tensor([r + [1] * (width - len(r)) for r in ids])
    mask = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in ids])
    return {"input_ids": x, "attention_mask": mask, "labels": x.masked_fill(mask == 0, -100)}


@torch.no_grad()
def evaluate(model, ids):
    """Mean over rows of the row's mean next-token NLL, and the NLL of all predicted tokens together."""
    per_row, total, count = [], 0.0, 0
    for row in ids:
        x = torch.tensor([row])
        logits = model(input_ids=x).logits[0, :-1].float()
        nll = torch.nn.functional.cross_entropy(logits, x[0, 1:], reduction="sum").item()
        per_row.append(nll / (len(row) - 1))
        total, count = total + nll, count + len(row) - 1
    return {"rows": len(ids), "tokens": count, "nll": total / count, "ppl": math.exp(total / count),
            "row_nll": sum(per_row) / len(per_row)}


def train(model, ids, minutes):
    opt = torch.optim.AdamW(model.parameters(), lr=PEAK, betas=(0.9, 0.98), weight_decay=0.05)
    steps, start = len(ids) // BATCH, time.time()
    for step in range(steps):
        for group in opt.param_groups:
            group["lr"] = PEAK * min((step + 1) / WARMUP, 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        loss = model(**batch_of(ids[step * BATCH:(step + 1) * BATCH])).loss
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        if step % 50 == 0:
            print(f"step {step}/{steps} loss {loss.item():.4f} {time.time() - start:.0f} s", flush=True)
        if step == 50 and (time.time() - start) * steps / 50 > 60 * minutes:
            raise SystemExit("too slow for --minutes: lower --rows")


def save(model, tok):
    os.makedirs(OUT, exist_ok=True)
    tensors = {n: p.detach().to(torch.bfloat16).contiguous() for n, p in model.named_parameters()}
    assert "lm_head.weight" not in tensors
    save_file(tensors, os.path.join(OUT, "model.safetensors"), metadata={"format": "pt"})
    tok.save(os.path.join(OUT, "tokenizer.json"))
    for name, value in (("config.json", CONFIG), ("tokenizer_config.json", {
            "add_bos_token": True, "bos_token": BOS, "eos_token": EOS, "clean_up_tokenization_spaces": False,
            "model_max_length": 512, "tokenizer_class": "PreTrainedTokenizerFast"})):
        with open(os.path.join(OUT, name), "w") as f:
            f.write(json.dumps(value, indent=2, sort_keys=True) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=36000)
    parser.add_argument("--minutes", type=float, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(7)
    small, held_back = make_corpus.corpus()
    tok = make_tokenizer(small)
    texts = small + make_corpus.rows(make_corpus.MODEL_SEED, args.rows - len(small), held_back + small)
    ids = [e.ids + [1] for e in tok.encode_batch(texts)]
    print(f"vocabulary {tok.get_vocab_size()}, tokens a row {sum(map(len, ids)) / len(ids):.1f}", flush=True)
    plain = {k: v for k, v in CONFIG.items() if k not in ("torch_dtype", "architectures")}
    config = LlamaConfig(**copy.deepcopy(plain))  # a copy: transformers writes into rope_scaling
    model = LlamaForCausalLM(config)
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    train(model, ids, args.minutes)
    save(model, tok)
    rows = [e.ids for e in tok.encode_batch(held_back)]
    print("eval as trained", evaluate(model.eval(), rows))
    for dtype in (torch.float32, torch.bfloat16):
        model = LlamaForCausalLM.from_pretrained(OUT, dtype=dtype, attn_implementation="eager").eval()
        print("eval from the file,", dtype, evaluate(model, rows))


if __name__ == "__main__":
    main()
