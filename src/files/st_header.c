/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "files/st_header.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "files/files.h"

/* A header is believed only as a whole: after npt_st_header_parse() every tensor's range lies
 * inside the file, its size is that of its dtype and shape, and the ranges cover the data section
 * exactly once. What stays in memory is one record and one name for each tensor; the JSON goes. */

static const char METADATA[] = "__metadata__";

/* In the order in which a writer lays them out, so that every tensor stays aligned to its size. */
static const struct {
    const char *name;
    npt_dtype dtype;
    unsigned bytes;
} DTYPES[] = {
    {"U64", NPT_U64, 8},         {"I64", NPT_I64, 8},   {"F64", NPT_F64, 8},
    {"C64", NPT_C64, 8},         {"F32", NPT_F32, 4},   {"U32", NPT_U32, 4},
    {"I32", NPT_I32, 4},         {"BF16", NPT_BF16, 2}, {"F16", NPT_F16, 2},
    {"U16", NPT_U16, 2},         {"I16", NPT_I16, 2},   {"F8_E4M3", NPT_F8_E4M3, 1},
    {"F8_E5M2", NPT_F8_E5M2, 1}, {"I8", NPT_I8, 1},     {"U8", NPT_U8, 1},
    {"BOOL", NPT_BOOL, 1},
};
#define DTYPE_COUNT (sizeof DTYPES / sizeof DTYPES[0])

int npt_st_dtype_order(npt_dtype dtype)
{
    for (size_t i = 0; i < DTYPE_COUNT; i++)
        if (DTYPES[i].dtype == dtype) return (int)i;
    return -1;
}

npt_status npt_st_dtype(const char *name, npt_dtype *dtype)
{
    for (size_t i = 0; i < DTYPE_COUNT; i++) {
        if (strcmp(DTYPES[i].name, name) != 0) continue;
        *dtype = DTYPES[i].dtype;
        return NPT_OK;
    }
    char shown[NPT_SHOW_BYTES];
    return npt_fail(NPT_E_FORMAT, "unknown dtype '%s'", npt_show(name, shown));
}

size_t npt_st_dtype_bytes(npt_dtype dtype)
{
    int order = npt_st_dtype_order(dtype);
    return order < 0 ? 0 : DTYPES[order].bytes;
}

const char *npt_st_dtype_name(npt_dtype dtype)
{
    int order = npt_st_dtype_order(dtype);
    return order < 0 ? NULL : DTYPES[order].name;
}

npt_status npt_st_header_length(const uint8_t prefix[NPT_ST_PREFIX], uint64_t file_bytes,
                                size_t *length)
{
    uint64_t n = 0;
    for (int i = NPT_ST_PREFIX - 1; i >= 0; i--) n = n << 8 | prefix[i];
    if (n > NPT_SAFETENSORS_MAX_HEADER)
        return npt_fail(NPT_E_FORMAT,
                        "not a safetensors file: its header would have %llu bytes, the limit is %u",
                        (unsigned long long)n, NPT_SAFETENSORS_MAX_HEADER);
    if (n > file_bytes - NPT_ST_PREFIX)
        return npt_fail(NPT_E_FORMAT,
                        "its header of %llu bytes goes past the end of the file (%llu bytes); was "
                        "the download complete?",
                        (unsigned long long)n, (unsigned long long)file_bytes);
    *length = (size_t)n;
    return NPT_OK;
}

npt_status npt_st_tensor_bytes(const char *name, npt_dtype dtype, int rank, const int64_t *shape,
                               uint64_t *bytes)
{
    uint64_t product = npt_st_dtype_bytes(dtype);
    bool empty = false;
    bool overflow = false;
    char shown[NPT_SHOW_BYTES];
    for (int i = 0; i < rank; i++) {
        if (shape[i] < 0)
            return npt_fail(NPT_E_FORMAT, "tensor '%s' has a negative size in its shape",
                            npt_show(name, shown));
        if (shape[i] == 0)
            empty = true;
        else if (__builtin_mul_overflow(product, (uint64_t)shape[i], &product))
            overflow = true;
    }
    /* With a 0 among them the others still must make sense: no one may multiply them later. */
    if (overflow || product > INT64_MAX)
        return npt_fail(NPT_E_FORMAT, "the shape of tensor '%s' overflows 64 bits",
                        npt_show(name, shown));
    *bytes = empty ? 0 : product;
    return NPT_OK;
}

