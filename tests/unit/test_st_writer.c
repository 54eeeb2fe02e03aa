/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "files/safetensors.h"

#include <sched.h>
#include <signal.h>
#ifdef __linux__
#include <sys/mount.h>
#endif
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "unit/temp_dir.h"

/* Writing: the bytes are those of the reference implementation, and no failure leaves a file. */

/* The list of tests/golden/make_safetensors.py, backwards: the order of adding does not matter. */
static const struct {
    int k;
    const char *name;
    npt_dtype dtype;
    int rank;
    int64_t shape[4];
} TENSORS[] = {
    {20, "Z", NPT_BF16, 4, {2, 2, 1, 1}},
    {19, "gewicht \xc3\xa4 \"x\" \\ /", NPT_F16, 1, {1}},
    {18, "empty", NPT_F32, 2, {0, 7}},
    {17, "scalar", NPT_F32, 0, {0}},
    {16, "bool", NPT_BOOL, 1, {3}},
    {15, "u8", NPT_U8, 1, {7}},
    {14, "i8", NPT_I8, 1, {2}},
    {13, "f8_e5m2", NPT_F8_E5M2, 1, {1}},
    {12, "f8_e4m3", NPT_F8_E4M3, 1, {3}},
    {11, "i16", NPT_I16, 1, {1}},
    {10, "u16", NPT_U16, 1, {1}},
    {9, "f16", NPT_F16, 1, {3}},
    {8, "bf16", NPT_BF16, 1, {5}},
    {7, "i32", NPT_I32, 1, {1}},
    {6, "u32", NPT_U32, 1, {1}},
    {5, "c64", NPT_C64, 1, {2}},
    {4, "f64", NPT_F64, 2, {1, 1}},
    {3, "i64", NPT_I64, 1, {2}},
    {2, "u64", NPT_U64, 1, {1}},
    {1, "model.layers.2.weight", NPT_F32, 1, {3}},
    {0, "model.layers.10.weight", NPT_F32, 2, {2, 3}},
};

/* Byte j of tensor `index` of the list. */
static uint8_t golden_byte(size_t index, uint64_t j)
{
    return (uint8_t)((31 * (uint64_t)TENSORS[index].k + 7 * j) &
                     (TENSORS[index].dtype == NPT_BOOL ? 1 : 255));
}

static npt_status produce_golden(void *context, uint64_t offset, void *dst, size_t bytes)
{
    const size_t index = *(const size_t *)context;
    for (size_t j = 0; j < bytes; j++) ((uint8_t *)dst)[j] = golden_byte(index, offset + j);
    return NPT_OK;
}

static const size_t NUMBERS[] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9, 10,
                                 11, 12, 13, 14, 15, 16, 17, 18, 19, 20};

static npt_status write_golden(const char *path, bool metadata)
{
    npt_st_writer *writer = NULL;
    NPT_TRY(npt_st_writer_create(&writer, path));
    npt_status status = NPT_OK;
    if (!metadata) status = npt_st_writer_metadata(writer, "format", NULL);
    for (size_t i = 0; status == NPT_OK && i < NPT_COUNT(TENSORS); i++)
        status = npt_st_writer_add(writer, TENSORS[i].name, TENSORS[i].dtype, TENSORS[i].rank,
                                   TENSORS[i].shape, NULL, produce_golden, (void *)&NUMBERS[i]);
    if (status == NPT_OK) status = npt_st_writer_commit(writer);
    npt_st_writer_destroy(writer);
    return status;
}

static void assert_same_file(const char *path, const char *golden)
{
    char *expected_path = npt_test_path(golden);
    char *expected = NULL, *got = NULL;
    size_t expected_bytes = 0, got_bytes = 0;
    assert_int_equal(npt_read_file(expected_path, 1 << 20, &expected, &expected_bytes), NPT_OK);
    assert_int_equal(npt_read_file(path, 1 << 20, &got, &got_bytes), NPT_OK);
    assert_int_equal(got_bytes, expected_bytes);
    assert_memory_equal(got, expected, got_bytes);
    npt_free(expected);
    npt_free(got);
    free(expected_path);
}

static void the_bytes_are_those_of_the_reference(void **state)
{
    (void)state;
    char *directory = temp_dir();
    char *path = npt_path_join(directory, "x.safetensors");
    assert_int_equal(write_golden(path, true), NPT_OK);
    assert_same_file(path, "tests/golden/safetensors/all.safetensors");
    assert_int_equal(write_golden(path, false), NPT_OK); /* replaces */
    assert_same_file(path, "tests/golden/safetensors/bare.safetensors");
    assert_int_equal(temp_dir_count(directory), 1);
    npt_free(path);
    temp_dir_remove(directory);
}

