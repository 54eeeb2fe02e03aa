/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "train/data_path.h"

#include <string.h>

#include "base/memory.h"
#include "files/files.h"

/* A split of a directory becomes a glob pattern. The names of directory and split are meant
 * literally, so what a pattern would read otherwise is escaped. */

static char *append_escaped(char *at, const char *text)
{
    for (; *text != '\0'; text++) {
        if (strchr("*?[]\\", *text) != NULL) *at++ = '\\';
        *at++ = *text;
    }
    return at;
}

static char *split_pattern(const char *directory, const char *split)
{
    const size_t length = strlen(directory);
    const bool slash = length > 0 && directory[length - 1] == '/';
    char *pattern = npt_alloc(2 * (length + strlen(split)) + 3, 1);
    if (pattern == NULL) return NULL;
    char *at = append_escaped(pattern, directory);
    if (!slash) *at++ = '/';
    at = append_escaped(at, split);
    *at++ = '*';
    *at = '\0';
    return pattern;
}

npt_status npt_data_options_path(const npt_data_options *data, const char *bundled, char **path)
{
    const char *name = data->dataset_name, *split = data->dataset_split;
    const bool has_split = split != NULL && split[0] != '\0';
    if (name == NULL && has_split)
        return npt_fail(NPT_E_USAGE, "--dataset_split %s needs --dataset_name DIRECTORY", split);
    if (name == NULL) return npt_data_path(bundled, path);
    if (has_split && !npt_path_is_directory(name))
        return npt_fail(NPT_E_USAGE,
                        "--dataset_split %s: '%s' is not a directory; name one, or drop the split",
                        split, name);
    char *made = has_split ? split_pattern(name, split) : npt_strdup(name);
    if (made == NULL) return NPT_E_NOMEM;
    *path = made;
    return NPT_OK;
}
