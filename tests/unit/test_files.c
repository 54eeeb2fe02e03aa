/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "files/files.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "unit/temp_dir.h"

/* Whole files, trees and sealed directories. */

static void paths_are_joined_with_one_slash(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        {"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"/", "b", "/b"}, {"", "b", "b"}};
    for (size_t i = 0; i < NPT_COUNT(cases); i++) {
        char *joined = npt_path_join(cases[i][0], cases[i][1]);
        assert_string_equal(joined, cases[i][2]);
        npt_free(joined);
    }
}

static void directories_are_made_with_their_parents(void **state)
{
    (void)state;
    char *top = temp_dir();
    char *path = npt_path_join(top, "a//b/c/");
    assert_int_equal(npt_make_directories(path), NPT_OK);
    assert_true(npt_path_is_directory(path));
    assert_int_equal(npt_make_directories(path), NPT_OK);
    assert_int_equal(npt_make_directories("/"), NPT_OK);
    npt_free(path);
    npt_free(temp_file(top, "file", "x", 1));
    path = npt_path_join(top, "file/below");
    assert_int_equal(npt_make_directories(path), NPT_E_IO);
    assert_message_has("file'");
    npt_free(path);
    temp_dir_remove(top);
}

static void a_tree_is_removed_without_following_links(void **state)
{
    (void)state;
    char *top = temp_dir();
    char *kept = npt_path_join(top, "kept"), *gone = npt_path_join(top, "gone/deep");
    assert_int_equal(npt_make_directories(kept), NPT_OK);
    assert_int_equal(npt_make_directories(gone), NPT_OK);
    npt_free(temp_file(kept, "file", "x", 1));
    npt_free(temp_file(gone, "file", "x", 1));
    char *link = npt_path_join(gone, "link");
    assert_int_equal(symlink(kept, link), 0);
    npt_free(gone);
    gone = npt_path_join(top, "gone");
    assert_int_equal(npt_remove_tree(gone), NPT_OK);
    assert_false(npt_path_exists(gone));
    assert_int_equal(temp_dir_count(kept), 1);
    assert_int_equal(npt_remove_tree(gone), NPT_OK); /* nothing to do */
    npt_free(link);
    link = npt_path_join(top, "link");
    assert_int_equal(symlink(kept, link), 0);
    assert_int_equal(npt_remove_tree(link), NPT_OK);
    assert_int_equal(temp_dir_count(kept), 1);
    npt_free(link);
    npt_free(gone);
    npt_free(kept);
    temp_dir_remove(top);
}

static void a_file_is_read_up_to_its_limit(void **state)
{
    (void)state;
    char *top = temp_dir();
    char *path = temp_file(top, "f", "a\0bcd", 5);
    char *data = NULL;
    size_t bytes = 0;
    assert_int_equal(npt_read_file(path, 5, &data, &bytes), NPT_OK);
    assert_int_equal(bytes, 5);
    assert_memory_equal(data, "a\0bcd", 6);
    npt_free(data);
    data = NULL;
    assert_int_equal(npt_read_file(path, 4, &data, &bytes), NPT_E_FORMAT);
    assert_message_has(path);
    assert_message_has("4 bytes");
    assert_null(data);
    assert_int_equal(npt_read_file(top, 4, &data, &bytes), NPT_E_IO);
    assert_message_has("Is a directory");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(npt_read_file(path, 4, &data, &bytes), NPT_E_IO);
    assert_message_has("No such file");
    npt_free(path);
    path = temp_file(top, "empty", "", 0);
    assert_int_equal(npt_read_file(path, 0, &data, &bytes), NPT_OK);
    assert_int_equal(bytes, 0);
    assert_string_equal(data, "");
    npt_free(data);
    npt_free(path);
    assert_int_equal(npt_read_file("/proc/self/status", 1 << 20, &data, &bytes), NPT_OK);
    assert_true(bytes > 100); /* though its size says 0 */
    npt_free(data);
    temp_dir_remove(top);
}

static void a_file_is_written_whole_or_not_at_all(void **state)
{
    (void)state;
    struct rlimit old, small;
    char *top = temp_dir();
    char *path = npt_path_join(top, "f");
    char *big = calloc(1, 1 << 20);
    char *data = NULL;
    size_t bytes = 0;
    assert_non_null(big);
    assert_int_equal(npt_write_file(path, "one", 3), NPT_OK);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 64 << 10;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    npt_status status = npt_write_file(path, big, 1 << 20);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    signal(SIGXFSZ, handler);
    assert_int_equal(status, NPT_E_IO);
    assert_message_has(path);
    assert_message_has("File too large");
    assert_int_equal(temp_dir_count(top), 1);
    assert_int_equal(npt_read_file(path, 10, &data, &bytes), NPT_OK);
    assert_string_equal(data, "one");
    npt_free(data);
    assert_int_equal(npt_write_file(path, "", 0), NPT_OK);
    assert_int_equal(npt_read_file(path, 10, &data, &bytes), NPT_OK);
    assert_int_equal(bytes, 0);
    npt_free(data);
    npt_free(path);
    path = npt_path_join(top, "no/f");
    assert_int_equal(npt_write_file(path, "", 0), NPT_E_IO);
    assert_message_has(path);
    npt_free(path);
    free(big);
    temp_dir_remove(top);
}

static void names_are_shown_without_control_characters(void **state)
{
    (void)state;
    char shown[NPT_SHOW_BYTES], text[400];
    assert_string_equal(npt_show("a\n\x1b[2J\x7f\xc3\xa4", shown), "a??[2J?\xc3\xa4");
    assert_string_equal(npt_show("", shown), "");
    memset(text, 0, sizeof text);
    memset(text, 'x', NPT_SHOW_BYTES - 4);
    assert_string_equal(npt_show(text, shown), text);
    for (size_t i = 0; i + 2 < sizeof text; i += 2) memcpy(text + i + 1, "\xc3\xa4", 2);
    npt_show(text, shown);
    assert_true(strlen(shown) < NPT_SHOW_BYTES);
    assert_string_equal(shown + strlen(shown) - 4, "\xa4..."); /* no letter was cut */
}

/* ---- MANIFEST ---- */

static void a_manifest_has_the_known_hashes(void **state)
{
    (void)state;
    char *top = temp_dir();
    char *data = NULL;
    size_t bytes = 0;
    npt_free(temp_file(top, "b", "", 0));
    npt_free(temp_file(top, "a b", "hello", 5));
    npt_free(temp_file(top, "MANIFEST", "old", 3));
    assert_int_equal(npt_manifest_write(top), NPT_OK);
    char *path = npt_path_join(top, "MANIFEST");
    assert_int_equal(npt_read_file(path, 1000, &data, &bytes), NPT_OK);
#ifdef HAVE_XXHASH /* the hashes: xxhash.xxh3_64_hexdigest() of Python */
    assert_string_equal(data, "9555e8555c62dcfd  5  a b\n2d06800538d394c2  0  b\n");
#else
    assert_string_equal(data, "-  5  a b\n-  0  b\n");
#endif
    assert_int_equal(npt_manifest_check(top), NPT_OK);
    npt_free(data);
    npt_free(path);
    temp_dir_remove(top);
}

static void every_difference_from_a_manifest_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *manifest, *part;
    } cases[] = {
        {"-  5  f\n-  1  g\n", "g' is missing"},
        {"-  6  f\n", "f' has 5 bytes, not the 6"},
        {"-  5", "MANIFEST is cut short"},
        {"-  5\n", "MANIFEST is damaged"},
        {"-  5  \n", "names a file elsewhere"},
        {"-  5  ../f\n", "names a file elsewhere"},
        {"-  0  ..\n", "names a file elsewhere"},
        {"-  0  .\n", "not a regular file"},
#ifdef HAVE_XXHASH
        {"9555e8555c62dcfe  5  f\n", "f' is damaged"},
#endif
    };
    char *top = temp_dir();
    npt_free(temp_file(top, "f", "hello", 5));
    assert_int_equal(npt_manifest_check(top), NPT_E_FORMAT);
    assert_message_has("no MANIFEST");
    for (size_t i = 0; i < NPT_COUNT(cases); i++) {
        npt_free(temp_file(top, "MANIFEST", cases[i].manifest, strlen(cases[i].manifest)));
        assert_int_equal(npt_manifest_check(top), NPT_E_FORMAT);
        assert_message_has(cases[i].part);
        assert_message_has(top);
    }
    temp_dir_remove(top);
    assert_int_equal(npt_manifest_check("/nonexistent"), NPT_E_IO);
}

