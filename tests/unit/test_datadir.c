/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "npt.h"

#include <sys/stat.h>
#include <unistd.h>

#include "npt_test.h"
#include "temp_dir.h"

/* Where the bundled files are looked for. The program runs from a build directory, so what it
 * finds by itself depends on where that is; a copy of it in a made-up tree does not. */

static void the_environment_comes_first(void **state)
{
    (void)state;
    char *directory = temp_dir(), *found = NULL;
    char *file = temp_file(directory, "train.jsonl", "x", 1);
    setenv("NPT_DATADIR", directory, 1);
    assert_int_equal(npt_data_path("train.jsonl", &found), NPT_OK);
    assert_string_equal(found, file);
    npt_string_free(found);
    unsetenv("NPT_DATADIR");
    npt_free(file);
    temp_dir_remove(directory);
}

static void a_file_that_is_nowhere_is_refused(void **state)
{
    (void)state;
    char *found = (char *)"untouched";
    assert_int_equal(npt_data_path("no such file of npt", &found), NPT_E_IO);
    assert_string_equal(found, "untouched");
    assert_message_has("no such file of npt");
    assert_message_has("NPT_DATADIR");
    assert_int_equal(npt_data_path("", &found), NPT_E_USAGE);
}

static void nothing_is_not_a_failure_to_free(void **state)
{
    (void)state;
    npt_string_free(NULL);
}

/* This program again, from another place: prints the path it finds. */
static char *run_copy(const char *program, const char *name)
{
    char line[4096] = "";
    char *command = npt_format("NPT_DATADIR= '%s' --find '%s' 2>&1", program, name);
    assert_non_null(command);
    FILE *out = popen(command, "r");
    assert_non_null(out);
    if (fgets(line, sizeof line, out) == NULL) line[0] = '\0';
    pclose(out);
    npt_free(command);
    line[strcspn(line, "\n")] = '\0';
    return npt_strdup(line);
}

static void copy_self(const char *to)
{
    char *data = NULL;
    size_t bytes = 0;
    assert_int_equal(npt_read_file("/proc/self/exe", (size_t)1 << 30, &data, &bytes), NPT_OK);
    assert_int_equal(npt_write_file(to, data, bytes), NPT_OK);
    assert_int_equal(chmod(to, 0755), 0);
    npt_free(data);
}

static void put(const char *top, const char *name)
{
    char *path = npt_path_join(top, name);
    assert_non_null(path);
    char *slash = strrchr(path, '/');
    *slash = '\0';
    assert_int_equal(npt_make_directories(path), NPT_OK);
    *slash = '/';
    assert_int_equal(npt_write_file(path, "x", 1), NPT_OK);
    npt_free(path);
}

static void expect_found(const char *top, const char *program, const char *name, const char *where)
{
    char *path = npt_path_join(top, program);
    char *wanted = where != NULL ? npt_path_join(top, where) : npt_strdup("nowhere");
    put(top, program);
    copy_self(path);
    char *found = run_copy(path, name);
    assert_string_equal(found, wanted);
    npt_free(found);
    npt_free(wanted);
    npt_free(path);
}

static void a_program_finds_the_data_of_its_tree(void **state)
{
    (void)state;
    char *made = temp_dir(), *top = realpath(made, NULL);
    put(top, "tree/src/npt.h");
    put(top, "tree/data/bundled");
    put(top, "prefix/share/npt/bundled");
    put(top, "other/data/bundled"); /* of somebody else: no src/npt.h */
    expect_found(top, "tree/npt", "bundled", "tree/data/bundled");
    expect_found(top, "tree/.libs/npt", "bundled", "tree/data/bundled");
    expect_found(top, "tree/build/.libs/npt", "bundled", "tree/data/bundled");
    expect_found(top, "tree/build/tests/unit/.libs/t", "bundled", "tree/data/bundled");
    expect_found(top, "tree/build/npt", "absent", NULL);
    expect_found(top, "prefix/bin/npt", "bundled", "prefix/share/npt/bundled");
    expect_found(top, "other/bin/npt", "bundled", NULL);
    free(top);
    temp_dir_remove(made);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--find") == 0) {
        char *path = NULL;
        puts(npt_data_path(argv[2], &path) == NPT_OK ? path : "nowhere");
        npt_string_free(path);
        return 0;
    }
    const npt_case cases[] = {
        NPT_CASE("NPT_DATADIR comes first", the_environment_comes_first),
        NPT_CASE("a file that is nowhere is refused by name", a_file_that_is_nowhere_is_refused),
        NPT_CASE("freeing nothing is fine", nothing_is_not_a_failure_to_free),
        NPT_CASE("a program finds the data of its own tree or prefix, of no other",
                 a_program_finds_the_data_of_its_tree),
    };
    return npt_test_run("datadir", cases, NPT_COUNT(cases));
}
