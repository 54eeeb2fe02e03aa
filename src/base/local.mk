# SPDX-License-Identifier: BSD-2-Clause
libnptcore_la_SOURCES += \
  src/base/status.h \
  src/base/status.c \
  src/base/log.h \
  src/base/log.c \
  src/base/asan.h \
  src/base/memory.h \
  src/base/memory.c \
  src/base/threads.h \
  src/base/threads.c \
  src/base/rng.h \
  src/base/rng.c \
  src/base/cpu.h \
  src/base/cpu.c
