# SPDX-License-Identifier: BSD-2-Clause
# npt doctor and npt selftest: they read the plan and observe a run; no rule is written twice.
libnptcore_la_SOURCES += \
  src/doctor/explain.h \
  src/doctor/explain.c \
  src/doctor/explain_text.c \
  src/doctor/explain_pattern.c \
  src/doctor/explain_errors.c \
  src/doctor/explain_symptoms.c \
  src/doctor/explain_table.c
