/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "../npt_test.h"

#include <unistd.h>

#ifdef HAVE_ZLIB
#include <zlib.h>
#endif
#ifdef HAVE_ZSTD
#include <zstd.h>
#endif

#include "base/memory.h"
#include "files/files.h"
#include "text/dataset.h"
#include "text/reader.h"

/* Datasets in a folder of their own under /tmp. Expected rows are written down here, or found by
 * encoding the same text. */

static char folder[] = "/tmp/npt-dataset-XXXXXX";
static npt_tokenizer *tokenizer;
static int logged;

static void count_lines(void *context, npt_log_level level, const char *line)
{
    (void)context;
    (void)level;
    (void)line;
    logged++;
}

static char *path_of(const char *name)
{
    static char path[4][256];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof(path[turn]), "%s/%s", folder, name);
    return path[turn];
}

static void write_bytes(const char *name, const void *data, size_t length)
{
    FILE *file = fopen(path_of(name), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, length, file), length);
    fclose(file);
}

static void write_text(const char *name, const char *text)
{
    write_bytes(name, text, strlen(text));
}

static npt_status open_with(npt_dataset **dataset, const char *path, npt_dataset_options options)
{
    options.path = path;
    return npt_dataset_open(dataset, &options);
}

static npt_dataset *open_plain(const char *path)
{
    npt_dataset *dataset = NULL;
    npt_dataset_options options = {.tokenizer = tokenizer};
    if (open_with(&dataset, path, options) != NPT_OK) fail_msg("%s", npt_error_message());
    return dataset;
}

/* Reads to the end: "1 2 3|4|" for two rows. The caller frees. */
static char *rows_of(npt_dataset *dataset)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    npt_ids ids = {0};
    bool end = false;

    for (;;) {
        if (npt_dataset_next(dataset, &ids, &end) != NPT_OK) fail_msg("%s", npt_error_message());
        if (end) break;
        for (size_t i = 0; i < ids.count; i++)
            fprintf(out, i == 0 ? "%d" : " %d", (int)ids.data[i]);
        fputc('|', out);
    }
    assert_int_equal(ids.count, 0);
    npt_ids_fini(&ids);
    fclose(out);
    return text;
}

static void check_rows(npt_dataset *dataset, const char *expected)
{
    char *rows = rows_of(dataset);
    assert_string_equal(rows, expected);
    free(rows);
}

static char *encoded(const char *text, bool special)
{
    npt_ids ids = {0};
    char *out = calloc(1, 16 * strlen(text) + 64), *at = out;
    assert_int_equal(npt_tokenizer_encode(tokenizer, text, strlen(text), special, &ids), NPT_OK);
    for (size_t i = 0; i < ids.count; i++)
        at += sprintf(at, i == 0 ? "%d" : " %d", (int)ids.data[i]);
    npt_ids_fini(&ids);
    return out;
}

/* ---- Rows ------------------------------------------------------------------------------------ */

static void json_rows(void **state)
{
    npt_dataset *dataset;
    char *a = encoded("the sun", true), *b = encoded("a\"b\n\xC3\xA9", true), expected[512];

    (void)state;
    write_text(
        "a.jsonl",
        "\xEF\xBB\xBF{\"text\": \"the sun\"}\r\n\n  \n{\"input_ids\":[1,2,3],\"text\":\"no\"}\n"
        "{\"text\":\"a\\\"b\\n\\u00e9\",\"other\":[{}]}\n{\"input_ids\":[7]}");
    dataset = open_plain(path_of("a.jsonl"));
    snprintf(expected, sizeof(expected), "%s|1 2 3|%s|7|", a, b);
    check_rows(dataset, expected);
    assert_int_equal(npt_dataset_bad_rows(dataset), 0);
    assert_int_equal(npt_dataset_tell(dataset).row, 4);
    npt_dataset_rewind(dataset);
    check_rows(dataset, expected);
    npt_dataset_close(dataset);
    free(a);
    free(b);
}

static void text_rows(void **state)
{
    npt_dataset *dataset;
    char *a = encoded("{\"input_ids\":[1]}", true), *b = encoded(" second  ", true), expected[512];

    (void)state;
    write_text("a.txt", "{\"input_ids\":[1]}\n\n\r\n \t\n second  \r\n\n\n");
    dataset = open_plain(path_of("a.txt"));
    snprintf(expected, sizeof(expected), "%s|%s|", a, b);
    check_rows(dataset, expected);
    npt_dataset_close(dataset);
    free(a);
    free(b);
}

