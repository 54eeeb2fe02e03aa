# SPDX-License-Identifier: BSD-2-Clause
# NPT_ONEDNN: is there a oneDNN, and which of its two C APIs does it speak? 2.x has operation
# descriptors (dnnl_matmul_desc_init), 3.x makes primitive descriptors at once. Sets ONEDNN_LIBS,
# have_onednn, onednn_api (2 or 3), HAVE_ONEDNN, NPT_ONEDNN_API and the conditional ONEDNN.
AC_DEFUN([NPT_ONEDNN], [
AC_ARG_WITH([onednn],
  [AS_HELP_STRING([--with-onednn], [a matmul backend on oneDNN 2.6 or 3.x @<:@used when found@:>@])],
  [], [with_onednn=auto])
have_onednn=no onednn_api=none ONEDNN_LIBS=
AS_IF([test "x$with_onednn" != xno],
  [npt_save_LIBS=$LIBS
   LIBS="-ldnnl $LIBS"
   AC_CACHE_CHECK([which oneDNN there is], [npt_cv_onednn_api],
     [npt_cv_onednn_api=none
      AC_LINK_IFELSE([AC_LANG_PROGRAM([[#include <dnnl.h>]],
        [[dnnl_matmul_desc_t desc; dnnl_matmul_desc_init(&desc, 0, 0, 0, 0);]])],
        [npt_cv_onednn_api=2],
        [AC_LINK_IFELSE([AC_LANG_PROGRAM([[#include <dnnl.h>]],
          [[dnnl_primitive_desc_t pd;
            dnnl_matmul_primitive_desc_create(&pd, 0, 0, 0, 0, 0, 0);]])],
          [npt_cv_onednn_api=3])])])
   LIBS=$npt_save_LIBS
   onednn_api=$npt_cv_onednn_api
   AS_IF([test $onednn_api != none], [have_onednn=yes ONEDNN_LIBS=-ldnnl])])
NPT_REQUIRE_IF_ASKED([onednn], [oneDNN (dnnl.h, libdnnl)])
AS_IF([test $have_onednn = yes],
  [AC_DEFINE([HAVE_ONEDNN], [1], [a matmul backend on oneDNN])
   AC_DEFINE_UNQUOTED([NPT_ONEDNN_API], [$onednn_api], [2: operation descriptors; 3: none])
   NPT_PC_LIBS="$NPT_PC_LIBS $ONEDNN_LIBS"])
AC_SUBST([ONEDNN_LIBS])
AM_CONDITIONAL([ONEDNN], [test $have_onednn = yes])
])
