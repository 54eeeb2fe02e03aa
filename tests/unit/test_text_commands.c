/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "npt.h"

#include "npt_test.h"
#include "temp_dir.h"

/* npt_tokenize and npt_detokenize, with the tokenizer of a random model: 256 first, then a byte a
 * token. */

static char *top, *model;

static void set_up(void)
{
    npt_make_model_options o;
    npt_make_model_options_init(&o);
    top = temp_dir();
    model = npt_path_join(top, "model");
    o.path = model;
    o.hidden = 8;
    o.inter = 8;
    o.layers = 1;
    o.heads = o.kv_heads = 1;
    o.vocab = 258;
    if (npt_make_model(&o) != NPT_OK) fail_msg("%s", npt_error_message());
}

static void tear_down(void)
{
    npt_free(model);
    temp_dir_remove(top);
}

static void put(const char *name, const char *text)
{
    npt_free(temp_file(top, name, text, strlen(text)));
}

/* The caller frees *text. */
static npt_status tokenize(const char *name, npt_data_options data, bool plain, char **text)
{
    size_t bytes;
    FILE *out = open_memstream(text, &bytes);
    assert_non_null(out);
    npt_status status = npt_tokenize(name, &data, plain, out);
    fclose(out);
    return status;
}

static void expect_tokens(npt_data_options data, bool plain, const char *wanted)
{
    char *text;
    char *path = npt_path_join(top, data.dataset_name);
    data.dataset_name = path;
    if (tokenize(model, data, plain, &text) != NPT_OK) fail_msg("%s", npt_error_message());
    assert_string_equal(text, wanted);
    free(text);
    npt_free(path);
}

static npt_status detokenize(const char *name, const char *rows, char **text)
{
    size_t bytes;
    FILE *in = tmpfile(), *out = open_memstream(text, &bytes);
    assert_true(in != NULL && out != NULL);
    fputs(rows, in);
    rewind(in);
    npt_status status = npt_detokenize(name, in, out);
    fclose(in);
    fclose(out);
    return status;
}

static void rows_become_ids(void **state)
{
    (void)state;
    set_up();
    put("rows.jsonl", "{\"text\":\"AB\"}\n{\"input_ids\":[7,8,9]}\n{\"text\":\"C\"}\n");
    expect_tokens(
        (npt_data_options){.dataset_name = "rows.jsonl"}, false,
        "{\"input_ids\":[256,65,66]}\n{\"input_ids\":[7,8,9]}\n{\"input_ids\":[256,67]}\n");
    expect_tokens((npt_data_options){.dataset_name = "rows.jsonl", .max_length = 2}, true,
                  "{\"input_ids\":[65,66]}\n{\"input_ids\":[7,8]}\n{\"input_ids\":[67]}\n");
    expect_tokens((npt_data_options){.dataset_name = "rows.jsonl", .num_samples = 1}, false,
                  "{\"input_ids\":[256,65,66]}\n");
    tear_down();
}

static void a_split_selects_files_by_their_names(void **state)
{
    (void)state;
    set_up();
    char *folder = npt_path_join(top, "data [1]*");
    assert_int_equal(npt_make_directories(folder), NPT_OK);
    put("data [1]*/train-1.jsonl", "{\"text\":\"a\"}\n");
    put("data [1]*/train-2.jsonl", "{\"text\":\"b\"}\n");
    put("data [1]*/test.jsonl", "{\"text\":\"c\"}\n");
    put("file.jsonl", "{\"text\":\"d\"}\n");
    expect_tokens((npt_data_options){.dataset_name = "data [1]*", .dataset_split = "train"}, true,
                  "{\"input_ids\":[97]}\n{\"input_ids\":[98]}\n");
    expect_tokens((npt_data_options){.dataset_name = "data [1]*/", .dataset_split = "test"}, true,
                  "{\"input_ids\":[99]}\n");
    expect_tokens((npt_data_options){.dataset_name = "data [1]*"}, true,
                  "{\"input_ids\":[99]}\n{\"input_ids\":[97]}\n{\"input_ids\":[98]}\n");
    char *text, *file = npt_path_join(top, "file.jsonl");
    npt_data_options data = {.dataset_name = file, .dataset_split = "train"};
    assert_int_equal(tokenize(model, data, true, &text), NPT_E_USAGE);
    assert_message_has("--dataset_split");
    free(text);
    data = (npt_data_options){.dataset_name = folder, .dataset_split = "dev"};
    assert_int_equal(tokenize(model, data, true, &text), NPT_E_IO);
    free(text);
    npt_free(file);
    npt_free(folder);
    tear_down();
}

