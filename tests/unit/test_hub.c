/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "files/hub.h"

#include <unistd.h>

#include "unit/temp_dir.h"

/* Names looked up in a made-up cache. */

#define COMMIT "0123456789abcdef0123456789abcdef01234567"

static const char *const VARIABLES[] = {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME",
                                        "XDG_CACHE_HOME"};

static void clear_environment(const char *home)
{
    for (size_t i = 0; i < NPT_COUNT(VARIABLES); i++) unsetenv(VARIABLES[i]);
    setenv("HOME", home, 1);
}

static void make(const char *top, const char *below)
{
    char *path = npt_path_join(top, below);
    assert_int_equal(npt_make_directories(path), NPT_OK);
    npt_free(path);
}

/* A cache of one model at `top/below`; `ref` is what refs/main holds. */
static void make_cache(const char *top, const char *below, const char *ref)
{
    char *path = npt_format("%s%s/models--org--tiny.1", top, below);
    make(path, "refs");
    make(path, "blobs");
    make(path, "snapshots/" COMMIT);
    npt_free(temp_file(path, "refs/main", ref, strlen(ref)));
    npt_free(temp_file(path, "blobs/e", "{}", 2));
    char *link = npt_path_join(path, "snapshots/" COMMIT "/config.json");
    (void)symlink("../../blobs/e", link);
    npt_free(link);
    npt_free(path);
}

static void assert_resolves(const char *top, const char *below)
{
    char *directory = NULL;
    char *expected = npt_format("%s%s/models--org--tiny.1/snapshots/" COMMIT, top, below);
    if (npt_hub_resolve("org/tiny.1", &directory) != NPT_OK)
        fail_msg("not found: %s", npt_error_message());
    assert_string_equal(directory, expected);
    char *config = npt_path_join(directory, "config.json");
    assert_true(npt_path_exists(config));
    npt_free(config);
    npt_free(expected);
    npt_free(directory);
}

static void each_variable_is_heeded_in_turn(void **state)
{
    (void)state;
    static const char *const below[] = {"/1", "/2", "/3/hub", "/4/huggingface/hub"};
    static const char *const values[] = {"/1", "/2", "/3", "/4"};
    char *top = temp_dir();
    clear_environment(top);
    make_cache(top, "/.cache/huggingface/hub", COMMIT);
    assert_resolves(top, "/.cache/huggingface/hub");
    for (size_t i = NPT_COUNT(below); i-- > 0;) {
        char *value = npt_format("%s%s", top, values[i]);
        make_cache(top, below[i], COMMIT "\n");
        setenv(VARIABLES[i], value, 1);
        assert_resolves(top, below[i]);
        npt_free(value);
    }
    setenv("HF_HUB_CACHE", "", 1); /* as if it were not set */
    assert_resolves(top, "/2");
    setenv("HF_HUB_CACHE", "~/1", 1);
    assert_resolves(top, "/1");
    temp_dir_remove(top);
}

static void a_directory_is_itself(void **state)
{
    (void)state;
    char *top = temp_dir(), *directory = NULL;
    assert_int_equal(npt_hub_resolve(top, &directory), NPT_OK);
    assert_string_equal(directory, top);
    npt_free(directory);
    temp_dir_remove(top);
}

static void what_is_absent_is_said_where(void **state)
{
    (void)state;
    char *top = temp_dir(), *directory = NULL;
    clear_environment(top);
    assert_int_equal(npt_hub_resolve("org/tiny.1", &directory), NPT_E_IO);
    assert_message_has("no model 'org/tiny.1'");
    assert_message_has(top);
    assert_message_has("/.cache/huggingface/hub/models--org--tiny.1/refs/main");
    assert_message_has("npt does not download");
    assert_int_equal(npt_hub_resolve("gpt2", &directory), NPT_E_IO);
    assert_message_has("/models--gpt2/refs/main");
    make_cache(top, "/.cache/huggingface/hub", "1123456789abcdef0123456789abcdef01234567");
    assert_int_equal(npt_hub_resolve("org/tiny.1", &directory), NPT_E_IO);
    assert_message_has("snapshots/1123456789abcdef");
    unsetenv("HOME");
    assert_int_equal(npt_hub_resolve("org/tiny.1", &directory), NPT_E_IO);
    assert_message_has("neither HF_HOME nor HOME is set");
    assert_null(directory);
    temp_dir_remove(top);
}

static void a_damaged_ref_is_refused(void **state)
{
    (void)state;
    static const char *const refs[] = {"", "main", COMMIT "0",
                                       "../../../../../../../../../../../etc/x/y/z",
                                       "0123456789abcdef0123456789abcdef0123456g"};
    char *top = temp_dir(), *directory = NULL;
    clear_environment(top);
    for (size_t i = 0; i < NPT_COUNT(refs); i++) {
        make_cache(top, "/.cache/huggingface/hub", refs[i]);
        assert_int_equal(npt_hub_resolve("org/tiny.1", &directory), NPT_E_FORMAT);
        assert_message_has("does not hold a commit");
    }
    assert_null(directory);
    temp_dir_remove(top);
}

static void what_is_no_name_is_refused(void **state)
{
    (void)state;
    static const char *const names[] = {
        "",        "/",         "/nonexistent/x", "./nonexistent", "a/b/c",
        "org/",    "/nonexist", "a--b/c",         "org/..x",       "org/a..b",
        "org/a b", "org/\n",    "~/nonexistent",  "-x/y"};
    char *top = temp_dir(), *directory = NULL;
    clear_environment(top);
    for (size_t i = 0; i < NPT_COUNT(names); i++) {
        if (npt_path_is_directory(names[i])) continue;
        assert_int_equal(npt_hub_resolve(names[i], &directory), NPT_E_USAGE);
        assert_message_has("neither a directory nor a Hub name");
    }
    char *file = temp_file(top, "model.safetensors", "", 0);
    assert_int_equal(npt_hub_resolve(file, &directory), NPT_E_USAGE);
    assert_message_has("is a file");
    assert_null(directory);
    npt_free(file);
    temp_dir_remove(top);
}

static void every_failed_allocation_is_reported(void **state)
{
    (void)state;
    char *top = temp_dir();
    clear_environment(top);
    make_cache(top, "/.cache/huggingface/hub", COMMIT);
    long n = 1;
    for (;; n++) {
        char *directory = NULL;
        long before = npt_alloc_count();
        npt_alloc_fail_at(n);
        npt_status status = npt_hub_resolve("org/tiny.1", &directory);
        npt_alloc_fail_at(0);
        npt_free(directory);
        if (npt_alloc_count() - before < n) break;
        assert_int_equal(status, NPT_E_NOMEM);
    }
    assert_true(n > 4);
    temp_dir_remove(top);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("each variable is heeded in its turn", each_variable_is_heeded_in_turn),
        NPT_CASE("a directory is itself", a_directory_is_itself),
        NPT_CASE("what is absent is said, and where", what_is_absent_is_said_where),
        NPT_CASE("a damaged ref is refused", a_damaged_ref_is_refused),
        NPT_CASE("what is no name is refused", what_is_no_name_is_refused),
        NPT_CASE("every failed allocation is reported", every_failed_allocation_is_reported),
    };
    return npt_test_run("hub", cases, NPT_COUNT(cases));
}
