# SPDX-License-Identifier: BSD-2-Clause
EXTRA_DIST += tests/cli/lib.sh
dist_check_SCRIPTS += \
  tests/cli/test_flags.sh \
  tests/cli/test_help.sh \
  tests/cli/test_program.sh \
  tests/cli/bad_input.sh
