/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "files/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "files/files.h"

/* Foreign bytes as a safetensors file, or, when they begin with 'I', as the index of a directory
 * with two good shards. What is accepted must be readable to its last byte. */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static char directory[] = "/tmp/npt-fuzz-XXXXXX";
static char index_path[64], file_path[64];

static void clean_up(void)
{
    (void)npt_remove_tree(directory);
}

static void put(const char *path, const void *data, size_t bytes)
{
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(data, 1, bytes, file) != bytes || fclose(file) != 0) abort();
}

static void put_shard(const char *name, const char *json)
{
    char path[64], file[128] = {0};
    size_t bytes = strlen(json);
    file[0] = (char)bytes;
    memcpy(file + 8, json, bytes);
    snprintf(path, sizeof path, "%s/%s", directory, name);
    put(path, file, 8 + bytes + 1); /* one byte of data */
}

static void set_up(void)
{
    if (index_path[0] != '\0') return;
    if (mkdtemp(directory) == NULL) abort();
    atexit(clean_up);
    snprintf(index_path, sizeof index_path, "%s/model.safetensors.index.json", directory);
    snprintf(file_path, sizeof file_path, "%s/x.safetensors", directory);
    put_shard("1.safetensors", "{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}");
    put_shard("2.safetensors", "{\"b\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}");
}

/* Touches every byte and checks what the header promised. */
static void use(const npt_st *st)
{
    unsigned sum = 0;
    for (size_t i = 0; i < npt_st_count(st); i++) {
        const npt_st_tensor *tensor = npt_st_at(st, i);
        uint64_t bytes = npt_st_dtype_bytes(tensor->dtype);
        for (int k = 0; k < tensor->rank; k++) bytes *= (uint64_t)tensor->shape[k];
        if (bytes != tensor->bytes || npt_st_find(st, tensor->name) != tensor) abort();
        for (uint64_t k = 0; k < tensor->bytes; k++) sum += ((const uint8_t *)tensor->data)[k];
    }
    static volatile unsigned sink;
    sink = sum + (npt_st_metadata(st, "format") != NULL);
    (void)sink;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    npt_st *st = NULL;
    set_up();
    bool as_index = bytes > 0 && data[0] == 'I';
    if (bytes == 0) data = (const uint8_t *)""; /* may be NULL, which has no arithmetic */
    put(as_index ? index_path : file_path, data + as_index, bytes - as_index);
    if (npt_st_open(&st, as_index ? directory : file_path, false) != NPT_OK) {
        if (npt_error_message()[0] == '\0') abort();
        return 0;
    }
    use(st);
    npt_st_close(st);
    return 0;
}
