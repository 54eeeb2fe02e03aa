/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "../npt_test.h"

#include <jansson.h>

#include "base/memory.h"
#include "files/files.h"
#include "files/json.h"
#include "text/tokenizer.h"

/* Against Hugging Face tokenizers: tests/golden/make_tokenizers.py wrote the tokenizers and what
 * they make of a list of nasty strings. */

static npt_tokenizer *open_golden(const char *name)
{
    char *file = npt_format("tests/golden/tokenizers/%s.json", name), *path = npt_test_path(file);
    npt_tokenizer *tokenizer = NULL;
    npt_status status = npt_tokenizer_open(&tokenizer, path);

    if (status != NPT_OK) fail_msg("%s: %s", path, npt_error_message());
    free(path);
    npt_free(file);
    return tokenizer;
}

static json_t *load_golden(const char *name)
{
    char *file = npt_format("tests/golden/tokenizers/%s.json", name), *path = npt_test_path(file);
    json_t *root = NULL;

    if (npt_json_load(path, JSON_ALLOW_NUL, &root) != NPT_OK) fail_msg("%s", npt_error_message());
    free(path);
    npt_free(file);
    return root;
}

static bool same_ids(const npt_ids *ids, const json_t *expected)
{
    if (ids->count != json_array_size(expected)) return false;
    for (size_t i = 0; i < ids->count; i++)
        if (ids->data[i] != json_integer_value(json_array_get(expected, i))) return false;
    return true;
}

