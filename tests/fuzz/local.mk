# SPDX-License-Identifier: BSD-2-Clause
# A fuzz target is tests/fuzz/fuzz_NAME.c with LLVMFuzzerTestOneInput(); `make fuzz` runs it with
# libFuzzer, `make check` replays tests/fuzz/corpus/NAME/ through it with driver.c:
#   check_PROGRAMS += tests/fuzz/fuzz_NAME.test
#   tests_fuzz_fuzz_NAME_test_SOURCES = tests/fuzz/fuzz_NAME.c tests/fuzz/driver.c
EXTRA_DIST += tests/fuzz/corpus tests/fuzz/driver.c
