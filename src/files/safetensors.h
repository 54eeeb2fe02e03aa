/* SPDX-License-Identifier: BSD-2-Clause */
/* safetensors: a checked, memory-mapped reader, and a writer that streams and never leaves a torn
 * file. Rules: formats.md, "safetensors". */
#ifndef NPT_FILES_SAFETENSORS_H
#define NPT_FILES_SAFETENSORS_H

#include "base/status.h"

#define NPT_SAFETENSORS_MAX_HEADER 100000000u
#define NPT_MAX_RANK 8

/* ---- Dtypes as files know them ---- */

/* "BF16" → NPT_BF16. NPT_E_FORMAT for a word that safetensors (or npt) does not know. */
npt_status npt_st_dtype(const char *name, npt_dtype *dtype);
/* Bytes of one element; 0 for a dtype that no safetensors file holds (NONE, NF4). */
size_t npt_st_dtype_bytes(npt_dtype dtype);
/* The inverse of npt_st_dtype(); NULL for a dtype that no safetensors file holds. */
const char *npt_st_dtype_name(npt_dtype dtype);

/* One tensor as the header states it; strings and arrays belong to the reader. */
typedef struct npt_st_tensor {
    const char *name;
    npt_dtype dtype;
    int rank;
    int64_t shape[NPT_MAX_RANK];
    uint64_t begin;   /* byte offset in the file (not in the data section) */
    uint64_t bytes;
    const void *data; /* in the mapping; NULL when the file was opened headers_only. Read-only, and
                       * not aligned to the dtype where the writer did not pad its header. */
    const char *file; /* path of the file that holds it, for messages */
} npt_st_tensor;

/* ---- One file, or a set of shards: the same interface ---- */

typedef struct npt_st npt_st;

/* `path`: a .safetensors file; or a directory: its model.safetensors.index.json, else its
 * model.safetensors. Pickles (.bin, .pt, .pth) alone: NPT_E_UNSUPPORTED with how to convert.
 * headers_only maps no data. NPT_E_IO, NPT_E_FORMAT (one sentence naming the file), NPT_E_NOMEM. */
npt_status npt_st_open(npt_st **st, const char *path, bool headers_only);
/* NULL where there is no such tensor. */
const npt_st_tensor *npt_st_find(const npt_st *st, const char *name);
size_t npt_st_count(const npt_st *st);
const npt_st_tensor *npt_st_at(const npt_st *st, size_t index); /* sorted by name */
/* Value of a string in __metadata__ (of the first file that has it); NULL where absent. */
const char *npt_st_metadata(const npt_st *st, const char *key);
/* Re-reads the sizes of the mapped files: NPT_E_IO "… changed while it was in use" where one has
 * become shorter, so that a later SIGBUS is not the first the user hears of it. */
npt_status npt_st_check_unchanged(const npt_st *st);
void npt_st_close(npt_st *st);

/* Gives back the memory in which the mapping holds a tensor; what is read again is mapped again. A
 * hint; not for a tensor that npt_st_place() placed. */
void npt_st_unmap(const npt_st *st, const npt_st_tensor *tensor);

/* ---- Reading beside the mapping (files/feed.h) ---- */

/* `tensor->data` is from now on this; NULL: the mapping again. Whoever places it keeps it alive. */
void npt_st_place(npt_st *st, const npt_st_tensor *tensor, const void *data);
/* Some bytes of a tensor, without the mapping and without reading ahead (of that file from then
 * on); the page cache may keep them until npt_st_forget(). NPT_E_IO, also where the file became
 * shorter. */
npt_status npt_st_read(const npt_st *st, const npt_st_tensor *tensor, uint64_t offset, void *dst,
                       size_t bytes);
/* Gives back what the page cache holds of a tensor and nobody else uses; a hint. */
void npt_st_forget(const npt_st *st, const npt_st_tensor *tensor);
/* A descriptor of its own on the file that holds `tensor`, with these flags of open(2) besides; its
 * size as it was when the set was opened. NPT_E_UNSUPPORTED where the file system refuses the
 * flags. NPT_E_IO, also where another file has that name by now. */
npt_status npt_st_reopen(const npt_st *st, const npt_st_tensor *tensor, int flags, int *fd,
                         uint64_t *bytes);

/* A failure sentence when `tensor` is missing or is not of this dtype/shape. dtype NONE = any
 * of F32, F16, BF16. `shape` has `rank` entries. NPT_E_FORMAT. */
npt_status npt_st_require(const npt_st *st, const char *name, npt_dtype dtype, int rank,
                          const int64_t *shape, const npt_st_tensor **tensor);

/* ---- Writing ---- */

typedef struct npt_st_writer npt_st_writer;

/* Declares everything first, then streams data. The file appears under its name only in
 * npt_st_writer_commit(): temporary file beside it, fsync, rename, fsync of the directory. */
npt_status npt_st_writer_create(npt_st_writer **writer, const char *path);
/* {"format":"pt"} is there from the start; this sets a string, or takes it away (value NULL).
 * Without any string the file has no __metadata__. NPT_E_USAGE where it is not UTF-8. */
npt_status npt_st_writer_metadata(npt_st_writer *writer, const char *key, const char *value);
/* Declares a tensor. Either `data` stays valid until commit, or data is NULL and `produce` is
 * called at commit, in order, with consecutive byte ranges (offset, bytes ≤ 1 MiB) to fill. */
typedef npt_status npt_st_produce(void *context, uint64_t offset, void *dst, size_t bytes);
npt_status npt_st_writer_add(npt_st_writer *writer, const char *name, npt_dtype dtype, int rank,
                             const int64_t *shape, const void *data, npt_st_produce *produce,
                             void *context);
npt_status npt_st_writer_commit(npt_st_writer *writer);
void npt_st_writer_destroy(npt_st_writer *writer); /* also removes an uncommitted temporary file */

#endif
