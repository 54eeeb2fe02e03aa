/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "files/hub.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "files/files.h"

/* The cache keeps `models--org--name/refs/main`, a commit in 40 hex digits, and
 * `models--org--name/snapshots/<commit>/`, whose files are links into blobs/. Both the name and the
 * commit become parts of a path here, so neither may hold anything but what it should. */

#define COMMIT_DIGITS 40
#define NAME_LIMIT    96 /* the Hub's own limit for each of its two parts */

/* Where the cache may be: an environment variable, and what follows its value. */
static const struct {
    const char *variable, *below;
} PLACES[] = {
    {"HF_HUB_CACHE", ""},
    {"HUGGINGFACE_HUB_CACHE", ""},
    {"HF_HOME", "/hub"},
    {"XDG_CACHE_HOME", "/huggingface/hub"},
    {"HOME", "/.cache/huggingface/hub"},
};

/* "~/x" as the shell would have it: configuration files set the variables without one. */
static char *expand(const char *value, const char *below)
{
    const char *home = getenv("HOME");
    bool tilde = value[0] == '~' && (value[1] == '/' || value[1] == '\0') && home != NULL;
    return npt_format("%s%s%s", tilde ? home : "", tilde ? value + 1 : value, below);
}

static npt_status cache_root(char **root)
{
    for (size_t i = 0; i < sizeof PLACES / sizeof PLACES[0]; i++) {
        const char *value = getenv(PLACES[i].variable);
        if (value == NULL || value[0] == '\0') continue;
        *root = expand(value, PLACES[i].below);
        return *root == NULL ? NPT_E_NOMEM : NPT_OK;
    }
    return npt_fail(NPT_E_IO, "no Hugging Face cache: neither HF_HOME nor HOME is set");
}

/* Letters, digits, '.', '_', '-'; no "..", no "--" (which stands for the slash). */
static bool is_name_part(const char *text, size_t length)
{
    if (length == 0 || length > NAME_LIMIT || text[0] == '.' || text[0] == '-') return false;
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        if (!(c < 128 && (isalnum(c) || strchr("._-", c) != NULL))) return false;
        if (i > 0 && (c == '.' || c == '-') && text[i - 1] == (char)c) return false;
    }
    return true;
}

static bool is_name(const char *text)
{
    const char *slash = strchr(text, '/');
    if (slash == NULL) return is_name_part(text, strlen(text));
    return is_name_part(text, (size_t)(slash - text)) && is_name_part(slash + 1, strlen(slash + 1));
}

/* "<root>/models--org--name" */
static char *model_directory(const char *root, const char *name)
{
    const char *slash = strchr(name, '/');
    if (slash == NULL) return npt_format("%s/models--%s", root, name);
    return npt_format("%s/models--%.*s--%s", root, (int)(slash - name), name, slash + 1);
}

static npt_status read_commit(const char *path, char commit[COMMIT_DIGITS + 1])
{
    char *text = NULL;
    size_t bytes = 0;
    NPT_TRY(npt_read_file(path, 4096, &text, &bytes));
    while (bytes > 0 && (text[bytes - 1] == '\n' || text[bytes - 1] == '\r')) bytes--;
    bool good = bytes == COMMIT_DIGITS;
    for (size_t i = 0; good && i < bytes; i++) good = isxdigit((unsigned char)text[i]) != 0;
    if (good) memcpy(commit, text, COMMIT_DIGITS);
    commit[COMMIT_DIGITS] = '\0';
    npt_free(text);
    if (good) return NPT_OK;
    return npt_fail(NPT_E_FORMAT, "'%s' does not hold a commit; download the model again", path);
}

static npt_status absent(const char *name, const char *where)
{
    return npt_fail(NPT_E_IO,
                    "no model '%s': there is no such directory, and the Hugging Face cache has no "
                    "'%s'; npt does not download (hf download %s does)",
                    name, where, name);
}

/* The snapshot below `model`, the model's directory in the cache. */
static npt_status snapshot(const char *name, const char *model, char **directory)
{
    char commit[COMMIT_DIGITS + 1];
    char *ref = npt_path_join(model, "refs/main");
    if (ref == NULL) return NPT_E_NOMEM;
    npt_status status = npt_path_exists(ref) ? read_commit(ref, commit) : absent(name, ref);
    npt_free(ref);
    if (status != NPT_OK) return status;
    char *found = npt_format("%s/snapshots/%s", model, commit);
    if (found == NULL) return NPT_E_NOMEM;
    if (npt_path_is_directory(found)) {
        *directory = found;
        return NPT_OK;
    }
    status = absent(name, found);
    npt_free(found);
    return status;
}

static npt_status resolve_name(const char *name, char **directory)
{
    char *root = NULL;
    NPT_TRY(cache_root(&root));
    char *model = model_directory(root, name);
    npt_free(root);
    if (model == NULL) return NPT_E_NOMEM;
    npt_status status = snapshot(name, model, directory);
    npt_free(model);
    return status;
}

npt_status npt_hub_resolve(const char *name_or_dir, char **directory)
{
    char shown[NPT_SHOW_BYTES];
    if (npt_path_is_directory(name_or_dir)) {
        char *copy = npt_strdup(name_or_dir);
        if (copy == NULL) return NPT_E_NOMEM;
        *directory = copy;
        return NPT_OK;
    }
    if (npt_path_exists(name_or_dir))
        return npt_fail(NPT_E_USAGE, "'%s' is a file; give the directory of the model it is in",
                        name_or_dir);
    if (!is_name(name_or_dir))
        return npt_fail(NPT_E_USAGE, "'%s' is neither a directory nor a Hub name (org/name)",
                        npt_show(name_or_dir, shown));
    return resolve_name(name_or_dir, directory);
}
