/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "text/tokenizer.h"

/* Foreign bytes as a tokenizer.json. What is accepted must encode a text, and decode what it made
 * of it. */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char text[] = "Hi  there, it's 12345\r\n\t<s> \xE2\x96\x81"
                           "e\xCC\x81 \xF0\x9F\x99\x82 aab";
static char path[] = "/tmp/npt-fuzz-tokenizer-XXXXXX";

static void clean_up(void)
{
    remove(path);
}

static void quiet(void *context, npt_log_level level, const char *line)
{
    (void)context;
    (void)level;
    (void)line;
}

static void put(const uint8_t *data, size_t size)
{
    static int file = -1;
    if (file < 0) {
        file = mkstemp(path);
        if (file < 0) abort();
        atexit(clean_up);
        npt_log_set(quiet, NULL);
    }
    if (ftruncate(file, 0) != 0 || pwrite(file, data, size, 0) != (ssize_t)size) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    npt_tokenizer *tokenizer = NULL;
    npt_ids ids = {0};
    char *back = NULL;

    put(data, size);
    if (npt_tokenizer_open(&tokenizer, path) != NPT_OK) {
        if (npt_error_message()[0] == '\0' || tokenizer != NULL) abort();
        return 0;
    }
    if (npt_tokenizer_encode(tokenizer, text, strlen(text), false, &ids) == NPT_OK)
        if (npt_tokenizer_decode(tokenizer, ids.data, ids.count, false, &back, NULL) != NPT_OK &&
            strstr(npt_error_message(), "pattern") == NULL)
            abort();
    ids.count = 0;
    (void)npt_tokenizer_encode(tokenizer, text, strlen(text), true, &ids);
    npt_free(back);
    npt_ids_fini(&ids);
    npt_tokenizer_close(tokenizer);
    return 0;
}
