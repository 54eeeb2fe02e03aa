/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "files/json.h"

#include "unit/temp_dir.h"

/* JSON: sentences that name the file, the line and the key. */

static json_t *parse(const char *text)
{
    json_t *root = NULL;
    if (npt_json_parse(text, strlen(text), 0, "f.json", &root) != NPT_OK)
        fail_msg("refused: %s", npt_error_message());
    return root;
}

static void bad_json_names_file_and_line(void **state)
{
    (void)state;
    static const struct {
        const char *text, *part;
        size_t flags;
    } cases[] = {
        {"", "f.json, line 1: not valid JSON", 0},
        {"{\n\"a\": 1,\n}", "f.json, line 3: not valid JSON", 0},
        {"[1]", "f.json: the JSON is not an object", 0},
        {"{\"a\":1,\"a\":2}", "duplicate", JSON_REJECT_DUPLICATES},
        {"{\"a\":NaN}", "line 1", 0},
        {"{\"a\":Infinity}", "line 1", 0},
        {"{\"a\":1000000000000000019884624838656}", "too big integer", 0},
        {"{\"a\":1e999}", "line 1", 0},
    };
    for (size_t i = 0; i < NPT_COUNT(cases); i++) {
        json_t *root = NULL;
        assert_int_equal(
            npt_json_parse(cases[i].text, strlen(cases[i].text), cases[i].flags, "f.json", &root),
            NPT_E_FORMAT);
        assert_message_has(cases[i].part);
        assert_null(root);
    }
}

static void values_are_counted_before_they_are_built(void **state)
{
    (void)state;
    const size_t bytes = 8 << 20;
    json_t *root = NULL;
    char *text = malloc(bytes);
    assert_non_null(text);
    memset(text, ',', bytes);
    memcpy(text, "{\"a\":\"\\\"", 8);
    memcpy(text + bytes - 2, "\"}", 2);
    /* commas in a string are text */
    assert_int_equal(npt_json_parse(text, bytes, 0, "f.json", &root), NPT_OK);
    assert_int_equal(json_string_length(json_object_get(root, "a")), bytes - 9);
    json_decref(root);
    text[5] = '[';
    text[6] = text[7] = '0';
    assert_int_equal(npt_json_parse(text, bytes, 0, "f.json", &root), NPT_E_FORMAT);
    assert_message_has("JSON values");
    free(text);
}

static void integers_keep_their_range(void **state)
{
    (void)state;
    json_t *root =
        parse("{\"i\":7,\"r\":7.0,\"h\":7.5,\"s\":\"7\",\"n\":null,\"big\":1e30,\"neg\":-1e30}");
    int64_t value = 1;
    assert_int_equal(npt_json_int(root, "i", "f.json", 0, 0, 10, &value), NPT_OK);
    assert_int_equal(value, 7);
    assert_int_equal(npt_json_int(root, "r", "f.json", 0, 0, 10, &value), NPT_OK);
    assert_int_equal(value, 7);
    assert_int_equal(npt_json_int(root, "n", "f.json", -3, 0, 10, &value), NPT_OK);
    assert_int_equal(value, -3);
    assert_int_equal(npt_json_int(root, "absent", "f.json", -4, 0, 10, &value), NPT_OK);
    assert_int_equal(value, -4);
    assert_int_equal(npt_json_int(root, "i", "f.json", 0, 8, 10, &value), NPT_E_FORMAT);
    assert_message_has("f.json: 'i' is 7, not between 8 and 10");
    assert_int_equal(npt_json_int(root, "h", "f.json", 0, 0, 10, &value), NPT_E_FORMAT);
    assert_message_has("f.json: 'h' must be an integer");
    assert_int_equal(npt_json_int(root, "s", "f.json", 0, 0, 10, &value), NPT_E_FORMAT);
    assert_int_equal(npt_json_int(root, "big", "f.json", 0, 0, 10, &value), NPT_E_FORMAT);
    assert_int_equal(npt_json_int(root, "neg", "f.json", 0, 0, 10, &value), NPT_E_FORMAT);
    assert_int_equal(value, -4);
    json_decref(root);
    static const char model_max[] = "{\"model_max_length\":1000000000000000019884624838656}";
    assert_int_equal(
        npt_json_parse(model_max, strlen(model_max), JSON_DECODE_INT_AS_REAL, "t.json", &root),
        NPT_OK);
    assert_int_equal(npt_json_int(root, "model_max_length", "t.json", 0, 0, INT64_MAX, &value),
                     NPT_OK);
    assert_true(value == INT64_MAX);
    json_decref(root);
}