/* ---- Sealing ---- */

/* A sealed directory at `path` whose one file holds `text`. */
static npt_status seal_text(const char *path, const char *text)
{
    char *temporary = NULL;
    NPT_TRY(npt_seal_begin(path, &temporary));
    char *file = npt_path_join(temporary, "text");
    npt_status status = file == NULL ? NPT_E_NOMEM : npt_write_file(file, text, strlen(text));
    if (status == NPT_OK) status = npt_seal_commit(temporary, path);
    if (status != NPT_OK) npt_seal_abandon(temporary);
    npt_free(file);
    npt_free(temporary);
    return status;
}

static void assert_sealed(const char *path, const char *text)
{
    char *data = NULL;
    size_t bytes = 0;
    char *file = npt_path_join(path, "text");
    assert_int_equal(npt_manifest_check(path), NPT_OK);
    assert_int_equal(npt_read_file(file, 100, &data, &bytes), NPT_OK);
    assert_string_equal(data, text);
    npt_free(data);
    npt_free(file);
}

static void a_directory_is_sealed_and_replaced(void **state)
{
    (void)state;
    char *top = temp_dir();
    char *path = npt_path_join(top, "new/checkpoint-1");
    char *parent = npt_path_join(top, "new");
    char *slash = npt_format("%s/", path);
    assert_int_equal(seal_text(path, "one"), NPT_OK);
    assert_sealed(path, "one");
    assert_int_equal(seal_text(slash, "two"), NPT_OK);
    assert_sealed(path, "two");
    assert_int_equal(temp_dir_count(parent), 1);
    npt_free(slash);
    npt_free(parent);
    npt_free(path);
    temp_dir_remove(top);
}

