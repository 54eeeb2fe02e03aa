/* SPDX-License-Identifier: BSD-2-Clause */
/* A directory of its own for a test, and files in it. White-box: needs libnptcore. */
#ifndef NPT_TESTS_TEMP_DIR_H
#define NPT_TESTS_TEMP_DIR_H

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "files/files.h"
#include "npt_test.h"

/* The caller gives it to temp_dir_remove(). */
static inline char *temp_dir(void)
{
    const char *top = getenv("TMPDIR");
    char *path = npt_format("%s/npt-test-XXXXXX", top == NULL || top[0] == '\0' ? "/tmp" : top);
    assert_non_null(path);
    assert_non_null(mkdtemp(path));
    return path;
}

static inline void temp_dir_remove(char *path)
{
    assert_int_equal(npt_remove_tree(path), NPT_OK);
    npt_free(path);
}

/* Writes `directory/name` plainly; returns its path (npt_free). */
static inline char *temp_file(const char *directory, const char *name, const void *data,
                              size_t bytes)
{
    char *path = npt_path_join(directory, name);
    assert_non_null(path);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
    return path;
}

/* Names in a directory but "." and "..". */
static inline size_t temp_dir_count(const char *path)
{
    size_t count = 0;
    DIR *directory = opendir(path);
    assert_non_null(directory);
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(directory);
    return count;
}

/* The sentence of the last failure says this. */
static inline void assert_message_has(const char *part)
{
    if (strstr(npt_error_message(), part) == NULL)
        fail_msg("'%s' does not say '%s'", npt_error_message(), part);
}

#endif
