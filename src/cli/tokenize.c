/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include <math.h>

#include "cli/cli.h"
#include "cli/flags.h"

/* npt tokenize: rows of text to rows of ids, so that a run need not tokenize again. */

typedef struct request {
    const char *model_name;
    npt_data_options data;
    bool no_special_tokens;
} request;

#define AT(field) offsetof(request, field)

static const npt_flag flags[] = {
    {"model_name", NPT_FLAG_TEXT, AT(model_name), 0, 0, NULL, "PATH", "the bundled model",
     "model directory or a tokenizer.json"},
    {"dataset_name", NPT_FLAG_TEXT, AT(data.dataset_name), 0, 0, NULL, "PATH", "the bundled text",
     "file, directory or glob pattern: .jsonl with \"text\" or \"input_ids\", else plain text; "
     "also "
     ".gz and .zst"},
    {"dataset_split", NPT_FLAG_TEXT, AT(data.dataset_split), 0, 0, NULL, "NAME", "all files",
     "of a directory: only the files whose names begin with this"},
    {"num_samples", NPT_FLAG_INT64, AT(data.num_samples), 0, INFINITY, NULL, NULL, NULL,
     "only this many rows; 0: all"},
    {"max_length", NPT_FLAG_INT64, AT(data.max_length), 0, 16777216, NULL, NULL, NULL,
     "token ids a row; longer rows are cut; 0: never"},
    {"no_special_tokens", NPT_FLAG_BOOL, AT(no_special_tokens), 0, 0, NULL, NULL, NULL,
     "leave out the tokens that the tokenizer puts around a text"},
    {"strict_data", NPT_FLAG_BOOL, AT(data.strict_data), 0, 0, NULL, NULL, NULL,
     "a bad row is a failure instead of being skipped and counted"},
    {NULL, NPT_FLAG_BOOL, 0, 0, 0, NULL, NULL, NULL, NULL}};

int npt_command_tokenize(int argc, char **argv)
{
    request wanted = {.model_name = NULL};
    char *bundled = NULL;
    npt_flag_set set = {
        .command = "tokenize",
        .synopsis = "[--model_name PATH] [--dataset_name PATH] [FLAG...]",
        .purpose =
            "Prints the rows of a dataset as {\"input_ids\": [...]} lines, which npt pretrain "
            "reads without a tokenizer.",
        .groups = {{"Flags", flags, &wanted}},
    };
    const int code = npt_flags_parse(&set, argc, argv);
    if (code >= 0) return code;
    npt_status status = NPT_OK;
    if (wanted.model_name == NULL) status = npt_data_path("tiny-llama", &bundled);
    if (status == NPT_OK)
        status = npt_tokenize(bundled != NULL ? bundled : wanted.model_name, &wanted.data,
                              wanted.no_special_tokens, stdout);
    npt_string_free(bundled);
    return npt_cli_finish(set.command, npt_cli_exit_code(set.command, status));
}
