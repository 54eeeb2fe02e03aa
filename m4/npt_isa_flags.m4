# SPDX-License-Identifier: BSD-2-Clause
# NPT_ISA_FLAGS: which instruction sets can this compiler be asked for, file by file? What the CPU
# has is found when npt runs. Each sets NPT_<NAME>_CFLAGS, HAVE_ISA_<NAME> and the conditional <NAME>.
# gcc prefers 256-bit vectors on most AVX-512 CPUs unless it is told.
AC_DEFUN([NPT_ISA_FLAGS], [
AC_REQUIRE([AC_CANONICAL_HOST])
AS_CASE([$host_cpu], [x86_64], [have_x86=yes], [have_x86=no])
AM_CONDITIONAL([X86], [test $have_x86 = yes])
AS_IF([test $have_x86 = yes],
  [AC_DEFINE([HAVE_X86], [1], [x86-64: CPUID is there, SIMD kernels may be compiled])])
npt_isas=
npt_avx2="-mavx2 -mfma -mf16c"
npt_avx512="-mavx512f -mavx512bw -mavx512cd -mavx512dq -mavx512vl $npt_avx2 -mprefer-vector-width=512"
NPT_ISA([AVX2], [avx2], [$npt_avx2],
  [_mm256_storeu_ps(p, _mm256_fmadd_ps(_mm256_loadu_ps(p), _mm256_loadu_ps(p), _mm256_cvtph_ps(_mm_setzero_si128())))])
NPT_ISA([AVX512], [avx512], [$npt_avx512],
  [_mm512_storeu_ps(p, _mm512_fmadd_ps(_mm512_loadu_ps(p), _mm512_loadu_ps(p), _mm512_setzero_ps()))])
NPT_ISA([AVX512_BF16], [avx512_bf16], [$npt_avx512 -mavx512bf16],
  [_mm512_storeu_ps(p, _mm512_dpbf16_ps(_mm512_setzero_ps(), (__m512bh)_mm512_setzero_si512(), (__m512bh)_mm512_setzero_si512()))])
NPT_ISA([AVX512_FP16], [avx512_fp16], [$npt_avx512 -mavx512fp16],
  [_mm512_storeu_ps(p, _mm512_cvtxph_ps(_mm256_castsi256_ph(_mm256_setzero_si256())))])
NPT_ISA([AMX], [amx], [-mamx-tile -mamx-bf16 $npt_avx512 -mavx512bf16],
  [_tile_zero(0); _tile_dpbf16ps(0, 1, 2); _tile_stored(0, p, 64)])
])

# NPT_ISA(NAME, word, flags, statement using float p[[256]])
AC_DEFUN([NPT_ISA], [
npt_isa_$2=no NPT_$1_CFLAGS=
AS_IF([test $have_x86 = yes],
  [AC_CACHE_CHECK([whether $CC can be asked for $2], [npt_cv_isa_$2],
     [npt_save_CFLAGS=$CFLAGS CFLAGS="$CFLAGS $3" npt_cv_isa_$2=no
      AC_COMPILE_IFELSE([AC_LANG_SOURCE([[#include <immintrin.h>
        void f(float *p);
        void f(float *p) { $4; }]])], [npt_cv_isa_$2=yes])
      CFLAGS=$npt_save_CFLAGS])
   npt_isa_$2=$npt_cv_isa_$2])
AS_IF([test $npt_isa_$2 = yes],
  [NPT_$1_CFLAGS="$3" npt_isas="$npt_isas $2"
   AC_DEFINE([HAVE_ISA_$1], [1], [kernels for $2 are compiled])])
AC_SUBST([NPT_$1_CFLAGS])
AM_CONDITIONAL([$1], [test $npt_isa_$2 = yes])
])
