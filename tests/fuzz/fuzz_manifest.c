/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "files/files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Foreign bytes as the MANIFEST of a checkpoint directory that holds one file of three bytes. */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static char directory[] = "/tmp/npt-fuzz-XXXXXX";
static char path[64];

static void clean_up(void)
{
    (void)npt_remove_tree(directory);
}

static void set_up(void)
{
    char name[64];
    if (path[0] != '\0') return;
    if (mkdtemp(directory) == NULL) abort();
    atexit(clean_up);
    snprintf(name, sizeof name, "%s/file", directory);
    if (npt_write_file(name, "abc", 3) != NPT_OK) abort();
    snprintf(path, sizeof path, "%s/MANIFEST", directory);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    set_up();
    FILE *file = fopen(path, "wb");
    if (file == NULL || (bytes > 0 && fwrite(data, 1, bytes, file) != bytes) || fclose(file) != 0)
        abort();
    if (npt_manifest_check(directory) != NPT_OK && npt_error_message()[0] == '\0') abort();
    return 0;
}
