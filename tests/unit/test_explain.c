/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "../npt_test.h"

#include <jansson.h>

#include "base/memory.h"
#include "doctor/explain.h"

/* npt doctor explain: the texts of tests/explain, and what is not text at all. */

static json_t *explain(const char *text, size_t bytes, npt_verdict *verdict)
{
    char *answer = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&answer, &length);
    assert_non_null(out);
    const npt_status status = npt_doctor_explain(text, bytes, true, out, verdict);
    fclose(out);
    if (status != NPT_OK) print_message("%s\n", npt_error_message());
    assert_int_equal(status, NPT_OK);
    json_t *root = json_loads(answer, 0, NULL);
    assert_non_null(root);
    free(answer);
    return root;
}

static const char *member(const json_t *root, const char *key)
{
    const char *text = json_string_value(json_object_get(root, key));
    assert_non_null(text);
    return text;
}

static char *read_file(const char *name)
{
    char *path = npt_test_path(name);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    char *text = calloc(1, 1 << 20);
    assert_true(fread(text, 1, (1 << 20) - 1, file) > 0);
    fclose(file);
    free(path);
    return text;
}

/* Calls `check` for each "@@ NAME" of a file; returns how many there were. */
static int each_case(const char *name, void (*check)(const char *name, const char *text))
{
    char *all = read_file(name), *at = strstr(all, "\n@@ ");
    int count = 0;
    for (; at != NULL; count++) {
        char *label = at + 4, *text = strchr(label, '\n');
        *text++ = '\0';
        char *next = strstr(text, "\n@@ ");
        /* the case ends before the line break of the next one, or with the file */
        char *end = next != NULL ? next : text + strlen(text);
        char *copy = calloc((size_t)(end - text) + 1, 1);
        memcpy(copy, text, (size_t)(end - text));
        check(label, copy);
        free(copy);
        at = next;
    }
    free(all);
    return count;
}

static int wrong;
static int seen[NPT_EXPLAIN_KIND_COUNT];

static void check_known(const char *name, const char *text)
{
    npt_verdict verdict = NPT_VERDICT_NUMERIC;
    json_t *root = explain(text, strlen(text), &verdict);
    const char *kind = member(root, "kind");
    for (int i = 0; i < NPT_EXPLAIN_KIND_COUNT; i++)
        seen[i] += strcmp(npt_explain_answers[i].slug, name) == 0;
    if (strcmp(kind, name) != 0 || verdict != NPT_VERDICT_FINE) {
        print_message("%s instead of %s: %.300s\n", kind, name, text);
        wrong++;
    }
    assert_int_equal(json_array_size(json_object_get(root, "seen")) > 0, 1);
    json_decref(root);
}

static void check_unknown(const char *name, const char *text)
{
    npt_verdict verdict = NPT_VERDICT_NUMERIC;
    json_t *root = explain(text, strlen(text), &verdict);
    const char *kind = member(root, "kind");
    if (strcmp(kind, "unknown") != 0 || verdict != NPT_VERDICT_WARNING) {
        print_message("%s was claimed for %s: %.300s\n", kind, name, text);
        wrong++;
    }
    json_decref(root);
}

static void each_kind_is_recognised(void **state)
{
    (void)state;
    wrong = 0;
    assert_true(each_case("tests/explain/known.txt", check_known) >= 250);
    for (int i = NPT_EXPLAIN_NEAR_MISS + 1; i < NPT_EXPLAIN_KIND_COUNT; i++)
        if (seen[i] < 3) print_message("%s: %d cases\n", npt_explain_answers[i].slug, seen[i]);
    for (int i = NPT_EXPLAIN_NEAR_MISS + 1; i < NPT_EXPLAIN_KIND_COUNT; i++)
        assert_true(seen[i] >= 3);
    assert_int_equal(wrong, 0);
}

static void nothing_else_is_claimed(void **state)
{
    (void)state;
    wrong = 0;
    assert_true(each_case("tests/explain/unrelated.txt", check_unknown) >= 190);
    assert_int_equal(wrong, 0);
}

