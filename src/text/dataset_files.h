/* SPDX-License-Identifier: BSD-2-Clause */
/* The files of a dataset: what a path names, in order, and what kind each is. */
#ifndef NPT_TEXT_DATASET_FILES_H
#define NPT_TEXT_DATASET_FILES_H

#include "base/status.h"

typedef struct npt_file {
    char *path;
    bool json; /* a JSON object a line; else a text a line */
} npt_file;
typedef struct npt_files {
    npt_file *data;
    size_t count, capacity;
} npt_files;

/* `path`: a file, a directory or a glob pattern. NPT_E_IO where nothing matches;
 * NPT_E_UNSUPPORTED for a kind that npt cannot read. */
npt_status npt_files_find(npt_files *files, const char *path);
void npt_files_fini(npt_files *files);

#endif
