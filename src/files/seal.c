/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "files/files.h"

#ifdef HAVE_XXHASH
#include <xxhash.h>
#endif

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"

/* Sealed directories. Invariant: a directory under its own name is complete and on the disk with
 * its MANIFEST; whatever is not complete has ".tmp-<pid>" in its name. Replacing one exchanges the
 * two names in one step where the system can; where it cannot there is a moment without a
 * directory of that name, and npt_seal_recover() mends a crash in that moment. */

static const char MANIFEST[] = "MANIFEST";
#define MANIFEST_LIMIT ((size_t)16 << 20)
#define HASH_STEP      ((size_t)1 << 20)
#define LONG_BYTES     ((uint64_t)8 << 20) /* of a file that leaves the page cache again */
#define HASH_BYTES     17                  /* 16 hex digits and the end */

/* ---- Names in a directory ---- */

typedef struct name_list {
    char **names;
    size_t count, room;
} name_list;

static void list_fini(name_list *list)
{
    for (size_t i = 0; i < list->count; i++) npt_free(list->names[i]);
    npt_free(list->names);
    *list = (name_list){0};
}

static npt_status list_add(name_list *list, const char *name)
{
    if (list->count == list->room) {
        size_t room = list->room == 0 ? 16 : list->room * 2;
        char **names = npt_realloc(list->names, room, sizeof *names);
        if (names == NULL) return NPT_E_NOMEM;
        list->names = names;
        list->room = room;
    }
    list->names[list->count] = npt_strdup(name);
    if (list->names[list->count] == NULL) return NPT_E_NOMEM;
    list->count++;
    return NPT_OK;
}

static int by_string(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Every name that starts with `prefix`, sorted, without "." and "..". */
static npt_status list_directory(const char *path, const char *prefix, name_list *list)
{
    DIR *directory = opendir(path);
    if (directory == NULL) return npt_fail(NPT_E_IO, "cannot open '%s': %s", path, strerror(errno));
    npt_status status = NPT_OK;
    for (struct dirent *entry; status == NPT_OK && (entry = readdir(directory)) != NULL;) {
        const char *name = entry->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) continue;
        if (strncmp(name, prefix, strlen(prefix)) == 0) status = list_add(list, name);
    }
    closedir(directory);
    if (status != NPT_OK)
        list_fini(list);
    else if (list->count > 0)
        qsort(list->names, list->count, sizeof *list->names, by_string);
    return status;
}

/* ---- MANIFEST ---- */

/* Size and hash of a file; the hash is "-" without xxhash. */
static npt_status measure(const char *path, uint64_t *bytes, char hash[HASH_BYTES])
{
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &info) != 0) {
        int error = errno;
        if (fd >= 0) close(fd);
        return npt_fail(NPT_E_IO, "cannot open '%s': %s", path, strerror(error));
    }
    npt_status status = NPT_OK;
    *bytes = (uint64_t)info.st_size;
    strcpy(hash, "-");
    if (!S_ISREG(info.st_mode)) status = npt_fail(NPT_E_FORMAT, "'%s' is not a regular file", path);
#ifdef HAVE_XXHASH
    uint64_t at = 0, read_before = 0;
    char *piece = npt_alloc(HASH_STEP, 1);
    XXH3_state_t *state = XXH3_createState();
    if (piece == NULL || state == NULL) status = NPT_E_NOMEM;
    if (status == NPT_OK) XXH3_64bits_reset(state);
    while (status == NPT_OK) {
        ssize_t got = read(fd, piece, HASH_STEP);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) status = npt_fail(NPT_E_IO, "cannot read '%s': %s", path, strerror(errno));
        if (got <= 0) break;
        XXH3_64bits_update(state, piece, (size_t)got);
        at += (uint64_t)got;
        if (at < read_before + LONG_BYTES) continue;
        /* a long file does not stay in the page cache for this */
        (void)posix_fadvise(fd, (off_t)read_before, (off_t)(at - read_before), POSIX_FADV_DONTNEED);
        read_before = at;
    }
    if (read_before > 0) (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    if (status == NPT_OK)
        (void)snprintf(hash, HASH_BYTES, "%016llx", (unsigned long long)XXH3_64bits_digest(state));
    XXH3_freeState(state);
    npt_free(piece);
#endif
    close(fd);
    return status;
}

/* Appends the line of one file to `text`, which it replaces. */
static npt_status add_line(const char *directory, const char *name, char **text)
{
    char hash[HASH_BYTES];
    uint64_t bytes = 0;
    if (strchr(name, '\n') != NULL)
        return npt_fail(NPT_E_USAGE, "'%s' holds a file with a line break in its name", directory);
    char *path = npt_path_join(directory, name);
    if (path == NULL) return NPT_E_NOMEM;
    npt_status status = measure(path, &bytes, hash);
    npt_free(path);
    if (status != NPT_OK) return status;
    char *longer = npt_format("%s%s  %" PRIu64 "  %s\n", *text, hash, bytes, name);
    if (longer == NULL) return NPT_E_NOMEM;
    npt_free(*text);
    *text = longer;
    return NPT_OK;
}

npt_status npt_manifest_write(const char *directory)
{
    name_list list = {0};
    char *path = npt_path_join(directory, MANIFEST);
    char *text = npt_strdup("");
    npt_status status = path == NULL || text == NULL ? NPT_E_NOMEM : NPT_OK;
    if (status == NPT_OK) status = list_directory(directory, "", &list);
    for (size_t i = 0; status == NPT_OK && i < list.count; i++)
        if (strcmp(list.names[i], MANIFEST) != 0)
            status = add_line(directory, list.names[i], &text);
    if (status == NPT_OK) status = npt_write_file(path, text, strlen(text));
    list_fini(&list);
    npt_free(text);
    npt_free(path);
    return status;
}

/* Compares one file with its line: "hash  bytes  name". */
static npt_status check_line(const char *directory, char *line)
{
    char hash[HASH_BYTES];
    uint64_t bytes = 0;
    char *size = strstr(line, "  ");
    char *name = size == NULL ? NULL : strstr(size + 2, "  ");
    if (name == NULL) return npt_fail(NPT_E_FORMAT, "'%s': MANIFEST is damaged", directory);
    *size = *name = '\0';
    size += 2;
    name += 2;
    if (name[0] == '\0' || strchr(name, '/') != NULL || strcmp(name, "..") == 0)
        return npt_fail(NPT_E_FORMAT, "'%s': MANIFEST names a file elsewhere", directory);
    char *path = npt_path_join(directory, name);
    if (path == NULL) return NPT_E_NOMEM;
    npt_status status = NPT_OK;
    if (!npt_path_exists(path))
        status = npt_fail(NPT_E_FORMAT, "'%s' is missing", path);
    else
        status = measure(path, &bytes, hash);
    if (status == NPT_OK && strtoull(size, NULL, 10) != bytes)
        status = npt_fail(NPT_E_FORMAT, "'%s' has %" PRIu64 " bytes, not the %s it was saved with",
                          path, bytes, size);
    if (status == NPT_OK && strcmp(line, "-") != 0 && strcmp(hash, "-") != 0 &&
        strcmp(line, hash) != 0)
        status = npt_fail(NPT_E_FORMAT,
                          "'%s' is damaged: its bytes are not those it was saved with", path);
    npt_free(path);
    return status;
}

npt_status npt_manifest_check(const char *directory)
{
    char *path = npt_path_join(directory, MANIFEST);
    char *text = NULL;
    size_t bytes = 0;
    if (path == NULL) return NPT_E_NOMEM;
    npt_status status = NPT_OK;
    if (npt_path_is_directory(directory) && !npt_path_exists(path))
        status = npt_fail(NPT_E_FORMAT, "'%s' is incomplete: it has no MANIFEST", directory);
    else
        status = npt_read_file(path, MANIFEST_LIMIT, &text, &bytes);
    npt_free(path);
    if (status != NPT_OK) return status;
    char *line = text;
    while (status == NPT_OK && line < text + bytes) {
        char *end = strchr(line, '\n');
        if (end == NULL) {
            status = npt_fail(NPT_E_FORMAT, "'%s': MANIFEST is cut short", directory);
            break;
        }
        *end = '\0';
        status = check_line(directory, line);
        line = end + 1;
    }
    npt_free(text);
    return status;
}

/* ---- Sealing ---- */

/* `path` without the slashes at its end; "/" stays. */
static char *trimmed(const char *path)
{
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') length--;
    return npt_strndup(path, length);
}

/* The directory that holds `path` (trimmed), and its name there. */
static npt_status split(const char *path, char **parent, const char **name)
{
    const char *slash = strrchr(path, '/');
    *name = slash == NULL ? path : slash + 1;
    if (slash == NULL)
        *parent = npt_strdup(".");
    else
        *parent = npt_strndup(path, slash == path ? 1 : (size_t)(slash - path));
    return *parent == NULL ? NPT_E_NOMEM : NPT_OK;
}

npt_status npt_seal_begin(const char *path, char **temporary)
{
    npt_status status = NPT_E_NOMEM;
    char *target = trimmed(path);
    char *made = target == NULL ? NULL : npt_format("%s.tmp-%ld", target, (long)getpid());
    if (made != NULL) status = npt_remove_tree(made); /* of a crashed process with our number */
    if (status == NPT_OK) status = npt_make_directories(made);
    npt_free(target);
    if (status == NPT_OK)
        *temporary = made;
    else
        npt_free(made);
    return status;
}

static npt_status sync_file(const char *directory, const char *name)
{
    char *path = npt_path_join(directory, name);
    if (path == NULL) return NPT_E_NOMEM;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    npt_status status = NPT_OK;
    if (fd < 0 || fsync(fd) != 0)
        status = npt_fail(NPT_E_IO, "cannot sync '%s': %s", path, strerror(errno));
    if (fd >= 0) close(fd);
    npt_free(path);
    return status;
}

static npt_status sync_all(const char *directory)
{
    name_list list = {0};
    NPT_TRY(list_directory(directory, "", &list));
    npt_status status = NPT_OK;
    for (size_t i = 0; status == NPT_OK && i < list.count; i++)
        status = sync_file(directory, list.names[i]);
    list_fini(&list);
    return status == NPT_OK ? npt_sync_directory(directory) : status;
}

/* Swaps two names in one step; false where the system or the file system cannot. */
static bool exchange(const char *a, const char *b)
{
#ifdef RENAME_EXCHANGE
    return renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE) == 0;
#else
    (void)a;
    (void)b;
    return false;
#endif
}

static npt_status rename_or_fail(const char *from, const char *to)
{
    if (rename(from, to) == 0) return NPT_OK;
    return npt_fail(NPT_E_IO, "cannot rename '%s' to '%s': %s", from, to, strerror(errno));
}

/* Puts `temporary` where `path` is. `*old` (npt_free, also after a failure) is where the replaced
 * directory went; NULL where there was none. */
static npt_status put_in_place(const char *temporary, const char *path, char **old)
{
    *old = NULL;
    if (!npt_path_exists(path)) return rename_or_fail(temporary, path);
    if (!npt_path_is_directory(path))
        return npt_fail(NPT_E_IO, "cannot replace '%s': it is not a directory", path);
    *old = npt_strdup(temporary);
    if (*old == NULL) return NPT_E_NOMEM;
    if (exchange(temporary, path)) return NPT_OK;

    npt_free(*old);
    *old = npt_format("%s.old-%ld", path, (long)getpid());
    if (*old == NULL) return NPT_E_NOMEM;
    npt_status status = rename_or_fail(path, *old);
    if (status == NPT_OK && (status = rename_or_fail(temporary, path)) != NPT_OK)
        (void)rename(*old, path);
    return status;
}

npt_status npt_seal_commit(const char *temporary, const char *path)
{
    char *target = trimmed(path);
    char *parent = NULL, *old = NULL;
    const char *name = NULL;
    npt_status status = target == NULL ? NPT_E_NOMEM : split(target, &parent, &name);
    if (status == NPT_OK) status = npt_manifest_write(temporary);
    if (status == NPT_OK) status = sync_all(temporary);
    if (status == NPT_OK) status = put_in_place(temporary, target, &old);
    if (status == NPT_OK) status = npt_sync_directory(parent);
    /* The new one is safe; an old one that will not go is a nuisance, not a failure. */
    if (status == NPT_OK && old != NULL && npt_remove_tree(old) != NPT_OK)
        npt_log(NPT_LOG_WARNING, "%s", npt_error_message());
    npt_free(old);
    npt_free(parent);
    npt_free(target);
    return status;
}

void npt_seal_abandon(const char *temporary)
{
    if (npt_remove_tree(temporary) != NPT_OK) npt_log(NPT_LOG_WARNING, "%s", npt_error_message());
}

/* The first complete directory `<name>.<kind>-*` beside `path` becomes `path`. */
static npt_status recover_from(const char *parent, const char *name, const char *kind,
                               const char *path)
{
    name_list list = {0};
    char *prefix = npt_format("%s.%s-", name, kind);
    if (prefix == NULL) return NPT_E_NOMEM;
    npt_status status = list_directory(parent, prefix, &list);
    npt_free(prefix);
    for (size_t i = 0; status == NPT_OK && i < list.count && !npt_path_exists(path); i++) {
        char *found = npt_path_join(parent, list.names[i]);
        if (found == NULL)
            status = NPT_E_NOMEM;
        else if (npt_manifest_check(found) == NPT_OK)
            status = rename_or_fail(found, path);
        if (status == NPT_OK && npt_path_exists(path))
            npt_log(NPT_LOG_NOTE, "'%s' was recovered from '%s'", path, found);
        npt_free(found);
    }
    list_fini(&list);
    return status;
}

npt_status npt_seal_recover(const char *path)
{
    char *target = trimmed(path);
    char *parent = NULL;
    const char *name = NULL;
    npt_status status = target == NULL ? NPT_E_NOMEM : split(target, &parent, &name);
    if (status == NPT_OK && !npt_path_exists(target) && npt_path_is_directory(parent)) {
        status = recover_from(parent, name, "tmp", target); /* the newer one */
        if (status == NPT_OK) status = recover_from(parent, name, "old", target);
    }
    npt_free(parent);
    npt_free(target);
    return status;
}
