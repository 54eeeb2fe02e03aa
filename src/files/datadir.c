/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "npt.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "files/files.h"

/* Where the bundled data are: named by the user, in the source tree of a program that is not
 * installed, beside an installed program that was moved, where configure said. A directory counts
 * only if the wanted file is in it. The walk upward from the program ends at a source tree, which
 * is known by its npt.h, so that some other /data of this machine is never taken for ours. */

/* <top>/build/tests/unit/.libs/program is the deepest that a build inside the source tree gets. */
enum { MAX_LEVELS = 5, MAX_EXE = 4096 };

/* `directory`/`name` in *path where it exists; false only when memory is short. */
static bool look_in(const char *directory, const char *name, char **path)
{
    char *candidate = npt_path_join(directory, name);
    if (candidate == NULL) return false;
    if (npt_path_exists(candidate))
        *path = candidate;
    else
        npt_free(candidate);
    return true;
}

/* The same in `directory``suffix`. */
static bool look_beside(const char *directory, const char *suffix, const char *name, char **path)
{
    char *data = npt_format("%s%s", directory, suffix);
    bool looked = data != NULL && look_in(data, name, path);
    npt_free(data);
    return looked;
}

/* The directory of the running program, without a slash at its end; "" where nobody knows. */
static void program_directory(char directory[MAX_EXE])
{
    ssize_t length = readlink("/proc/self/exe", directory, MAX_EXE - 1);
    directory[length > 0 ? length : 0] = '\0';
    char *slash = strrchr(directory, '/');
    *(slash != NULL ? slash : directory) = '\0';
}

static bool is_source_tree(const char *directory, bool *is)
{
    char *header = NULL;
    bool looked = look_in(directory, "src/npt.h", &header);
    *is = header != NULL;
    npt_free(header);
    return looked;
}

static bool look_near_program(const char *name, char **path)
{
    char directory[MAX_EXE];
    program_directory(directory);
    for (int level = 0; level < MAX_LEVELS && directory[0] != '\0'; level++) {
        bool source = false;
        if (!is_source_tree(directory, &source)) return false;
        if (source && !look_beside(directory, "/data", name, path)) return false;
        /* <prefix>/bin/npt */
        if (level == 1 && *path == NULL && !look_beside(directory, "/share/npt", name, path))
            return false;
        if (*path != NULL || source) return true;
        *strrchr(directory, '/') = '\0';
    }
    return true;
}

npt_status npt_data_path(const char *name, char **path)
{
    const char *chosen = getenv("NPT_DATADIR");
    char *found = NULL;
    if (name == NULL || name[0] == '\0')
        return npt_fail(NPT_E_USAGE, "the name of a bundled file is missing");
    if (chosen != NULL && chosen[0] != '\0' && !look_in(chosen, name, &found)) return NPT_E_NOMEM;
    if (found == NULL && !look_near_program(name, &found)) return NPT_E_NOMEM;
#ifdef NPT_DATADIR
    if (found == NULL && !look_in(NPT_DATADIR, name, &found)) return NPT_E_NOMEM;
#endif
    if (found == NULL)
        return npt_fail(NPT_E_IO,
                        "the bundled '%s' is in none of the places npt looks in%s%s; set "
                        "NPT_DATADIR to the directory that holds it",
                        name,
#ifdef NPT_DATADIR
                        ", the last being ", NPT_DATADIR
#else
                        "", ""
#endif
        );
    *path = found;
    return NPT_OK;
}

void npt_string_free(char *text)
{
    npt_free(text);
}
