/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "text/dataset.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "files/json.h"
#include "text/dataset_files.h"
#include "text/reader.h"
#include "text/tokenizer_impl.h"
#include "text/utf8.h"

/* `position` always says where the next line starts; the reader, opened when a line is wanted,
 * agrees with it. So seeking is setting the position and closing the reader. */

enum { LOGGED_ROWS = 10 };
#define LINE_LIMIT ((size_t)256 << 20)

struct npt_dataset {
    npt_dataset_options options; /* .path is our copy */
    npt_files files;
    npt_reader *reader; /* of file position.file, or NULL */
    npt_dataset_position position;
    int64_t bad_rows;
    int64_t logged;
    int64_t counted; /* -1: not yet */
};

npt_status npt_dataset_open(npt_dataset **dataset, const npt_dataset_options *options)
{
    npt_dataset *d = npt_alloc(1, sizeof(*d));
    npt_status status = NPT_E_NOMEM;

    if (d == NULL) return NPT_E_NOMEM;
    d->options = *options;
    d->options.path = npt_strdup(options->path);
    d->counted = -1;
    if (d->options.path == NULL) goto out;
    NPT_TRY_GOTO(status, out, npt_files_find(&d->files, options->path));
    for (size_t i = 0; i < d->files.count; i++) {
        npt_reader *reader = NULL; /* unreadable ones are named now, not hours later */
        NPT_TRY_GOTO(status, out, npt_reader_open(&reader, d->files.data[i].path, LINE_LIMIT));
        npt_reader_close(reader);
    }
    *dataset = d;
    return NPT_OK;
out:
    npt_dataset_close(d);
    return status;
}

/* ---- One row --------------------------------------------------------------------------------- */

static bool is_blank(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (strchr(" \t\r\v\f", text[i]) == NULL || text[i] == '\0') return false;
    return true;
}

/* {"input_ids": [1, 2, …]} */
static npt_status read_ids(const json_t *list, npt_ids *ids)
{
    const json_t *item;
    size_t at;

    if (!json_is_array(list)) return npt_fail(NPT_E_DATA, "\"input_ids\" is not a list");
    json_array_foreach(list, at, item)
    {
        json_int_t id = json_is_integer(item) ? json_integer_value(item) : -1;
        if (id < 0 || id > INT32_MAX)
            return npt_fail(NPT_E_DATA, "\"input_ids\"[%zu] is not an id", at);
        NPT_TRY(npt_ids_push(ids, (int32_t)id));
    }
    return NPT_OK;
}

static npt_status encode(npt_dataset *d, const char *text, size_t length, npt_ids *ids)
{
    if (d->options.tokenizer == NULL)
        return npt_fail(NPT_E_UNSUPPORTED,
                        "%s: its rows are text and the model has no tokenizer.json; give rows with "
                        "\"input_ids\"",
                        d->files.data[d->position.file].path);
    return npt_tokenizer_encode(d->options.tokenizer, text, length, !d->options.no_special_tokens,
                                ids);
}

static npt_status read_object(npt_dataset *d, const json_t *row, npt_ids *ids)
{
    const json_t *list = json_object_get(row, "input_ids"), *text = json_object_get(row, "text");

    if (list != NULL && !json_is_null(list)) return read_ids(list, ids);
    if (json_is_string(text))
        return encode(d, json_string_value(text), json_string_length(text), ids);
    if (text != NULL) return npt_fail(NPT_E_DATA, "\"text\" is not a string");
    if (json_object_get(row, "messages") != NULL)
        return npt_fail(NPT_E_DATA, "it has \"messages\", to which npt applies no chat template; "
                                    "render them to \"text\" first");
    return npt_fail(NPT_E_DATA, "it has neither \"input_ids\" nor \"text\"");
}

static npt_status read_row(npt_dataset *d, const npt_line *line, npt_ids *ids)
{
    json_t *row = NULL;
    npt_status status;

    if (line->too_long)
        return npt_fail(NPT_E_DATA, "the line has more than %zu MiB", LINE_LIMIT >> 20);
    if (!d->files.data[d->position.file].json) return encode(d, line->text, line->length, ids);
    NPT_TRY(npt_json_parse(line->text, line->length, JSON_ALLOW_NUL, "the row", &row));
    status = read_object(d, row, ids);
    json_decref(row);
    return status;
}

