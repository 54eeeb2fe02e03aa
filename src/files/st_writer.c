/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "files/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "files/atomic.h"
#include "files/json.h"
#include "files/st_header.h"
#include "files/files.h"

/* Writes what is declared, byte for byte as the reference implementation would: tensors by dtype
 * from wide to narrow and then by name, compact JSON, padded with spaces to a multiple of 8. Data
 * passes through in pieces of at most 1 MiB, so a 16 GB file needs no 16 GB of memory. */

#define PIECE ((size_t)1 << 20)

static const char METADATA[] = "__metadata__";

typedef struct entry {
    char *name;
    npt_dtype dtype;
    int rank;
    int64_t shape[NPT_MAX_RANK];
    uint64_t bytes;
    const void *data;
    npt_st_produce *produce;
    void *context;
} entry;

struct npt_st_writer {
    npt_atomic_file file;
    json_t *metadata;
    entry *entries;
    size_t count, room;
};

npt_status npt_st_writer_create(npt_st_writer **writer, const char *path)
{
    npt_st_writer *made = npt_alloc(1, sizeof *made);
    if (made == NULL) return NPT_E_NOMEM;
    made->file.fd = -1;
    made->metadata = json_object();
    npt_status status = NPT_E_NOMEM;
    if (made->metadata == NULL)
        status = npt_fail(NPT_E_NOMEM, "out of memory before writing '%s'", path);
    else
        status = npt_atomic_begin(&made->file, path);
    if (status == NPT_OK) status = npt_st_writer_metadata(made, "format", "pt");
    if (status == NPT_OK)
        *writer = made;
    else
        npt_st_writer_destroy(made);
    return status;
}

/* jansson refuses a string that is not UTF-8 and a string for which there is no memory alike. */
static npt_status bad_string(const npt_st_writer *writer, const char *text)
{
    char shown[NPT_SHOW_BYTES];
    return npt_fail(NPT_E_USAGE, "cannot write '%s': '%s' is not UTF-8", writer->file.path,
                    npt_show(text, shown));
}

npt_status npt_st_writer_metadata(npt_st_writer *writer, const char *key, const char *value)
{
    if (value == NULL) {
        (void)json_object_del(writer->metadata, key);
        return NPT_OK;
    }
    json_t *text = json_string(value);
    if (text == NULL) return bad_string(writer, value);
    return json_object_set_new(writer->metadata, key, text) == 0 ? NPT_OK : bad_string(writer, key);
}

static npt_status grow(npt_st_writer *writer)
{
    if (writer->count < writer->room) return NPT_OK;
    size_t room = writer->room == 0 ? 64 : writer->room * 2;
    entry *entries = npt_realloc(writer->entries, room, sizeof *entries);
    if (entries == NULL) return NPT_E_NOMEM;
    writer->entries = entries;
    writer->room = room;
    return NPT_OK;
}

npt_status npt_st_writer_add(npt_st_writer *writer, const char *name, npt_dtype dtype, int rank,
                             const int64_t *shape, const void *data, npt_st_produce *produce,
                             void *context)
{
    uint64_t bytes = 0;
    NPT_ASSERT(npt_st_dtype_bytes(dtype) > 0 && rank >= 0 && rank <= NPT_MAX_RANK);
    NPT_ASSERT(strcmp(name, METADATA) != 0);
    NPT_TRY(npt_st_tensor_bytes(name, dtype, rank, shape, &bytes));
    NPT_ASSERT(data != NULL || produce != NULL || bytes == 0);
    NPT_TRY(grow(writer));
    entry *added = &writer->entries[writer->count];
    *added = (entry){.dtype = dtype,
                     .rank = rank,
                     .bytes = bytes,
                     .data = data,
                     .produce = produce,
                     .context = context};
    if (rank > 0) memcpy(added->shape, shape, (size_t)rank * sizeof *shape);
    added->name = npt_strdup(name);
    if (added->name == NULL) return NPT_E_NOMEM;
    writer->count++;
    return NPT_OK;
}

static int by_layout(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    int order = npt_st_dtype_order(x->dtype) - npt_st_dtype_order(y->dtype);
    return order != 0 ? order : strcmp(x->name, y->name);
}

/* __metadata__ with its keys sorted: jansson writes an object in the order of insertion. */
static int set_metadata(json_t *root, json_t *metadata)
{
    if (json_object_size(metadata) == 0) return 0;
    char *text = json_dumps(metadata, JSON_SORT_KEYS | JSON_COMPACT);
    json_t *sorted = text == NULL ? NULL : json_loads(text, JSON_ALLOW_NUL, NULL);
    free(text);                                         /* jansson's own malloc */
    return json_object_set_new(root, METADATA, sorted); /* takes NULL as a failure */
}

static json_t *tensor_json(const entry *tensor, uint64_t begin)
{
    json_t *shape = json_array();
    for (int i = 0; i < tensor->rank && shape != NULL; i++)
        if (json_array_append_new(shape, json_integer(tensor->shape[i])) != 0) {
            json_decref(shape);
            shape = NULL;
        }
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", npt_st_dtype_name(tensor->dtype), "shape",
                     shape, "data_offsets", (json_int_t)begin, (json_int_t)(begin + tensor->bytes));
}

