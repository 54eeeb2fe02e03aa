/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "../npt_test.h"

#include <dirent.h>
#include <sys/stat.h>

/* Replays committed inputs through a fuzz target in `make check`, where there is no libFuzzer: the
 * files of tests/fuzz/corpus/<name>/ in order of their names, each also cut short at several
 * lengths. A target passes when it returns; sanitizers and NPT_ASSERT do the judging. <name> is
 * the program's own, without "fuzz_" and ".test". */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct input {
    uint8_t *data;
    size_t size;
} input;

static char name[128];

static void find_name(const char *program)
{
    const char *base = strrchr(program, '/') != NULL ? strrchr(program, '/') + 1 : program;
    const char *from = strstr(base, "fuzz_") != NULL ? strstr(base, "fuzz_") + 5 : base;
    snprintf(name, sizeof(name), "%.*s", (int)strcspn(from, "."), from);
}

static char *corpus_path(const char *file)
{
    char relative[512];
    snprintf(relative, sizeof(relative), "tests/fuzz/corpus/%s/%s", name, file);
    return npt_test_path(relative);
}

static bool read_input(const char *path, input *in)
{
    struct stat info;
    if (stat(path, &info) != 0 || !S_ISREG(info.st_mode)) return false;
    FILE *file = fopen(path, "rb");
    if (file == NULL) return false;
    in->data = malloc((size_t)info.st_size + 1);
    in->size = in->data != NULL ? fread(in->data, 1, (size_t)info.st_size, file) : 0;
    fclose(file);
    return in->data != NULL && in->size == (size_t)info.st_size;
}

/* From a block of exactly `size` bytes, so that AddressSanitizer sees a read past the end. */
static void run_exact(const uint8_t *data, size_t size)
{
    uint8_t *exact = malloc(size > 0 ? size : 1);
    if (exact == NULL) return;
    if (size > 0) memcpy(exact, data, size);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
}

static void run_with_cuts(const input *in)
{
    run_exact(in->data, in->size);
    for (size_t part = 1; part < 8; part++) run_exact(in->data, in->size * part / 8);
    if (in->size > 0) run_exact(in->data, in->size - 1);
}

static int not_hidden(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

int main(int argc, char **argv)
{
    struct dirent **files = NULL;
    (void)argc;
    find_name(argv[0]);
    char *folder = corpus_path("");
    int count = scandir(folder, &files, not_hidden, alphasort), failed = 0;
    free(folder);
    if (count < 0) count = 0;
    printf("1..%d\n", count + 1);
    run_exact(NULL, 0);
    printf("ok 1 - %s: the empty input\n", name);
    for (int i = 0; i < count; i++) {
        char *path = corpus_path(files[i]->d_name);
        input in = {NULL, 0};
        bool read = read_input(path, &in);
        if (read) run_with_cuts(&in);
        printf("%s %d - %s: %s\n", read ? "ok" : "not ok", i + 2, name, files[i]->d_name);
        fflush(stdout);
        failed += !read;
        free(in.data);
        free(path);
        free(files[i]);
    }
    free(files);
    return failed == 0 ? 0 : 1;
}