static npt_status check_ids(const npt_dataset *d, npt_ids *ids)
{
    if (ids->count == 0) return npt_fail(NPT_E_DATA, "it has no ids");
    for (size_t i = 0; d->options.vocab_size > 0 && i < ids->count; i++)
        if (ids->data[i] >= d->options.vocab_size)
            return npt_fail(NPT_E_DATA, "id %d (number %zu) is outside the vocabulary of %lld",
                            (int)ids->data[i], i, (long long)d->options.vocab_size);
    if (d->options.max_length > 0 && (uint64_t)ids->count > (uint64_t)d->options.max_length)
        ids->count = (size_t)d->options.max_length;
    return NPT_OK;
}

/* Counts and logs it; with `strict`, ends the run. */
static npt_status bad_row(npt_dataset *d)
{
    const char *path = d->files.data[d->position.file].path;
    long long line = (long long)d->position.line;

    d->bad_rows++;
    if (d->options.strict) return npt_fail_in(NPT_E_DATA, "%s:%lld: bad row", path, line);
    if (d->logged < LOGGED_ROWS)
        npt_log(NPT_LOG_WARNING, "%s:%lld: row skipped: %s", path, line, npt_error_message());
    else if (d->logged == LOGGED_ROWS)
        npt_log(NPT_LOG_WARNING, "more rows skipped; only the first %d are listed", LOGGED_ROWS);
    d->logged++;
    return NPT_OK;
}

/* ---- Rows ------------------------------------------------------------------------------------ */

static void close_reader(npt_dataset *d)
{
    npt_reader_close(d->reader);
    d->reader = NULL;
}

static npt_status open_reader(npt_dataset *d)
{
    npt_status status;

    if (d->reader != NULL) return NPT_OK;
    NPT_TRY(npt_reader_open(&d->reader, d->files.data[d->position.file].path, LINE_LIMIT));
    status = npt_reader_skip(d->reader, d->position.byte_offset);
    if (status != NPT_OK) close_reader(d);
    return status;
}

static bool at_last_file(const npt_dataset *d)
{
    return d->position.file >= (int64_t)d->files.count;
}

/* The next line that is not blank; line->end only after the last file. */
static npt_status next_line(npt_dataset *d, npt_line *line)
{
    *line = (npt_line){.end = true};
    while (!at_last_file(d)) {
        bool first = d->position.byte_offset == 0;
        NPT_TRY(open_reader(d));
        NPT_TRY(npt_reader_line(d->reader, line));
        if (line->end) {
            close_reader(d);
            d->position.file++;
            d->position.byte_offset = d->position.line = 0;
            continue;
        }
        d->position.byte_offset = npt_reader_tell(d->reader);
        d->position.line++;
        if (line->too_long) return NPT_OK;
        if (first && line->length >= 3 && memcmp(line->text, "\xEF\xBB\xBF", 3) == 0) {
            line->text += 3;
            line->length -= 3;
        }
        if (!is_blank(line->text, line->length)) return NPT_OK;
    }
    return NPT_OK;
}

npt_status npt_dataset_next(npt_dataset *d, npt_ids *ids, bool *end)
{
    npt_line line;

    for (;;) {
        npt_status status;
        ids->count = 0;
        *end = d->options.num_samples > 0 && d->position.row >= d->options.num_samples;
        if (*end) return NPT_OK;
        NPT_TRY(next_line(d, &line));
        *end = line.end;
        if (line.end) return NPT_OK;
        status = read_row(d, &line, ids);
        if (status == NPT_OK) status = check_ids(d, ids);
        if (status == NPT_OK) break;
        ids->count = 0;
        if (status != NPT_E_DATA && status != NPT_E_FORMAT) return status;
        NPT_TRY(bad_row(d));
    }
    d->position.row++;
    return NPT_OK;
}

npt_status npt_dataset_rewind(npt_dataset *d)
{
    close_reader(d);
    d->position = (npt_dataset_position){0};
    d->bad_rows = 0;
    return NPT_OK;
}

npt_dataset_position npt_dataset_tell(const npt_dataset *d)
{
    return d->position;
}

npt_status npt_dataset_seek(npt_dataset *d, npt_dataset_position position)
{
    npt_dataset_position before = d->position;
    npt_status status = NPT_OK;

    if (position.file < 0 || position.file > (int64_t)d->files.count || position.byte_offset < 0 ||
        position.line < 0 || position.row < 0 ||
        (position.file == (int64_t)d->files.count && position.byte_offset > 0))
        return npt_fail(NPT_E_DATA,
                        "%s: the position to go on from (file %lld, byte %lld) is not in this "
                        "dataset of %zu files",
                        d->options.path, (long long)position.file, (long long)position.byte_offset,
                        d->files.count);
    close_reader(d);
    d->position = position;
    if (!at_last_file(d)) status = open_reader(d);
    if (status != NPT_OK) d->position = before;
    return status;
}

