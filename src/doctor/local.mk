# SPDX-License-Identifier: BSD-2-Clause
# npt doctor and npt selftest: they read the plan and observe a run; no rule is written twice.
libnptcore_la_SOURCES += \
  src/doctor/selftest.c \
  src/doctor/selftest.h \
  src/doctor/selftest_checks.c \
  src/doctor/selftest_steps.c \
  src/doctor/selftest_trial.c \
  src/doctor/selftest_values.c \
  src/doctor/would.c \
  src/doctor/would.h
