# SPDX-License-Identifier: BSD-2-Clause
check_PROGRAMS += tests/unit/test_explain.test
tests_unit_test_explain_test_SOURCES = tests/unit/test_explain.c tests/npt_test.h
EXTRA_DIST += tests/explain/known.txt tests/explain/unrelated.txt
check_PROGRAMS += tests/fuzz/fuzz_explain.test
tests_fuzz_fuzz_explain_test_SOURCES = tests/fuzz/fuzz_explain.c tests/fuzz/driver.c
dist_check_SCRIPTS += tests/cli/test_explain.sh
