/* SPDX-License-Identifier: BSD-2-Clause */
/* Rows of a dataset, read in file order, with a position that a checkpoint can keep.
 *
 * A dataset is a file, a directory (every data file in it, by name) or a glob pattern. Kinds by
 * name: .jsonl/.json (a JSON object a line: "input_ids", else "text"), anything else plain text
 * (a paragraph a row: rows are separated by blank lines; a file without blank lines is one row per
 * line); each also .gz and .zst where the library was found. */
#ifndef NPT_TEXT_DATASET_H
#define NPT_TEXT_DATASET_H

#include "base/status.h"
#include "text/tokenizer.h"

typedef struct npt_dataset npt_dataset;

typedef struct npt_dataset_options {
    const char *path;          /* file, directory or glob */
    npt_tokenizer *tokenizer;  /* may be NULL: then every row must have "input_ids" */
    int64_t vocab_size;        /* ids outside 0 … vocab_size-1 make a bad row; 0 = no check */
    int64_t max_length;        /* rows are cut to this many ids; 0 = not cut */
    int64_t num_samples;       /* only this many rows; 0 = all */
    bool no_special_tokens;
    bool strict;               /* a bad row ends the run (NPT_E_DATA) instead of being counted */
} npt_dataset_options;

/* Where the next row starts. Plain numbers, written into checkpoints. */
typedef struct npt_dataset_position {
    int64_t file;        /* index into the sorted list of files */
    int64_t byte_offset; /* in the decompressed stream */
    int64_t line;        /* lines before it in that file */
    int64_t row;         /* good rows delivered since the start of the epoch */
} npt_dataset_position;

/* Opens the list of files (not their contents). NPT_E_IO where nothing matches. */
npt_status npt_dataset_open(npt_dataset **dataset, const npt_dataset_options *options);
/* The next row into `ids` (emptied first). *end = true and no ids after the last row. A row of
 * no ids, with an id out of range or that is not what it should be is bad: skipped, counted, the
 * first ten logged with file, line, reason. */
npt_status npt_dataset_next(npt_dataset *dataset, npt_ids *ids, bool *end);
npt_status npt_dataset_rewind(npt_dataset *dataset);
npt_dataset_position npt_dataset_tell(const npt_dataset *dataset);
/* NPT_E_DATA where the files are no longer the ones the position was taken from (too short). */
npt_status npt_dataset_seek(npt_dataset *dataset, npt_dataset_position position);
/* Good rows of one epoch: reads everything once, keeps the answer, restores the position. */
npt_status npt_dataset_count(npt_dataset *dataset, int64_t *rows);
int64_t npt_dataset_bad_rows(const npt_dataset *dataset);
void npt_dataset_close(npt_dataset *dataset);

/* Writes {"input_ids":[…]} lines for each row. */
npt_status npt_dataset_tokenize(npt_dataset *dataset, FILE *out);

#endif