static void special_tokens(void **state)
{
    npt_dataset *dataset;
    npt_dataset_options options = {.tokenizer = tokenizer, .no_special_tokens = true};
    char *with = encoded("river", true), *without = encoded("river", false), expected[128];

    (void)state;
    assert_true(strlen(with) > strlen(without));
    write_text("b.jsonl", "{\"text\":\"river\"}\n");
    assert_int_equal(open_with(&dataset, path_of("b.jsonl"), options), NPT_OK);
    snprintf(expected, sizeof(expected), "%s|", without);
    check_rows(dataset, expected);
    npt_dataset_close(dataset);
    free(with);
    free(without);
}

static void limits(void **state)
{
    npt_dataset *dataset;
    npt_dataset_options options = {.max_length = 2, .num_samples = 2, .vocab_size = 10};
    int64_t rows = 0;

    (void)state;
    write_text("c.jsonl", "{\"input_ids\":[1,2,3]}\n{\"input_ids\":[10]}\n{\"input_ids\":[9]}\n"
                          "{\"input_ids\":[4,5]}\n");
    assert_int_equal(open_with(&dataset, path_of("c.jsonl"), options), NPT_OK);
    assert_int_equal(npt_dataset_count(dataset, &rows), NPT_OK);
    assert_int_equal(rows, 2);
    assert_int_equal(npt_dataset_bad_rows(dataset), 0);
    check_rows(dataset, "1 2|9|");
    assert_int_equal(npt_dataset_bad_rows(dataset), 1);
    npt_dataset_close(dataset);
}

static const char bad_lines[] = "{\"input_ids\":[1]}\n"
                                "{\"input_ids\":[]}\n"
                                "{\"input_ids\":[1,-1]}\n"
                                "{\"input_ids\":[1,2147483648]}\n"
                                "{\"input_ids\":[1.0]}\n"
                                "{\"input_ids\":5}\n"
                                "{\"input_ids\":[1]\n"
                                "[1,2]\n"
                                "{}\n"
                                "{\"text\":7}\n"
                                "{\"text\":\"\xFF\"}\n"
                                "{\"messages\":[]}\n"
                                "not json\n"
                                "{\"input_ids\":[500000]}\n"
                                "{\"input_ids\":null,\"text\":null}\n"
                                "{\"input_ids\":[2]}\n";

static void bad_rows(void **state)
{
    npt_dataset *dataset;
    npt_dataset_options options = {.tokenizer = tokenizer, .vocab_size = 1000};
    npt_ids ids = {0};
    bool end;
    int64_t rows;

    (void)state;
    write_text("bad.jsonl", bad_lines);
    npt_log_set(count_lines, NULL);
    assert_int_equal(open_with(&dataset, path_of("bad.jsonl"), options), NPT_OK);
    logged = 0;
    assert_int_equal(npt_dataset_count(dataset, &rows), NPT_OK);
    assert_int_equal(rows, 2);
    assert_int_equal(logged, 0);
    check_rows(dataset, "1|2|");
    assert_int_equal(npt_dataset_bad_rows(dataset), 14);
    assert_int_equal(logged, 11); /* ten, and one that says there are more */
    npt_dataset_close(dataset);
    npt_log_set(NULL, NULL);

    options.strict = true;
    assert_int_equal(open_with(&dataset, path_of("bad.jsonl"), options), NPT_OK);
    assert_int_equal(npt_dataset_next(dataset, &ids, &end), NPT_OK);
    assert_int_equal(npt_dataset_next(dataset, &ids, &end), NPT_E_DATA);
    assert_non_null(strstr(npt_error_message(), "bad.jsonl:2: "));
    assert_non_null(strstr(npt_error_message(), "no ids"));
    npt_ids_fini(&ids);
    npt_dataset_close(dataset);

    npt_log_set(count_lines, NULL);
    write_bytes("bad.txt",
                "good\nba\xC0\x80"
                "d\n",
                11);
    dataset = open_plain(path_of("bad.txt"));
    free(rows_of(dataset));
    assert_int_equal(npt_dataset_bad_rows(dataset), 1);
    npt_dataset_close(dataset);
    npt_log_set(NULL, NULL);
}

