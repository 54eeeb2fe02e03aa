# SPDX-License-Identifier: BSD-2-Clause
# The bundled model and text, installed under $(pkgdatadir) as they stand here.
dist_pkgdata_DATA = data/train.jsonl data/eval.jsonl
tinyllamadir = $(pkgdatadir)/tiny-llama
dist_tinyllama_DATA = \
  data/tiny-llama/config.json \
  data/tiny-llama/model.safetensors \
  data/tiny-llama/tokenizer.json \
  data/tiny-llama/tokenizer_config.json
EXTRA_DIST += data/README.md data/make_corpus.py data/train_model.py
