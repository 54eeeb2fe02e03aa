/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include <dirent.h>

#include "npt_test.h"

/* Runs a fuzz target over the files of its corpus (NPT_CORPUS, a folder of the source tree), so
 * that what a fuzzer once found stays found without one. */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void run_file(const char *directory, const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    size_t bytes = (size_t)ftell(file);
    rewind(file);
    uint8_t *data =
        malloc(bytes > 0 ? bytes : 1); /* no spare byte: the address sanitizer sees more */
    assert_non_null(data);
    assert_int_equal(fread(data, 1, bytes, file), bytes);
    fclose(file);
    assert_int_equal(LLVMFuzzerTestOneInput(data, bytes), 0);
    free(data);
}

static void the_corpus_is_survived(void **state)
{
    (void)state;
    size_t count = 0;
    char *path = npt_test_path(NPT_CORPUS);
    DIR *directory = opendir(path);
    assert_non_null(directory);
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        if (entry->d_name[0] == '.') continue;
        run_file(path, entry->d_name);
        count++;
    }
    closedir(directory);
    free(path);
    assert_true(count > 0);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("every file of " NPT_CORPUS " is survived", the_corpus_is_survived)};
    return npt_test_run("replay", cases, NPT_COUNT(cases));
}
