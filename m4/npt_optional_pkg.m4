# SPDX-License-Identifier: BSD-2-Clause
# NPT_OPTIONAL_PKG(VARIABLE, option, module, purpose)
#
# A library that is used when pkg-config finds it. --with-option makes it required, --without-option
# leaves it alone. Sets VARIABLE_CFLAGS, VARIABLE_LIBS, have_option, HAVE_VARIABLE and the
# conditional VARIABLE; adds the module to NPT_PC_REQUIRES for npt.pc.
AC_DEFUN([NPT_OPTIONAL_PKG], [
AC_ARG_WITH([$2], [AS_HELP_STRING([--with-$2], [$4 @<:@used when found@:>@])], [],
  [with_$2=auto])
have_$2=no
AS_IF([test "x$with_$2" != xno],
  [PKG_CHECK_MODULES([$1], [$3], [have_$2=yes], [have_$2=no])])
NPT_REQUIRE_IF_ASKED([$2], [$3])
AS_IF([test $have_$2 = yes],
  [AC_DEFINE([HAVE_$1], [1], [$4])
   NPT_PC_REQUIRES="$NPT_PC_REQUIRES m4_bpatsubst([$3], [ .*])"],
  [$1_CFLAGS=; $1_LIBS=])
AM_CONDITIONAL([$1], [test $have_$2 = yes])
])

# NPT_REQUIRE_IF_ASKED(option, name): what was asked for by name must be there.
AC_DEFUN([NPT_REQUIRE_IF_ASKED], [
AS_IF([test "x$with_$1" = xyes && test "x$have_$1" = xno],
  [AC_MSG_ERROR([--with-$1 was given, but $2 was not found: install its development package, or leave the option out])])
])
