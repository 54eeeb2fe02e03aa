# SPDX-License-Identifier: BSD-2-Clause
# Every test program speaks TAP. One fragment an area, so that areas do not collide.
TESTS = $(check_PROGRAMS)
TEST_EXTENSIONS = .test
LOG_DRIVER = env AM_TAP_AWK='$(AWK)' $(SHELL) $(top_srcdir)/build-aux/tap-driver.sh
AM_TESTS_ENVIRONMENT = NPT_SRCDIR='$(abs_top_srcdir)'; export NPT_SRCDIR;
LDADD = libnptcore.la $(CMOCKA_LIBS)
include $(top_srcdir)/tests/base.mk
include $(top_srcdir)/tests/files.mk
include $(top_srcdir)/tests/text.mk
include $(top_srcdir)/tests/tensor.mk
include $(top_srcdir)/tests/cpu.mk
include $(top_srcdir)/tests/model.mk
include $(top_srcdir)/tests/train.mk
include $(top_srcdir)/tests/cli.mk
