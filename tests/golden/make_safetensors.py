#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Writes tests/golden/safetensors/*.safetensors with the reference implementation (safetensors
0.8.0 and numpy from PyPI), for test_safetensors.c to read and to write again byte for byte.

Byte j of the k-th tensor below is (31 k + 7 j) mod 256; of a BOOL, its lowest bit."""
import ctypes
import os

import safetensors

# name, dtype, bytes of an element, shape. The test has the same list in C, in this order.
TENSORS = [
    ("model.layers.10.weight", "float32", 4, [2, 3]),
    ("model.layers.2.weight", "float32", 4, [3]),
    ("u64", "uint64", 8, [1]),
    ("i64", "int64", 8, [2]),
    ("f64", "float64", 8, [1, 1]),
    ("c64", "complex64", 8, [2]),
    ("u32", "uint32", 4, [1]),
    ("i32", "int32", 4, [1]),
    ("bf16", "bfloat16", 2, [5]),
    ("f16", "float16", 2, [3]),
    ("u16", "uint16", 2, [1]),
    ("i16", "int16", 2, [1]),
    ("f8_e4m3", "float8_e4m3fn", 1, [3]),
    ("f8_e5m2", "float8_e5m2", 1, [1]),
    ("i8", "int8", 1, [2]),
    ("u8", "uint8", 1, [7]),
    ("bool", "bool", 1, [3]),
    ("scalar", "float32", 4, []),
    ("empty", "float32", 4, [0, 7]),
    ("gewicht \u00e4 \"x\" \\ /", "float16", 2, [1]),
    ("Z", "bfloat16", 2, [2, 2, 1, 1]),
]


def contents(k, dtype, count):
    mask = 1 if dtype == "bool" else 255
    return bytes((31 * k + 7 * j) % 256 & mask for j in range(count))


def main():
    out = os.path.join(os.path.dirname(os.path.abspath(__file__)), "safetensors")
    os.makedirs(out, exist_ok=True)
    specs, keep = {}, []
    for k, (name, dtype, size, shape) in enumerate(TENSORS):
        count = size
        for n in shape:
            count *= n
        buffer = ctypes.create_string_buffer(contents(k, dtype, count), max(count, 1))
        keep.append(buffer)
        specs[name] = safetensors.TensorSpec(dtype=dtype, shape=shape,
                                             data_ptr=ctypes.addressof(buffer), data_len=count)
    for name, tensors, metadata in [("all", specs, {"format": "pt"}), ("bare", specs, None),
                                    ("empty", {}, None)]:
        with open(os.path.join(out, name + ".safetensors"), "wb") as f:
            f.write(bytes(safetensors.serialize(tensors, metadata)))


if __name__ == "__main__":
    main()
