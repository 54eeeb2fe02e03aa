#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Independent draws of some cases in half precision, by PyTorch: draws/ beside this file.

How far one run in a half is from the truth is one realisation of rounding noise. The expected distance, of
PyTorch and of npt, is what two programs can be compared by: so here is each case again with other rows and
other initial adapters, with its F64 truth and PyTorch's distances from it. The arithmetic is make_golden.py's.
The layout of the output is in README.md.

    python3 tests/golden/make_draws.py [case ...]
"""
import json
import os
import sys
import zlib

import torch
from safetensors.torch import save_file
from transformers.utils import logging

import make_golden as golden

OUT = os.path.join(golden.HERE, "draws")
# qwen3's weights are not representable in a half, so each of its draws has three truths.
DRAWS = {"llama": 14, "llama-adam": 14, "llama-layers-upper": 14, "llama-layerwise": 14, "llama-rope-linear-bias": 14,
         "mistral": 14, "qwen3": 8}
# With the decay of 0.1 that cases/llama-adam has, about one draw in sixteen has a gradient near enough to zero to
# change its sign, and the expected update hangs on whether there is one; with 0.01 it is one in four.
CHANGES = {"llama-adam": {"weight_decay": 0.01}}
HALVES = {"f16": golden.F16, "bf16": golden.BF16}


def first_step(run):
    """D and reg per layer of each micro-batch of the first step."""
    return [{k: p[k].tolist() for k in ("D", "reg")} for p in run["steps"][0]["parts"]]


def values(prefix, run):
    """What a test compares: gradients of the first step, adapters after the last."""
    out = {f"grad{prefix}.{k}": v for k, v in run["grads"].items()}
    out.update({f"after{prefix}.{k}": v for k, v in run["after"].items()})
    return {k: v.to(golden.F32) for k, v in out.items()}


def draw_of(name, case, number):
    """One draw: what its JSON says, and its tensors."""
    frozen = golden.Frozen(os.path.join(golden.ROOT, case["model"]), golden.F64)
    label = f"draw {number} {name}"
    changes = CHANGES.get(name, {})
    case = dict(case, **changes, rows=golden.random_rows(golden.LENGTHS, frozen.vocab, zlib.crc32(label.encode())))
    init = golden.initial(case, frozen, label, True)
    truth = golden.train(frozen, case, init)
    tensors = {f"init.{k}": v.to(golden.BF16) for k, v in init.items()} | values("", truth)
    out = {**changes, "rows": case["rows"], "first_step": {"micro_batches": first_step(truth)}, "pytorch_distance": {}}
    for key, dtype in HALVES.items():
        exact, reference = frozen.rounded_to(dtype), truth
        if any(not torch.equal(exact.w[k], v) for k, v in frozen.w.items()):
            reference = golden.train(exact, case, init)
            out[f"truth_{key}"] = {"micro_batches": first_step(reference)}
            tensors |= values(f"_{key}", reference)
        run, scale = golden.half_run(frozen.path, case, init, dtype)
        out["pytorch_distance"][key] = dict(golden.compare(run, reference), loss_scale=scale)
    return out, tensors


def shortened(value):
    """Distances to the digits that say anything."""
    if isinstance(value, dict):
        return {k: shortened(v) for k, v in value.items()}
    return float(f"{value:.5g}")


def make(name):
    with open(os.path.join(golden.HERE, "cases", name, "case.json")) as f:
        case = json.load(f)
    draws, tensors = [], []
    for number in range(DRAWS[name]):
        draw, values_of = draw_of(name, case, number)
        draw["pytorch_distance"] = shortened(draw["pytorch_distance"])
        draws.append(json.dumps(draw, sort_keys=True))
        tensors.append(values_of)
    os.makedirs(OUT, exist_ok=True)
    save_file({k: torch.stack([t[k] for t in tensors]) for k in tensors[0]},
              os.path.join(OUT, name + ".safetensors"))
    with open(os.path.join(OUT, name + ".json"), "w") as f:
        f.write('{"draws": [\n' + ",\n".join(draws) + "\n]}\n")
    print(name, flush=True)


def main():
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    for name in sys.argv[1:] or DRAWS:
        make(name)


if __name__ == "__main__":
    main()
