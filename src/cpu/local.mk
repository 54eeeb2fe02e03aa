# SPDX-License-Identifier: BSD-2-Clause
libnptcore_la_SOURCES += \
  src/cpu/backends.c \
  src/cpu/backends.h \
  src/cpu/peaks.c \
  src/cpu/peaks.h
if OPENBLAS
libnptcore_la_SOURCES += src/cpu/matmul_openblas.c
endif

# One convenience library an instruction set; nothing else is compiled with its flags.
if AVX2
libnptcore_la_SOURCES += \
  src/cpu/matmul_blocked.c \
  src/cpu/matmul_blocked.h \
  src/cpu/matmul_few.c \
  src/cpu/matmul_native.c \
  src/cpu/matmul_native.h \
  src/cpu/matmul_patch.c
if ONEDNN
libnptcore_la_SOURCES += src/cpu/matmul_onednn.c
endif
noinst_LTLIBRARIES += libnptavx2.la
libnptavx2_la_CFLAGS = $(AM_CFLAGS) $(NPT_AVX2_CFLAGS)
libnptavx2_la_SOURCES = \
  src/cpu/peak_avx2.c \
  src/cpu/matmul_avx2.c \
  src/cpu/matmul_native.inc.h \
  src/cpu/peak_fma.inc.h
libnptcore_la_LIBADD += libnptavx2.la
endif

if AVX512
noinst_LTLIBRARIES += libnptavx512.la
libnptavx512_la_CFLAGS = $(AM_CFLAGS) $(NPT_AVX512_CFLAGS)
libnptavx512_la_SOURCES = \
  src/cpu/avx512.inc.h \
  src/cpu/matmul_avx512.c \
  src/cpu/peak_avx512.c
libnptcore_la_LIBADD += libnptavx512.la
endif

if AMX
noinst_LTLIBRARIES += libnptamx.la
libnptamx_la_CFLAGS = $(AM_CFLAGS) $(NPT_AMX_CFLAGS)
libnptamx_la_SOURCES = \
  src/cpu/attention_amx.c \
  src/cpu/attention_amx.inc.h \
  src/cpu/attention_amx_backward.inc.h \
  src/cpu/matmul_amx.c \
  src/cpu/matmul_amx_pack.inc.h \
  src/cpu/peak_amx.c \
  src/cpu/peak_bf16.c
libnptcore_la_LIBADD += libnptamx.la
endif

include $(top_srcdir)/src/cpu/kernels.mk