static void the_empty_map_is_sixteen_bytes(void **state)
{
    (void)state;
    static const uint8_t golden[16] = {8,    0,    0,    0,    0,    0,    0,    0,
                                       0x7b, 0x7d, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20};
    char *directory = temp_dir();
    char *path = npt_path_join(directory, "x.safetensors");
    char *data = NULL;
    size_t bytes = 0;
    npt_st_writer *writer = NULL;
    assert_int_equal(npt_st_writer_create(&writer, path), NPT_OK);
    assert_int_equal(npt_st_writer_metadata(writer, "format", NULL), NPT_OK);
    assert_int_equal(npt_st_writer_commit(writer), NPT_OK);
    npt_st_writer_destroy(writer);
    assert_same_file(path, "tests/golden/safetensors/empty.safetensors");
    assert_int_equal(npt_read_file(path, 100, &data, &bytes), NPT_OK);
    assert_int_equal(bytes, sizeof golden);
    assert_memory_equal(data, golden, sizeof golden);
    npt_free(data);
    npt_free(path);
    temp_dir_remove(directory);
}

static void the_reference_file_reads_as_it_was_made(void **state)
{
    (void)state;
    char *path = npt_test_path("tests/golden/safetensors/all.safetensors");
    npt_st *st = NULL;
    assert_int_equal(npt_st_open(&st, path, false), NPT_OK);
    assert_int_equal(npt_st_count(st), NPT_COUNT(TENSORS));
    for (size_t i = 0; i < NPT_COUNT(TENSORS); i++) {
        const npt_st_tensor *tensor = NULL;
        assert_int_equal(npt_st_require(st, TENSORS[i].name, TENSORS[i].dtype, TENSORS[i].rank,
                                        TENSORS[i].shape, &tensor),
                         NPT_OK);
        for (uint64_t j = 0; j < tensor->bytes; j++)
            assert_int_equal(((const uint8_t *)tensor->data)[j], golden_byte(i, j));
    }
    npt_st_close(st);
    free(path);
}

static void metadata_is_sorted_and_comes_back(void **state)
{
    (void)state;
    char *directory = temp_dir();
    char *path = npt_path_join(directory, "x.safetensors");
    char *data = NULL;
    size_t bytes = 0;
    npt_st_writer *writer = NULL;
    assert_int_equal(npt_st_writer_create(&writer, path), NPT_OK);
    assert_int_equal(npt_st_writer_metadata(writer, "z", "\"\n"), NPT_OK);
    assert_int_equal(npt_st_writer_metadata(writer, "a", "old"), NPT_OK);
    assert_int_equal(npt_st_writer_metadata(writer, "a", "1"), NPT_OK);
    assert_int_equal(npt_st_writer_metadata(writer, "bad", "\xff"), NPT_E_USAGE);
    assert_message_has("not UTF-8");
    assert_int_equal(npt_st_writer_commit(writer), NPT_OK);
    npt_st_writer_destroy(writer);
    assert_int_equal(npt_read_file(path, 1000, &data, &bytes), NPT_OK);
    static const char expected[] =
        "{\"__metadata__\":{\"a\":\"1\",\"format\":\"pt\",\"z\":\"\\\"\\n\"}}";
    assert_memory_equal(data + 8, expected, strlen(expected));
    assert_int_equal(bytes % 8, 0);
    npt_free(data);
    npt_st *st = NULL;
    assert_int_equal(npt_st_open(&st, path, true), NPT_OK);
    assert_string_equal(npt_st_metadata(st, "z"), "\"\n");
    npt_st_close(st);
    npt_free(path);
    temp_dir_remove(directory);
}

/* ---- Streaming ---- */

typedef struct stream {
    uint64_t next, stop_at;
    size_t largest;
} stream;

static npt_status produce_stream(void *context, uint64_t offset, void *dst, size_t bytes)
{
    stream *s = context;
    assert_int_equal(offset, s->next);
    s->next += bytes;
    if (bytes > s->largest) s->largest = bytes;
    if (s->next > s->stop_at) return npt_fail(NPT_E_NUMERIC, "no more numbers");
    for (size_t i = 0; i < bytes; i++) ((uint8_t *)dst)[i] = (uint8_t)((offset + i) % 251);
    return NPT_OK;
}

static npt_status write_stream(const char *path, stream *s, uint64_t bytes)
{
    npt_st_writer *writer = NULL;
    const int64_t shape[] = {(int64_t)bytes};
    NPT_TRY(npt_st_writer_create(&writer, path));
    npt_status status = npt_st_writer_add(writer, "s", NPT_U8, 1, shape, NULL, produce_stream, s);
    if (status == NPT_OK) status = npt_st_writer_commit(writer);
    npt_st_writer_destroy(writer);
    return status;
}

