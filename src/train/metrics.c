/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "train/metrics.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "files/files.h"

npt_status npt_metrics_open(npt_metrics *metrics, const char *output_dir, int64_t keep)
{
    *metrics = (npt_metrics){.path = npt_path_join(output_dir, "metrics.jsonl")};
    if (metrics->path == NULL) return NPT_E_NOMEM;
    metrics->file = fopen(metrics->path, keep > 0 ? "r+" : "w");
    if (metrics->file == NULL && keep > 0) metrics->file = fopen(metrics->path, "w"); /* it was removed */
    bool fits = metrics->file != NULL && fseeko(metrics->file, 0, SEEK_END) == 0;
    if (fits && ftello(metrics->file) > keep)
        fits = ftruncate(fileno(metrics->file), keep) == 0 && fseeko(metrics->file, 0, SEEK_END) == 0;
    if (fits) return NPT_OK;
    npt_status status = npt_fail(NPT_E_IO, "%s: cannot be opened for writing: %s", metrics->path, strerror(errno));
    npt_metrics_close(metrics);
    return status;
}

npt_status npt_metrics_write(npt_metrics *metrics, json_t *object, int64_t *bytes)
{
    char *line = object != NULL ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(object);
    if (line == NULL) return npt_fail(NPT_E_NOMEM, "out of memory");
    bool written = fputs(line, metrics->file) >= 0 && fputc('\n', metrics->file) != EOF && fflush(metrics->file) == 0;
    free(line);
    if (!written) return npt_fail(NPT_E_IO, "%s: cannot be written: %s", metrics->path, strerror(errno));
    *bytes = (int64_t)ftello(metrics->file);
    return NPT_OK;
}

void npt_metrics_close(npt_metrics *metrics)
{
    if (metrics->file != NULL) fclose(metrics->file);
    npt_free(metrics->path);
    *metrics = (npt_metrics){0};
}
