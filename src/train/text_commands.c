/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "npt.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "files/files.h"
#include "files/hub.h"
#include "files/json.h"
#include "text/dataset.h"
#include "text/tokenizer.h"
#include "train/data_path.h"

/* Text to ids and back, row by row: tokenizer and dataset do the work. What goes out is one line a
 * row; the stream is checked once, at the end, as it keeps its error. */

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

static npt_status check_written(FILE *out)
{
    errno = 0;
    if (fflush(out) == 0 && !ferror(out)) return NPT_OK;
    return npt_fail(NPT_E_IO, "cannot write the output: %s",
                    errno != 0 ? strerror(errno) : "the stream reports an error");
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

/* ---- detokenize ---- */

/* A row stays a line: line ends inside it are written as \n and \r. */
static void put_line(FILE *out, const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (text[i] == '\n')
            fputs("\\n", out);
        else if (text[i] == '\r')
            fputs("\\r", out);
        else
            putc(text[i], out);
    }
    putc('\n', out);
}

static npt_status parse_ids(const char *line, size_t length, npt_ids *ids)
{
    json_t *root = NULL;
    NPT_TRY(npt_json_parse(line, length, 0, "the row", &root));
    const json_t *list = json_object_get(root, "input_ids");
    npt_status status = NPT_OK;
    ids->count = 0;
    if (!json_is_array(list)) status = npt_fail(NPT_E_DATA, "there is no list \"input_ids\"");
    for (size_t i = 0; status == NPT_OK && i < json_array_size(list); i++) {
        const json_t *id = json_array_get(list, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) > INT32_MAX)
            status = npt_fail(NPT_E_DATA, "entry %zu of \"input_ids\" is no token id", i);
        else
            status = npt_ids_push(ids, (int32_t)json_integer_value(id));
    }
    json_decref(root);
    return status;
}

static npt_status detokenize_row(npt_tokenizer *tokenizer, const char *line, size_t length,
                                 npt_ids *ids, FILE *out)
{
    char *text = NULL;
    size_t bytes = 0;
    NPT_TRY(parse_ids(line, length, ids));
    NPT_TRY(npt_tokenizer_decode(tokenizer, ids->data, ids->count, true, &text, &bytes));
    put_line(out, text, bytes);
    npt_free(text);
    return NPT_OK;
}

static npt_status detokenize_rows(npt_tokenizer *tokenizer, FILE *in, FILE *out)
{
    npt_status status = NPT_OK;
    npt_ids ids = {0};
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    for (int64_t number = 1; status == NPT_OK && (length = getline(&line, &room, in)) >= 0;
         number++) {
        if (strspn(line, " \t\r\n") == (size_t)length) continue;
        status = detokenize_row(tokenizer, line, (size_t)length, &ids, out);
        if (status == NPT_E_FORMAT) status = NPT_E_DATA;
        if (status != NPT_OK) status = npt_fail_in(status, "line %" PRId64, number);
    }
    if (status == NPT_OK && ferror(in))
        status = npt_fail(NPT_E_IO, "cannot read the rows: %s", strerror(errno));
    npt_ids_fini(&ids);
    free(line);
    return status;
}

npt_status npt_detokenize(const char *model_name, FILE *in, FILE *out)
{
    npt_tokenizer *tokenizer = NULL;
    NPT_TRY(open_tokenizer(&tokenizer, model_name));
    npt_status status = detokenize_rows(tokenizer, in, out);
    if (status == NPT_OK) status = check_written(out);
    npt_tokenizer_close(tokenizer);
    return status;
}
