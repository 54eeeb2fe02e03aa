/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "files/safetensors.h"

#include <sys/stat.h>
#include <unistd.h>

#include "unit/st_file.h"
#include "unit/temp_dir.h"

/* Reading: what must be accepted, what must be refused and with which words, shards, directories.
 */

static npt_st *open_ok(const char *path)
{
    npt_st *st = NULL;
    if (npt_st_open(&st, path, false) != NPT_OK) fail_msg("refused: %s", npt_error_message());
    return st;
}

/* ---- Refused ---- */

static const struct {
    const char *json;
    size_t data_bytes;
    const char *part;
    npt_status status; /* 0 = NPT_E_FORMAT */
} REFUSED[] = {
    /* not the JSON we want */
    {"", 0, "JSON", 0},
    {"    ", 0, "JSON", 0},
    {"[]", 0, "not an object", 0},
    {"{", 0, "JSON", 0},
    {"{} x", 0, "JSON", 0},
    {"{}{}", 0, "JSON", 0},
    {"{\"a\":NaN}", 0, "JSON", 0},
    {"{'a':1}", 0, "JSON", 0},
    {"{\"\xff\":" F32_AT(0, 4) "}", 4, "JSON", 0},
    {"{\"\xc0\x80\":" F32_AT(0, 4) "}", 4, "JSON", 0},
    {"{\"\xed\xa0\x80\":" F32_AT(0, 4) "}", 4, "JSON", 0},
    {"{}\xff", 0, "JSON", 0},
    {"\xef\xbb\xbf{}", 0, "JSON", 0},
    {"{\"a\\u0000\":" F32_AT(0, 4) "}", 4, "JSON", 0},
    {"{\"a\\ud800\":" F32_AT(0, 4) "}", 4, "JSON", 0},
    /* duplicates */
    {"{\"a\":" F32_AT(0, 4) ",\"a\":" F32_AT(4, 8) "}", 8, "duplicate", 0},
    {"{\"a\":" F32_AT(0, 4) ",\"\\u0061\":" F32_AT(4, 8) "}", 8, "duplicate", 0},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "duplicate", 0},
    {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
     "duplicate", 0},
    /* an entry that is none */
    {"{\"a\":null}", 0, "'a' is not described", 0},
    {"{\"a\":[0,4]}", 4, "'a' is not described", 0},
    {"{\"a\":{}}", 0, "'a' has no dtype", 0},
    {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "'a' has no dtype", 0},
    {"{\"a\":{\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "'a' has no dtype", 0},
    {"{\"a\":{\"dtype\":\"F31\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "unknown dtype 'F31'",
     0},
    {"{\"a\":{\"dtype\":\"f32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "unknown dtype 'f32'",
     0},
    {"{\"a\":{\"dtype\":\"NF4\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "unknown dtype 'NF4'",
     0},
    {"{\"a\":{\"dtype\":\"\\u001b[2J\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
     "unknown dtype '?[2J'", 0},
    /* shapes */
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "'a' has no shape", 0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}", 4, "'a' has no shape", 0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4, "list of integers",
     0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[true],\"data_offsets\":[0,4]}}", 4, "list of integers",
     0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, "negative size", 0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1,-1],\"data_offsets\":[0,4]}}", 4, "negative size", 0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387905],\"data_offsets\":[0,4]}}", 4,
     "overflows", 0},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
     "overflows", 0},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[0,4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
     "overflows", 0},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[18446744073709551616],\"data_offsets\":[0,0]}}", 0,
     "JSON", 0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4,
     "'a' has 9 dimensions", NPT_E_UNSUPPORTED},
    /* size against dtype and shape */
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, "takes 4 bytes where",
     0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,0]}}", 0, "takes 0 bytes where",
     0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,4]}}", 4, "takes 4 bytes where",
     0},
    /* offsets */
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "no data_offsets", 0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "no data_offsets", 0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 4, "no data_offsets", 0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[\"0\",\"4\"]}}", 4,
     "no data_offsets", 0},
    {"{\"a\":" F32_AT(4, 0) "}", 4, "ends before it begins", 0},
    {"{\"a\":" F32_AT(-4, 0) "}", 4, "ends before it begins", 0},
    {"{\"a\":" F32_AT(0, 4) "}", 3, "past the end", 0},
    {"{\"a\":" F32_AT(9223372036854775803, 9223372036854775807) "}", 4, "past the end", 0},
    /* the whole */
    {"{}", 1, "1 bytes follow the last tensor", 0},
    {"{\"a\":" F32_AT(0, 4) "}", 5, "1 bytes follow the last tensor", 0},
    {"{\"a\":" F32_AT(4, 8) "}", 8, "'a' has a hole before it", 0},
    {"{\"a\":" F32_AT(0, 4) ",\"b\":" F32_AT(8, 12) "}", 12, "'b' has a hole before it", 0},
    {"{\"a\":" F32_AT(0, 4) ",\"b\":" F32_AT(0, 4) "}", 4, "overlaps another", 0},
    {"{\"a\":" F32_AT(0, 4) ",\"b\":" F32_AT(2, 6) "}", 6, "'b' overlaps another", 0},
    {"{\"a\":" F32_AT(0, 4) ",\"b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[2,2]}}", 4,
     "'b' overlaps another", 0},
    /* metadata */
    {"{\"__metadata__\":[]}", 0, "__metadata__ is not an object", 0},
    {"{\"__metadata__\":\"pt\"}", 0, "__metadata__ is not an object", 0},
    {"{\"__metadata__\":{\"step\":7}}", 0, "__metadata__ 'step' is not a string", 0},
};

