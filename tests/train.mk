# SPDX-License-Identifier: BSD-2-Clause
check_PROGRAMS += tests/unit/test_backends.test tests/unit/test_text_commands.test
tests_unit_test_backends_test_SOURCES = tests/unit/test_backends.c \
  tests/unit/temp_dir.h tests/npt_test.h
tests_unit_test_backends_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests
tests_unit_test_text_commands_test_SOURCES = tests/unit/test_text_commands.c \
  tests/unit/temp_dir.h tests/npt_test.h
tests_unit_test_text_commands_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests
