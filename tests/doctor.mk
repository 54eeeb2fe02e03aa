# SPDX-License-Identifier: BSD-2-Clause
check_PROGRAMS += tests/unit/test_selftest.test
tests_unit_test_selftest_test_SOURCES = tests/unit/test_selftest.c \
  tests/unit/temp_dir.h tests/npt_test.h
tests_unit_test_selftest_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests
dist_check_SCRIPTS += tests/cli/test_selftest.sh

# What other programs do with the same choice; live where TORCH_PYTHON names a Python with PyTorch.
check_PROGRAMS += tests/unit/test_would.test
tests_unit_test_would_test_SOURCES = tests/unit/test_would.c tests/npt_test.h
tests_unit_test_would_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests
dist_check_SCRIPTS += tests/golden/test_would_live.sh
EXTRA_DIST += tests/golden/make_would.py tests/golden/would.json

# The probe, on small models that others made.
check_PROGRAMS += tests/doctor/test_seeded_faults.test
tests_doctor_test_seeded_faults_test_SOURCES = tests/doctor/test_seeded_faults.c \
  tests/unit/temp_dir.h $(golden_case)
tests_doctor_test_seeded_faults_test_CPPFLAGS = $(golden_flags)

# The plan, beside runs that are really set up, and on checkpoints broken on purpose.
check_PROGRAMS += tests/unit/test_doctor_plan.test
tests_unit_test_doctor_plan_test_SOURCES = tests/unit/test_doctor_plan.c \
  tests/unit/doctor_plan.h tests/npt_test.h
tests_unit_test_doctor_plan_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests
check_PROGRAMS += tests/unit/test_doctor_audit.test
tests_unit_test_doctor_audit_test_SOURCES = tests/unit/test_doctor_audit.c \
  tests/unit/doctor_plan.h tests/unit/temp_dir.h tests/npt_test.h
tests_unit_test_doctor_audit_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests
check_PROGRAMS += tests/unit/test_doctor_untouched.test
tests_unit_test_doctor_untouched_test_SOURCES = tests/unit/test_doctor_untouched.c \
  tests/unit/doctor_plan.h tests/unit/temp_dir.h tests/npt_test.h
tests_unit_test_doctor_untouched_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests
dist_check_SCRIPTS += tests/cli/test_doctor_plan.sh

# What a pasted error means.
check_PROGRAMS += tests/unit/test_explain.test
tests_unit_test_explain_test_SOURCES = tests/unit/test_explain.c tests/npt_test.h
EXTRA_DIST += tests/explain/known.txt tests/explain/unrelated.txt
check_PROGRAMS += tests/fuzz/fuzz_explain.test
tests_fuzz_fuzz_explain_test_SOURCES = tests/fuzz/fuzz_explain.c tests/fuzz/driver.c
dist_check_SCRIPTS += tests/cli/test_explain.sh
check_PROGRAMS += tests/doctor/test_equal_inputs.test
tests_doctor_test_equal_inputs_test_SOURCES = tests/doctor/test_equal_inputs.c $(golden_case)
tests_doctor_test_equal_inputs_test_CPPFLAGS = $(golden_flags)
check_PROGRAMS += tests/unit/test_digest.test
tests_unit_test_digest_test_SOURCES = tests/unit/test_digest.c tests/npt_test.h
tests_unit_test_digest_test_CPPFLAGS = $(golden_flags)
check_PROGRAMS += tests/doctor/test_probe.test
tests_doctor_test_probe_test_SOURCES = tests/doctor/test_probe.c tests/unit/temp_dir.h \
  $(golden_case)
tests_doctor_test_probe_test_CPPFLAGS = $(golden_flags)
dist_check_SCRIPTS += tests/cli/test_doctor_probe.sh

# Two probes beside each other.
check_PROGRAMS += tests/unit/test_doctor_diff.test tests/fuzz/fuzz_probe_json.test
tests_unit_test_doctor_diff_test_SOURCES = tests/unit/test_doctor_diff.c \
  tests/unit/temp_dir.h tests/npt_test.h
tests_unit_test_doctor_diff_test_CPPFLAGS = $(golden_flags)
tests_fuzz_fuzz_probe_json_test_SOURCES = tests/fuzz/fuzz_probe_json.c tests/fuzz/driver.c
dist_check_SCRIPTS += tests/cli/test_doctor_diff.sh
dist_check_SCRIPTS += tests/cli/test_readme.sh
