# SPDX-License-Identifier: BSD-2-Clause
libnptcore_la_SOURCES += \
  src/tensor/exec.h \
  src/tensor/kernels.h \
  src/tensor/matmul.h \
  src/tensor/policy.c \
  src/tensor/policy.h \
  src/tensor/sites.c \
  src/tensor/sites.h
