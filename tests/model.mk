# SPDX-License-Identifier: BSD-2-Clause
check_PROGRAMS += tests/unit/test_make_model.test
tests_unit_test_make_model_test_SOURCES = tests/unit/test_make_model.c \
  tests/unit/temp_dir.h tests/npt_test.h
tests_unit_test_make_model_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests
check_PROGRAMS += tests/unit/test_config.test
tests_unit_test_config_test_SOURCES = tests/unit/test_config.c \
  tests/unit/temp_dir.h tests/npt_test.h
tests_unit_test_config_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests
check_PROGRAMS += tests/fuzz/fuzz_config.test
tests_fuzz_fuzz_config_test_SOURCES = tests/fuzz/fuzz_config.c tests/fuzz/driver.c
check_PROGRAMS += tests/fuzz/fuzz_model.test
tests_fuzz_fuzz_model_test_SOURCES = tests/fuzz/fuzz_model.c tests/fuzz/driver.c
