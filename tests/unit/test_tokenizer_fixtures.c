/* SPDX-License-Identifier: BSD-2-Clause */
/* A tokenizer.json of others, with the ids that their own tests expect. */
#include "config.h"

#include "text/tokenizer.h"

#include "../npt_test.h"
#include "files/json.h"

static const char tokenizer_file[] = "tokenizers/llama3-style.json";
static const char vectors_file[] = "tokenizers/llama3-style.vectors.json";

static void check_vector(npt_tokenizer *tokenizer, const json_t *vector)
{
    const json_t *text = json_object_get(vector, "text"), *ids = json_object_get(vector, "ids");
    npt_ids got = {0};
    assert_int_equal(npt_tokenizer_encode(tokenizer, json_string_value(text),
                                          json_string_length(text), false, &got),
                     NPT_OK);
    assert_int_equal(got.count, json_array_size(ids));
    for (size_t i = 0; i < got.count; i++)
        assert_int_equal(got.data[i], json_integer_value(json_array_get(ids, i)));
    npt_ids_fini(&got);
}

static void ids_are_as_expected(void **state)
{
    char *path = npt_test_fixture(tokenizer_file), *expected = npt_test_fixture(vectors_file);
    npt_tokenizer *tokenizer = NULL;
    json_t *root = NULL, *vectors;
    (void)state;
    assert_non_null(expected);
    assert_int_equal(npt_tokenizer_open(&tokenizer, path), NPT_OK);
    assert_int_equal(npt_json_load(expected, 0, &root), NPT_OK);
    vectors = json_object_get(root, "vectors");
    assert_true(json_array_size(vectors) > 0);
    for (size_t i = 0; i < json_array_size(vectors); i++)
        check_vector(tokenizer, json_array_get(vectors, i));
    json_decref(root);
    npt_tokenizer_close(tokenizer);
    free(path);
    free(expected);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("a tokenizer of others gives the ids that their own tests expect",
                 ids_are_as_expected),
    };
    char *there = npt_test_fixture(tokenizer_file);
    if (there == NULL) return npt_test_skip_all("the fixture tokenizer is not there");
    free(there);
    return npt_test_run("tokenizer fixtures", cases, NPT_COUNT(cases));
}
