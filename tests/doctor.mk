# SPDX-License-Identifier: BSD-2-Clause

# What other programs do with the same choice; live where TORCH_PYTHON names a Python with PyTorch.
check_PROGRAMS += tests/unit/test_would.test
tests_unit_test_would_test_SOURCES = tests/unit/test_would.c tests/npt_test.h
tests_unit_test_would_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests
dist_check_SCRIPTS += tests/golden/test_would_live.sh
EXTRA_DIST += tests/golden/make_would.py tests/golden/would.json
