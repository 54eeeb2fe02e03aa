/* SPDX-License-Identifier: BSD-2-Clause */
/* Rows of a dataset, read in file order, with a position that a checkpoint can keep.
 *
 * A dataset is a file, a directory (every data file directly in it: .jsonl .ndjson .json .txt
 * .text; names that start with a dot are passed over) or a glob pattern; files in the order of
 * their names as bytes. What a file is, its name says: .jsonl, .ndjson, .json hold one JSON object
 * a line, with "input_ids" (a list of ids), else "text"; anything else is plain text, one line a
 * row (as `datasets.load_dataset("text")` reads it). Each also with .gz or .zst behind, where the
 * library was found. Lines end with "\n" or "\r\n"; blank ones are passed over, as is a byte-order
 * mark. A line of more than 256 MiB is a bad row. */
#ifndef NPT_TEXT_DATASET_H
#define NPT_TEXT_DATASET_H

#include "base/status.h"
#include "text/tokenizer.h"

typedef struct npt_dataset npt_dataset;

typedef struct npt_dataset_options {
    const char *path;         /* file, directory or glob */
    npt_tokenizer *tokenizer; /* may be NULL: then every row must have "input_ids" */
    int64_t vocab_size;       /* ids outside 0 … vocab_size-1 make a bad row; 0 = no check */
    int64_t max_length;       /* rows are cut to this many ids; 0 = not cut */
    int64_t num_samples;      /* only this many rows; 0 = all */
    bool no_special_tokens;
    bool strict; /* a bad row ends the run (NPT_E_DATA) instead of being counted */
} npt_dataset_options;

/* Where the next row starts. Plain numbers, written into checkpoints. */
typedef struct npt_dataset_position {
    int64_t file;        /* index into the sorted list of files */
    int64_t byte_offset; /* in the decompressed stream */
    int64_t line;        /* lines before it in that file */
    int64_t row;         /* good rows delivered since the start of the epoch */
} npt_dataset_position;

/* Opens the list of files (not their contents). NPT_E_IO where nothing matches, NPT_E_UNSUPPORTED
 * for a kind of file that npt cannot read (.parquet; .gz or .zst without their libraries). The
 * tokenizer is borrowed until npt_dataset_close(). */
npt_status npt_dataset_open(npt_dataset **dataset, const npt_dataset_options *options);
/* The next row into `ids` (emptied first). *end = true and no ids after the last row. A row of
 * no ids, with an id out of range or that is not what it should be is bad: skipped, counted, the
 * first ten logged with file, line, reason; with `strict`, NPT_E_DATA. NPT_E_FORMAT where a
 * compressed file is damaged, NPT_E_IO where one cannot be read. */
npt_status npt_dataset_next(npt_dataset *dataset, npt_ids *ids, bool *end);
npt_status npt_dataset_rewind(npt_dataset *dataset);
npt_dataset_position npt_dataset_tell(const npt_dataset *dataset);
/* NPT_E_DATA where the files are no longer the ones the position was taken from (too short). */
npt_status npt_dataset_seek(npt_dataset *dataset, npt_dataset_position position);
/* Good rows of one epoch: reads everything once, keeps the answer, restores the position. */
npt_status npt_dataset_count(npt_dataset *dataset, int64_t *rows);
/* Bad rows since the dataset was opened or last rewound; those met by npt_dataset_count() do not
 * count. */
/* What was opened, as it was named; for messages. */
const char *npt_dataset_path(const npt_dataset *dataset);
int64_t npt_dataset_bad_rows(const npt_dataset *dataset);
void npt_dataset_close(npt_dataset *dataset);

/* Writes {"input_ids":[…]} lines for each row from here to the end. NPT_E_IO where `out`
 * refuses. */
npt_status npt_dataset_tokenize(npt_dataset *dataset, FILE *out);

/* The reverse: for each {"input_ids":[…]} line of `in`, its text and a newline; special tokens are
 * left out, and line ends inside a text are written as \n and \r, so that a row stays a line.
 * NPT_E_DATA with the line's number for a line that is something else. */
npt_status npt_detokenize_stream(npt_tokenizer *tokenizer, FILE *in, FILE *out);

#endif
