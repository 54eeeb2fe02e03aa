# SPDX-License-Identifier: BSD-2-Clause
check_PROGRAMS += tests/unit/test_tokenizer.test tests/unit/test_dataset.test
tests_unit_test_tokenizer_test_SOURCES = tests/unit/test_tokenizer.c tests/npt_test.h
check_PROGRAMS += tests/unit/test_tokenizer_fixtures.test
tests_unit_test_tokenizer_fixtures_test_SOURCES = tests/unit/test_tokenizer_fixtures.c \
  tests/npt_test.h
tests_unit_test_dataset_test_SOURCES = tests/unit/test_dataset.c tests/npt_test.h
EXTRA_DIST += tests/golden/make_tokenizers.py \
  tests/golden/tokenizers/texts.json \
  tests/golden/tokenizers/llama3.json tests/golden/tokenizers/llama3.vectors.json \
  tests/golden/tokenizers/qwen2.json tests/golden/tokenizers/qwen2.vectors.json \
  tests/golden/tokenizers/gpt2.json tests/golden/tokenizers/gpt2.vectors.json \
  tests/golden/tokenizers/llama2.json tests/golden/tokenizers/llama2.vectors.json \
  tests/golden/tokenizers/mistral.json tests/golden/tokenizers/mistral.vectors.json \
  tests/golden/tokenizers/wide.json tests/golden/tokenizers/wide.vectors.json \
  tests/golden/tokenizers/metaspace.json tests/golden/tokenizers/metaspace.vectors.json \
  tests/golden/tokenizers/fused.json tests/golden/tokenizers/fused.vectors.json \
  tests/golden/tokenizers/splits.json tests/golden/tokenizers/splits.vectors.json
# The committed inputs of the fuzz targets, without a fuzzer.
check_PROGRAMS += tests/fuzz/fuzz_tokenizer_json.test tests/fuzz/fuzz_encode.test \
  tests/fuzz/fuzz_dataset.test
tests_fuzz_fuzz_tokenizer_json_test_SOURCES = tests/fuzz/fuzz_tokenizer_json.c tests/fuzz/driver.c
tests_fuzz_fuzz_encode_test_SOURCES = tests/fuzz/fuzz_encode.c tests/fuzz/driver.c
tests_fuzz_fuzz_dataset_test_SOURCES = tests/fuzz/fuzz_dataset.c tests/fuzz/driver.c
