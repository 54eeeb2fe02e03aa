# SPDX-License-Identifier: BSD-2-Clause
check_PROGRAMS += tests/unit/test_policy.test
tests_unit_test_policy_test_SOURCES = tests/unit/test_policy.c tests/npt_test.h
tests_unit_test_policy_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests
check_PROGRAMS += tests/unit/test_sites.test
tests_unit_test_sites_test_SOURCES = tests/unit/test_sites.c tests/npt_test.h
tests_unit_test_sites_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests
