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

/* The longest single write(). A file that is longer goes to the disk step by step and leaves the
 * page cache, which a memory limit counts, too; it will be synced in the end anyway. */
#define WRITE_STEP ((size_t)8 << 20)

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
    *file = (npt_atomic_file){.fd = -1};
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

/* Whole steps that were written and are still cached. */
static void let_go(npt_atomic_file *file)
{
    const uint64_t cached = file->written - file->let_go;
    if (cached < WRITE_STEP) return;
#ifdef SYNC_FILE_RANGE_WRITE
    (void)sync_file_range(file->fd, (off_t)file->let_go, (off_t)cached,
                          SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                              SYNC_FILE_RANGE_WAIT_AFTER);
#endif
    (void)posix_fadvise(file->fd, (off_t)file->let_go, (off_t)cached, POSIX_FADV_DONTNEED);
    file->let_go = file->written;
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
        file->written += (uint64_t)done;
        let_go(file);
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
    if (file->let_go > 0) /* the rest of a long one */
        (void)posix_fadvise(file->fd, 0, 0, POSIX_FADV_DONTNEED);
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
