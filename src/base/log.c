/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* One sink for the process; a line reaches it whole, so that lines of two threads do not mix. */

enum { LINE_SIZE = 4096 };

static npt_log_sink *log_sink;
static void *log_context;
static FILE *log_copy;

void npt_log_set(npt_log_sink *sink, void *context)
{
    log_sink = sink;
    log_context = sink != NULL ? context : NULL;
}

bool npt_verbose(void)
{
    const char *value = getenv("NPT_VERBOSE");
    return value != NULL && strcmp(value, "1") == 0;
}

npt_status npt_log_copy_to(const char *path)
{
    if (log_copy != NULL) fclose(log_copy);
    log_copy = NULL;
    if (path == NULL) return NPT_OK;
    log_copy = fopen(path, "a");
    if (log_copy != NULL) return NPT_OK;
    return npt_fail(NPT_E_IO, "%s: cannot be opened for appending: %s", path, strerror(errno));
}

void npt_log(npt_log_level level, const char *format, ...)
{
    char line[LINE_SIZE];
    if (level == NPT_LOG_VERBOSE && !npt_verbose()) return;
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    const char *mark = level == NPT_LOG_WARNING ? "warning: " : "";
    if (log_copy != NULL) {
        fprintf(log_copy, "%s%s\n", mark, line);
        fflush(log_copy);
    }
    if (log_sink != NULL)
        log_sink(log_context, level, line);
    else
        fprintf(stderr, "npt: %s%s\n", mark, line);
}
