/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include <locale.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/flags.h"

/* The program's front door: finds the subcommand; help and version are here, because they are
 * about the list of the others. */

static npt_command_run command_version, command_help;

static const struct command {
    const char *name;
    npt_command_run *run;
    const char *summary;
} commands[] = {
    {"pretrain", npt_command_pretrain, "train NPT adapters (phase 1, equivalence pre-training)"},
    {"pretrain-safe", npt_command_pretrain_safe, "the same with cautious defaults"},
    {"evaluate", npt_command_evaluate, "compare the adapted model with the model as it was"},
    {"backends", npt_command_backends, "what computes here, and what a model's matmuls go to"},
    {"bench", npt_command_bench, "measure this build on this machine"},
    {"doctor", npt_command_doctor, "find out what is wrong with a precision, before or after"},
    {"tokenize", npt_command_tokenize, "rows of text to rows of token ids"},
    {"detokenize", npt_command_detokenize, "rows of token ids to text"},
    {"make-model", npt_command_make_model, "write a random model of any shape"},
    {"selftest", npt_command_selftest, "check precision and backends of this build, as TAP"},
    {"version", command_version, "print the version"},
    {"help", command_help, "this page, or the page of a command"},
};
enum { COMMAND_COUNT = sizeof(commands) / sizeof(commands[0]) };

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        if (npt_flags_same_name(name, strlen(name), commands[i].name)) return &commands[i];
    return NULL;
}

static const char *nearest_command(const char *name)
{
    const char *best = commands[0].name;
    for (size_t i = 1; i < COMMAND_COUNT; i++)
        if (npt_flags_distance(name, commands[i].name) < npt_flags_distance(name, best))
            best = commands[i].name;
    return best;
}

static int refuse_command(const char *name)
{
    fprintf(stderr, "npt: there is no command %s; the nearest is %s\n", name,
            nearest_command(name));
    return 2;
}

static void print_overview(FILE *out)
{
    fputs("usage: npt COMMAND [FLAG...]\n\n"
          "Trains NPT adapters on Llama-family checkpoints.\n\nCommands\n",
          out);
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        fprintf(out, "  %-15s %s\n", commands[i].name, commands[i].summary);
    fputs("\nnpt COMMAND --help tells the flags of a command. Exit codes: 0 done, 1 failed, 2 the "
          "request\nis wrong, 128 + signal stopped.\n\nEnvironment\n"
          "  NPT_DATADIR     where the bundled model and text are\n"
          "  NPT_BACKEND     as --backend, for every command\n"
          "  NPT_CALIBRATION=off  measured routes of npt backends --calibrate are not used\n"
          "  NPT_CPU_MAX     highest instruction set to use; only lowers what the CPU has\n"
          "  NPT_VERBOSE=1   tell what was chosen and why the rest was not\n",
          out);
}

static int command_help(int argc, char **argv)
{
    char help_flag[] = "--help";
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        print_overview(stdout);
        return npt_cli_finish("help", 0);
    }
    if (argc > 2)
        return npt_cli_refuse("help", "one command at a time; \"%s\" is too much", argv[2]);
    const struct command *command = find_command(argv[1]);
    if (command == NULL) return refuse_command(argv[1]);
    char *words[] = {argv[1], help_flag, NULL};
    return command->run(2, words);
}

static int command_version(int argc, char **argv)
{
    npt_flag_set set = {.command = "version", .synopsis = "", .purpose = "Prints the version."};
    const int code = npt_flags_parse(&set, argc, argv);
    if (code >= 0) return code;
    printf("npt %s\n", npt_version());
    return npt_cli_finish(set.command, 0);
}

/* A mapped weight file that becomes shorter under a run takes its pages away. */
static void on_bus_error(int number)
{
    static const char sentence[] =
        "npt: a file that is in use (a weight of the model, most likely) became shorter "
        "while it was being read; restore it, and go on with --resume auto\n";
    (void)number;
    if (write(STDERR_FILENO, sentence, sizeof(sentence) - 1) < 0) {
        /* there is nobody to tell */
    }
    _exit(1);
}

int main(int argc, char **argv)
{
    signal(SIGBUS, on_bus_error);
    setlocale(LC_CTYPE, "");  /* numbers stay in the C locale */
    signal(SIGPIPE, SIG_IGN); /* a closed pipe is a failed write, with a sentence */
    if (argc > 0) npt_cli_set_program(argv[0]);
    if (argc < 2) {
        print_overview(stderr);
        return 2;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        print_overview(stdout);
        return npt_cli_finish("help", 0);
    }
    if (strcmp(argv[1], "--version") == 0) return command_version(1, argv + 1);
    if (argv[1][0] == '-')
        return npt_cli_refuse("help", "%s stands where a command is expected; npt help lists them",
                              argv[1]);
    const struct command *command = find_command(argv[1]);
    return command != NULL ? command->run(argc - 1, argv + 1) : refuse_command(argv[1]);
}