static void every_bad_header_is_refused(void **state)
{
    (void)state;
    char *directory = temp_dir();
    for (size_t i = 0; i < NPT_COUNT(REFUSED); i++) {
        char *path = write_st(directory, "bad.safetensors", REFUSED[i].json,
                              strlen(REFUSED[i].json), REFUSED[i].data_bytes);
        npt_status status = REFUSED[i].status == NPT_OK ? NPT_E_FORMAT : REFUSED[i].status;
        assert_refused(path, status, REFUSED[i].part);
        npt_free(path);
    }
    temp_dir_remove(directory);
}

static void a_nul_in_the_header_is_refused(void **state)
{
    (void)state;
    char *directory = temp_dir();
    static const char json[] = "{}\0\0\0\0";
    char *path = write_st(directory, "nul.safetensors", json, sizeof json, 0);
    assert_refused(path, NPT_E_FORMAT, "JSON");
    npt_free(path);
    temp_dir_remove(directory);
}

static void a_wrong_length_is_refused(void **state)
{
    (void)state;
    static const struct {
        size_t bytes;
        uint8_t file[10];
        const char *part;
    } cases[] = {
        {0, {0}, "fewer than the 8"},
        {7, {2, 0, 0, 0, 0, 0, 0}, "fewer than the 8"},
        {8, {0}, "JSON"},
        {8, {1, 0, 0, 0, 0, 0, 0, 0}, "past the end of the file"},
        {10, {3, 0, 0, 0, 0, 0, 0, 0, '{', '}'}, "past the end of the file"},
        {10, {0, 0xE1, 0xF5, 5, 0, 0, 0, 0, '{', '}'}, "past the end of the file"}, /* 10^8 */
        {10, {1, 0xE1, 0xF5, 5, 0, 0, 0, 0, '{', '}'}, "the limit is 100000000"},
        {10, {2, 0, 0, 0, 1, 0, 0, 0, '{', '}'}, "the limit is"}, /* 2, were it cut to 32 bits */
        {10, {255, 255, 255, 255, 255, 255, 255, 255, '{', '}'}, "the limit is"},
        {10, {0xF8, 255, 255, 255, 255, 255, 255, 255, '{', '}'}, "the limit is"},
    };
    char *directory = temp_dir();
    for (size_t i = 0; i < NPT_COUNT(cases); i++) {
        char *path = temp_file(directory, "n.safetensors", cases[i].file, cases[i].bytes);
        assert_refused(path, NPT_E_FORMAT, cases[i].part);
        npt_free(path);
    }
    temp_dir_remove(directory);
}

static void what_is_not_a_file_is_refused(void **state)
{
    (void)state;
    char *directory = temp_dir();
    char *path = npt_path_join(directory, "pipe.safetensors");
    assert_refused(path, NPT_E_IO, "No such file");
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_refused(path, NPT_E_IO, "not a regular file");
    npt_free(path);
    temp_dir_remove(directory);
}

/* ---- Accepted ---- */

