# SPDX-License-Identifier: BSD-2-Clause
# The program: it reads flags and prints; everything else is behind npt.h.
bin_PROGRAMS += npt
npt_SOURCES = \
  src/cli/cli.h \
  src/cli/common.c \
  src/cli/flags.h \
  src/cli/flags.c \
  src/cli/flags_help.c \
  src/cli/flag_rows.c \
  src/cli/train_flags.h \
  src/cli/train_flags.c \
  src/cli/progress.h \
  src/cli/progress.c \
  src/cli/pretrain.c \
  src/cli/evaluate.c \
  src/cli/backends.c \
  src/cli/tokenize.c \
  src/cli/detokenize.c \
  src/cli/make_model.c \
  src/cli/doctor.h \
  src/cli/doctor.c \
  src/cli/doctor_diff.c \
  src/cli/doctor_run.c \
  src/cli/selftest.c \
  src/cli/main.c
npt_LDADD = libnpt.la
