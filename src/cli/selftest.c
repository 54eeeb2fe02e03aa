/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include <signal.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/flags.h"

/* npt selftest: whether this build computes as it should on this machine. A signal ends it between
 * two backends, so that the temporary directory is removed. */

static volatile sig_atomic_t stopped_by;

static void stop(int number)
{
    stopped_by = number;
    npt_request_stop(number);
}

int npt_command_selftest(int argc, char **argv)
{
    npt_compute_options options = {0};
    npt_flag_set set = {
        .command = "selftest",
        .synopsis = "[FLAG...]",
        .purpose = "Checks the precision policy, the casts and a training step in every precision "
                   "on every backend present, with a small random model in a temporary directory "
                   "(in $TMPDIR, else /tmp) that is removed afterwards. Prints TAP; the exit code "
                   "is 0 where every case passed, 1 where one failed.",
        .groups = {{"Computation", npt_compute_flags, &options}},
    };
    const int code = npt_flags_parse(&set, argc, argv);
    if (code >= 0) return code;
    int failed = 0;
    npt_cli_on_signals(stop);
    const npt_status status = npt_selftest(&options, stdout, &failed);
    const int result = npt_cli_exit_code(set.command, status);
    if (status == NPT_E_INTERRUPTED) return 128 + (int)stopped_by;
    return npt_cli_finish(set.command, result == 0 && failed > 0 ? 1 : result);
}