static void what_cannot_be_sealed_leaves_the_old(void **state)
{
    (void)state;
    char *top = temp_dir();
    char *path = npt_path_join(top, "checkpoint"), *temporary = NULL;
    assert_int_equal(seal_text(path, "one"), NPT_OK);
    assert_int_equal(npt_seal_begin(path, &temporary), NPT_OK);
    char *below = npt_path_join(temporary, "below");
    assert_int_equal(npt_make_directories(below), NPT_OK);
    assert_int_equal(npt_seal_commit(temporary, path), NPT_E_FORMAT);
    assert_message_has("not a regular file");
    npt_seal_abandon(temporary);
    assert_sealed(path, "one");
    assert_int_equal(temp_dir_count(top), 1);
    npt_free(below);
    npt_free(temporary);
    npt_free(temp_file(top, "plain", "x", 1));
    npt_free(path);
    path = npt_path_join(top, "plain");
    assert_int_equal(seal_text(path, "two"), NPT_E_IO);
    assert_message_has("not a directory");
    npt_free(path);
    temp_dir_remove(top);
}

static void a_crash_in_a_replacement_is_mended(void **state)
{
    (void)state;
    char *top = temp_dir();
    char *path = npt_path_join(top, "ck"), *old = npt_path_join(top, "ck.old-12");
    char *tmp = npt_path_join(top, "ck.tmp-12"), *torn = npt_path_join(top, "ck.tmp-11");
    npt_log_set(NULL, NULL);
    assert_int_equal(npt_seal_recover(path), NPT_OK); /* nothing there: nothing to do */
    assert_false(npt_path_exists(path));
    /* between the two renames: the old one aside, the new one complete, and a torn third */
    assert_int_equal(seal_text(old, "old"), NPT_OK);
    assert_int_equal(seal_text(tmp, "new"), NPT_OK);
    assert_int_equal(npt_make_directories(torn), NPT_OK);
    assert_int_equal(npt_seal_recover(path), NPT_OK);
    assert_sealed(path, "new");
    assert_int_equal(npt_seal_recover(path), NPT_OK); /* leaves what is there */
    assert_sealed(path, "new");
    assert_int_equal(npt_remove_tree(path), NPT_OK);
    assert_int_equal(npt_seal_recover(path), NPT_OK);
    assert_sealed(path, "old");
    npt_free(torn);
    npt_free(tmp);
    npt_free(old);
    npt_free(path);
    temp_dir_remove(top);
}

static void every_failed_allocation_leaves_one_complete(void **state)
{
    (void)state;
    char *top = temp_dir();
    char *path = npt_path_join(top, "ck");
    assert_int_equal(seal_text(path, "old"), NPT_OK);
    long n = 1;
    for (;; n++) {
        long before = npt_alloc_count();
        npt_alloc_fail_at(n);
        npt_status status = seal_text(path, "new");
        npt_alloc_fail_at(0);
        if (npt_alloc_count() - before < n) break;
        assert_int_equal(status, NPT_E_NOMEM);
        assert_sealed(path, "old");
        assert_int_equal(temp_dir_count(top), 1);
    }
    assert_true(n > 15);
    assert_sealed(path, "new");
    npt_free(path);
    temp_dir_remove(top);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("paths are joined with one slash", paths_are_joined_with_one_slash),
        NPT_CASE("directories are made with their parents",
                 directories_are_made_with_their_parents),
        NPT_CASE("a tree is removed without following links",
                 a_tree_is_removed_without_following_links),
        NPT_CASE("a file is read up to its limit", a_file_is_read_up_to_its_limit),
        NPT_CASE("a file is written whole or not at all", a_file_is_written_whole_or_not_at_all),
        NPT_CASE("names are shown without control characters",
                 names_are_shown_without_control_characters),
        NPT_CASE("a MANIFEST has the known hashes", a_manifest_has_the_known_hashes),
        NPT_CASE("every difference from a MANIFEST is named",
                 every_difference_from_a_manifest_is_named),
        NPT_CASE("a directory is sealed and replaced", a_directory_is_sealed_and_replaced),
        NPT_CASE("what cannot be sealed leaves the old", what_cannot_be_sealed_leaves_the_old),
        NPT_CASE("a crash in a replacement is mended", a_crash_in_a_replacement_is_mended),
        NPT_CASE("every failed allocation leaves one complete directory",
                 every_failed_allocation_leaves_one_complete),
    };
    return npt_test_run("files", cases, NPT_COUNT(cases));
}