static npt_status bad_tensor(const char *name, const char *problem)
{
    char shown[NPT_SHOW_BYTES];
    return npt_fail(NPT_E_FORMAT, "tensor '%s' %s", npt_show(name, shown), problem);
}

static npt_status parse_dtype(const json_t *entry, npt_st_tensor *tensor)
{
    const json_t *dtype = json_object_get(entry, "dtype");
    if (!json_is_string(dtype)) return bad_tensor(tensor->name, "has no dtype");
    npt_status status = npt_st_dtype(json_string_value(dtype), &tensor->dtype);
    if (status == NPT_OK) return NPT_OK;
    char shown[NPT_SHOW_BYTES];
    return npt_fail_in(status, "tensor '%s'", npt_show(tensor->name, shown));
}

static npt_status parse_shape(const json_t *entry, npt_st_tensor *tensor)
{
    const json_t *shape = json_object_get(entry, "shape");
    if (!json_is_array(shape)) return bad_tensor(tensor->name, "has no shape");
    size_t rank = json_array_size(shape);
    if (rank > NPT_MAX_RANK) {
        char shown[NPT_SHOW_BYTES];
        return npt_fail(NPT_E_UNSUPPORTED, "tensor '%s' has %zu dimensions; npt reads up to %d",
                        npt_show(tensor->name, shown), rank, NPT_MAX_RANK);
    }
    for (size_t i = 0; i < rank; i++) {
        const json_t *size = json_array_get(shape, i);
        if (!json_is_integer(size))
            return bad_tensor(tensor->name, "has a shape that is not a list of integers");
        tensor->shape[i] = json_integer_value(size);
    }
    tensor->rank = (int)rank;
    return NPT_OK;
}

/* `begin` and `bytes`, still counted from the start of the data section. */
static npt_status parse_offsets(const json_t *entry, npt_st_tensor *tensor, uint64_t data_bytes)
{
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *first = json_array_get(offsets, 0);
    const json_t *last = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last))
        return bad_tensor(tensor->name, "has no data_offsets of the form [begin, end]");
    int64_t begin = json_integer_value(first);
    int64_t end = json_integer_value(last);
    if (begin < 0 || end < begin) return bad_tensor(tensor->name, "ends before it begins");
    if ((uint64_t)end > data_bytes)
        return bad_tensor(tensor->name, "goes past the end of the file");
    tensor->begin = (uint64_t)begin;
    tensor->bytes = (uint64_t)(end - begin);
    return NPT_OK;
}

static npt_status parse_tensor(const json_t *entry, npt_st_tensor *tensor, uint64_t data_bytes)
{
    uint64_t bytes = 0;
    if (!json_is_object(entry)) return bad_tensor(tensor->name, "is not described by an object");
    NPT_TRY(parse_dtype(entry, tensor));
    NPT_TRY(parse_shape(entry, tensor));
    NPT_TRY(parse_offsets(entry, tensor, data_bytes));
    NPT_TRY(npt_st_tensor_bytes(tensor->name, tensor->dtype, tensor->rank, tensor->shape, &bytes));
    if (bytes == tensor->bytes) return NPT_OK;
    char shown[NPT_SHOW_BYTES];
    return npt_fail(NPT_E_FORMAT,
                    "tensor '%s' takes %llu bytes where its dtype and shape make %llu",
                    npt_show(tensor->name, shown), (unsigned long long)tensor->bytes,
                    (unsigned long long)bytes);
}