static void odd_but_legal_headers_are_accepted(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        size_t data_bytes, count;
    } cases[] = {
        {"{}", 0, 0},
        {"  \n\t{ } \r\n  ", 0, 0},
        {"{\"__metadata__\":{}}", 0, 0},
        {"{\"__metadata__\":null}", 0, 0},
        {"{\"a\":" F32_AT(0, 4) "}", 4, 1},
        {"{\"\":" F32_AT(0, 4) "}", 4, 1},
        {"{\"b\":" F32_AT(0, 4) ",\"a\":" F32_AT(4, 8) "}", 8, 2},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, 1},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, 1},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[9,0,9],\"data_offsets\":[0,0]}}", 0, 1},
        {"{\"a\":" F32_AT(0, 4) ",\"e\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[4,4]}}",
         4, 2},
        {"{\"a\":" F32_AT(0, 4) ",\"e\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}",
         4, 2},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"note\":{\"x\":[1]}}}", 4,
         1},
    };
    char *directory = temp_dir();
    for (size_t i = 0; i < NPT_COUNT(cases); i++) {
        char *path = write_st(directory, "good.safetensors", cases[i].json, strlen(cases[i].json),
                              cases[i].data_bytes);
        npt_st *st = open_ok(path);
        assert_int_equal(npt_st_count(st), cases[i].count);
        for (size_t k = 1; k < npt_st_count(st); k++)
            assert_true(strcmp(npt_st_at(st, k - 1)->name, npt_st_at(st, k)->name) < 0);
        assert_int_equal(npt_st_check_unchanged(st), NPT_OK);
        npt_st_close(st);
        npt_free(path);
    }
    temp_dir_remove(directory);
}

static void tensors_are_found_where_they_are(void **state)
{
    (void)state;
    static const char json[] =
        "{\"__metadata__\":{\"format\":\"pt\"},"
        "\"b\":{\"dtype\":\"U8\",\"shape\":[2,3],\"data_offsets\":[4,10]},\"a\":" F32_AT(0, 4) "}";
    char *directory = temp_dir();
    char *path = write_st(directory, "x.safetensors", json, strlen(json), 10);
    for (int headers_only = 0; headers_only < 2; headers_only++) {
        npt_st *st = NULL;
        assert_int_equal(npt_st_open(&st, path, headers_only != 0), NPT_OK);
        const npt_st_tensor *b = npt_st_find(st, "b");
        assert_non_null(b);
        assert_int_equal(b->dtype, NPT_U8);
        assert_int_equal(b->rank, 2);
        assert_int_equal(b->shape[0], 2);
        assert_int_equal(b->shape[1], 3);
        assert_int_equal(b->begin, 8 + strlen(json) + 4);
        assert_int_equal(b->bytes, 6);
        assert_string_equal(b->file, path);
        if (headers_only)
            assert_null(b->data);
        else
            assert_memory_equal(b->data, "\4\5\6\7\10\11", 6);
        assert_null(npt_st_find(st, "c"));
        assert_null(npt_st_find(st, "__metadata__"));
        assert_string_equal(npt_st_metadata(st, "format"), "pt");
        assert_null(npt_st_metadata(st, "step"));
        npt_st_close(st);
    }
    npt_free(path);
    temp_dir_remove(directory);
}

static void a_requirement_says_what_is_wrong(void **state)
{
    (void)state;
    static const char json[] = "{\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
                               "\"q\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[24,25]}}";
    static const int64_t right[] = {2, 3}, wrong[] = {3, 2};
    char *directory = temp_dir();
    char *path = write_st(directory, "x.safetensors", json, strlen(json), 25);
    npt_st *st = open_ok(path);
    const npt_st_tensor *found = NULL;
    assert_int_equal(npt_st_require(st, "c", NPT_F32, 2, right, &found), NPT_E_FORMAT);
    assert_message_has("no tensor 'c'");
    assert_message_has(path);
    assert_int_equal(npt_st_require(st, "b", NPT_BF16, 2, right, &found), NPT_E_FORMAT);
    assert_message_has("'b' is F32, not BF16");
    assert_int_equal(npt_st_require(st, "q", NPT_DTYPE_NONE, 0, NULL, &found), NPT_E_FORMAT);
    assert_message_has("'q' is U8, not F32, F16 or BF16");
    assert_int_equal(npt_st_require(st, "b", NPT_F32, 2, wrong, &found), NPT_E_FORMAT);
    assert_message_has("has the shape [2, 3], not [3, 2]");
    assert_int_equal(npt_st_require(st, "b", NPT_F32, 1, right, &found), NPT_E_FORMAT);
    assert_message_has("has the shape [2, 3], not [2]");
    assert_null(found);
    assert_int_equal(npt_st_require(st, "b", NPT_DTYPE_NONE, 2, right, &found), NPT_OK);
    assert_string_equal(found->name, "b");
    assert_int_equal(npt_st_require(st, "q", NPT_U8, 0, NULL, &found), NPT_OK);
    npt_st_close(st);
    npt_free(path);
    temp_dir_remove(directory);
}

