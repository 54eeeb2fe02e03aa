/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "text/dataset_files.h"

#include <dirent.h>
#include <errno.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "files/files.h"
#include "text/reader.h"
#include "text/tokenizer_impl.h"

/* Names are compared as bytes, not in the locale's order: a position kept in a checkpoint counts
 * files, and must mean the same one on another machine. */

static const char *const json_suffixes[] = {".jsonl", ".ndjson", ".json"};
static const char *const text_suffixes[] = {".txt", ".text"};
/* Read as lines of text, these would give rows of noise. */
static const char *const refused_suffixes[] = {".parquet", ".arrow", ".feather", ".bz2", ".xz",
                                               ".lz4",     ".zip",   ".tar",     ".tgz", ".npy"};

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

static bool ends_with_any(const char *name, const char *const *suffixes, size_t count)
{
    size_t length = strlen(name);

    npt_name_compressed(name, &length);
    for (size_t i = 0; i < count; i++)
        if (npt_name_ends(name, length, suffixes[i])) return true;
    return false;
}

static bool is_json(const char *name)
{
    return ends_with_any(name, json_suffixes, COUNT(json_suffixes));
}

static npt_status add(npt_files *files, const char *path)
{
    npt_file *file;

    if (ends_with_any(path, refused_suffixes, COUNT(refused_suffixes)))
        return npt_fail(
            NPT_E_UNSUPPORTED,
            "%s: npt does not read this kind of file; write it as .jsonl (a \"text\" or "
            "\"input_ids\" in each line; .gz and .zst are fine)",
            path);
    NPT_TRY(npt_grow(&files->data, &files->capacity, files->count + 1, sizeof(*files->data)));
    file = &files->data[files->count];
    file->path = npt_strdup(path);
    if (file->path == NULL) return NPT_E_NOMEM;
    file->json = is_json(path);
    files->count++;
    return NPT_OK;
}

static npt_status add_directory(npt_files *files, const char *path)
{
    DIR *directory = opendir(path);
    npt_status status = NPT_OK;
    const struct dirent *entry;

    if (directory == NULL) return npt_fail(NPT_E_IO, "%s: cannot open: %s", path, strerror(errno));
    while (status == NPT_OK && (entry = readdir(directory)) != NULL) {
        const char *name = entry->d_name;
        char *file;
        if (name[0] == '.') continue;
        if (!is_json(name) && !ends_with_any(name, text_suffixes, COUNT(text_suffixes))) continue;
        file = npt_path_join(path, name);
        status = file == NULL                  ? NPT_E_NOMEM
                 : npt_path_is_directory(file) ? NPT_OK
                                               : add(files, file);
        npt_free(file);
    }
    closedir(directory);
    return status;
}

static npt_status add_pattern(npt_files *files, const char *path)
{
    npt_status status = NPT_OK;
    glob_t found;
    int code = glob(path, GLOB_NOSORT, NULL, &found);

    if (code == GLOB_NOSPACE) return npt_fail(NPT_E_NOMEM, "%s: too many files", path);
    for (size_t i = 0; code == 0 && status == NPT_OK && i < found.gl_pathc; i++)
        if (!npt_path_is_directory(found.gl_pathv[i])) status = add(files, found.gl_pathv[i]);
    if (code == 0) globfree(&found);
    return status;
}

static int by_path(const void *a, const void *b)
{
    return strcmp(((const npt_file *)a)->path, ((const npt_file *)b)->path);
}

npt_status npt_files_find(npt_files *files, const char *path)
{
    npt_status status;

    if (npt_path_is_directory(path))
        status = add_directory(files, path);
    else if (npt_path_exists(path))
        status = add(files, path);
    else
        status = add_pattern(files, path);
    if (status == NPT_OK && files->count == 0)
        status =
            npt_fail(NPT_E_IO,
                     "%s: no data file there (a file, a directory with .jsonl or .txt files, or "
                     "a pattern like 'data/*.jsonl.gz')",
                     path);
    if (status == NPT_OK)
        qsort(files->data, files->count, sizeof(*files->data), by_path);
    else
        npt_files_fini(files);
    return status;
}

void npt_files_fini(npt_files *files)
{
    for (size_t i = 0; i < files->count; i++) npt_free(files->data[i].path);
    npt_free(files->data);
    *files = (npt_files){0};
}