static void print_difference(const char *name, const json_t *text, const json_t *expected,
                             const npt_ids *ids)
{
    char *shown = json_dumps(text, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
    char *wanted = json_dumps(expected, JSON_COMPACT);
    fprintf(stderr, "# %s: %.300s\n#   wanted %.600s\n#   got    [", name, shown, wanted);
    for (size_t i = 0; i < ids->count && i < 100; i++) fprintf(stderr, "%d,", (int)ids->data[i]);
    fprintf(stderr, "]\n");
    free(shown);
    free(wanted);
}

static int check_ids(npt_tokenizer *tokenizer, const char *name, const json_t *text, bool special,
                     const json_t *expected)
{
    npt_ids ids = {0};
    npt_status status = npt_tokenizer_encode(tokenizer, json_string_value(text),
                                             json_string_length(text), special, &ids);
    bool same = status == NPT_OK && same_ids(&ids, expected);

    if (status != NPT_OK) fprintf(stderr, "# %s: %s\n", name, npt_error_message());
    if (!same) print_difference(name, text, expected, &ids);
    npt_ids_fini(&ids);
    return !same;
}

static int check_text(npt_tokenizer *tokenizer, const char *name, const json_t *ids_json, bool skip,
                      const json_t *expected)
{
    npt_ids ids = {0};
    char *text = NULL, *shown;
    size_t length = 0;
    bool same;

    if (json_is_null(expected)) return 0;
    for (size_t i = 0; i < json_array_size(ids_json); i++)
        npt_ids_push(&ids, (int32_t)json_integer_value(json_array_get(ids_json, i)));
    same = npt_tokenizer_decode(tokenizer, ids.data, ids.count, skip, &text, &length) == NPT_OK &&
           length == json_string_length(expected) &&
           memcmp(text, json_string_value(expected), length) == 0;
    if (!same) {
        shown = json_dumps(expected, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
        fprintf(stderr, "# %s: decoding should give %.300s, not \"%.300s\"\n", name, shown,
                text == NULL ? npt_error_message() : text);
        free(shown);
    }
    npt_free(text);
    npt_ids_fini(&ids);
    return !same;
}

static void check_golden(const char *name)
{
    npt_tokenizer *tokenizer = open_golden(name);
    char *vectors_name = npt_format("%s.vectors", name);
    json_t *texts = load_golden("texts"), *vectors = load_golden(vectors_name), *row;
    int failed = 0;
    size_t at;

    assert_int_equal(json_array_size(json_object_get(vectors, "rows")),
                     json_array_size(json_object_get(texts, "texts")));
    json_array_foreach(json_object_get(vectors, "rows"), at, row)
    {
        const json_t *text = json_array_get(json_object_get(texts, "texts"), at);
        failed += check_ids(tokenizer, name, text, false, json_array_get(row, 0));
        failed += check_ids(tokenizer, name, text, true, json_array_get(row, 1));
        failed +=
            check_text(tokenizer, name, json_array_get(row, 1), false, json_array_get(row, 2));
        failed += check_text(tokenizer, name, json_array_get(row, 1), true, json_array_get(row, 3));
    }
    json_decref(texts);
    json_decref(vectors);
    npt_free(vectors_name);
    npt_tokenizer_close(tokenizer);
    assert_int_equal(failed, 0);
}

#define GOLDEN(name)                                                                               \
    static void golden_##name(void **state)                                                        \
    {                                                                                              \
        (void)state;                                                                               \
        check_golden(#name);                                                                       \
    }
GOLDEN(llama3)
GOLDEN(qwen2)
GOLDEN(gpt2)
GOLDEN(llama2)
GOLDEN(mistral)
GOLDEN(wide)
GOLDEN(metaspace)
GOLDEN(fused)
GOLDEN(splits)

/* ---- What is refused ------------------------------------------------------------------------- */

#define MODEL                                                                                      \
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}"

static npt_status open_text(const char *text)
{
    char path[] = "/tmp/npt-tokenizer-XXXXXX";
    int fd = mkstemp(path);
    FILE *file = fdopen(fd, "w");
    npt_tokenizer *tokenizer = NULL;
    npt_status status;

    fputs(text, file);
    fclose(file);
    status = npt_tokenizer_open(&tokenizer, path);
    npt_tokenizer_close(tokenizer);
    remove(path);
    return status;
}

static void refusals(void **state)
{
    static const struct {
        const char *json, *named;
        npt_status status;
    } cases[] = {
        {"{" MODEL "}", "", NPT_OK},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", "Unigram", NPT_E_UNSUPPORTED},
        {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}", "WordPiece", NPT_E_UNSUPPORTED},
        {"{\"normalizer\":{\"type\":\"Lowercase\"}," MODEL "}", "Lowercase", NPT_E_UNSUPPORTED},
        {"{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":"
         "\"BertPreTokenizer\"}]}"
         "," MODEL "}",
         "BertPreTokenizer", NPT_E_UNSUPPORTED},
        {"{\"decoder\":{\"type\":\"WordPiece\"}," MODEL "}", "WordPiece", NPT_E_UNSUPPORTED},
        {"{\"post_processor\":{\"type\":\"RobertaProcessing\"}," MODEL "}", "RobertaProcessing",
         NPT_E_UNSUPPORTED},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a[b]]\"},\"behavior\":"
         "\"Isolated\"}," MODEL "}",
         "class inside", NPT_E_UNSUPPORTED},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a\"},\"behavior\":"
         "\"Isolated\"}," MODEL "}",
         "does not compile", NPT_E_UNSUPPORTED},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":"
         "\"Sideways\"}," MODEL "}",
         "Sideways", NPT_E_UNSUPPORTED},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a{1,3}+\"},\"behavior\":"
         "\"Isolated\"}," MODEL "}",
         "{…}+", NPT_E_UNSUPPORTED},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}", "merge 0", NPT_E_FORMAT},
        {"{\"model\":{\"vocab\":{\"a\":-1},\"merges\":[]}}", "\"a\"", NPT_E_FORMAT},
        {"{\"model\":{\"vocab\":{\"a\":99999999},\"merges\":[]}}", "\"a\"", NPT_E_FORMAT},
        {"{\"model\":{\"vocab\":{},\"merges\":[],\"unk_token\":\"<unk>\"}}", "<unk>", NPT_E_FORMAT},
        {"{\"model\":{\"vocab\":{},\"merges\":[],\"dropout\":0.1}}", "dropout", NPT_E_UNSUPPORTED},
        {"{\"model\":{\"vocab\":{},\"merges\":[],\"end_of_word_suffix\":\"</w>\"}}",
         "end_of_word_suffix", NPT_E_UNSUPPORTED},
        {"{}", "model", NPT_E_FORMAT},
        {"[]", "", NPT_E_FORMAT},
        {"{", "", NPT_E_FORMAT},
    };

    (void)state;
    for (size_t i = 0; i < NPT_COUNT(cases); i++) {
        npt_status status = open_text(cases[i].json);
        if (status != cases[i].status)
            fail_msg("%s: %s (%s)", cases[i].json, npt_status_name(status), npt_error_message());
        if (status != NPT_OK && strstr(npt_error_message(), cases[i].named) == NULL)
            fail_msg("\"%s\" is not in: %s", cases[i].named, npt_error_message());
    }
    npt_tokenizer *tokenizer = NULL;
    assert_int_equal(npt_tokenizer_open(&tokenizer, "/nonexistent/tokenizer.json"), NPT_E_IO);
    assert_null(tokenizer);
}

static void bad_input(void **state)
{
    npt_tokenizer *tokenizer = open_golden("llama3");
    npt_ids ids = {0};
    char *text = NULL;
    const int32_t unknown[] = {1, 1000000}, negative[] = {-1};

    (void)state;
    assert_int_equal(npt_ids_push(&ids, 7), NPT_OK);
    assert_int_equal(npt_tokenizer_encode(tokenizer, "ab\xED\xA0\x80", 5, true, &ids), NPT_E_DATA);
    assert_non_null(strstr(npt_error_message(), "byte 2"));
    assert_int_equal(npt_tokenizer_encode(tokenizer, "\xC0\x80", 2, true, &ids), NPT_E_DATA);
    assert_int_equal(npt_tokenizer_encode(tokenizer, "\xF4\x90\x80\x80", 4, true, &ids),
                     NPT_E_DATA);
    assert_int_equal(npt_tokenizer_encode(tokenizer, "\xE2\x82", 2, true, &ids), NPT_E_DATA);
    assert_int_equal(ids.count, 1);
    assert_int_equal(npt_tokenizer_decode(tokenizer, unknown, 2, false, &text, NULL), NPT_E_DATA);
    assert_int_equal(npt_tokenizer_decode(tokenizer, negative, 1, false, &text, NULL), NPT_E_DATA);
    assert_null(text);
    assert_int_equal(npt_tokenizer_size(tokenizer), 522);
    npt_ids_fini(&ids);
    npt_tokenizer_close(tokenizer);
}

