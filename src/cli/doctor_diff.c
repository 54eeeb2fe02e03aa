/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "cli/doctor.h"
#include "cli/flags.h"

/* npt doctor diff: two files, and whether their probes are of the same run. */

#define AT(field) offsetof(npt_doctor_options, field)

static const npt_flag flags[] = {
    {"json", NPT_FLAG_BOOL, AT(json), 0, 0, NULL, NULL, NULL, "print JSON, npt-doctor-diff/1"},
    {"all", NPT_FLAG_BOOL, AT(all), 0, 0, NULL, NULL, NULL,
     "show every site, in the order of execution"},
    {NULL, NPT_FLAG_BOOL, 0, 0, 0, NULL, NULL, NULL, NULL}};

static int diff(const npt_flag_set *set, const npt_doctor_options *doctor)
{
    npt_verdict verdict = NPT_VERDICT_FINE;
    if (set->positional_count != 2)
        return npt_cli_refuse(set->command,
                              "two files are compared, and %d are named; npt doctor probe --json "
                              ">A.json makes one",
                              set->positional_count);
    const npt_status status =
        npt_doctor_diff(set->positionals[0], set->positionals[1], doctor, stdout, &verdict);
    const int code = npt_cli_exit_code(set->command, status);
    return npt_cli_finish(set->command, code != 0 ? code : (int)verdict);
}

int npt_command_doctor_diff(int argc, char **argv)
{
    npt_doctor_options doctor = {0};
    npt_flag_set set = {
        .command = "doctor diff",
        .synopsis = "[--json] [--all] A.json B.json",
        .purpose =
            "Compares two probes (npt doctor probe --json) of the same model, adapter and batch "
            "that were made by two backends, precisions, versions or machines: the first site that "
            "differs by more than rounding explains, with the values of both sides, what follows "
            "from it, and what differs besides.",
        .closing = "Exit codes: 0 nothing differs, 1 something does, 3 values that are finite on "
                   "one side alone;\n1 also where a file cannot be read, 2 where the two cannot be "
                   "compared.",
        .groups = {{"Flags", flags, &doctor}},
        .positionals_wanted = 2,
    };
    const int code = npt_flags_parse(&set, argc, argv);
    return code >= 0 ? code : diff(&set, &doctor);
}
