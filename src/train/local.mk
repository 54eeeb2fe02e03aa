# SPDX-License-Identifier: BSD-2-Clause
libnptcore_la_SOURCES += \
  src/train/advice.c \
  src/train/advice.h \
  src/train/backends.c \
  src/train/checkpoint.c \
  src/train/checkpoint.h \
  src/train/culprit.c \
  src/train/culprit.h \
  src/train/data_path.c \
  src/train/data_path.h \
  src/train/describe.c \
  src/train/describe.h \
  src/train/distill.c \
  src/train/distill.h \
  src/train/evaluate.c \
  src/train/loader.c \
  src/train/loader.h \
  src/train/metrics.c \
  src/train/metrics.h \
  src/train/optimizer.c \
  src/train/optimizer.h \
  src/train/open.c \
  src/train/options.c \
  src/train/options.h \
  src/train/scaler.c \
  src/train/scaler.h \
  src/train/schedule.c \
  src/train/schedule.h \
  src/train/setup.c \
  src/train/products.c \
  src/train/products.h \
  src/train/setup.h \
  src/train/text_commands.c \
  src/train/step.c \
  src/train/trainer.c \
  src/train/trainer.h
