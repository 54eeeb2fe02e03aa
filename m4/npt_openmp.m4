# SPDX-License-Identifier: BSD-2-Clause
# NPT_OPENMP: shall the thread pool be OpenMP's? Only where asked: one pool with oneDNN then, but GNU's
# idle workers spin for milliseconds and starve whatever else runs (src/base/threads.c). Sets
# OPENMP_CFLAGS (for compiling and linking) and have_openmp.
AC_DEFUN([NPT_OPENMP], [
AC_ARG_WITH([openmp],
  [AS_HELP_STRING([--with-openmp], [OpenMP's thread pool instead of npt's own @<:@no@:>@])], [],
  [with_openmp=no])
have_openmp=no OPENMP_CFLAGS=
AS_IF([test "x$with_openmp" != xno],
  [AC_CACHE_CHECK([for OpenMP], [npt_cv_openmp],
     [npt_save_CFLAGS=$CFLAGS CFLAGS="$CFLAGS -fopenmp" npt_cv_openmp=no
      AC_LINK_IFELSE([AC_LANG_PROGRAM([[#include <omp.h>]], [[
        int sum = 0;
        #pragma omp parallel for reduction(+ : sum)
        for (int i = 0; i < 4; i++) sum += omp_get_thread_num();
        return sum;]])], [npt_cv_openmp=yes])
      CFLAGS=$npt_save_CFLAGS])
   have_openmp=$npt_cv_openmp])
NPT_REQUIRE_IF_ASKED([openmp], [OpenMP (-fopenmp, omp.h)])
AS_IF([test $have_openmp = yes],
  [OPENMP_CFLAGS=-fopenmp NPT_PC_LIBS="$NPT_PC_LIBS -fopenmp"])
AC_SUBST([OPENMP_CFLAGS])
])
