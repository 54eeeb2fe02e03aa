/* SPDX-License-Identifier: BSD-2-Clause */
/* A file that appears under its name whole or not at all. Private to files/. */
#ifndef NPT_FILES_ATOMIC_H
#define NPT_FILES_ATOMIC_H

#include "base/status.h"

typedef struct npt_atomic_file {
    char *path;               /* where it will appear */
    char *temporary;          /* where it is written: `<path>.tmp-<pid>`, in the same directory */
    int fd;                   /* -1 when there is nothing to close */
    uint64_t written, let_go; /* bytes; and of them, those that left the page cache */
} npt_atomic_file;

/* Makes the temporary file. `file` needs npt_atomic_abandon() afterwards, whatever happens; that
 * is harmless after a commit and on a file of zero bytes with fd = -1. NPT_E_IO, NPT_E_NOMEM. */
npt_status npt_atomic_begin(npt_atomic_file *file, const char *path);
/* Asks the system to set `bytes` aside, so that a disk that is too small is known before the work
 * is done. Where the file system cannot say, this is NPT_OK. NPT_E_IO. */
npt_status npt_atomic_reserve(npt_atomic_file *file, uint64_t bytes);
npt_status npt_atomic_write(npt_atomic_file *file, const void *data, size_t bytes);
/* fsync, rename, fsync of the directory. On failure nothing is left under the name. NPT_E_IO. */
npt_status npt_atomic_commit(npt_atomic_file *file);
/* Removes what was not committed, and frees. */
void npt_atomic_abandon(npt_atomic_file *file);

#endif
