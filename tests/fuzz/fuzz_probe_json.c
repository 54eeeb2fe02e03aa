/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "doctor/diff.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Foreign bytes as a probe. What is accepted compares with itself without a difference, in text and
 * in JSON; what is refused has a sentence that names the file. */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static char path[] = "/tmp/npt-fuzz-probe-XXXXXX";
static FILE *nowhere;

static void clean_up(void)
{
    remove(path);
    fclose(nowhere);
}

static void put(const uint8_t *data, size_t bytes)
{
    static int file = -1;
    if (file < 0) {
        file = mkstemp(path);
        nowhere = fopen("/dev/null", "w");
        if (file < 0 || nowhere == NULL) abort();
        atexit(clean_up);
    }
    if (ftruncate(file, 0) != 0 || pwrite(file, data, bytes, 0) != (ssize_t)bytes) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    npt_verdict verdict = NPT_VERDICT_WOULD_FAIL;
    put(data, bytes);
    for (int json = 0; json < 2; json++) {
        const npt_doctor_options doctor = {.json = json != 0, .all = true};
        const npt_status status = npt_doctor_diff(path, path, &doctor, nowhere, &verdict);
        if (status == NPT_OK && verdict != NPT_VERDICT_FINE) abort();
        if (status != NPT_OK && strstr(npt_error_message(), path) == NULL) abort();
    }
    return 0;
}
