# SPDX-License-Identifier: BSD-2-Clause
# npt doctor and npt selftest: they read the plan and observe a run; no rule is written twice.
libnptcore_la_SOURCES += \
  src/doctor/audit.c \
  src/doctor/audit.h \
  src/doctor/casts.c \
  src/doctor/casts.h \
  src/doctor/diff.c \
  src/doctor/diff.h \
  src/doctor/diff_json.c \
  src/doctor/diff_read.c \
  src/doctor/diff_text.c \
  src/doctor/explain.c \
  src/doctor/explain.h \
  src/doctor/explain_denied.c \
  src/doctor/explain_errors.c \
  src/doctor/explain_symptoms.c \
  src/doctor/explain_pattern.c \
  src/doctor/explain_table.c \
  src/doctor/explain_text.c \
  src/doctor/findings.c \
  src/doctor/flow.c \
  src/doctor/flow.h \
  src/doctor/observe.c \
  src/doctor/plan.c \
  src/doctor/plan.h \
  src/doctor/plan_json.c \
  src/doctor/plan_text.c \
  src/doctor/probe.c \
  src/doctor/probe.h \
  src/doctor/probe_json.c \
  src/doctor/probe_text.c \
  src/doctor/remarks.c \
  src/doctor/remarks.h \
  src/doctor/scan.c \
  src/doctor/selftest.c \
  src/doctor/selftest.h \
  src/doctor/selftest_checks.c \
  src/doctor/selftest_steps.c \
  src/doctor/selftest_trial.c \
  src/doctor/selftest_values.c \
  src/doctor/would.c \
  src/doctor/would.h
