#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# What is said of PyTorch, bitsandbytes and PEFT, provoked again where they are installed:
# TORCH_PYTHON names a Python that has them. A case of the committed versions must say the same;
# what other versions say differently is told, not judged.
here=${NPT_SRCDIR:-.}/tests/golden
if [ -z "${TORCH_PYTHON:-}" ]; then
    echo '1..0 # SKIP TORCH_PYTHON is not set: no PyTorch to ask'
    exit 0
fi
if ! "$TORCH_PYTHON" -c 'import torch' 2>/dev/null; then
    echo "1..0 # SKIP TORCH_PYTHON ($TORCH_PYTHON) has no torch"
    exit 0
fi
exec "$TORCH_PYTHON" "$here/make_would.py" --against "$here/would.json"