static void other_types_are_checked_too(void **state)
{
    (void)state;
    json_t *root = parse("{\"i\":7,\"r\":0.5,\"b\":true,\"s\":\"x\",\"n\":null}");
    double real = 0;
    bool flag = false;
    const char *text = NULL;
    assert_int_equal(npt_json_real(root, "i", "f.json", 0, 0, 10, &real), NPT_OK);
    assert_true(real == 7);
    assert_int_equal(npt_json_real(root, "n", "f.json", 1.5, 0, 10, &real), NPT_OK);
    assert_true(real == 1.5);
    assert_int_equal(npt_json_real(root, "r", "f.json", 0, 1, 10, &real), NPT_E_FORMAT);
    assert_message_has("f.json: 'r' is 0.5, not between 1 and 10");
    assert_int_equal(npt_json_real(root, "s", "f.json", 0, 1, 10, &real), NPT_E_FORMAT);
    assert_message_has("'s' must be a number");
    assert_int_equal(npt_json_bool(root, "b", "f.json", false, &flag), NPT_OK);
    assert_true(flag);
    assert_int_equal(npt_json_bool(root, "absent", "f.json", false, &flag), NPT_OK);
    assert_false(flag);
    assert_int_equal(npt_json_bool(root, "i", "f.json", false, &flag), NPT_E_FORMAT);
    assert_message_has("'i' must be true or false");
    assert_int_equal(npt_json_string(root, "s", "f.json", "", &text), NPT_OK);
    assert_string_equal(text, "x");
    assert_int_equal(npt_json_string(root, "n", "f.json", "none", &text), NPT_OK);
    assert_string_equal(text, "none");
    assert_int_equal(npt_json_string(root, "r", "f.json", "", &text), NPT_E_FORMAT);
    assert_message_has("'r' must be a string");
    json_decref(root);
}

static void saved_json_is_sorted_and_loads(void **state)
{
    (void)state;
    char *top = temp_dir();
    char *path = npt_path_join(top, "x.json"), *data = NULL;
    size_t bytes = 0;
    json_t *root = parse("{\"b\":[1,0.5],\"a\":\"\xc3\xa4\"}"), *again = NULL;
    assert_int_equal(npt_json_save(path, root), NPT_OK);
    assert_int_equal(npt_read_file(path, 1000, &data, &bytes), NPT_OK);
    assert_string_equal(data, "{\n  \"a\": \"\xc3\xa4\",\n  \"b\": [\n    1,\n    0.5\n  ]\n}\n");
    assert_int_equal(npt_json_load(path, JSON_REJECT_DUPLICATES, &again), NPT_OK);
    assert_true(json_equal(root, again));
    json_decref(again);
    json_decref(root);
    npt_free(data);
    npt_free(path);
    path = npt_path_join(top, "absent.json");
    assert_int_equal(npt_json_load(path, 0, &again), NPT_E_IO);
    assert_message_has(path);
    npt_free(path);
    path = temp_file(top, "bad.json", "{\n", 2);
    assert_int_equal(npt_json_load(path, 0, &again), NPT_E_FORMAT);
    assert_message_has(path);
    assert_message_has(", line 2");
    npt_free(path);
    temp_dir_remove(top);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("bad JSON names file and line", bad_json_names_file_and_line),
        NPT_CASE("values are counted before they are built",
                 values_are_counted_before_they_are_built),
        NPT_CASE("integers keep their range", integers_keep_their_range),
        NPT_CASE("other types are checked too", other_types_are_checked_too),
        NPT_CASE("saved JSON is sorted and loads", saved_json_is_sorted_and_loads),
    };
    return npt_test_run("json", cases, NPT_COUNT(cases));
}
