# SPDX-License-Identifier: BSD-2-Clause
# NPT_CUDA: the place where the CUDA backend will be looked for. This version has none, and says so
# rather than accepting the option and training on the CPU.
AC_DEFUN([NPT_CUDA], [
AC_ARG_WITH([cuda], [AS_HELP_STRING([--with-cuda], [not part of this version yet])], [],
  [with_cuda=no])
AS_IF([test "x$with_cuda" != xno],
  [AC_MSG_ERROR([this version of npt has no CUDA backend yet; configure without --with-cuda])])
])
