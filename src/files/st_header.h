/* SPDX-License-Identifier: BSD-2-Clause */
/* The header of one safetensors file, checked. Private to files/. */
#ifndef NPT_FILES_ST_HEADER_H
#define NPT_FILES_ST_HEADER_H

#include "files/json.h"
#include "files/safetensors.h"

/* The bytes before the JSON: its length, 64 bits, little-endian. */
#define NPT_ST_PREFIX 8

typedef struct npt_st_header {
    npt_st_tensor *tensors; /* sorted by name; `data` and `file` are NULL */
    size_t count;
    char *names;      /* where the names are */
    json_t *metadata; /* an object of strings; NULL where the file has none */
} npt_st_header;

/* N out of the prefix, checked against the limit and the size of the file. NPT_E_FORMAT. */
npt_status npt_st_header_length(const uint8_t prefix[NPT_ST_PREFIX], uint64_t file_bytes,
                                size_t *length);
/* Parses and checks `length` bytes of JSON of a file of `file_bytes`. Sentences do not name the
 * file: the caller puts it before. NPT_E_FORMAT, NPT_E_UNSUPPORTED, NPT_E_NOMEM. */
npt_status npt_st_header_parse(const char *text, size_t length, uint64_t file_bytes,
                               npt_st_header *header);
void npt_st_header_fini(npt_st_header *header);

/* Bytes of a tensor. NPT_E_FORMAT where a size is negative or the product overflows. */
npt_status npt_st_tensor_bytes(const char *name, npt_dtype dtype, int rank, const int64_t *shape,
                               uint64_t *bytes);
/* Place of a dtype in a written file: 0 comes first. */
int npt_st_dtype_order(npt_dtype dtype);

#endif