static void answers_are_complete(void **state)
{
    (void)state;
    assert_int_equal(NPT_EXPLAIN_KIND_COUNT - 1 - NPT_EXPLAIN_NEAR_MISS, 30);
    for (int i = 0; i < NPT_EXPLAIN_KIND_COUNT; i++) {
        const npt_explain_answer *a = &npt_explain_answers[i];
        const char *const texts[] = {a->what, a->cause, a->where, a->npt, a->todo};
        assert_non_null(a->slug);
        for (size_t k = 0; k < NPT_COUNT(texts); k++) {
            assert_non_null(texts[k]);
            const size_t length = strlen(texts[k]);
            assert_true(length >= 10);
            if (texts[k][length - 1] != '.' && texts[k][length - 1] != '}')
                print_message("%s: no full stop: %s\n", a->slug, texts[k]);
            assert_true(texts[k][length - 1] == '.');
        }
    }
}

/* ---- What is said ---- */

static void expect_what(const char *text, const char *kind, const char *part)
{
    npt_verdict verdict;
    json_t *root = explain(text, strlen(text), &verdict);
    assert_string_equal(member(root, "kind"), kind);
    if (strstr(member(root, "what"), part) == NULL)
        print_message("not in it: %s: %s\n", part, member(root, "what"));
    assert_non_null(strstr(member(root, "what"), part));
    json_decref(root);
}

static void captured_words_are_used(void **state)
{
    (void)state;
    expect_what("expected mat1 and mat2 to have the same dtype, but got: c10::Half != float",
                "linear-dtype-mismatch", "Half activations met a Float weight");
    expect_what("mat1 and mat2 must have the same dtype, but got Float and BFloat16",
                "linear-dtype-mismatch", "Float activations met a BFloat16 weight");
    expect_what("RuntimeError: expected scalar type BFloat16 but found Half",
                "scalar-type-mismatch", "expected BFloat16 and was handed Half");
    expect_what("\"erfinv_vml_cpu\" not implemented for 'Half'", "half-layernorm-cpu",
                "erfinv_vml_cpu");
    expect_what("mat1 and mat2 shapes cannot be multiplied (7x2560 and 3276800x1)",
                "quantized-dtype-inferred", "3276800x1");
    expect_what("KeyError: 'BF16'", "unknown", "too old");
}

static void expect_also(const char *text, const char *kind, const char *also)
{
    npt_verdict verdict;
    json_t *root = explain(text, strlen(text), &verdict), *list = json_object_get(root, "also");
    assert_string_equal(member(root, "kind"), kind);
    assert_int_equal(json_array_size(list), 1);
    assert_string_equal(json_string_value(json_array_get(list, 0)), also);
    json_decref(root);
}

static void the_last_error_decides(void **state)
{
    (void)state;
    static const char two[] =
        "ValueError: Attempting to unscale FP16 gradients.\n\n"
        "During handling of the above exception, another exception occurred:\n\n"
        "Traceback (most recent call last):\n"
        "RuntimeError: expected scalar type Half but found Float\n";
    expect_also(two, "scalar-type-mismatch", "unscale-fp16-gradients");
    static const char unknown_last[] =
        "AssertionError: No inf checks were recorded for this optimizer.\n\n"
        "During handling of the above exception, another exception occurred:\n\n"
        "OSError: [Errno 28] No space left on device\n";
    expect_also(unknown_last, "unknown", "no-inf-checks");
    npt_verdict verdict;
    static const char raised_from[] =
        "RuntimeError: FlashAttention only support fp16 and bf16 data type\n\n"
        "The above exception was the direct cause of the following exception:\n\n"
        "Traceback (most recent call last):\napp.JobError: step 4 failed\n";
    json_t *root = explain(raised_from, strlen(raised_from), &verdict);
    assert_string_equal(member(root, "kind"), "flash-attention-dtype");
    json_decref(root);
}

