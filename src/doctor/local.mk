# SPDX-License-Identifier: BSD-2-Clause
# npt doctor and npt selftest: they read the plan and observe a run; no rule is written twice.
libnptcore_la_SOURCES += \
  src/doctor/diff.c \
  src/doctor/diff.h \
  src/doctor/diff_json.c \
  src/doctor/diff_read.c \
  src/doctor/diff_text.c \
  src/doctor/explain.c \
  src/doctor/explain.h \
  src/doctor/explain_pattern.c \
  src/doctor/explain_rules.c \
  src/doctor/explain_table.c \
  src/doctor/explain_text.c \
  src/doctor/findings.c \
  src/doctor/flow.c \
  src/doctor/flow.h \
  src/doctor/observe.c \
  src/doctor/probe.c \
  src/doctor/probe.h \
  src/doctor/probe_json.c \
  src/doctor/probe_text.c \
  src/doctor/selftest.c \
  src/doctor/selftest.h \
  src/doctor/selftest_checks.c \
  src/doctor/selftest_steps.c \
  src/doctor/selftest_trial.c \
  src/doctor/selftest_values.c \
  src/doctor/would.c \
  src/doctor/would.h
