/* SPDX-License-Identifier: BSD-2-Clause */
/* Files and directories: whole-file reads, writes that are all or nothing, sealed directories. */
#ifndef NPT_FILES_FILES_H
#define NPT_FILES_FILES_H

#include "base/status.h"

/* "a/b" in a new string (npt_free). */
char *npt_path_join(const char *directory, const char *name);
bool npt_path_exists(const char *path);
bool npt_path_is_directory(const char *path);
/* mkdir -p. */
npt_status npt_make_directories(const char *path);
/* Removes a directory with everything in it; symbolic links are removed, not followed. */
npt_status npt_remove_tree(const char *path);
/* The whole file, NUL-terminated (npt_free). NPT_E_FORMAT over `limit` bytes. */
npt_status npt_read_file(const char *path, size_t limit, char **data, size_t *bytes);
/* Temporary file, fsync, rename, fsync directory. */
npt_status npt_write_file(const char *path, const void *data, size_t bytes);
/* fsync of a directory. */
npt_status npt_sync_directory(const char *path);

/* `text` made fit for a sentence: control characters become '?', the end of a long one "...".
 * Returns `shown`. For names that come out of files we do not trust. */
#define NPT_SHOW_BYTES 128
const char *npt_show(const char *text, char shown[NPT_SHOW_BYTES]);

/* Sealed directories: a MANIFEST line per file, "xxh3-64-hex  bytes  name", sorted ("-" for the
 * hash where npt was built without xxhash). They hold regular files only: NPT_E_FORMAT for a
 * directory inside. */
npt_status npt_manifest_write(const char *directory);
/* Every listed file is there with its size and, where both sides have one, its hash.
 * NPT_E_FORMAT with the first thing that differs. */
npt_status npt_manifest_check(const char *directory);

/* Sealed replacement: npt_seal_begin makes and returns `<path>.tmp-<pid>` (npt_free); write into
 * it; npt_seal_commit writes MANIFEST, fsyncs every file, renames onto `path` (an existing
 * directory there is replaced), fsyncs the parent. npt_seal_abandon removes the temporary one. */
npt_status npt_seal_begin(const char *path, char **temporary);
npt_status npt_seal_commit(const char *temporary, const char *path);
void npt_seal_abandon(const char *temporary);
/* After a crash in the middle of a replacement there may be no `path`, but beside it a complete
 * `<path>.tmp-*` (the new one) or `<path>.old-*`: renames it to `path`. NPT_OK also where there is
 * nothing to recover; look for `path` afterwards. Call it before reading, from one process. */
npt_status npt_seal_recover(const char *path);

#endif