static void without_tokenizer(void **state)
{
    npt_dataset *dataset;
    npt_dataset_options options = {.strict = false};
    npt_ids ids = {0};
    bool end;

    (void)state;
    write_text("d.jsonl", "{\"text\":\"x\"}\n");
    assert_int_equal(open_with(&dataset, path_of("d.jsonl"), options), NPT_OK);
    assert_int_equal(npt_dataset_next(dataset, &ids, &end), NPT_E_UNSUPPORTED);
    assert_non_null(strstr(npt_error_message(), "no tokenizer"));
    npt_ids_fini(&ids);
    npt_dataset_close(dataset);
}

/* ---- Files ----------------------------------------------------------------------------------- */

static void many_files(void **state)
{
    npt_dataset *dataset = NULL;
    npt_dataset_options options = {0};

    (void)state;
    assert_int_equal(npt_make_directories(path_of("many/sub.jsonl")), NPT_OK);
    write_text("many/b.jsonl", "{\"input_ids\":[2]}\n");
    write_text("many/B.jsonl", "{\"input_ids\":[1]}");
    write_text("many/c.json", "\n{\"input_ids\":[3]}\n\n");
    write_text("many/empty.jsonl", "");
    write_text("many/z.JSONL", "{\"input_ids\":[4]}\n");
    write_text("many/.hidden.jsonl", "{\"input_ids\":[9]}\n");
    write_text("many/notes.md", "not data\n");
    dataset = open_plain(path_of("many"));
    check_rows(dataset, "1|2|3|4|");
    npt_dataset_close(dataset);
    dataset = open_plain(path_of("many/[bB].json*"));
    check_rows(dataset, "1|2|");
    npt_dataset_close(dataset);

    assert_int_equal(open_with(&dataset, path_of("many/nothing*"), options), NPT_E_IO);
    assert_int_equal(open_with(&dataset, path_of("many/sub.jsonl"), options), NPT_E_IO);
    write_text("x.parquet", "PAR1");
    assert_int_equal(open_with(&dataset, path_of("x.parquet"), options), NPT_E_UNSUPPORTED);
    assert_non_null(strstr(npt_error_message(), ".jsonl"));
}

/* An empty dataset is no error here: it has no rows. */
static void empty(void **state)
{
    npt_dataset *dataset;
    int64_t rows = -1;

    (void)state;
    write_text("empty.txt", "\n\n");
    dataset = open_plain(path_of("empty.txt"));
    assert_int_equal(npt_dataset_count(dataset, &rows), NPT_OK);
    assert_int_equal(rows, 0);
    check_rows(dataset, "");
    npt_dataset_close(dataset);
}

/* 3000 rows of different lengths, some bad, some blank. */
static char *long_text(size_t *length)
{
    char *text = NULL;
    FILE *out = open_memstream(&text, length);
    for (int i = 0; i < 3000; i++) {
        fprintf(out, "{\"input_ids\":[%d", i);
        for (int k = 0; k < i * 7 % 61; k++) fprintf(out, ",%d", k * i % 97);
        fputs(i % 100 == 50 ? "]\n" : i % 10 == 3 ? "]}\r\n\n" : "]}\n", out);
    }
    fclose(out);
    return text;
}

/* Stops after `rows` rows, goes on in another dataset from where the first was: the rest is the
 * rest. */
static void check_seek(const char *path, int rows)
{
    npt_dataset *first = open_plain(path), *second = open_plain(path);
    npt_dataset_position at;
    npt_ids ids = {0};
    bool end = false;
    char *a, *b;

    for (int i = 0; i < rows; i++) assert_int_equal(npt_dataset_next(first, &ids, &end), NPT_OK);
    at = npt_dataset_tell(first);
    assert_int_equal(at.row, rows);
    assert_int_equal(npt_dataset_seek(second, at), NPT_OK);
    a = rows_of(first);
    b = rows_of(second);
    assert_string_equal(a, b);
    assert_true(memcmp(&(npt_dataset_position){0}, &at, sizeof(at)) == 0 || strlen(a) < 800000);
    assert_int_equal(npt_dataset_tell(first).line, npt_dataset_tell(second).line);
    assert_int_equal(npt_dataset_tell(first).byte_offset, npt_dataset_tell(second).byte_offset);
    assert_int_equal(npt_dataset_seek(second, npt_dataset_tell(first)), NPT_OK); /* at the end */
    check_rows(second, "");
    free(a);
    free(b);
    npt_ids_fini(&ids);
    npt_dataset_close(first);
    npt_dataset_close(second);
}

