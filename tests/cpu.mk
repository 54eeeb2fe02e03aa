# SPDX-License-Identifier: BSD-2-Clause
check_PROGRAMS += tests/unit/test_exec.test tests/kern/test_matmul.test
tests_unit_test_exec_test_SOURCES = tests/unit/test_exec.c tests/npt_test.h
tests_kern_test_matmul_test_SOURCES = \
  tests/kern/test_matmul.c \
  tests/kern/matmul_rig.h \
  tests/npt_test.h
if AMX
check_PROGRAMS += tests/kern/test_matmul_pieces.test
tests_kern_test_matmul_pieces_test_SOURCES = \
  tests/kern/test_matmul_pieces.c \
  tests/kern/matmul_rig.h \
  tests/npt_test.h
endif

# Speed is measured by `make bench`, never by `make check`.
EXTRA_PROGRAMS += tests/bench/npt-bench-matmul
CLEANFILES += tests/bench/npt-bench-matmul
tests_bench_npt_bench_matmul_SOURCES = tests/bench/bench_matmul.c
bench: bench-matmul
bench-matmul: tests/bench/npt-bench-matmul
	@# oneDNN's idle OpenMP threads would spin into the next backend's turn
	OMP_WAIT_POLICY=passive tests/bench/npt-bench-matmul $(BENCH_MATMUL_FLAGS)
.PHONY: bench bench-matmul