static void data_is_asked_for_in_pieces_in_order(void **state)
{
    (void)state;
    const uint64_t bytes = (3 << 20) + 17;
    char *directory = temp_dir();
    char *path = npt_path_join(directory, "x.safetensors");
    stream s = {.stop_at = bytes};
    assert_int_equal(write_stream(path, &s, bytes), NPT_OK);
    assert_int_equal(s.next, bytes);
    assert_int_equal(s.largest, 1 << 20);
    npt_st *st = NULL;
    assert_int_equal(npt_st_open(&st, path, false), NPT_OK);
    const uint8_t *data = npt_st_find(st, "s")->data;
    for (uint64_t i = 0; i < bytes; i++)
        if (data[i] != i % 251) fail_msg("byte %llu differs", (unsigned long long)i);
    npt_st_close(st);
    npt_free(path);
    temp_dir_remove(directory);
}

/* ---- What goes wrong leaves the old file, and nothing else ---- */

static void a_producer_that_fails_leaves_nothing(void **state)
{
    (void)state;
    char *directory = temp_dir();
    char *path = npt_path_join(directory, "x.safetensors");
    stream s = {.stop_at = 2 << 20};
    assert_int_equal(write_stream(path, &s, 3 << 20), NPT_E_NUMERIC);
    assert_message_has("no more numbers");
    assert_int_equal(temp_dir_count(directory), 0);
    npt_free(path);
    temp_dir_remove(directory);
}

static void an_uncommitted_writer_leaves_nothing(void **state)
{
    (void)state;
    char *directory = temp_dir();
    char *path = temp_file(directory, "x.safetensors", "old", 3);
    npt_st_writer *writer = NULL;
    assert_int_equal(npt_st_writer_create(&writer, path), NPT_OK);
    npt_st_writer_destroy(writer);
    npt_st_writer_destroy(NULL);
    assert_int_equal(temp_dir_count(directory), 1);
    char *data = NULL;
    size_t bytes = 0;
    assert_int_equal(npt_read_file(path, 10, &data, &bytes), NPT_OK);
    assert_string_equal(data, "old");
    npt_free(data);
    npt_free(path);
    temp_dir_remove(directory);
}

static void bad_names_are_refused(void **state)
{
    (void)state;
    static const char *const names[][2] = {{"same", "same"}, {"a", "\xff"}};
    static const char *const parts[] = {"two tensors are named 'same'", "not UTF-8"};
    char *directory = temp_dir();
    char *path = npt_path_join(directory, "x.safetensors");
    for (size_t i = 0; i < 2; i++) {
        npt_st_writer *writer = NULL;
        assert_int_equal(npt_st_writer_create(&writer, path), NPT_OK);
        for (size_t k = 0; k < 2; k++)
            assert_int_equal(
                npt_st_writer_add(writer, names[i][k], NPT_U8, 0, NULL, "x", NULL, NULL), NPT_OK);
        assert_int_equal(npt_st_writer_commit(writer), NPT_E_USAGE);
        assert_message_has(parts[i]);
        assert_message_has(path);
        npt_st_writer_destroy(writer);
        assert_int_equal(temp_dir_count(directory), 0);
    }
    npt_free(path);
    temp_dir_remove(directory);
}

static void a_file_that_cannot_grow_leaves_nothing(void **state)
{
    (void)state;
    struct rlimit old, small = {1 << 20, 1 << 20};
    char *directory = temp_dir();
    char *path = temp_file(directory, "x.safetensors", "old", 3);
    stream s = {.stop_at = 8 << 20};
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small.rlim_max = old.rlim_max;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    npt_status status = write_stream(path, &s, 8 << 20);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    signal(SIGXFSZ, handler);
    assert_int_equal(status, NPT_E_IO);
    assert_message_has(path);
    assert_message_has("File too large");
    assert_int_equal(temp_dir_count(directory), 1);
    npt_free(path);
    temp_dir_remove(directory);
}

#ifdef __linux__
/* In a process of its own, with a file system of 256 KiB that no other process sees. Returns 0
 * where all is well, SKIPPED where we may not mount. */
enum { SKIPPED = 77 };

