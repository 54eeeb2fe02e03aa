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
tests_unit_test_st_writer_test_SOURCES = tests/unit/test_st_writer.c \
  tests/unit/temp_dir.h tests/npt_test.h
tests_unit_test_st_writer_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests
check_PROGRAMS += tests/unit/test_files.test
tests_unit_test_files_test_SOURCES = tests/unit/test_files.c \
  tests/unit/temp_dir.h tests/npt_test.h
tests_unit_test_files_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests
check_PROGRAMS += tests/unit/test_json.test
tests_unit_test_json_test_SOURCES = tests/unit/test_json.c \
  tests/unit/temp_dir.h tests/npt_test.h
tests_unit_test_json_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests
check_PROGRAMS += tests/unit/test_datadir.test
tests_unit_test_datadir_test_SOURCES = tests/unit/test_datadir.c \
  tests/unit/temp_dir.h tests/npt_test.h
tests_unit_test_datadir_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests
check_PROGRAMS += tests/unit/test_hub.test
tests_unit_test_hub_test_SOURCES = tests/unit/test_hub.c \
  tests/unit/temp_dir.h tests/npt_test.h
tests_unit_test_hub_test_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests
check_PROGRAMS += tests/fuzz/fuzz_safetensors.test
tests_fuzz_fuzz_safetensors_test_SOURCES = tests/fuzz/fuzz_safetensors.c tests/fuzz/driver.c
EXTRA_DIST += \
  tests/golden/make_safetensors.py \
  tests/golden/safetensors/all.safetensors \
  tests/golden/safetensors/bare.safetensors \
  tests/golden/safetensors/empty.safetensors
check_PROGRAMS += tests/fuzz/fuzz_manifest.test
tests_fuzz_fuzz_manifest_test_SOURCES = tests/fuzz/fuzz_manifest.c tests/fuzz/driver.c
