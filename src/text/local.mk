# SPDX-License-Identifier: BSD-2-Clause
libnptcore_la_SOURCES += \
  src/text/tokenizer.h \
  src/text/tokenizer_impl.h \
  src/text/tokenizer.c \
  src/text/tokenizer_table.c \
  src/text/tokenizer_regex.c \
  src/text/tokenizer_steps.c \
  src/text/tokenizer_split.c \
  src/text/tokenizer_bpe.c \
  src/text/tokenizer_added.c \
  src/text/tokenizer_decode.c \
  src/text/utf8.h \
  src/text/utf8.c \
  src/text/dataset.h \
  src/text/dataset.c \
  src/text/dataset_files.h \
  src/text/dataset_files.c \
  src/text/reader.h \
  src/text/reader.c
