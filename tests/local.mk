# SPDX-License-Identifier: BSD-2-Clause
# Every test program speaks TAP. One fragment an area, so that areas do not collide. A test is
#   check_PROGRAMS += tests/unit/test_x.test
#   tests_unit_test_x_test_SOURCES = tests/unit/test_x.c tests/npt_test.h
# or, in shell, a file tests/cli/test_x.sh added to dist_check_SCRIPTS.
dist_check_SCRIPTS =
TESTS = $(check_PROGRAMS) $(dist_check_SCRIPTS)
TEST_EXTENSIONS = .test .sh
TEST_LOG_DRIVER = env AM_TAP_AWK='$(AWK)' $(SHELL) $(top_srcdir)/build-aux/tap-driver.sh
SH_LOG_DRIVER = $(TEST_LOG_DRIVER)
SH_LOG_COMPILER = $(SHELL)
# Waiting threads sleep: where the tests share their cores, spinning ones cost ten times their work.
AM_TESTS_ENVIRONMENT = \
  NPT_SRCDIR='$(abs_top_srcdir)'; export NPT_SRCDIR; \
  NPT_BUILDDIR='$(abs_top_builddir)'; export NPT_BUILDDIR; \
  NPT_CALIBRATION=off; export NPT_CALIBRATION; \
  OMP_WAIT_POLICY=passive; export OMP_WAIT_POLICY;
LDADD = libnptcore.la $(CMOCKA_LIBS)
# Folders of data only: automake copies a folder from the build tree, too, with what it built there.
EXTRA_DIST += tests/npt_test.h tests/golden/README.md tests/golden/make_golden.py \
  tests/golden/make_draws.py tests/golden/make_nf4.py tests/golden/cases tests/golden/draws \
  tests/golden/models tests/golden/nf4

include $(top_srcdir)/tests/base.mk
include $(top_srcdir)/tests/files.mk
include $(top_srcdir)/tests/text.mk
include $(top_srcdir)/tests/tensor.mk
include $(top_srcdir)/tests/cpu.mk
include $(top_srcdir)/tests/ops.mk
include $(top_srcdir)/tests/model.mk
include $(top_srcdir)/tests/train.mk
include $(top_srcdir)/tests/doctor.mk
include $(top_srcdir)/tests/bench.mk
include $(top_srcdir)/tests/cli.mk
include $(top_srcdir)/tests/fuzz/local.mk
include $(top_srcdir)/tests/checks/local.mk