static void check_kind(const char *name)
{
    npt_dataset *dataset = open_plain(path_of(name)), *plain = open_plain(path_of("s.jsonl"));
    char *a = rows_of(dataset), *b = rows_of(plain);
    npt_dataset_position past = {.file = 0, .byte_offset = 100000000};

    assert_string_equal(a, b);
    free(a);
    free(b);
    assert_int_equal(npt_dataset_seek(dataset, past), NPT_E_DATA);
    past.file = 2;
    assert_int_equal(npt_dataset_seek(dataset, past), NPT_E_DATA);
    npt_dataset_close(plain);
    npt_dataset_close(dataset);
    check_seek(path_of(name), 0);
    check_seek(path_of(name), 1);
    check_seek(path_of(name), 1234);
    check_seek(path_of(name), 2970);
}

static void plain_seek(void **state)
{
    size_t length;
    char *text = long_text(&length);

    (void)state;
    npt_log_set(count_lines, NULL);
    write_bytes("s.jsonl", text, length);
    check_kind("s.jsonl");
    assert_int_equal(npt_make_directories(path_of("two")), NPT_OK);
    write_bytes("two/1.jsonl", text, length / 2);
    write_bytes("two/2.jsonl", text + length / 2, length - length / 2);
    check_seek(path_of("two"), 5);
    check_seek(path_of("two"), 2500);
    npt_log_set(NULL, NULL);
    free(text);
}

#ifdef HAVE_ZLIB
/* Two members and padding, as `cat a.gz b.gz` and some tapes make. */
static void gzip_seek(void **state)
{
    size_t length;
    char *text = long_text(&length), *path = path_of("s.jsonl.gz");
    FILE *file;
    gzFile gz = gzopen(path, "wb");

    (void)state;
    npt_log_set(count_lines, NULL);
    gzwrite(gz, text, (unsigned)(length / 3));
    gzclose(gz);
    gz = gzopen(path, "ab");
    gzwrite(gz, text + length / 3, (unsigned)(length - length / 3));
    gzclose(gz);
    file = fopen(path, "ab");
    fwrite("\0\0\0\0\0\0\0", 1, 7, file);
    fclose(file);
    check_kind("s.jsonl.gz");
    npt_log_set(NULL, NULL);
    free(text);
}
#endif

#ifdef HAVE_ZSTD
static void zstd_seek(void **state)
{
    size_t length, half, bound, first, second;
    char *text = long_text(&length), *packed;

    (void)state;
    npt_log_set(count_lines, NULL);
    half = length / 3;
    bound = ZSTD_compressBound(length) + 1024;
    packed = malloc(2 * bound);
    first = ZSTD_compress(packed, bound, text, half, 3);
    second = ZSTD_compress(packed + first, bound, text + half, length - half, 3);
    write_bytes("s.jsonl.zst", packed, first + second);
    check_kind("s.jsonl.zst");
    npt_log_set(NULL, NULL);
    free(packed);
    free(text);
}
#endif

static void damaged(void **state)
{
    static const char *const names[] = {"t.txt.gz", "t.txt.zst"};

    (void)state;
    for (int i = 0; i < 2; i++) {
        npt_dataset *dataset = NULL;
        npt_dataset_options options = {.tokenizer = tokenizer};
        npt_ids ids = {0};
        bool end = false;
        npt_status status;
        char data[64] = "this is no compressed file at all";
        size_t length = 33;
        if (i == 0) length = 0; /* an empty .gz is a truncated one */
        write_bytes(names[i], data, length);
        status = open_with(&dataset, path_of(names[i]), options);
        if (status == NPT_OK) {
            status = npt_dataset_next(dataset, &ids, &end);
            assert_int_equal(status, NPT_E_FORMAT);
            assert_non_null(strstr(npt_error_message(), names[i]));
        } else {
            assert_int_equal(status, NPT_E_UNSUPPORTED);
            assert_non_null(strstr(npt_error_message(), "built without"));
        }
        npt_ids_fini(&ids);
        npt_dataset_close(dataset);
    }
}

static void long_lines(void **state)
{
    npt_reader *reader = NULL;
    npt_line line;
    size_t length = 300000;
    char *text = malloc(length);

    (void)state;
    memset(text, 'x', length);
    memcpy(text, "ab\n", 3);
    text[200003] = '\n';
    memcpy(text + 200004, "12345\n123456\n", 13);
    write_bytes("long.txt", text, length);
    assert_int_equal(npt_reader_open(&reader, path_of("long.txt"), 5), NPT_OK);
    for (int i = 0; i < 6; i++) {
        static const int64_t offsets[] = {3, 200004, 200010, 200017, 300000, 300000};
        assert_int_equal(npt_reader_line(reader, &line), NPT_OK);
        assert_int_equal(line.too_long, i == 1 || i == 3 || i == 4);
        assert_int_equal(line.end, i == 5);
        if (i == 0) assert_memory_equal(line.text, "ab", 2);
        if (i == 2) assert_int_equal(line.length, 5);
        assert_int_equal(npt_reader_tell(reader), offsets[i]);
    }
    npt_reader_close(reader);
    free(text);
}

