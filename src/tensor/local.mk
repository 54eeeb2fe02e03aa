# SPDX-License-Identifier: BSD-2-Clause
libnptcore_la_SOURCES += \
  src/tensor/dtype.c \
  src/tensor/dtype.h \
  src/tensor/fault.c \
  src/tensor/fault.h \
  src/tensor/exec.c \
  src/tensor/exec.h \
  src/tensor/kernels.h \
  src/tensor/matmul.h \
  src/tensor/matmul_reference.c \
  src/tensor/nf4.c \
  src/tensor/nf4.h \
  src/tensor/routes.c \
  src/tensor/routes.h \
  src/tensor/policy.c \
  src/tensor/policy.h \
  src/tensor/sites.c \
  src/tensor/sites.h
