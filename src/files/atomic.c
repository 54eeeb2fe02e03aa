/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "files/atomic.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "files/files.h"

/* Writing beside the target and renaming means that a reader, or a mapping, of the old file keeps
 * the old bytes, and that a crash leaves the old file or the new one, never a mixture. Invariant:
 * while `temporary` is set, that file is ours to remove. */

/* The longest single write(); Linux stops a little below 2 GiB anyway. */
#define WRITE_STEP ((size_t)1 << 30)

static npt_status open_temporary(npt_atomic_file *file)
{
    const int flags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC;
    file->fd = open(file->temporary, flags, 0666);
    if (file->fd < 0 && errno == EEXIST) {
        /* Left by a crashed process that had our number. */
        (void)unlink(file->temporary);
        file->fd = open(file->temporary, flags, 0666);
    }
    if (file->fd >= 0) return NPT_OK;

    int error = errno;
    npt_free(file->temporary); /* not ours to remove */
    file->temporary = NULL;
    return npt_fail(NPT_E_IO, "cannot create '%s': %s", file->path, strerror(error));
}

npt_status npt_atomic_begin(npt_atomic_file *file, const char *path)
{
    file->fd = -1;
    file->temporary = NULL;
    file->path = npt_strdup(path);
    if (file->path == NULL) return NPT_E_NOMEM;
    file->temporary = npt_format("%s.tmp-%ld", path, (long)getpid());
    if (file->temporary == NULL) return NPT_E_NOMEM;
    return open_temporary(file);
}

npt_status npt_atomic_reserve(npt_atomic_file *file, uint64_t bytes)
{
#ifdef __linux__
    if (bytes == 0 || bytes > INT64_MAX) return NPT_OK; /* the write itself will say */
    while (fallocate(file->fd, 0, 0, (off_t)bytes) != 0) {
        if (errno == EINTR) continue;
        if (errno != ENOSPC && errno != EDQUOT && errno != EFBIG) return NPT_OK;
        return npt_fail(NPT_E_IO, "cannot write '%s' (%llu bytes): %s", file->path,
                        (unsigned long long)bytes, strerror(errno));
    }
#else
    (void)file;
    (void)bytes;
#endif
    return NPT_OK;
}

npt_status npt_atomic_write(npt_atomic_file *file, const void *data, size_t bytes)
{
    const char *from = data;
    while (bytes > 0) {
        ssize_t done = write(file->fd, from, bytes < WRITE_STEP ? bytes : WRITE_STEP);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0)
            return npt_fail(NPT_E_IO, "cannot write '%s': %s", file->path,
                            strerror(done < 0 ? errno : EIO));
        from += done;
        bytes -= (size_t)done;
    }
    return NPT_OK;
}

/* The directory that holds `path`; NULL without memory. */
static char *parent_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (slash == NULL) return npt_strdup(".");
    return npt_strndup(path, slash == path ? 1 : (size_t)(slash - path));
}

static npt_status finish(npt_atomic_file *file)
{
    int failed = fsync(file->fd);
    int error = errno;
    if (close(file->fd) != 0 && !failed) {
        failed = -1;
        error = errno;
    }
    file->fd = -1;
    if (!failed && rename(file->temporary, file->path) != 0) {
        failed = -1;
        error = errno;
    }
    if (failed) return npt_fail(NPT_E_IO, "cannot write '%s': %s", file->path, strerror(error));
    npt_free(file->temporary);
    file->temporary = NULL;
    return NPT_OK;
}

npt_status npt_atomic_commit(npt_atomic_file *file)
{
    /* Before the rename: after it there must be no failure that leaves a doubt. */
    char *parent = parent_of(file->path);
    if (parent == NULL) return NPT_E_NOMEM;
    npt_status status = finish(file);
    if (status == NPT_OK) status = npt_sync_directory(parent);
    npt_free(parent);
    return status;
}

void npt_atomic_abandon(npt_atomic_file *file)
{
    if (file->fd >= 0) close(file->fd);
    if (file->temporary != NULL) (void)unlink(file->temporary);
    npt_free(file->temporary);
    npt_free(file->path);
    *file = (npt_atomic_file){.fd = -1};
}
