/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "base/status.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* One sentence per thread, in a fixed buffer: recording a failure must not itself need memory.
 * A sentence is built beside the buffer and then copied, because its arguments may be the
 * sentence recorded before. */

enum { SENTENCE_SIZE = 1024 };

static _Thread_local char sentence[SENTENCE_SIZE];

static const char *const status_names[] = {
    [NPT_OK] = "ok",
    [NPT_E_USAGE] = "usage",
    [NPT_E_NOMEM] = "nomem",
    [NPT_E_IO] = "io",
    [NPT_E_FORMAT] = "format",
    [NPT_E_UNSUPPORTED] = "unsupported",
    [NPT_E_DATA] = "data",
    [NPT_E_NUMERIC] = "numeric",
    [NPT_E_INTERRUPTED] = "interrupted",
    [NPT_E_INTERNAL] = "internal",
};

const char *npt_status_name(npt_status status)
{
    const size_t count = sizeof(status_names) / sizeof(status_names[0]);
    return (size_t)status < count ? status_names[status] : "unknown";
}

const char *npt_error_message(void)
{
    return sentence;
}

const char *npt_version(void)
{
    return PACKAGE_VERSION;
}

/* Keeps what fits; a cut never falls inside a UTF-8 sequence, which would not print. */
static void record(const char *text)
{
    size_t length = strlen(text);
    if (length >= sizeof(sentence)) {
        length = sizeof(sentence) - 1;
        while (length > 0 && ((unsigned char)text[length] & 0xC0) == 0x80) length--;
    }
    memcpy(sentence, text, length);
    sentence[length] = '\0';
}

npt_status npt_fail(npt_status status, const char *format, ...)
{
    char text[2 * SENTENCE_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    record(text);
    return status;
}

npt_status npt_fail_in(npt_status status, const char *format, ...)
{
    char text[2 * SENTENCE_SIZE + 2], prefix[SENTENCE_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(prefix, sizeof(prefix), format, args);
    va_end(args);
    snprintf(text, sizeof(text), "%s: %s", prefix, sentence);
    record(text);
    return status;
}

void npt_assert_failed(const char *condition, const char *file, int line)
{
    fprintf(stderr, "npt: bug: %s:%d: \"%s\" does not hold; please report this\n", file, line,
            condition);
    abort();
}
