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
if AVX2
check_PROGRAMS += tests/kern/test_matmul_two.test
tests_kern_test_matmul_two_test_SOURCES = \
  tests/kern/test_matmul_two.c \
  tests/kern/matmul_rig.h \
  tests/npt_test.h
endif
