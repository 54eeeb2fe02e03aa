/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/doctor.h"
#include "cli/flags.h"

/* npt doctor: its own list of subcommands, whose exit code is the verdict. */

static npt_command_run doctor_explain;

static const struct subcommand {
    const char *name;
    npt_command_run *run;
    const char *summary;
} subcommands[] = {
    {"plan", npt_command_doctor_plan, "every dtype and cast of a run before it, from headers only"},
    {"probe", npt_command_doctor_probe, "one batch, every site observed beside an F32 shadow"},
    {"diff", npt_command_doctor_diff, "two probes: the first site that differs, what follows"},
    {"explain", doctor_explain, "what a pasted error text means, and what to do about it"},
};
enum { SUBCOMMAND_COUNT = sizeof(subcommands) / sizeof(subcommands[0]) };

/* ---- explain ---- */

/* Of longer input the beginning and the end are kept; the library looks at less than that. */
enum { INPUT_BYTES = 4 * 1024 * 1024, INPUT_HEAD = 1024 * 1024, INPUT_TAIL = 2 * 1024 * 1024 };

static char *read_input(size_t *length)
{
    char *text = malloc(INPUT_BYTES);
    size_t used = 0, got;
    if (text == NULL) return NULL;
    while ((got = fread(text + used, 1, INPUT_BYTES - used, stdin)) > 0) {
        used += got;
        if (used < INPUT_BYTES) continue;
        memmove(text + INPUT_HEAD, text + used - INPUT_TAIL, INPUT_TAIL);
        used = INPUT_HEAD + INPUT_TAIL;
    }
    *length = used;
    return text;
}

static char *join_words(const npt_flag_set *set, size_t *length)
{
    size_t bytes = 1;
    for (int i = 0; i < set->positional_count; i++) bytes += strlen(set->positionals[i]) + 1;
    char *text = malloc(bytes), *end = text;
    if (text == NULL) return NULL;
    for (int i = 0; i < set->positional_count; i++) {
        if (i > 0) *end++ = ' ';
        end = stpcpy(end, set->positionals[i]);
    }
    *length = (size_t)(end - text);
    return text;
}

static int explain(const npt_flag_set *set, bool json)
{
    const bool from_input = set->positional_count == 0 ||
                            (set->positional_count == 1 && strcmp(set->positionals[0], "-") == 0);
    if (set->positional_count == 0 && isatty(STDIN_FILENO))
        return npt_cli_refuse(set->command,
                              "there is no text; give it in quotation marks, or on standard input: "
                              "npt doctor explain <log.txt");
    size_t length = 0;
    char *text = from_input ? read_input(&length) : join_words(set, &length);
    npt_verdict verdict = NPT_VERDICT_WARNING;
    if (text == NULL) {
        npt_cli_refuse(set->command, "no memory for the text");
        return 1;
    }
    if (from_input && ferror(stdin)) {
        npt_cli_refuse(set->command, "cannot read standard input: %s", strerror(errno));
        free(text);
        return 1;
    }
    const npt_status status = npt_doctor_explain(text, length, json, stdout, &verdict);
    free(text);
    const int code = npt_cli_exit_code(set->command, status);
    return npt_cli_finish(set->command, code != 0 ? code : (int)verdict);
}

static int doctor_explain(int argc, char **argv)
{
    static const npt_flag flags[] = {
        {"json", NPT_FLAG_BOOL, 0, 0, 0, NULL, NULL, NULL, "print JSON, npt-doctor-explain/1"},
        {NULL, NPT_FLAG_BOOL, 0, 0, 0, NULL, NULL, NULL, NULL}};
    bool json = false;
    npt_flag_set set = {
        .command = "doctor explain",
        .synopsis = "[--json] [TEXT... | -]",
        .purpose = "Says what a pasted error, traceback or piece of a log means where it is one of "
                   "the dtype and precision failures that people report about PyTorch training: "
                   "the cause, where it comes from, what npt does instead and which flag to use. A "
                   "description in plain words will do. Without TEXT, or for -, standard input is "
                   "read.",
        .closing = "Exit codes: 0 recognised, 1 not recognised, which is said, 2 the request is "
                   "wrong.",
        .groups = {{"Flags", flags, &json}},
        .positionals_wanted = NPT_POSITIONALS_MAX,
    };
    const int code = npt_flags_parse(&set, argc, argv);
    return code >= 0 ? code : explain(&set, json);
}

/* ---- The list ---- */

static void print_overview(FILE *out)
{
    fputs("usage: npt doctor SUBCOMMAND [FLAG...]\n\n"
          "Finds out what is wrong with a precision, before a run or after it.\n\nSubcommands\n",
          out);
    for (size_t i = 0; i < SUBCOMMAND_COUNT; i++)
        fprintf(out, "  %-15s %s\n", subcommands[i].name, subcommands[i].summary);
    fputs(
        "\nnpt doctor SUBCOMMAND --help tells its flags. Exit codes: 0 fine, 1 a warning, 2 would "
        "fail\nor the request is wrong, 3 values that are not finite, or lost.\n",
        out);
}

static const char *nearest_subcommand(const char *name)
{
    const char *best = subcommands[0].name;
    for (size_t i = 1; i < SUBCOMMAND_COUNT; i++)
        if (npt_flags_distance(name, subcommands[i].name) < npt_flags_distance(name, best))
            best = subcommands[i].name;
    return best;
}

int npt_command_doctor(int argc, char **argv)
{
    if (argc < 2) {
        print_overview(stderr);
        return 2;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        print_overview(stdout);
        return npt_cli_finish("doctor", 0);
    }
    for (size_t i = 0; i < SUBCOMMAND_COUNT; i++)
        if (npt_flags_same_name(argv[1], strlen(argv[1]), subcommands[i].name))
            return subcommands[i].run(argc - 1, argv + 1);
    return npt_cli_refuse("doctor", "there is no subcommand %s; the nearest is %s", argv[1],
                          nearest_subcommand(argv[1]));
}
