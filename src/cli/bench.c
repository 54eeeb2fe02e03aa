/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include <signal.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/flags.h"

/* npt bench: how fast this build is on this machine. A signal ends it between two measurements, so
 * that the temporary models are removed. */

#define AT(field) offsetof(npt_bench_options, field)

static const npt_flag flags[] = {
    {"shape", NPT_FLAG_TEXT, AT(shapes), 0, 0, NULL, "HxI[xL],...",
     "4096x14336 for matmuls, 1024x2816x8 for steps",
     "hidden size x MLP size x layers (8 where a step needs them and none are given)"},
    {"tokens", NPT_FLAG_TEXT, AT(tokens), 0, 0, NULL, "M,...",
     "1,16,128,512 for matmuls, 512 for steps",
     "tokens of a matmul; the last of them is the length of a step's rows"},
    {"dtypes", NPT_FLAG_TEXT, AT(dtypes), 0, 0, NULL, "NAME,...", "all",
     "of matmuls: f32, bf16, f16, nf4 (with F32 activations), f32xbf16, f32xf16"},
    {"recipes", NPT_FLAG_TEXT, AT(recipes), 0, 0, NULL, "NAME,...", "the first three",
     "of steps: recipe-fp16, recipe-quantized, recipe-safe (8 rows a step); fp32, bf16, fp16, nf4 "
     "(one)"},
    {"distill", NPT_FLAG_TEXT, AT(distill), 0, 0, NULL, "MODE,...", "end-to-end,layerwise",
     "of steps"},
    {"seconds", NPT_FLAG_REAL, AT(seconds), 0, 3600, NULL, NULL, "1; 0.002 with --quick",
     "of measuring for one figure, about; steps get five times as much, and three steps at least"},
    {"quick", NPT_FLAG_BOOL, AT(quick), 0, 0, NULL, NULL, NULL,
     "small shapes and little time: shows that everything runs, not how fast"},
    {"json", NPT_FLAG_BOOL, AT(json), 0, 0, NULL, NULL, NULL,
     "print JSON (schema: doc/measurements.md)"},
    {"plot", NPT_FLAG_TEXT, AT(plot), 0, 0, NULL, "FILE.svg|FILE.png", NULL,
     "also draw the roofline of the matmuls; needs gnuplot"},
    {NULL, NPT_FLAG_BOOL, 0, 0, 0, NULL, NULL, NULL, NULL}};

static volatile sig_atomic_t stopped_by;

static void stop(int number)
{
    stopped_by = number;
    npt_request_stop(number);
}

int npt_command_bench(int argc, char **argv)
{
    npt_bench_options options = {0};
    npt_flag_set set = {
        .command = "bench",
        .synopsis = "[FLAG...] [matmul|step|start|memory ...]",
        .purpose =
            "Measures this build on this machine: matmuls by every backend beside what the machine "
            "does at best (matmul); whole training steps on random models, beside the sum of their "
            "matmuls (step); the time to the first step (start); the memory of a step (memory). "
            "Without a topic: all. What is compared takes turns in one run; every figure is a "
            "median with the slowest and the fastest repetition.",
        .groups = {{"What, and how long", flags, &options},
                   {"Computation", npt_compute_flags, &options.compute}},
        .closing = "With --threads 1 matmuls are measured in processor time, which other work "
                   "disturbs less.\nModels are written to $TMPDIR (else /tmp) and removed again.",
        .positionals_wanted = 4,
    };
    const int code = npt_flags_parse(&set, argc, argv);
    if (code >= 0) return code;
    options.topics = set.positionals;
    options.topic_count = set.positional_count;
    npt_cli_on_signals(stop);
    const npt_status status = npt_bench(&options, stdout);
    const int result = npt_cli_exit_code(set.command, status);
    if (status == NPT_E_INTERRUPTED) return 128 + (int)stopped_by;
    return npt_cli_finish(set.command, result);
}