static void a_file_that_shrinks_is_noticed(void **state)
{
    (void)state;
    static const char json[] = "{\"a\":" F32_AT(0, 4) "}";
    char *directory = temp_dir();
    char *path = write_st(directory, "x.safetensors", json, strlen(json), 4);
    npt_st *st = open_ok(path);
    assert_int_equal(npt_st_check_unchanged(st), NPT_OK);
    assert_int_equal(truncate(path, 20), 0);
    assert_int_equal(npt_st_check_unchanged(st), NPT_E_IO);
    assert_message_has("changed while it was in use");
    assert_message_has(path);
    assert_string_equal(npt_st_at(st, 0)->name, "a"); /* the header is a copy */
    npt_st_close(st);
    npt_free(path);
    temp_dir_remove(directory);
}

/* ---- Directories ---- */

static void put_index(const char *directory, const char *json)
{
    npt_free(temp_file(directory, "model.safetensors.index.json", json, strlen(json)));
}

static void shards_are_read_as_one(void **state)
{
    (void)state;
    static const char one[] =
        "{\"__metadata__\":{\"x\":\"1\"},\"a\":" F32_AT(0, 4) ",\"d\":" F32_AT(4, 8) "}";
    static const char two[] = "{\"__metadata__\":{\"x\":\"2\",\"y\":\"2\"},\"b\":" F32_AT(0, 4) "}";
    char *directory = temp_dir();
    char *path1 = write_st(directory, "m-1.safetensors", one, strlen(one), 8);
    char *path2 = write_st(directory, "m-2.safetensors", two, strlen(two), 4);
    put_index(directory,
              "{\"metadata\":{\"total_size\":12},\"weight_map\":{\"d\":\"m-1.safetensors\","
              "\"b\":\"m-2.safetensors\",\"a\":\"m-1.safetensors\"}}");
    npt_st *st = open_ok(directory);
    assert_int_equal(npt_st_count(st), 3);
    assert_string_equal(npt_st_at(st, 1)->name, "b");
    assert_string_equal(npt_st_find(st, "b")->file, path2);
    assert_string_equal(npt_st_find(st, "d")->file, path1);
    assert_memory_equal(npt_st_find(st, "d")->data, "\4\5\6\7", 4);
    assert_string_equal(npt_st_metadata(st, "x"), "1");
    assert_string_equal(npt_st_metadata(st, "y"), "2");
    assert_int_equal(npt_st_check_unchanged(st), NPT_OK);
    npt_st_close(st);
    npt_free(path1);
    npt_free(path2);
    temp_dir_remove(directory);
}

static void every_bad_index_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *json, *part;
        npt_status status;
    } cases[] = {
        {"{", "JSON", NPT_E_FORMAT},
        {"{}", "no weight_map", NPT_E_FORMAT},
        {"{\"weight_map\":[]}", "no weight_map", NPT_E_FORMAT},
        {"{\"weight_map\":{}}", "weight_map is empty", NPT_E_FORMAT},
        {"{\"weight_map\":{\"a\":7}}", "'a' is said to be in ''", NPT_E_FORMAT},
        {"{\"weight_map\":{\"a\":\"\"}}", "'a' is said to be in ''", NPT_E_FORMAT},
        {"{\"weight_map\":{\"a\":\"..\"}}", "in '..', which is not", NPT_E_FORMAT},
        {"{\"weight_map\":{\"a\":\"../m.safetensors\"}}", "which is not the name", NPT_E_FORMAT},
        {"{\"weight_map\":{\"a\":\"/m.safetensors\"}}", "which is not the name", NPT_E_FORMAT},
        {"{\"weight_map\":{\"a\":\"x/m.safetensors\"}}", "which is not the name", NPT_E_FORMAT},
        {"{\"weight_map\":{\"a\":\".safetensors\"}}", "which is not the name", NPT_E_FORMAT},
        {"{\"weight_map\":{\"a\":\"pytorch_model.bin\"}}", "which is not the name", NPT_E_FORMAT},
        {"{\"weight_map\":{\"a\":\"m-3.safetensors\"}}", "No such file", NPT_E_IO},
        {"{\"weight_map\":{\"a\":\"m-1.safetensors\",\"a\":\"m-1.safetensors\"}}", "duplicate",
         NPT_E_FORMAT},
        {"{\"weight_map\":{\"a\":\"m-1.safetensors\",\"b\":\"m-1.safetensors\"}}",
         "'b' is not in 'm-1.safetensors'", NPT_E_FORMAT},
        {"{\"weight_map\":{\"a\":\"m-2.safetensors\",\"b\":\"m-1.safetensors\"}}", "is not in 'm-",
         NPT_E_FORMAT},
        {"{\"weight_map\":{\"a\":\"m-1.safetensors\",\"c\":\"m-4.safetensors\"}}", "'a' is in",
         NPT_E_FORMAT},
    };
    static const char a[] = "{\"a\":" F32_AT(0, 4) "}", b[] = "{\"b\":" F32_AT(0, 4) "}";
    static const char ca[] = "{\"c\":" F32_AT(0, 4) ",\"a\":" F32_AT(4, 8) "}";
    char *directory = temp_dir();
    npt_free(write_st(directory, "m-1.safetensors", a, strlen(a), 4));
    npt_free(write_st(directory, "m-2.safetensors", b, strlen(b), 4));
    npt_free(write_st(directory, "m-4.safetensors", ca, strlen(ca), 8));
    for (size_t i = 0; i < NPT_COUNT(cases); i++) {
        put_index(directory, cases[i].json);
        assert_refused(directory, cases[i].status, cases[i].part);
        assert_message_has("model.safetensors.index.json");
    }
    temp_dir_remove(directory);
}

