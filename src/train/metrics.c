/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "train/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/memory.h"
#include "files/files.h"

/* A checkpoint knows how many lines were there, not how many bytes: a line holds a measured speed,
 * and the checkpoints of two equal runs are equal. */

static npt_status refused(const npt_metrics *metrics, const char *what)
{
    return npt_fail(NPT_E_IO, "%s: cannot be %s: %s", metrics->path, what, strerror(errno));
}

/* A descriptor on a locked file that is there. */
static npt_status open_locked(npt_metrics *metrics, int *fd)
{
    *fd = open(metrics->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (*fd < 0) return refused(metrics, "opened for writing");
    if (flock(*fd, LOCK_EX | LOCK_NB) != 0 &&
        errno == EWOULDBLOCK) /* elsewhere: locks are not kept there */
        return npt_fail(
            NPT_E_USAGE,
            "%s: another npt is writing this run; wait for it, or name another --output_dir",
            metrics->path);
    return NPT_OK;
}

/* Reads at most *lines whole lines and forgets what follows them. */
static npt_status keep_lines(npt_metrics *metrics, int64_t *lines)
{
    const int64_t wanted = *lines;
    off_t end = 0;
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    *lines = 0;
    while (*lines < wanted && (length = getline(&line, &room, metrics->file)) > 0 &&
           line[length - 1] == '\n') {
        end += length;
        ++*lines;
    }
    free(line);
    if (ftruncate(fileno(metrics->file), end) != 0 || fseeko(metrics->file, end, SEEK_SET) != 0)
        return refused(metrics, "cut");
    return NPT_OK;
}

npt_status npt_metrics_open(npt_metrics *metrics, const char *output_dir, int64_t *lines)
{
    int fd = -1;
    *metrics = (npt_metrics){.path = npt_path_join(output_dir, "metrics.jsonl")};
    if (metrics->path == NULL) return NPT_E_NOMEM;
    npt_status status = open_locked(metrics, &fd);
    if (status == NPT_OK && (metrics->file = fdopen(fd, "r+")) == NULL)
        status = refused(metrics, "opened for writing");
    if (metrics->file == NULL && fd >= 0) close(fd);
    if (status == NPT_OK) status = keep_lines(metrics, lines);
    if (status != NPT_OK) npt_metrics_close(metrics);
    return status;
}

npt_status npt_metrics_write(npt_metrics *metrics, json_t *object, int64_t *lines)
{
    char *line = object != NULL ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(object);
    if (line == NULL) return npt_fail(NPT_E_NOMEM, "out of memory");
    bool written = fputs(line, metrics->file) >= 0 && fputc('\n', metrics->file) != EOF &&
                   fflush(metrics->file) == 0;
    free(line);
    if (!written) return refused(metrics, "written");
    ++*lines;
    return NPT_OK;
}

void npt_metrics_close(npt_metrics *metrics)
{
    if (metrics->file != NULL) fclose(metrics->file);
    npt_free(metrics->path);
    *metrics = (npt_metrics){0};
}
