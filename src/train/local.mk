# SPDX-License-Identifier: BSD-2-Clause
libnptcore_la_SOURCES += \
  src/train/distill.c \
  src/train/distill.h \
  src/train/optimizer.c \
  src/train/optimizer.h \
  src/train/scaler.c \
  src/train/scaler.h \
  src/train/schedule.c \
  src/train/schedule.h
