# SPDX-License-Identifier: BSD-2-Clause
check_PROGRAMS += tests/kern/test_dtype.test
tests_kern_test_dtype_test_SOURCES = tests/kern/test_dtype.c tests/kern/kern.h tests/npt_test.h
check_PROGRAMS += tests/kern/test_nf4.test
tests_kern_test_nf4_test_SOURCES = tests/kern/test_nf4.c tests/npt_test.h
check_PROGRAMS += tests/kern/test_nf4_fixtures.test
tests_kern_test_nf4_fixtures_test_SOURCES = tests/kern/test_nf4_fixtures.c tests/npt_test.h
check_PROGRAMS += tests/kern/test_gate.test
tests_kern_test_gate_test_SOURCES = tests/kern/test_gate.c tests/kern/kern.h tests/npt_test.h
check_PROGRAMS += tests/kern/test_kernels.test
tests_kern_test_kernels_test_SOURCES = tests/kern/test_kernels.c tests/kern/kern.h tests/npt_test.h
check_PROGRAMS += tests/kern/test_rows.test
tests_kern_test_rows_test_SOURCES = tests/kern/test_rows.c tests/kern/kern.h tests/npt_test.h
check_PROGRAMS += tests/kern/test_attention.test
tests_kern_test_attention_test_SOURCES = \
  tests/kern/test_attention.c tests/kern/kern.h tests/npt_test.h

# Rates of every kernel at every level: make tests/bench/bench_kernels
EXTRA_PROGRAMS += tests/bench/bench_kernels
tests_bench_bench_kernels_SOURCES = tests/bench/bench_kernels.c