static npt_status out_of_memory(const npt_st_writer *writer)
{
    return npt_fail(NPT_E_NOMEM, "out of memory while writing '%s'", writer->file.path);
}

/* The header as JSON, and how many bytes of data follow it. */
static npt_status build_header(const npt_st_writer *writer, json_t *root, uint64_t *data_bytes)
{
    uint64_t begin = 0;
    if (set_metadata(root, writer->metadata) != 0) return out_of_memory(writer);
    for (size_t i = 0; i < writer->count; i++) {
        const entry *tensor = &writer->entries[i];
        char shown[NPT_SHOW_BYTES];
        if (json_object_get(root, tensor->name) != NULL)
            return npt_fail(NPT_E_USAGE, "cannot write '%s': two tensors are named '%s'",
                            writer->file.path, npt_show(tensor->name, shown));
        json_t *value = tensor_json(tensor, begin);
        if (value == NULL) return out_of_memory(writer);
        if (json_object_set_new(root, tensor->name, value) != 0)
            return bad_string(writer, tensor->name);
        if (tensor->bytes > INT64_MAX - begin)
            return npt_fail(NPT_E_NOMEM, "cannot write '%s': more than 2^63 bytes",
                            writer->file.path);
        begin += tensor->bytes;
    }
    *data_bytes = begin;
    return NPT_OK;
}

/* Length, JSON and padding in one block (npt_free). */
static npt_status dump_header(const npt_st_writer *writer, const json_t *root, char **block,
                              size_t *bytes)
{
    size_t length = json_dumpb(root, NULL, 0, JSON_COMPACT);
    if (length == 0) return out_of_memory(writer);
    size_t padded = (length + 7) & ~(size_t)7;
    if (padded > NPT_SAFETENSORS_MAX_HEADER)
        return npt_fail(NPT_E_UNSUPPORTED,
                        "cannot write '%s': its header would have %zu bytes, the limit is %u",
                        writer->file.path, padded, NPT_SAFETENSORS_MAX_HEADER);
    char *made = npt_alloc(NPT_ST_PREFIX + padded, 1);
    if (made == NULL) return NPT_E_NOMEM;
    for (int i = 0; i < NPT_ST_PREFIX; i++) made[i] = (char)((uint64_t)padded >> (8 * i) & 0xFF);
    (void)json_dumpb(root, made + NPT_ST_PREFIX, length, JSON_COMPACT);
    memset(made + NPT_ST_PREFIX + length, ' ', padded - length);
    *block = made;
    *bytes = NPT_ST_PREFIX + padded;
    return NPT_OK;
}

static npt_status write_header(npt_st_writer *writer)
{
    char *block = NULL;
    size_t bytes = 0;
    uint64_t data_bytes = 0;
    json_t *root = json_object();
    if (root == NULL) return out_of_memory(writer);
    npt_status status = build_header(writer, root, &data_bytes);
    if (status == NPT_OK) status = dump_header(writer, root, &block, &bytes);
    if (status == NPT_OK) status = npt_atomic_reserve(&writer->file, bytes + data_bytes);
    if (status == NPT_OK) status = npt_atomic_write(&writer->file, block, bytes);
    npt_free(block);
    json_decref(root);
    return status;
}

static npt_status write_produced(npt_st_writer *writer, const entry *tensor)
{
    char *piece = npt_alloc(tensor->bytes < PIECE ? (size_t)tensor->bytes : PIECE, 1);
    if (piece == NULL) return NPT_E_NOMEM;
    npt_status status = NPT_OK;
    for (uint64_t done = 0; status == NPT_OK && done < tensor->bytes;) {
        uint64_t left = tensor->bytes - done;
        size_t bytes = left < PIECE ? (size_t)left : PIECE;
        status = tensor->produce(tensor->context, done, piece, bytes);
        if (status == NPT_OK) status = npt_atomic_write(&writer->file, piece, bytes);
        done += bytes;
    }
    npt_free(piece);
    return status;
}

npt_status npt_st_writer_commit(npt_st_writer *writer)
{
    if (writer->count > 0)
        qsort(writer->entries, writer->count, sizeof *writer->entries, by_layout);
    NPT_TRY(write_header(writer));
    for (size_t i = 0; i < writer->count; i++) {
        const entry *tensor = &writer->entries[i];
        if (tensor->bytes == 0) continue;
        if (tensor->data == NULL)
            NPT_TRY(write_produced(writer, tensor));
        else
            NPT_TRY(npt_atomic_write(&writer->file, tensor->data, (size_t)tensor->bytes));
    }
    return npt_atomic_commit(&writer->file);
}

void npt_st_writer_destroy(npt_st_writer *writer)
{
    if (writer == NULL) return;
    npt_atomic_abandon(&writer->file);
    for (size_t i = 0; i < writer->count; i++) npt_free(writer->entries[i].name);
    npt_free(writer->entries);
    json_decref(writer->metadata);
    npt_free(writer);
}
