/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "cli/cli.h"
#include "cli/flags.h"

/* npt backends: what is compiled in, what this CPU has, and where the matmuls of a model go. */

#define AT(field) offsetof(npt_backends_options, field)

static const npt_flag model_flags[] = {
    {"model_name", NPT_FLAG_TEXT, AT(model_name), 0, 0, NULL, "DIR|NAME", "none, no routes",
     "list where each distinct matmul of this model goes, and why the backends before refused"},
    {"tokens", NPT_FLAG_INT64, AT(tokens), 1, 1073741824, NULL, NULL, NULL,
     "tokens of a step, for those matmuls"},
    {"adapter_rank", NPT_FLAG_INT, AT(adapter_rank), 1, 65536, NULL, NULL, NULL,
     "rank of the adapters, for those matmuls"},
    {"calibrate", NPT_FLAG_BOOL, AT(calibrate), 0, 0, NULL, NULL, NULL,
     "first measure which backend is the faster one for each kind of matmul of this model (without "
     "one: of common shapes), and keep that in the user's cache for all later runs"},
    {"seconds", NPT_FLAG_REAL, AT(seconds), 0.001, 86400, NULL, NULL, NULL,
     "of measuring with --calibrate, about"},
    {"json", NPT_FLAG_BOOL, AT(json), 0, 0, NULL, NULL, NULL, "print JSON"},
    {NULL, NPT_FLAG_BOOL, 0, 0, 0, NULL, NULL, NULL, NULL}};

int npt_command_backends(int argc, char **argv)
{
    npt_backends_options options = {.tokens = 2048, .adapter_rank = 16, .seconds = 10};
    npt_flag_set set = {
        .command = "backends",
        .synopsis = "[--model_name DIR] [--calibrate] [FLAG...]",
        .purpose = "Prints the matmul backends and kernels that are compiled in and what this CPU "
                   "has; with a model, also the backend that each matmul of a step goes to.",
        .closing = "A calibration is one file for this CPU, npt and its libraries, and this number "
                   "of threads, in\n$XDG_CACHE_HOME/npt or ~/.cache/npt. NPT_CALIBRATION=off or "
                   "--no_calibration: it is not read.",
        .groups = {{"Model and output", model_flags, &options},
                   {"Precision", npt_precision_flags, &options.precision},
                   {"Computation", npt_compute_flags, &options.compute}},
    };
    const int code = npt_flags_parse(&set, argc, argv);
    if (code >= 0) return code;
    const npt_status status = npt_backends(&options, stdout);
    return npt_cli_finish(set.command, npt_cli_exit_code(set.command, status));
}
