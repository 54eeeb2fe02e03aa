# SPDX-License-Identifier: BSD-2-Clause
# NPT_WARNINGS: which of our warnings does the compiler know? Sets NPT_WARN_CFLAGS; --enable-werror
# makes them errors.
AC_DEFUN([NPT_WARNINGS], [
AC_ARG_ENABLE([werror],
  [AS_HELP_STRING([--enable-werror], [stop at compiler warnings (for our own checks)])], [],
  [enable_werror=no])
NPT_WARN_CFLAGS=
m4_foreach_w([npt_flag], [-Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wformat=2 -Wpointer-arith -Wwrite-strings],
  [NPT_ADD_CFLAG([NPT_WARN_CFLAGS], npt_flag)])
AS_IF([test "x$enable_werror" = xyes], [NPT_WARN_CFLAGS="$NPT_WARN_CFLAGS -Werror"])
AC_SUBST([NPT_WARN_CFLAGS])
])

# NPT_ADD_CFLAG(VARIABLE, flag, [if refused]). -Werror, because clang only warns of what it does not know.
AC_DEFUN([NPT_ADD_CFLAG], [
AS_VAR_PUSHDEF([npt_known], [npt_cv_cflag_$2])
AC_CACHE_CHECK([whether $CC knows $2], [npt_known],
  [npt_save_CFLAGS=$CFLAGS CFLAGS="$CFLAGS -Werror $2"
   AC_COMPILE_IFELSE([AC_LANG_SOURCE([[int npt_flag_test;]])],
     [AS_VAR_SET([npt_known], [yes])], [AS_VAR_SET([npt_known], [no])])
   CFLAGS=$npt_save_CFLAGS])
AS_VAR_IF([npt_known], [yes], [$1="$$1 $2"], [$3])
AS_VAR_POPDEF([npt_known])
])
