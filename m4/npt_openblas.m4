# SPDX-License-Identifier: BSD-2-Clause
# NPT_OPENBLAS: is there an OpenBLAS, with its own thread control? Sets OPENBLAS_CFLAGS,
# OPENBLAS_LIBS, have_openblas, HAVE_OPENBLAS and the conditional OPENBLAS. A plain BLAS will not do:
# npt must be able to set its number of threads.
AC_DEFUN([NPT_OPENBLAS], [
AC_ARG_WITH([openblas],
  [AS_HELP_STRING([--with-openblas], [a matmul backend on OpenBLAS @<:@used when found@:>@])], [],
  [with_openblas=auto])
have_openblas=no
AS_IF([test "x$with_openblas" != xno],
  [PKG_CHECK_MODULES([OPENBLAS], [openblas], [], [OPENBLAS_LIBS=-lopenblas])
   npt_save_LIBS=$LIBS npt_save_CPPFLAGS=$CPPFLAGS
   LIBS="$OPENBLAS_LIBS $LIBS" CPPFLAGS="$OPENBLAS_CFLAGS $CPPFLAGS"
   AC_MSG_CHECKING([whether OpenBLAS links])
   AC_LINK_IFELSE([AC_LANG_PROGRAM([[#include <cblas.h>]],
     [[float x[1] = {1}, y[1];
       openblas_set_num_threads(1);
       cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, 1, 1, 1, 1, x, 1, x, 1, 0, y, 1);]])],
     [have_openblas=yes])
   AC_MSG_RESULT([$have_openblas])
   LIBS=$npt_save_LIBS CPPFLAGS=$npt_save_CPPFLAGS])
NPT_REQUIRE_IF_ASKED([openblas], [OpenBLAS])
AS_IF([test $have_openblas = yes],
  [AC_DEFINE([HAVE_OPENBLAS], [1], [a matmul backend on OpenBLAS])
   NPT_PC_LIBS="$NPT_PC_LIBS $OPENBLAS_LIBS"],
  [OPENBLAS_CFLAGS=; OPENBLAS_LIBS=])
AM_CONDITIONAL([OPENBLAS], [test $have_openblas = yes])
])