static void a_directory_gives_its_model_or_a_reason(void **state)
{
    (void)state;
    char *directory = temp_dir();
    assert_refused(directory, NPT_E_IO, "neither");
    char *pickle = temp_file(directory, "pytorch_model.bin", "PK\3\4", 4);
    assert_refused(directory, NPT_E_UNSUPPORTED, "weights as pickles");
    assert_message_has("save_pretrained");
    assert_refused(pickle, NPT_E_UNSUPPORTED, "torch.load('pytorch_model.bin'");
    assert_message_has("save_file");
    npt_free(pickle);
    char *model = write_st(directory, "model.safetensors", "{}", 2, 0);
    npt_st_close(open_ok(directory));
    npt_free(model);
    temp_dir_remove(directory);
}

/* ---- Memory that fails ---- */

static void every_failed_allocation_is_reported(void **state)
{
    (void)state;
    static const char one[] = "{\"a\":" F32_AT(0, 4) "}", two[] = "{\"b\":" F32_AT(0, 4) "}";
    char *directory = temp_dir();
    npt_free(write_st(directory, "m-1.safetensors", one, strlen(one), 4));
    npt_free(write_st(directory, "m-2.safetensors", two, strlen(two), 4));
    put_index(directory, "{\"weight_map\":{\"b\":\"m-2.safetensors\",\"a\":\"m-1.safetensors\"}}");
    long n = 1;
    for (;; n++) {
        npt_st *st = NULL;
        long before = npt_alloc_count();
        npt_alloc_fail_at(n);
        npt_status status = npt_st_open(&st, directory, false);
        npt_alloc_fail_at(0);
        bool reached = npt_alloc_count() - before >= n;
        npt_st_close(st);
        if (!reached) break;
        assert_int_equal(status, NPT_E_NOMEM);
        assert_null(st);
    }
    assert_true(n > 10);
    temp_dir_remove(directory);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("every bad header is refused with its reason", every_bad_header_is_refused),
        NPT_CASE("a NUL in the header is refused", a_nul_in_the_header_is_refused),
        NPT_CASE("a wrong length is refused", a_wrong_length_is_refused),
        NPT_CASE("what is not a file is refused", what_is_not_a_file_is_refused),
        NPT_CASE("odd but legal headers are accepted", odd_but_legal_headers_are_accepted),
        NPT_CASE("tensors are found where they are", tensors_are_found_where_they_are),
        NPT_CASE("a requirement says what is wrong", a_requirement_says_what_is_wrong),
        NPT_CASE("a file that shrinks is noticed", a_file_that_shrinks_is_noticed),
        NPT_CASE("shards are read as one", shards_are_read_as_one),
        NPT_CASE("every bad index is refused with its reason", every_bad_index_is_refused),
        NPT_CASE("a directory gives its model or a reason",
                 a_directory_gives_its_model_or_a_reason),
        NPT_CASE("every failed allocation is reported", every_failed_allocation_is_reported),
    };
    return npt_test_run("safetensors", cases, NPT_COUNT(cases));
}
