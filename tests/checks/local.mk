# SPDX-License-Identifier: BSD-2-Clause
# Checks beside `make check`. None of them needs the network.
checks = $(top_srcdir)/tests/checks
EXTRA_DIST += tests/checks/layers.sh tests/checks/symbols.sh tests/checks/isa-leak.sh \
  tests/checks/style.sh tests/checks/fuzz.sh tests/abi/npt.sym
.PHONY: build-tests check-layers check-symbols check-isa-leak check-style check-valgrind \
  check-isa check-full fuzz bench

# The tests built, none run. One after the other: `all` is a make of its own.
build-tests: all
	$(MAKE) $(AM_MAKEFLAGS) $(check_PROGRAMS)

check-layers:
	@$(SHELL) $(checks)/layers.sh $(top_srcdir)
check-symbols: libnpt.la
	@$(SHELL) $(checks)/symbols.sh $(top_srcdir) $(top_builddir) '$(NM)'
check-isa-leak: libnptcore.la
	@$(SHELL) $(checks)/isa-leak.sh $(top_builddir) '$(NM)'
check-style:
	@$(SHELL) $(checks)/style.sh $(top_srcdir)

# The quick unit tests under valgrind; VALGRIND_SKIP names those that would take minutes.
# Valgrind 3.19 hides AVX-512, so that the kernels of the lower levels run.
VALGRIND = valgrind --quiet --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite
# PCRE2 compiles patterns to machine code, whose reads valgrind cannot follow.
VALGRIND_SKIP = tests/unit/test_tokenizer.test tests/unit/test_tokenizer_fixtures.test \
  tests/unit/test_dataset.test tests/unit/test_doctor_diff.test tests/unit/test_explain.test
VALGRIND_TESTS = $(filter-out $(VALGRIND_SKIP),$(filter tests/unit/%,$(check_PROGRAMS)))
check-valgrind: build-tests
	$(MAKE) $(AM_MAKEFLAGS) check-TESTS TESTS='$(VALGRIND_TESTS)' \
	  TEST_LOG_COMPILER='$(LIBTOOL) --silent --mode=execute $(VALGRIND)'

# The tests of kernels once a level; a level this CPU lacks repeats the one below it.
ISA_TESTS = $(filter tests/kern/% tests/grad/% tests/unit/test_cpu%,$(check_PROGRAMS))
check-isa: build-tests
	for level in reference avx2 avx512 avx512_bf16 avx512_fp16 amx; do \
	  echo "== NPT_CPU_MAX=$$level"; \
	  NPT_CPU_MAX=$$level $(MAKE) $(AM_MAKEFLAGS) check-TESTS TESTS='$(ISA_TESTS)' || exit 1; \
	done

# Everything on this machine, the long cases included (tests look at NPT_FULL).
check-full: check-layers check-symbols check-isa-leak check-style
	NPT_FULL=1 $(MAKE) $(AM_MAKEFLAGS) check
	$(MAKE) $(AM_MAKEFLAGS) check-isa
	$(MAKE) $(AM_MAKEFLAGS) check-valgrind

# FUZZ_SECONDS each; FUZZ='json safetensors' for some of them.
FUZZ_SECONDS = 20
fuzz:
	@FUZZ_SECONDS=$(FUZZ_SECONDS) bash $(checks)/fuzz.sh $(top_srcdir) $(top_builddir) $(FUZZ)

# Measurements on this machine; the areas that have some add prerequisites.
bench:
