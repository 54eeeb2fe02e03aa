# SPDX-License-Identifier: BSD-2-Clause
check_PROGRAMS += tests/unit/test_safetensors.test
tests_unit_test_safetensors_test_SOURCES = tests/unit/test_safetensors.c tests/unit/st_file.h \
  tests/unit/temp_dir.h tests/npt_test.h
tests_unit_test_safetensors_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests
check_PROGRAMS += tests/unit/test_st_abuse.test
tests_unit_test_st_abuse_test_SOURCES = tests/unit/test_st_abuse.c tests/unit/st_file.h \
  tests/unit/temp_dir.h tests/npt_test.h
tests_unit_test_st_abuse_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests
check_PROGRAMS += tests/unit/test_st_writer.test
tests_unit_test_st_writer_test_SOURCES = tests/unit/test_st_writer.c tests/unit/temp_dir.h tests/npt_test.h
tests_unit_test_st_writer_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests
check_PROGRAMS += tests/unit/test_files.test
tests_unit_test_files_test_SOURCES = tests/unit/test_files.c tests/unit/temp_dir.h tests/npt_test.h
tests_unit_test_files_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests
check_PROGRAMS += tests/unit/test_json.test
tests_unit_test_json_test_SOURCES = tests/unit/test_json.c tests/unit/temp_dir.h tests/npt_test.h
tests_unit_test_json_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests
check_PROGRAMS += tests/unit/test_datadir.test
tests_unit_test_datadir_test_SOURCES = tests/unit/test_datadir.c tests/unit/temp_dir.h tests/npt_test.h
tests_unit_test_datadir_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests
check_PROGRAMS += tests/unit/test_hub.test
tests_unit_test_hub_test_SOURCES = tests/unit/test_hub.c tests/unit/temp_dir.h tests/npt_test.h
tests_unit_test_hub_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests
# The corpus, without a fuzzer.
check_PROGRAMS += tests/fuzz/replay_safetensors.test
tests_fuzz_replay_safetensors_test_SOURCES = \
  tests/fuzz/replay.c tests/fuzz/fuzz_safetensors.c tests/npt_test.h
tests_fuzz_replay_safetensors_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests \
  -DNPT_CORPUS='"tests/fuzz/corpus/safetensors"'
EXTRA_DIST += \
  tests/fuzz/corpus/safetensors \
  tests/fuzz/safetensors.dict \
  tests/golden/make_safetensors.py \
  tests/golden/safetensors/all.safetensors \
  tests/golden/safetensors/bare.safetensors \
  tests/golden/safetensors/empty.safetensors