static void the_line_that_decided_is_shown(void **state)
{
    (void)state;
    static const char text[] =
        "a line\n\x1b[31mRuntimeError\x1b[0m: expected scalar type Half but\n"
        "   found Float\nanother line\n";
    npt_verdict verdict;
    json_t *root = explain(text, strlen(text), &verdict);
    assert_string_equal(member(root, "matched"),
                        "RuntimeError: expected scalar type Half but found Float");
    json_decref(root);
}

/* ---- How it is written ---- */

static const char plain[] = "RuntimeError: \"LayerNormKernelImpl\" not implemented for 'Half'";

static void expect_norm(const char *text, size_t bytes)
{
    npt_verdict verdict;
    json_t *root = explain(text, bytes, &verdict);
    if (strcmp(member(root, "kind"), "half-layernorm-cpu") != 0) print_message("%s\n", text);
    assert_string_equal(member(root, "kind"), "half-layernorm-cpu");
    json_decref(root);
}

static void the_way_it_was_pasted_does_not_matter(void **state)
{
    (void)state;
    static const char *const forms[] = {
        plain,
        "> > RuntimeError: \"LayerNormKernelImpl\" not implemented for 'Half'\r\n",
        "\\u001b[31mRuntimeError\\u001b[39m: \\\"LayerNormKernelImpl\\\" not implemented for "
        "\\u001b[32m'Half'\\u001b[39m",
        "RuntimeError: &quot;LayerNormKernelImpl&quot; not implemented for &#x27;Half&#x27;",
        "RuntimeError: \xE2\x80\x9CLayerNormKernelImpl\xE2\x80\x9D not\xC2\xA0implemented for "
        "\xE2\x80\x98Half\xE2\x80\x99",
        "RuntimeError: \x93LayerNormKernelImpl\x94 not implemented for \x91Half\x92",
        "RUNTIMEERROR: `LAYERNORMKERNELIMPL` NOT IMPLEMENTED FOR `HALF`",
        "trainer-1  | RuntimeError: \"LayerNormKernelImpl\" not imple\ntrainer-1  | mented for "
        "'Half'",
        "\xE2\x94\x82 RuntimeError: \"LayerNormKernelImpl\" not       \xE2\x94\x82\n\xE2\x94\x82 "
        "implemented for 'Half'   \xE2\x94\x82\n",
        "RuntimeError\xEF\xBC\x9A\"LayerNormKernelImpl\" not implemented for 'Half'",
    };
    for (size_t i = 0; i < NPT_COUNT(forms); i++) expect_norm(forms[i], strlen(forms[i]));
    char wide[2 * sizeof(plain) + 2] = "\xFF\xFE";
    for (size_t i = 0; i < strlen(plain); i++) wide[2 + 2 * i] = plain[i];
    expect_norm(wide, 2 + 2 * strlen(plain));
}

static void expect_unknown(const char *text, size_t bytes)
{
    npt_verdict verdict = NPT_VERDICT_NUMERIC;
    json_t *root = explain(text, bytes, &verdict);
    assert_string_equal(member(root, "kind"), "unknown");
    assert_int_equal(verdict, NPT_VERDICT_WARNING);
    json_decref(root);
}

static void bytes_that_are_no_text_are_unknown(void **state)
{
    (void)state;
    char bytes[4096];
    uint32_t random = 1;
    expect_unknown("", 0);
    expect_unknown("\n\n \n", 4);
    expect_unknown("\0\0\0\0", 4);
    for (size_t i = 0; i < sizeof(bytes); i++) {
        random = random * 1664525u + 1013904223u;
        bytes[i] = (char)(random >> 24);
    }
    expect_unknown(bytes, sizeof(bytes));
    memset(bytes, 0xE2, sizeof(bytes));
    expect_unknown(bytes, sizeof(bytes));
    memset(bytes, '\x1b', sizeof(bytes));
    expect_unknown(bytes, sizeof(bytes));
    memset(bytes, '[', sizeof(bytes));
    expect_unknown(bytes, sizeof(bytes));
    memset(bytes, '<', sizeof(bytes));
    expect_unknown(bytes, sizeof(bytes));
}

