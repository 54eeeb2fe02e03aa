# SPDX-License-Identifier: BSD-2-Clause
# npt bench: measures what the other folders do; nothing includes it.
libnptcore_la_SOURCES += \
  src/bench/bench.c \
  src/bench/bench.h \
  src/bench/matmul.c \
  src/bench/peaks.c \
  src/bench/plot.c \
  src/bench/request.c \
  src/bench/steps.c \
  src/bench/text.c \
  src/bench/trial.c \
  src/bench/trial.h
