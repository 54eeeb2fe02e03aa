# SPDX-License-Identifier: BSD-2-Clause
check_PROGRAMS += tests/unit/test_tokenizer.test
tests_unit_test_tokenizer_test_SOURCES = tests/unit/test_tokenizer.c tests/npt_test.h
EXTRA_DIST += tests/golden/make_tokenizers.py
