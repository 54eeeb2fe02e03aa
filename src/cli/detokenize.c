/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include <errno.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/flags.h"

/* npt detokenize: rows of ids back to text. */

typedef struct request {
    const char *model_name, *input;
} request;

#define AT(field) offsetof(request, field)

static const npt_flag flags[] = {{"model_name", NPT_FLAG_TEXT, AT(model_name), 0, 0, NULL, "PATH",
                                  "the bundled model", "model directory or a tokenizer.json"},
                                 {"input", NPT_FLAG_TEXT, AT(input), 0, 0, NULL, "PATH",
                                  "standard input",
                                  "file of {\"input_ids\": [...]} lines; - is standard input"},
                                 {NULL, NPT_FLAG_BOOL, 0, 0, 0, NULL, NULL, NULL, NULL}};

static int detokenize(const char *command, const request *wanted)
{
    const bool named = wanted->input != NULL && strcmp(wanted->input, "-") != 0;
    FILE *in = named ? fopen(wanted->input, "rb") : stdin;
    if (in == NULL) {
        npt_cli_refuse(command, "cannot open %s: %s", wanted->input, strerror(errno));
        return 1;
    }
    char *bundled = NULL;
    npt_status status = NPT_OK;
    if (wanted->model_name == NULL) status = npt_data_path("tiny-llama", &bundled);
    if (status == NPT_OK)
        status = npt_detokenize(bundled != NULL ? bundled : wanted->model_name, in, stdout);
    npt_string_free(bundled);
    if (named) fclose(in);
    return npt_cli_finish(command, npt_cli_exit_code(command, status));
}

int npt_command_detokenize(int argc, char **argv)
{
    request wanted = {NULL, NULL};
    npt_flag_set set = {
        .command = "detokenize",
        .synopsis = "[--model_name PATH] [--input PATH]",
        .purpose = "Reads {\"input_ids\": [...]} lines and prints the text of each, a line a row.",
        .groups = {{"Flags", flags, &wanted}},
    };
    const int code = npt_flags_parse(&set, argc, argv);
    return code >= 0 ? code : detokenize(set.command, &wanted);
}