static void bad_rows_end_a_strict_run_alone(void **state)
{
    (void)state;
    set_up();
    put("rows.jsonl", "{\"input_ids\":[1]}\n{\"input_ids\":[258]}\n{\"input_ids\":[257]}\n");
    expect_tokens((npt_data_options){.dataset_name = "rows.jsonl"}, true,
                  "{\"input_ids\":[1]}\n{\"input_ids\":[257]}\n");
    char *text, *file = npt_path_join(top, "rows.jsonl");
    const npt_data_options data = {.dataset_name = file, .strict_data = true};
    assert_int_equal(tokenize(model, data, true, &text), NPT_E_DATA);
    free(text);
    npt_free(file);
    tear_down();
}

static void ids_become_rows_again(void **state)
{
    (void)state;
    set_up();
    char *text, *file = npt_path_join(model, "tokenizer.json");
    /* the directory, or the file itself; empty lines are no rows; a row stays a line */
    const char *rows = "{\"input_ids\":[256,72,105,257]}\n\n{\"input_ids\":[]}\n"
                       "{\"other\":1,\"input_ids\":[195,164,10,98]}";
    for (int i = 0; i < 2; i++) {
        if (detokenize(i == 0 ? model : file, rows, &text) != NPT_OK)
            fail_msg("%s", npt_error_message());
        assert_string_equal(text, "Hi\n\n\xc3\xa4\\nb\n");
        free(text);
    }
    npt_free(file);
    tear_down();
}

static void a_bad_row_is_named_by_its_line(void **state)
{
    static const char *const rows[] = {"{\"input_ids\":[1]}\n{\"input_ids\":[258]}",
                                       "\n{\"input_ids\":[1.5]}",
                                       "\n{\"input_ids\":[-1]}",
                                       "\n{\"input_ids\":[4294967296]}",
                                       "\n{\"input_ids\":7}",
                                       "\n{\"text\":\"a\"}",
                                       "\n[1,2]",
                                       "\nnonsense"};
    (void)state;
    set_up();
    for (size_t i = 0; i < NPT_COUNT(rows); i++) {
        char *text;
        assert_int_equal(detokenize(model, rows[i], &text), NPT_E_DATA);
        assert_message_has("line 2");
        free(text);
    }
    tear_down();
}

static void a_model_without_tokenizer_is_refused(void **state)
{
    (void)state;
    char *text;
    set_up();
    const npt_data_options data = {.dataset_name = "x"};
    assert_int_equal(tokenize(NULL, data, false, &text), NPT_E_USAGE);
    free(text);
    assert_int_equal(tokenize(top, data, false, &text), NPT_E_IO);
    assert_message_has("tokenizer.json");
    free(text);
    assert_int_not_equal(detokenize("/nowhere/at all", "", &text), NPT_OK);
    free(text);
    tear_down();
}

static void a_full_disk_is_an_io_error(void **state)
{
    (void)state;
    FILE *full = fopen("/dev/full", "w"), *in = tmpfile();
    if (full == NULL || in == NULL) return;
    set_up();
    put("rows.jsonl", "{\"text\":\"AB\"}\n");
    char *path = npt_path_join(top, "rows.jsonl");
    const npt_data_options data = {.dataset_name = path};
    assert_int_equal(npt_tokenize(model, &data, false, full), NPT_E_IO);
    clearerr(full);
    fputs("{\"input_ids\":[65]}\n", in);
    rewind(in);
    assert_int_equal(npt_detokenize(model, in, full), NPT_E_IO);
    fclose(in);
    fclose(full);
    npt_free(path);
    tear_down();
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("rows become ids", rows_become_ids),
        NPT_CASE("a split selects files by the beginning of their names",
                 a_split_selects_files_by_their_names),
        NPT_CASE("a bad row ends a strict run alone", bad_rows_end_a_strict_run_alone),
        NPT_CASE("ids become rows again", ids_become_rows_again),
        NPT_CASE("a bad row is named by its line", a_bad_row_is_named_by_its_line),
        NPT_CASE("a model without tokenizer is refused", a_model_without_tokenizer_is_refused),
        NPT_CASE("a full disk is an I/O error", a_full_disk_is_an_io_error),
    };
    return npt_test_run("text_commands", cases, NPT_COUNT(cases));
}
