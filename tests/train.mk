# SPDX-License-Identifier: BSD-2-Clause
check_PROGRAMS += tests/unit/test_backends.test tests/unit/test_text_commands.test
tests_unit_test_backends_test_SOURCES = tests/unit/test_backends.c \
  tests/unit/temp_dir.h tests/npt_test.h
tests_unit_test_backends_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests
tests_unit_test_text_commands_test_SOURCES = tests/unit/test_text_commands.c \
  tests/unit/temp_dir.h tests/npt_test.h
tests_unit_test_text_commands_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests

check_PROGRAMS += tests/train/test_checkpoint.test tests/train/test_loader.test
tests_train_test_checkpoint_test_SOURCES = tests/train/test_checkpoint.c \
  tests/unit/temp_dir.h tests/npt_test.h
tests_train_test_checkpoint_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests
tests_train_test_loader_test_SOURCES = tests/train/test_loader.c tests/unit/temp_dir.h tests/npt_test.h
tests_train_test_loader_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests

# The program end to end, on the bundled model.
EXTRA_DIST += tests/train/lib.sh
dist_check_SCRIPTS += \
  tests/train/test_checkpoints.sh \
  tests/train/test_numeric.sh \
  tests/train/test_recipes.sh \
  tests/train/test_resume.sh \
  tests/train/test_signals.sh
