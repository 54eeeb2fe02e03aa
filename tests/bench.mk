# SPDX-License-Identifier: BSD-2-Clause
# Routing by measurement, and npt bench. Speed is measured by `make bench`, never by `make check`.
check_PROGRAMS += tests/unit/test_calibration.test
tests_unit_test_calibration_test_SOURCES = tests/unit/test_calibration.c \
  tests/unit/temp_dir.h tests/npt_test.h
tests_unit_test_calibration_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests
check_PROGRAMS += tests/fuzz/fuzz_calibration.test
tests_fuzz_fuzz_calibration_test_SOURCES = tests/fuzz/fuzz_calibration.c tests/fuzz/driver.c
dist_check_SCRIPTS += tests/cli/test_bench.sh tests/train/test_calibration.sh

# The steps beside PyTorch as well: TORCH_PYTHON=python with torch, BENCH_RIVAL=torch_step.py.
# OpenMP's idle threads would spin into the next backend's turn.
EXTRA_DIST += tests/bench/step.sh
BENCH_RIVAL = $(top_srcdir)/../shared/rivals/torch_step.py
BENCH_FLAGS =
bench: bench-npt bench-step
bench-npt: npt
	OMP_WAIT_POLICY=passive ./npt bench $(BENCH_FLAGS)
bench-step: npt
	bash $(top_srcdir)/tests/bench/step.sh ./npt \
	  $$(test -n "$$TORCH_PYTHON" && test -f $(BENCH_RIVAL) && echo $(BENCH_RIVAL))
.PHONY: bench-npt bench-step

# Instruction counts of the hot kernels: what a clock on a shared machine cannot see.
EXTRA_PROGRAMS += tests/bench/count_kernels
CLEANFILES += tests/bench/count_kernels
tests_bench_count_kernels_SOURCES = tests/bench/count_kernels.c
EXTRA_DIST += tests/bench/instructions.sh tests/bench/instructions.txt
check-instructions: tests/bench/count_kernels
	@$(LIBTOOL) --silent --mode=execute bash $(top_srcdir)/tests/bench/instructions.sh \
	  tests/bench/count_kernels $(top_srcdir)/tests/bench/instructions.txt \
	  '$(CC) $(NPT_CODE_CFLAGS) $(NPT_SAN_CFLAGS) $(CFLAGS)'
update-instructions: tests/bench/count_kernels
	@$(LIBTOOL) --silent --mode=execute bash $(top_srcdir)/tests/bench/instructions.sh \
	  tests/bench/count_kernels $(top_srcdir)/tests/bench/instructions.txt \
	  '$(CC) $(NPT_CODE_CFLAGS) $(NPT_SAN_CFLAGS) $(CFLAGS)' --update
.PHONY: check-instructions update-instructions
