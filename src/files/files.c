/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "files/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "files/atomic.h"

/* Whole files and trees. Nothing here interprets what it reads; every failure of the system
 * becomes one sentence with the path in it. */

/* Directories nftw() keeps open at once. */
#define TREE_HANDLES 16

char *npt_path_join(const char *directory, const char *name)
{
    size_t length = strlen(directory);
    bool slash = length == 0 || directory[length - 1] == '/';
    return npt_format("%s%s%s", directory, slash ? "" : "/", name);
}

bool npt_path_exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0;
}

bool npt_path_is_directory(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static npt_status make_directory(const char *path)
{
    if (mkdir(path, 0777) == 0) return NPT_OK;
    int error = errno;
    /* Not only EEXIST: on a read-only mount an existing directory answers EROFS. */
    if (npt_path_is_directory(path)) return NPT_OK;
    return npt_fail(NPT_E_IO, "cannot make the directory '%s': %s", path,
                    strerror(error == EEXIST ? ENOTDIR : error));
}

npt_status npt_make_directories(const char *path)
{
    char *copy = npt_strdup(path);
    if (copy == NULL) return NPT_E_NOMEM;
    npt_status status = NPT_OK;
    for (char *at = copy; status == NPT_OK && *at != '\0'; at++) {
        if (*at != '/' || at == copy || at[-1] == '/') continue;
        *at = '\0';
        status = make_directory(copy);
        *at = '/';
    }
    if (status == NPT_OK) status = make_directory(copy);
    npt_free(copy);
    return status;
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *where)
{
    (void)info;
    (void)kind;
    (void)where;
    return remove(path) == 0 || errno == ENOENT ? 0 : -1;
}

npt_status npt_remove_tree(const char *path)
{
    if (nftw(path, remove_one, TREE_HANDLES, FTW_DEPTH | FTW_PHYS) == 0 || errno == ENOENT)
        return NPT_OK;
    return npt_fail(NPT_E_IO, "cannot remove '%s': %s", path, strerror(errno));
}

/* Reads to the end whatever the size said to be: a pipe and /proc say 0. */
static npt_status read_all(int fd, const char *path, size_t limit, size_t hint, char **data,
                           size_t *bytes)
{
    size_t room = hint < limit ? hint + 1 : limit + 1;
    size_t used = 0;
    char *text = npt_alloc(room + 1, 1);
    if (text == NULL) return NPT_E_NOMEM;
    npt_status status = NPT_OK;
    for (;;) {
        ssize_t got = read(fd, text + used, room - used);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) status = npt_fail(NPT_E_IO, "cannot read '%s': %s", path, strerror(errno));
        if (got <= 0) break;
        used += (size_t)got;
        if (used > limit) {
            status = npt_fail(NPT_E_FORMAT, "'%s' is larger than the %zu bytes npt accepts here",
                              path, limit);
            break;
        }
        if (used < room) continue;
        room = room > limit / 2 ? limit + 1 : room * 2;
        char *more = npt_realloc(text, room + 1, 1);
        if (more == NULL) {
            status = NPT_E_NOMEM;
            break;
        }
        text = more;
    }
    if (status != NPT_OK) {
        npt_free(text);
        return status;
    }
    text[used] = '\0';
    *data = text;
    *bytes = used;
    return NPT_OK;
}

npt_status npt_read_file(const char *path, size_t limit, char **data, size_t *bytes)
{
    if (limit > SIZE_MAX / 4) limit = SIZE_MAX / 4;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat info;
    if (fd < 0 || fstat(fd, &info) != 0) {
        npt_status status = npt_fail(NPT_E_IO, "cannot open '%s': %s", path, strerror(errno));
        if (fd >= 0) close(fd);
        return status;
    }
    size_t hint = S_ISREG(info.st_mode) && info.st_size > 0 ? (size_t)info.st_size : 4096;
    npt_status status = read_all(fd, path, limit, hint, data, bytes);
    close(fd);
    return status;
}

npt_status npt_write_file(const char *path, const void *data, size_t bytes)
{
    npt_atomic_file file;
    npt_status status = npt_atomic_begin(&file, path);
    if (status == NPT_OK) status = npt_atomic_write(&file, data, bytes);
    if (status == NPT_OK) status = npt_atomic_commit(&file);
    npt_atomic_abandon(&file);
    return status;
}

npt_status npt_sync_directory(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return npt_fail(NPT_E_IO, "cannot open '%s': %s", path, strerror(errno));
    /* Some file systems cannot sync a directory, and say so with EINVAL: nothing to be done. */
    int failed = fsync(fd) != 0 && errno != EINVAL && errno != ENOTSUP;
    int error = errno;
    close(fd);
    return failed ? npt_fail(NPT_E_IO, "cannot sync '%s': %s", path, strerror(error)) : NPT_OK;
}

const char *npt_show(const char *text, char shown[NPT_SHOW_BYTES])
{
    size_t i = 0;
    for (; text[i] != '\0' && i < NPT_SHOW_BYTES - 4; i++)
        shown[i] = (unsigned char)text[i] < 32 || text[i] == 127 ? '?' : text[i];
    if (text[i] == '\0') {
        shown[i] = '\0';
        return shown;
    }
    while (i > 0 && ((unsigned char)text[i] & 0xC0) == 0x80) i--; /* not inside a UTF-8 letter */
    memcpy(shown + i, "...", 4);
    return shown;
}
