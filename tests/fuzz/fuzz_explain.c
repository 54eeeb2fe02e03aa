/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include <jansson.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "npt.h"

/* Any bytes give an answer in both forms: the same verdict, and JSON that can be read back. */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char *run(const uint8_t *data, size_t size, bool json, npt_verdict *verdict)
{
    char *answer = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&answer, &length);
    if (out == NULL) abort();
    if (npt_doctor_explain((const char *)data, size, json, out, verdict) != NPT_OK) abort();
    fclose(out);
    return answer;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    npt_verdict as_json, as_text;
    char *json = run(data, size, true, &as_json), *text = run(data, size, false, &as_text);
    json_t *root = json_loads(json, 0, NULL);
    if (root == NULL || as_json != as_text || strncmp(text, "Kind", 4) != 0) abort();
    json_decref(root);
    free(json);
    free(text);
    return 0;
}
