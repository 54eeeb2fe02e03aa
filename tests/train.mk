# SPDX-License-Identifier: BSD-2-Clause
check_PROGRAMS += tests/unit/test_backends.test tests/unit/test_text_commands.test
tests_unit_test_backends_test_SOURCES = tests/unit/test_backends.c \
  tests/unit/temp_dir.h tests/npt_test.h
tests_unit_test_backends_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests
tests_unit_test_text_commands_test_SOURCES = tests/unit/test_text_commands.c \
  tests/unit/temp_dir.h tests/npt_test.h
tests_unit_test_text_commands_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests

# Training against values from PyTorch.
golden_case = tests/golden/golden_case.c tests/golden/golden_case.h tests/npt_test.h
golden_flags = $(AM_CPPFLAGS) -I$(top_srcdir)/tests
check_PROGRAMS += tests/golden/test_golden_f32.test
tests_golden_test_golden_f32_test_SOURCES = tests/golden/test_golden_f32.c $(golden_case)
tests_golden_test_golden_f32_test_CPPFLAGS = $(golden_flags)
check_PROGRAMS += tests/golden/test_golden_half.test
tests_golden_test_golden_half_test_SOURCES = tests/golden/test_golden_half.c $(golden_case)
tests_golden_test_golden_half_test_CPPFLAGS = $(golden_flags)
check_PROGRAMS += tests/golden/test_golden_nf4.test
tests_golden_test_golden_nf4_test_SOURCES = \
  tests/golden/test_golden_nf4.c tests/unit/temp_dir.h $(golden_case)
tests_golden_test_golden_nf4_test_CPPFLAGS = $(golden_flags)

# On the models and rows of the golden cases.
check_PROGRAMS += tests/train/test_casts.test
tests_train_test_casts_test_SOURCES = tests/train/test_casts.c $(golden_case)
tests_train_test_casts_test_CPPFLAGS = $(golden_flags)
check_PROGRAMS += tests/train/test_determinism.test
tests_train_test_determinism_test_SOURCES = tests/train/test_determinism.c $(golden_case)
tests_train_test_determinism_test_CPPFLAGS = $(golden_flags)
check_PROGRAMS += tests/train/test_schedule.test tests/train/test_scaler.test
tests_train_test_schedule_test_SOURCES = tests/train/test_schedule.c tests/npt_test.h
tests_train_test_schedule_test_CPPFLAGS = $(golden_flags)
tests_train_test_scaler_test_SOURCES = tests/train/test_scaler.c tests/npt_test.h
tests_train_test_scaler_test_CPPFLAGS = $(golden_flags)
check_PROGRAMS += tests/train/test_fp16.test
tests_train_test_fp16_test_SOURCES = tests/train/test_fp16.c tests/unit/temp_dir.h $(golden_case)
tests_train_test_fp16_test_CPPFLAGS = $(golden_flags)
check_PROGRAMS += tests/grad/test_block_grad.test
tests_grad_test_block_grad_test_SOURCES = tests/grad/test_block_grad.c $(golden_case)
tests_grad_test_block_grad_test_CPPFLAGS = $(golden_flags)
check_PROGRAMS += tests/train/test_checkpoint.test tests/train/test_loader.test
tests_train_test_checkpoint_test_SOURCES = tests/train/test_checkpoint.c \
  tests/unit/temp_dir.h tests/npt_test.h
tests_train_test_checkpoint_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests
tests_train_test_loader_test_SOURCES = tests/train/test_loader.c \
  tests/unit/temp_dir.h tests/npt_test.h
tests_train_test_loader_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests
check_PROGRAMS += tests/train/test_stream.test
tests_train_test_stream_test_SOURCES = tests/train/test_stream.c \
  tests/unit/temp_dir.h tests/npt_test.h
tests_train_test_stream_test_CPPFLAGS = $(golden_flags)

# The program end to end, on the bundled model.
EXTRA_DIST += tests/train/lib.sh
dist_check_SCRIPTS += \
  tests/train/test_checkpoints.sh \
  tests/train/test_numeric.sh \
  tests/train/test_recipes.sh \
  tests/train/test_resume.sh \
  tests/train/test_signals.sh \
  tests/train/test_streaming.sh