/* One word of a megabyte: quadratic merging would take hours. */
static void long_word(void **state)
{
    static const char *const names[] = {"llama3", "mistral"};
    size_t length = 1 << 20;
    char *word = npt_alloc(length, 1);

    (void)state;
    for (size_t kind = 0; kind < 3; kind++) {
        for (size_t i = 0; i < length; i++) word[i] = " ax"[kind == 2 && i % 7 == 0 ? 2 : kind];
        for (size_t i = 0; i < NPT_COUNT(names); i++) {
            npt_tokenizer *tokenizer = open_golden(names[i]);
            npt_ids ids = {0};
            char *text = NULL;
            assert_int_equal(npt_tokenizer_encode(tokenizer, word, length, true, &ids), NPT_OK);
            assert_true(ids.count > 1000);
            assert_int_equal(
                npt_tokenizer_decode(tokenizer, ids.data, ids.count, true, &text, NULL), NPT_OK);
            npt_free(text);
            npt_ids_fini(&ids);
            npt_tokenizer_close(tokenizer);
        }
    }
    npt_free(word);
}

static void embedded_spaces(void **state)
{
    static const char json[] =
        "{\"model\":{\"vocab\":{\"a\":0,\" \":1,\"b\":2,\"a \":3,\"a b\":4,\"ba b\":5},"
        "\"merges\":[\"a  \",\"a  b\",[\"b\",\"a b\"]]}}";
    char path[] = "/tmp/npt-tokenizer-XXXXXX";
    FILE *file = fdopen(mkstemp(path), "w");
    npt_tokenizer *tokenizer = NULL;
    npt_ids ids = {0};

    (void)state;
    fputs(json, file);
    fclose(file);
    assert_int_equal(npt_tokenizer_open(&tokenizer, path), NPT_OK);
    remove(path);
    assert_int_equal(npt_tokenizer_encode(tokenizer, "a bba b", 7, true, &ids), NPT_OK);
    assert_int_equal(ids.count, 2);
    assert_int_equal(ids.data[0], 4);
    assert_int_equal(ids.data[1], 5);
    npt_ids_fini(&ids);
    npt_tokenizer_close(tokenizer);
}

/* Every request for memory may fail; nothing leaks (the sanitizers look), nothing crashes. */
static void short_memory(void **state)
{
    char *path = npt_test_path("tests/golden/tokenizers/splits.json");
    npt_tokenizer *whole = open_golden("splits");
    long n;

    (void)state;
    for (n = 1; n < 100000; n++) {
        npt_tokenizer *tokenizer = NULL;
        npt_status status;
        npt_alloc_fail_at(n);
        status = npt_tokenizer_open(&tokenizer, path);
        npt_alloc_fail_at(0);
        npt_tokenizer_close(tokenizer);
        if (status == NPT_OK) break;
        assert_int_equal(status, NPT_E_NOMEM);
    }
    assert_true(n > 20);
    for (n = 1; n < 1000; n++) {
        npt_ids ids = {0};
        char *text = NULL;
        npt_status status;
        npt_alloc_fail_at(n);
        status = npt_tokenizer_encode(whole, "the river, 123 theme", 20, true, &ids);
        if (status == NPT_OK)
            status = npt_tokenizer_decode(whole, ids.data, ids.count, 0, &text, NULL);
        npt_alloc_fail_at(0);
        npt_ids_fini(&ids);
        npt_free(text);
        if (status == NPT_OK) break;
        assert_int_equal(status, NPT_E_NOMEM);
    }
    npt_tokenizer_close(whole);
    free(path);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("a byte-level tokenizer in Llama 3's style gives Hugging Face's ids and texts",
                 golden_llama3),
        NPT_CASE("one in Qwen 2's style, with NFC and every kind of added token, does too",
                 golden_qwen2),
        NPT_CASE("one in GPT-2's style, with a prefix space, does too", golden_gpt2),
        NPT_CASE("one in Llama 2's style, with byte fallback and no pre-tokenizer, does too",
                 golden_llama2),
        NPT_CASE("one in Mistral's style, with a metaspace first, does too", golden_mistral),
        NPT_CASE("one whose merges go across spaces does too", golden_wide),
        NPT_CASE("one with unknown tokens and single digits does too", golden_metaspace),
        NPT_CASE("one with fused unknown tokens and a replacing normalizer does too", golden_fused),
        NPT_CASE("one with every behaviour of Split does too", golden_splits),
        NPT_CASE("a step or model that is not supported is refused by name", refusals),
        NPT_CASE("text that is not UTF-8 and unknown ids are refused", bad_input),
        NPT_CASE("one word of a megabyte is encoded in a moment", long_word),
        NPT_CASE("merges whose halves hold spaces are understood", embedded_spaces),
        NPT_CASE("any request for memory may fail", short_memory),
    };
    return npt_test_run("tokenizer", cases, NPT_COUNT(cases));
}
