# SPDX-License-Identifier: BSD-2-Clause
libnptcore_la_SOURCES += \
  src/model/adapter.c \
  src/model/adapter.h \
  src/model/adapter_lowrank.c \
  src/model/batch.h \
  src/model/block.c \
  src/model/block.h \
  src/model/byte_tokenizer.c \
  src/model/byte_tokenizer.h \
  src/model/config.c \
  src/model/config.h \
  src/model/make_model.c \
  src/model/mat.c \
  src/model/mat.h \
  src/model/load.c \
  src/model/load.h \
  src/model/model.c \
  src/model/stream.c \
  src/model/model.h \
  src/model/random_nf4.c \
  src/model/random_nf4.h \
  src/model/random_weights.c \
  src/model/random_weights.h \
  src/model/tensors.c \
  src/model/tensors.h
