# SPDX-License-Identifier: BSD-2-Clause
libnptcore_la_SOURCES += \
  src/files/feed.h \
  src/files/feed.c \
  src/files/files.h \
  src/files/files.c \
  src/files/atomic.h \
  src/files/atomic.c \
  src/files/seal.c \
  src/files/datadir.c \
  src/files/hub.h \
  src/files/hub.c \
  src/files/json.h \
  src/files/json.c \
  src/files/safetensors.h \
  src/files/safetensors.c \
  src/files/st_header.h \
  src/files/st_header.c \
  src/files/st_writer.c