static int fill_a_disk(const char *directory)
{
    stream s = {.stop_at = 8 << 20};
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", "none", MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("none", directory, "tmpfs", 0, "size=256k") != 0)
        return SKIPPED;
    char *path = npt_path_join(directory, "x.safetensors");
    if (write_stream(path, &s, 8 << 20) != NPT_E_IO) return 1;
    if (strstr(npt_error_message(), "No space left on device") == NULL) return 2;
    if (strstr(npt_error_message(), path) == NULL) return 3;
    if (s.next != 0) return 4; /* known before the first byte was computed */
    npt_free(path);
    return temp_dir_count(directory) == 0 ? 0 : 5;
}

static void a_full_disk_is_known_before_the_work(void **state)
{
    (void)state;
    char *directory = temp_dir();
    int status = 0;
    fflush(stdout);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        int result = fill_a_disk(directory);
        npt_free(directory); /* or valgrind calls it a leak of this process */
        _exit(result);
    }
    assert_true(waitpid(child, &status, 0) == child && WIFEXITED(status));
    if (WEXITSTATUS(status) == SKIPPED)
        print_message("not tried: this user may not mount a file system\n");
    else
        assert_int_equal(WEXITSTATUS(status), 0);
    temp_dir_remove(directory);
}
#endif

static void a_place_without_a_way_in_is_refused(void **state)
{
    (void)state;
    char *directory = temp_dir();
    npt_st_writer *writer = NULL;
    char *path = npt_path_join(directory, "absent/x.safetensors");
    assert_int_equal(npt_st_writer_create(&writer, path), NPT_E_IO);
    assert_message_has("No such file");
    assert_message_has(path);
    npt_free(path);
    path = npt_path_join(directory, "x.safetensors");
    if (geteuid() != 0) { /* nothing is read-only to root */
        assert_int_equal(chmod(directory, 0500), 0);
        assert_int_equal(npt_st_writer_create(&writer, path), NPT_E_IO);
        assert_message_has("Permission denied");
        assert_int_equal(chmod(directory, 0700), 0);
    }
    assert_null(writer);
    npt_free(path);
    temp_dir_remove(directory);
}

static void a_reader_keeps_the_file_it_opened(void **state)
{
    (void)state;
    char *directory = temp_dir();
    char *path = npt_path_join(directory, "x.safetensors");
    stream s = {.stop_at = 1000}, shorter = {.stop_at = 10};
    npt_st *st = NULL;
    assert_int_equal(write_stream(path, &s, 1000), NPT_OK);
    assert_int_equal(npt_st_open(&st, path, false), NPT_OK);
    assert_int_equal(write_stream(path, &shorter, 10), NPT_OK);
    assert_int_equal(npt_st_check_unchanged(st), NPT_OK);
    assert_int_equal(((const uint8_t *)npt_st_find(st, "s")->data)[999], 999 % 251);
    npt_st_close(st);
    npt_free(path);
    temp_dir_remove(directory);
}

static void every_failed_allocation_is_reported(void **state)
{
    (void)state;
    char *directory = temp_dir();
    char *path = npt_path_join(directory, "x.safetensors");
    long n = 1;
    for (;; n++) {
        long before = npt_alloc_count();
        npt_alloc_fail_at(n);
        npt_status status = write_golden(path, true);
        npt_alloc_fail_at(0);
        if (npt_alloc_count() - before < n) break;
        assert_int_equal(status, NPT_E_NOMEM);
        assert_int_equal(temp_dir_count(directory), 0);
    }
    assert_true(n > 20);
    npt_free(path);
    temp_dir_remove(directory);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("the bytes are those of the reference", the_bytes_are_those_of_the_reference),
        NPT_CASE("the empty map is sixteen bytes", the_empty_map_is_sixteen_bytes),
        NPT_CASE("the reference file reads as it was made",
                 the_reference_file_reads_as_it_was_made),
        NPT_CASE("metadata is sorted and comes back", metadata_is_sorted_and_comes_back),
        NPT_CASE("data is asked for in pieces, in order", data_is_asked_for_in_pieces_in_order),
        NPT_CASE("a producer that fails leaves nothing", a_producer_that_fails_leaves_nothing),
        NPT_CASE("an uncommitted writer leaves nothing", an_uncommitted_writer_leaves_nothing),
        NPT_CASE("bad names are refused", bad_names_are_refused),
        NPT_CASE("a file that cannot grow leaves nothing", a_file_that_cannot_grow_leaves_nothing),
#ifdef __linux__
        NPT_CASE("a full disk is known before the work", a_full_disk_is_known_before_the_work),
#endif
        NPT_CASE("a place without a way in is refused", a_place_without_a_way_in_is_refused),
        NPT_CASE("a reader keeps the file it opened", a_reader_keeps_the_file_it_opened),
        NPT_CASE("every failed allocation is reported", every_failed_allocation_is_reported),
    };
    return npt_test_run("st_writer", cases, NPT_COUNT(cases));
}
