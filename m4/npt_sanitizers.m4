# SPDX-License-Identifier: BSD-2-Clause
# NPT_SANITIZERS: --enable-sanitizers builds everything with AddressSanitizer and UBSan. Sets
# NPT_SAN_CFLAGS (for compiling and linking) and the conditional SANITIZERS.
AC_DEFUN([NPT_SANITIZERS], [
AC_ARG_ENABLE([sanitizers],
  [AS_HELP_STRING([--enable-sanitizers], [address and undefined-behaviour checks (for tests)])], [],
  [enable_sanitizers=no])
NPT_SAN_CFLAGS=
AS_IF([test "x$enable_sanitizers" = xyes],
  [NPT_SAN_CFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
   npt_save_CFLAGS=$CFLAGS CFLAGS="$CFLAGS $NPT_SAN_CFLAGS"
   AC_LINK_IFELSE([AC_LANG_PROGRAM], [],
     [AC_MSG_ERROR([$CC cannot link with $NPT_SAN_CFLAGS])])
   CFLAGS=$npt_save_CFLAGS])
AC_SUBST([NPT_SAN_CFLAGS])
AM_CONDITIONAL([SANITIZERS], [test "x$enable_sanitizers" = xyes])
])
