/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "files/files.h"
#include "text/dataset.h"

/* Foreign bytes as a dataset; the first byte says of which kind. Rows after a seek must be the rows
 * that were there before. Text rows are bad rows here: there is no tokenizer. */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const kinds[] = {"x.jsonl", "x.jsonl.gz", "x.jsonl.zst", "x.txt", "x.txt.gz"};
enum { KINDS = sizeof(kinds) / sizeof(kinds[0]) };

static char folder[] = "/tmp/npt-fuzz-dataset-XXXXXX";
static bool ready;

static void clean_up(void)
{
    (void)npt_remove_tree(folder);
}

static void quiet(void *context, npt_log_level level, const char *line)
{
    (void)context;
    (void)level;
    (void)line;
}

static void set_up(void)
{
    if (ready) return;
    if (mkdtemp(folder) == NULL) abort();
    atexit(clean_up);
    npt_log_set(quiet, NULL);
    ready = true;
}

/* A number for all rows to the end. */
static uint64_t sum_rows(npt_dataset *dataset, npt_status *status)
{
    npt_ids ids = {0};
    uint64_t sum = 1;
    bool end = false;

    for (;;) {
        *status = npt_dataset_next(dataset, &ids, &end);
        if (*status != NPT_OK || end) break;
        if (ids.count == 0) abort();
        for (size_t i = 0; i < ids.count; i++) sum = sum * 31 + (uint64_t)ids.data[i] + 1;
        sum = sum * 37 + (uint64_t)npt_dataset_tell(dataset).byte_offset;
    }
    npt_ids_fini(&ids);
    return sum;
}

static void use(npt_dataset *dataset)
{
    npt_dataset_position at;
    npt_ids ids = {0};
    npt_status first, second;
    uint64_t sum;
    bool end;

    if (npt_dataset_next(dataset, &ids, &end) == NPT_OK) {
        at = npt_dataset_tell(dataset);
        sum = sum_rows(dataset, &first);
        if (npt_dataset_seek(dataset, at) != NPT_OK) abort();
        if (sum_rows(dataset, &second) != sum || second != first) abort();
    }
    npt_ids_fini(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    npt_dataset *dataset = NULL;
    npt_dataset_options options = {.vocab_size = 100000, .max_length = 1000};
    char path[128];
    FILE *file;

    if (size == 0) return 0;
    set_up();
    snprintf(path, sizeof(path), "%s/%s", folder, kinds[data[0] % KINDS]);
    file = fopen(path, "wb");
    if (file == NULL || fwrite(data + 1, 1, size - 1, file) != size - 1 || fclose(file) != 0)
        abort();
    options.path = path;
    if (npt_dataset_open(&dataset, &options) == NPT_OK) use(dataset);
    npt_dataset_close(dataset);
    return 0;
}
