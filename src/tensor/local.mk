# SPDX-License-Identifier: BSD-2-Clause
libnptcore_la_SOURCES += src/tensor/dtype.h
libnptcore_la_SOURCES += src/tensor/dtype.c
libnptcore_la_SOURCES += src/tensor/nf4.h
libnptcore_la_SOURCES += src/tensor/nf4.c
