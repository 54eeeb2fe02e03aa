# SPDX-License-Identifier: BSD-2-Clause
# The kernel table: one text, compiled once per instruction set, each in a library of its own
# because automake's flags are per library.
NPT_KERNEL_TEXT = \
  src/cpu/attention.inc.h \
  src/cpu/elementwise.inc.h \
  src/cpu/gate.inc.h \
  src/cpu/kernels.inc.h \
  src/cpu/lanes.inc.h \
  src/cpu/rows.inc.h \
  src/cpu/totals.inc.h
libnptcore_la_SOURCES += \
  src/cpu/kernels.c \
  src/cpu/kernels.h \
  src/cpu/kernels_reference.c \
  $(NPT_KERNEL_TEXT)
EXTRA_DIST += src/cpu/kernels_avx2.c src/cpu/kernels_avx512.c

if AVX2
noinst_LTLIBRARIES += libnptkernels_avx2.la
libnptkernels_avx2_la_SOURCES = src/cpu/kernels_avx2.c
libnptkernels_avx2_la_CFLAGS = $(AM_CFLAGS) $(NPT_AVX2_CFLAGS)
libnptcore_la_LIBADD += libnptkernels_avx2.la
endif
if AVX512
noinst_LTLIBRARIES += libnptkernels_avx512.la
libnptkernels_avx512_la_SOURCES = src/cpu/kernels_avx512.c
libnptkernels_avx512_la_CFLAGS = $(AM_CFLAGS) $(NPT_AVX512_CFLAGS)
libnptcore_la_LIBADD += libnptkernels_avx512.la
endif