static npt_status parse_metadata(json_t *metadata, npt_st_header *header)
{
    if (json_is_null(metadata)) return NPT_OK;
    if (!json_is_object(metadata)) return npt_fail(NPT_E_FORMAT, "__metadata__ is not an object");
    const char *key;
    json_t *value;
    json_object_foreach(metadata, key, value)
    {
        char shown[NPT_SHOW_BYTES];
        if (!json_is_string(value))
            return npt_fail(NPT_E_FORMAT, "__metadata__ '%s' is not a string",
                            npt_show(key, shown));
    }
    header->metadata = json_incref(metadata);
    return NPT_OK;
}

/* Room for every tensor and, in one block, every name. */
static npt_status reserve(json_t *root, npt_st_header *header)
{
    size_t bytes = 1;
    const char *key;
    json_t *value;
    json_object_foreach(root, key, value) bytes += strlen(key) + 1;
    header->tensors = npt_alloc(json_object_size(root) + 1, sizeof *header->tensors);
    header->names = npt_alloc(bytes, 1);
    return header->tensors == NULL || header->names == NULL ? NPT_E_NOMEM : NPT_OK;
}

static npt_status parse_root(json_t *root, uint64_t data_bytes, npt_st_header *header)
{
    NPT_TRY(reserve(root, header));
    char *names = header->names;
    const char *key;
    json_t *value;
    json_object_foreach(root, key, value)
    {
        if (strcmp(key, METADATA) == 0) {
            NPT_TRY(parse_metadata(value, header));
            continue;
        }
        npt_st_tensor *tensor = &header->tensors[header->count];
        size_t bytes = strlen(key) + 1;
        tensor->name = memcpy(names, key, bytes);
        names += bytes;
        NPT_TRY(parse_tensor(value, tensor, data_bytes));
        header->count++;
    }
    return NPT_OK;
}

static int by_begin(const void *a, const void *b)
{
    const npt_st_tensor *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes; /* empty ones first: they overlap none */
}

static int by_name(const void *a, const void *b)
{
    const npt_st_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

/* The ranges, one after the other, are the data section: no hole, no overlap, nothing after. */
static npt_status check_cover(npt_st_header *header, uint64_t data_bytes)
{
    uint64_t end = 0;
    qsort(header->tensors, header->count, sizeof *header->tensors, by_begin);
    for (size_t i = 0; i < header->count; i++) {
        const npt_st_tensor *tensor = &header->tensors[i];
        if (tensor->begin < end) return bad_tensor(tensor->name, "overlaps another");
        if (tensor->begin > end) return bad_tensor(tensor->name, "has a hole before it");
        end += tensor->bytes;
    }
    if (end == data_bytes) return NPT_OK;
    return npt_fail(NPT_E_FORMAT, "%llu bytes follow the last tensor",
                    (unsigned long long)(data_bytes - end));
}

npt_status npt_st_header_parse(const char *text, size_t length, uint64_t file_bytes,
                               npt_st_header *header)
{
    const uint64_t data_start = NPT_ST_PREFIX + (uint64_t)length;
    const uint64_t data_bytes = file_bytes - data_start;
    npt_st_header result = {0};
    json_t *root = NULL;
    NPT_TRY(npt_json_parse(text, length, JSON_REJECT_DUPLICATES, "header", &root));
    npt_status status = parse_root(root, data_bytes, &result);
    json_decref(root);
    if (status == NPT_OK) status = check_cover(&result, data_bytes);
    if (status != NPT_OK) {
        npt_st_header_fini(&result);
        return status;
    }
    for (size_t i = 0; i < result.count; i++) result.tensors[i].begin += data_start;
    qsort(result.tensors, result.count, sizeof *result.tensors, by_name);
    *header = result;
    return NPT_OK;
}

void npt_st_header_fini(npt_st_header *header)
{
    npt_free(header->tensors);
    npt_free(header->names);
    json_decref(header->metadata);
    *header = (npt_st_header){0};
}
