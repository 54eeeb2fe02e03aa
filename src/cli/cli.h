/* SPDX-License-Identifier: BSD-2-Clause */
/* The subcommands and what they share. A subcommand gets argv with its own name first and returns
 * the exit code: 0, 1 for a failure, 2 for a wrong request, 128 + signal where it was stopped. */
#ifndef NPT_CLI_CLI_H
#define NPT_CLI_CLI_H

#include "npt.h"

typedef int npt_command_run(int argc, char **argv);

npt_command_run npt_command_pretrain, npt_command_pretrain_safe, npt_command_evaluate,
    npt_command_backends, npt_command_tokenize, npt_command_detokenize, npt_command_make_model,
    npt_command_doctor, npt_command_selftest, npt_command_bench;

/* The name of the program in commands that a person may paste: argv[0]. */
extern const char *const npt_cli_program;
void npt_cli_set_program(const char *argv0);

/* "npt COMMAND: sentence" on standard error; returns 2. */
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
int npt_cli_refuse(const char *command, const char *format, ...);
/* The library's last sentence on standard error where `status` is a failure; its exit code. */
int npt_cli_exit_code(const char *command, npt_status status);
/* Flushes standard output. What could not be written is a failure: returns 1 after a sentence, or
 * `code` where that says failure already or all is well. */
int npt_cli_finish(const char *command, int code);

/* Appends `word` as a POSIX shell reads it back, after a space unless the text is empty. `text`
 * is a heap string or NULL; returns it or its successor, NULL where memory ran out. */
char *npt_cli_append_word(char *text, const char *word);
/* `text` as a JSON string, quotes included; bytes that are not UTF-8 become U+FFFD. */
void npt_cli_print_json_string(FILE *out, const char *text);

/* Calls this for SIGINT and SIGTERM; system calls that they interrupt go on. */
void npt_cli_on_signals(void (*handler)(int number));

#endif
