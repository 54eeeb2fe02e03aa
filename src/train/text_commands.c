/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "npt.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "files/files.h"
#include "files/hub.h"
#include "text/dataset.h"
#include "text/tokenizer.h"
#include "train/data_path.h"

/* Text to ids and back: a model's name becomes a tokenizer, text/ does the work. */

/* Not what a Hub name looks like, so that what is not there is told as a missing file. */
static bool looks_like_path(const char *name)
{
    const size_t length = strlen(name);
    return name[0] == '/' || name[0] == '.' ||
           (length > 5 && strcmp(name + length - 5, ".json") == 0);
}

/* A file is a tokenizer.json; all else is a model's directory or Hub name. */
static npt_status open_tokenizer(npt_tokenizer **tokenizer, const char *name)
{
    char *directory = NULL;
    if (name == NULL || name[0] == '\0')
        return npt_fail(NPT_E_USAGE, "--model_name is missing: a model or a tokenizer.json");
    if (npt_path_exists(name) ? !npt_path_is_directory(name) : looks_like_path(name))
        return npt_tokenizer_open(tokenizer, name);
    NPT_TRY(npt_hub_resolve(name, &directory));
    npt_status status = npt_tokenizer_open(tokenizer, directory);
    npt_free(directory);
    return status;
}

/* ---- tokenize ---- */

npt_status npt_tokenize(const char *model_name, const npt_data_options *data,
                        bool no_special_tokens, FILE *out)
{
    npt_tokenizer *tokenizer = NULL;
    npt_dataset *dataset = NULL;
    char *path = NULL;
    npt_status status = open_tokenizer(&tokenizer, model_name);
    if (status != NPT_OK) return status;
    NPT_TRY_GOTO(status, out, npt_data_options_path(data, "train.jsonl", &path));
    const npt_dataset_options options = {.path = path,
                                         .tokenizer = tokenizer,
                                         .vocab_size = npt_tokenizer_size(tokenizer),
                                         .max_length = data->max_length,
                                         .num_samples = data->num_samples,
                                         .no_special_tokens = no_special_tokens,
                                         .strict = data->strict_data};
    NPT_TRY_GOTO(status, out, npt_dataset_open(&dataset, &options));
    NPT_TRY_GOTO(status, out, npt_dataset_tokenize(dataset, out));
    if (npt_dataset_bad_rows(dataset) > 0)
        npt_log(NPT_LOG_WARNING, "%" PRId64 " rows were bad and left out",
                npt_dataset_bad_rows(dataset));
out:
    npt_dataset_close(dataset);
    npt_tokenizer_close(tokenizer);
    npt_free(path);
    return status;
}

npt_status npt_detokenize(const char *model_name, FILE *in, FILE *out)
{
    npt_tokenizer *tokenizer = NULL;
    NPT_TRY(open_tokenizer(&tokenizer, model_name));
    npt_status status = npt_detokenize_stream(tokenizer, in, out);
    npt_tokenizer_close(tokenizer);
    return status;
}
