# SPDX-License-Identifier: BSD-2-Clause
# NPT_CODEGEN: the flags that the results and the exported names depend on. A product and a sum are
# never fused behind our back (matmul kernels ask for it themselves), so that every level and every
# compiler gives the same bits outside of them. Sets NPT_CODE_CFLAGS.
AC_DEFUN([NPT_CODEGEN], [
NPT_CODE_CFLAGS=
NPT_ADD_CFLAG([NPT_CODE_CFLAGS], [-ffp-contract=off],
  [AC_MSG_ERROR([$CC does not know -ffp-contract=off, which npt's results rest on; use gcc or clang])])
NPT_ADD_CFLAG([NPT_CODE_CFLAGS], [-fno-math-errno])
NPT_ADD_CFLAG([NPT_CODE_CFLAGS], [-fvisibility=hidden])
AS_CASE([" $CFLAGS "], [*" -ffast-math "*|*" -Ofast "*],
  [AC_MSG_ERROR([CFLAGS ask for -ffast-math; npt's results rest on IEEE arithmetic])])
AC_SUBST([NPT_CODE_CFLAGS])
])