/* The pass is silent about bad rows (the epoch itself will name them) unless it has to stop. */
npt_status npt_dataset_count(npt_dataset *d, int64_t *rows)
{
    npt_dataset_position before = d->position;
    int64_t bad_rows = d->bad_rows, logged = d->logged;
    npt_ids ids = {0};
    npt_status status = NPT_OK;
    bool end = false;

    if (d->counted < 0) {
        npt_dataset_rewind(d);
        d->logged = LOGGED_ROWS + 1;
        while (status == NPT_OK && !end) status = npt_dataset_next(d, &ids, &end);
        npt_ids_fini(&ids);
        if (status == NPT_OK) d->counted = d->position.row;
        close_reader(d);
        d->position = before;
        d->bad_rows = bad_rows;
        d->logged = logged;
        NPT_TRY(status);
    }
    *rows = d->counted;
    return NPT_OK;
}

const char *npt_dataset_path(const npt_dataset *dataset)
{
    return dataset->options.path;
}

int64_t npt_dataset_bad_rows(const npt_dataset *d)
{
    return d->bad_rows;
}

void npt_dataset_close(npt_dataset *d)
{
    if (d == NULL) return;
    close_reader(d);
    npt_files_fini(&d->files);
    npt_free((char *)d->options.path);
    npt_free(d);
}

/* ---- Whole datasets -------------------------------------------------------------------------- */

static void write_ids(const npt_ids *ids, FILE *out)
{
    fputs("{\"input_ids\":[", out);
    for (size_t i = 0; i < ids->count; i++)
        fprintf(out, i == 0 ? "%" PRId32 : ",%" PRId32, ids->data[i]);
    fputs("]}\n", out);
}

static npt_status check_written(FILE *out)
{
    errno = 0;
    if (fflush(out) == 0 && !ferror(out)) return NPT_OK;
    return npt_fail(NPT_E_IO, "cannot write the output: %s",
                    errno != 0 ? strerror(errno) : "the stream reports an error");
}

npt_status npt_dataset_tokenize(npt_dataset *d, FILE *out)
{
    npt_ids ids = {0};
    bool end = false;
    npt_status status = NPT_OK;

    while (!ferror(out)) {
        status = npt_dataset_next(d, &ids, &end);
        if (status != NPT_OK || end) break;
        write_ids(&ids, out);
    }
    npt_ids_fini(&ids);
    return status != NPT_OK ? status : check_written(out);
}

/* A row stays a line: line ends inside it are written as \n and \r. */
static void write_text(const char *text, size_t length, FILE *out)
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

static npt_status detokenize_line(npt_tokenizer *tokenizer, const npt_line *line, npt_ids *ids,
                                  FILE *out)
{
    json_t *row = NULL;
    char *text = NULL;
    size_t length;
    npt_status status;

    if (line->too_long) return npt_fail(NPT_E_DATA, "the line is too long");
    ids->count = 0;
    NPT_TRY(npt_json_parse(line->text, line->length, 0, "the row", &row));
    status = read_ids(json_object_get(row, "input_ids"), ids);
    if (status == NPT_OK)
        status = npt_tokenizer_decode(tokenizer, ids->data, ids->count, true, &text, &length);
    if (status == NPT_OK) write_text(text, length, out);
    npt_free(text);
    json_decref(row);
    return status;
}

npt_status npt_detokenize_stream(npt_tokenizer *tokenizer, FILE *in, FILE *out)
{
    npt_reader *reader = NULL;
    npt_ids ids = {0};
    npt_line line;
    npt_status status;
    long long number = 0;

    NPT_TRY(npt_reader_attach(&reader, in, "the input", LINE_LIMIT));
    while (!ferror(out)) {
        NPT_TRY_GOTO(status, out, npt_reader_line(reader, &line));
        number++;
        if (line.end) break;
        if (!line.too_long && is_blank(line.text, line.length)) continue;
        status = detokenize_line(tokenizer, &line, &ids, out);
        if (status == NPT_E_FORMAT) status = NPT_E_DATA;
        if (status == NPT_E_DATA) status = npt_fail_in(status, "line %lld", number);
        if (status != NPT_OK) goto out;
    }
    status = check_written(out);
out:
    npt_reader_close(reader);
    npt_ids_fini(&ids);
    return status;
}