/* ---- Whole datasets -------------------------------------------------------------------------- */

static void round_trip(void **state)
{
    static const char text[] = "the sun\nwe're \xC3\xA9 \xF0\x9F\x99\x82\nlast\n";
    FILE *ids = tmpfile(), *out;
    npt_dataset *dataset;
    char *back = NULL;
    size_t size = 0;

    (void)state;
    write_text("r.txt", text);
    dataset = open_plain(path_of("r.txt"));
    assert_int_equal(npt_dataset_tokenize(dataset, ids), NPT_OK);
    npt_dataset_close(dataset);
    rewind(ids);
    out = open_memstream(&back, &size);
    assert_int_equal(npt_detokenize_stream(tokenizer, ids, out), NPT_OK);
    fclose(out);
    assert_string_equal(back, text);
    free(back);
    fclose(ids);

    ids = tmpfile();
    fputs("{\"input_ids\":[1]}\n{\"input_ids\":[1,99999]}\n", ids);
    rewind(ids);
    out = open_memstream(&back, &size);
    assert_int_equal(npt_detokenize_stream(tokenizer, ids, out), NPT_E_DATA);
    assert_non_null(strstr(npt_error_message(), "line 2"));
    fclose(out);
    free(back);
    fclose(ids);

    write_text("full.txt", text);
    dataset = open_plain(path_of("full.txt"));
    out = fopen("/dev/full", "w");
    if (out != NULL) {
        assert_int_equal(npt_dataset_tokenize(dataset, out), NPT_E_IO);
        fclose(out);
    }
    npt_dataset_close(dataset);
}

static void short_memory(void **state)
{
    npt_dataset_options options = {.tokenizer = tokenizer};
    long n;

    (void)state;
    write_text("many/memory.txt", "some text that is not in the cache yet\n");
    for (n = 1; n < 10000; n++) {
        npt_dataset *dataset = NULL;
        npt_ids ids = {0};
        bool end = false;
        npt_status status;
        npt_alloc_fail_at(n);
        status = open_with(&dataset, path_of("many"), options);
        while (status == NPT_OK && !end) status = npt_dataset_next(dataset, &ids, &end);
        npt_alloc_fail_at(0);
        npt_ids_fini(&ids);
        npt_dataset_close(dataset);
        if (status == NPT_OK) break;
        assert_int_equal(status, NPT_E_NOMEM);
    }
    assert_true(n > 20);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("JSON lines give ids, or the ids of their text", json_rows),
        NPT_CASE("plain text gives a row a line", text_rows),
        NPT_CASE("special tokens can be left out", special_tokens),
        NPT_CASE("rows are cut, ids are checked, and only so many rows are given", limits),
        NPT_CASE("bad rows are skipped, counted and named, or end a strict run", bad_rows),
        NPT_CASE("text without a tokenizer ends the run, however many rows there are",
                 without_tokenizer),
        NPT_CASE("directories and patterns give their files in byte order", many_files),
        NPT_CASE("an empty dataset has no rows", empty),
        NPT_CASE("a plain dataset goes on exactly where it was", plain_seek),
#ifdef HAVE_ZLIB
        NPT_CASE("a .gz dataset goes on exactly where it was", gzip_seek),
#endif
#ifdef HAVE_ZSTD
        NPT_CASE("a .zst dataset goes on exactly where it was", zstd_seek),
#endif
        NPT_CASE("damaged compressed files are named", damaged),
        NPT_CASE("a line over the limit is passed over", long_lines),
        NPT_CASE("a text becomes ids and the same text again", round_trip),
        NPT_CASE("any request for memory may fail", short_memory),
    };
    char *path = npt_test_path("tests/golden/tokenizers/llama3.json");
    int code;

    if (mkdtemp(folder) == NULL || npt_tokenizer_open(&tokenizer, path) != NPT_OK) return 1;
    code = npt_test_run("dataset", cases, NPT_COUNT(cases));
    npt_tokenizer_close(tokenizer);
    npt_remove_tree(folder);
    free(path);
    return code;
}