static void long_texts_count_by_their_ends(void **state)
{
    (void)state;
    const size_t bytes = 2 * 1024 * 1024;
    char *text = malloc(bytes);
    assert_non_null(text);
    for (size_t i = 0; i < bytes; i++) text[i] = "step 17 done, all is well\n"[i % 26];
    memcpy(text + bytes - sizeof(plain), plain, sizeof(plain) - 1);
    expect_norm(text, bytes);
    for (size_t i = bytes - sizeof(plain); i < bytes; i++) text[i] = ' ';
    memcpy(text, plain, sizeof(plain) - 1);
    text[sizeof(plain) - 1] = '\n';
    expect_norm(text, bytes);
    free(text);
}

/* Texts made to keep a pattern searching. */
static void no_text_takes_long(void **state)
{
    (void)state;
    static const char *const pieces[] = {
        "saved metadata: {'dtype': torch.float16 ",
        "{",
        "loss ",
        "(((",
        "1x11111111",
        "mixed precision training with amp ",
        "a_b.",
        "Error: ",
        "batch size of ",
        "NaN ",
        "not a really ",
        "does it ",
        "batch 8 fine ",
        "abs min abs max metadata\n1 2 x\nmlp\n",
    };
    const size_t bytes = 60 * 1000;
    char *text = malloc(bytes + 64);
    assert_non_null(text);
    for (size_t i = 0; i < NPT_COUNT(pieces); i++) {
        size_t length = 0;
        while (length < bytes) length += (size_t)sprintf(text + length, "%s", pieces[i]);
        npt_verdict verdict;
        json_decref(explain(text, bytes, &verdict));
    }
    free(text);
}

static void lack_of_memory_is_a_failure(void **state)
{
    (void)state;
    FILE *out = fopen("/dev/null", "w");
    npt_verdict verdict = NPT_VERDICT_NUMERIC;
    long n = 1;
    assert_non_null(out);
    for (npt_status status = NPT_E_NOMEM; status != NPT_OK; n += n < 40 ? 1 : 13) {
        npt_alloc_fail_at(n);
        status = npt_doctor_explain(plain, strlen(plain), true, out, &verdict);
        npt_alloc_fail_at(0);
        assert_true(status == NPT_OK || status == NPT_E_NOMEM);
        assert_int_equal(verdict, status == NPT_OK ? NPT_VERDICT_FINE : NPT_VERDICT_NUMERIC);
    }
    assert_true(n > 100);
    fclose(out);
}

static void text_for_a_person_fits_80_columns(void **state)
{
    (void)state;
    char *answer = NULL;
    size_t length = 0;
    npt_verdict verdict;
    FILE *out = open_memstream(&answer, &length);
    assert_non_null(out);
    assert_int_equal(npt_doctor_explain(plain, strlen(plain), false, out, &verdict), NPT_OK);
    fclose(out);
    for (char *line = strtok(answer, "\n"); line != NULL; line = strtok(NULL, "\n"))
        assert_true(strlen(line) <= 80);
    free(answer);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("each kind is recognised", each_kind_is_recognised),
        NPT_CASE("nothing else is claimed", nothing_else_is_claimed),
        NPT_CASE("thirty answers are complete", answers_are_complete),
        NPT_CASE("captured words are used", captured_words_are_used),
        NPT_CASE("the last error decides", the_last_error_decides),
        NPT_CASE("the line that decided is shown", the_line_that_decided_is_shown),
        NPT_CASE("the way it was pasted does not matter", the_way_it_was_pasted_does_not_matter),
        NPT_CASE("bytes that are no text are unknown", bytes_that_are_no_text_are_unknown),
        NPT_CASE("long texts count by their ends", long_texts_count_by_their_ends),
        NPT_CASE("no text takes long", no_text_takes_long),
        NPT_CASE("lack of memory is a failure", lack_of_memory_is_a_failure),
        NPT_CASE("text for a person fits 80 columns", text_for_a_person_fits_80_columns),
    };
    return npt_test_run("explain", cases, NPT_COUNT(cases));
}
