# SPDX-License-Identifier: BSD-2-Clause
# npt doctor and npt selftest: they read the plan and observe a run; no rule is written twice.
libnptcore_la_SOURCES += \
  src/doctor/audit.c \
  src/doctor/audit.h \
  src/doctor/casts.c \
  src/doctor/casts.h \
  src/doctor/plan.c \
  src/doctor/plan.h \
  src/doctor/plan_json.c \
  src/doctor/plan_text.c \
  src/doctor/remarks.c \
  src/doctor/remarks.h \
  src/doctor/scan.c \
  src/doctor/would.c \
  src/doctor/would.h
