# SPDX-License-Identifier: BSD-2-Clause
check_PROGRAMS += \
  tests/unit/test_status.test \
  tests/unit/test_memory.test \
  tests/unit/test_threads.test \
  tests/unit/test_rng.test \
  tests/unit/test_cpu.test
tests_unit_test_status_test_SOURCES = tests/unit/test_status.c
tests_unit_test_memory_test_SOURCES = tests/unit/test_memory.c
tests_unit_test_threads_test_SOURCES = tests/unit/test_threads.c
tests_unit_test_rng_test_SOURCES = tests/unit/test_rng.c
tests_unit_test_cpu_test_SOURCES = tests/unit/test_cpu.c
