/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "base/log.h"
#include "base/status.h"

#include <pthread.h>

#include "../npt_test.h"

/* Status, sentence and log sink. */

static void every_status_has_its_own_name(void **state)
{
    (void)state;
    for (int a = NPT_OK; a <= NPT_E_INTERNAL; a++) {
        const char *name = npt_status_name((npt_status)a);
        assert_true(name != NULL && name[0] != '\0');
        for (int b = NPT_OK; b < a; b++)
            assert_true(strcmp(name, npt_status_name((npt_status)b)) != 0);
    }
    assert_string_equal(npt_status_name(NPT_E_USAGE), "usage");
    assert_string_equal(npt_status_name((npt_status)99), "unknown");
    assert_string_equal(npt_status_name((npt_status)-1), "unknown");
}

static void a_failure_is_returned_and_remembered(void **state)
{
    (void)state;
    assert_int_equal(npt_fail(NPT_E_IO, "%s could not be opened", "a.json"), NPT_E_IO);
    assert_string_equal(npt_error_message(), "a.json could not be opened");
}

static void a_prefix_goes_before_the_sentence(void **state)
{
    (void)state;
    npt_fail(NPT_E_FORMAT, "a quote is missing");
    assert_int_equal(npt_fail_in(NPT_E_FORMAT, "line %d", 7), NPT_E_FORMAT);
    assert_string_equal(npt_error_message(), "line 7: a quote is missing");
}

static void the_last_sentence_may_be_an_argument(void **state)
{
    (void)state;
    npt_fail(NPT_E_IO, "disk full");
    npt_fail(NPT_E_IO, "saving failed (%s)", npt_error_message());
    assert_string_equal(npt_error_message(), "saving failed (disk full)");
}

static void long_sentences_are_cut_between_characters(void **state)
{
    (void)state;
    char text[3001];
    for (int i = 0; i < 3000; i += 3) memcpy(text + i, "€", 3);
    for (size_t shift = 0; shift < 3; shift++) {
        npt_fail(NPT_E_DATA, "%.*s%s", (int)shift, "xx", (text[3000] = '\0', text));
        size_t length = strlen(npt_error_message());
        assert_true(length <= 1023 && length > 1020);
        assert_int_equal((length - shift) % 3, 0);
    }
    npt_fail(NPT_E_DATA, "tail");
    npt_fail_in(NPT_E_DATA, "%s", text);
    assert_true(strlen(npt_error_message()) <= 1023);
}

static npt_status forwards(npt_status inner, int *reached)
{
    NPT_TRY(inner);
    ++*reached;
    return NPT_OK;
}

static npt_status cleans_up(npt_status inner, int *cleaned)
{
    npt_status status;
    NPT_TRY_GOTO(status, out, inner);
out:
    ++*cleaned;
    return status;
}

static void a_failure_is_forwarded_and_success_goes_on(void **state)
{
    (void)state;
    int reached = 0, cleaned = 0;
    assert_int_equal(forwards(NPT_E_DATA, &reached), NPT_E_DATA);
    assert_int_equal(reached, 0);
    assert_int_equal(forwards(NPT_OK, &reached), NPT_OK);
    assert_int_equal(reached, 1);
    assert_int_equal(cleans_up(NPT_E_IO, &cleaned), NPT_E_IO);
    assert_int_equal(cleans_up(NPT_OK, &cleaned), NPT_OK);
    assert_int_equal(cleaned, 2);
}

static void *other_thread(void *seen)
{
    strcpy(seen, npt_error_message());
    npt_fail(NPT_E_IO, "theirs");
    return NULL;
}

static void each_thread_has_its_own_sentence(void **state)
{
    (void)state;
    char seen[2000] = "unset";
    pthread_t thread;
    npt_fail(NPT_E_IO, "ours");
    assert_int_equal(pthread_create(&thread, NULL, other_thread, seen), 0);
    pthread_join(thread, NULL);
    assert_string_equal(seen, "");
    assert_string_equal(npt_error_message(), "ours");
}

typedef struct heard {
    int lines;
    npt_log_level level;
    char line[100];
} heard;

static void hear(void *context, npt_log_level level, const char *line)
{
    heard *h = context;
    h->lines++;
    h->level = level;
    snprintf(h->line, sizeof(h->line), "%s", line);
}

static void log_lines_reach_the_sink(void **state)
{
    (void)state;
    heard h = {0};
    npt_log_set(hear, &h);
    npt_log(NPT_LOG_WARNING, "step %d is slow", 3);
    assert_int_equal(h.lines, 1);
    assert_int_equal(h.level, NPT_LOG_WARNING);
    assert_string_equal(h.line, "step 3 is slow");
    npt_log_set(NULL, NULL);
}

static void verbose_lines_need_the_variable(void **state)
{
    (void)state;
    heard h = {0};
    npt_log_set(hear, &h);
    unsetenv("NPT_VERBOSE");
    npt_log(NPT_LOG_VERBOSE, "hidden");
    setenv("NPT_VERBOSE", "0", 1);
    npt_log(NPT_LOG_VERBOSE, "hidden");
    assert_int_equal(h.lines, 0);
    setenv("NPT_VERBOSE", "1", 1);
    npt_log(NPT_LOG_VERBOSE, "shown");
    assert_int_equal(h.lines, 1);
    unsetenv("NPT_VERBOSE");
    npt_log_set(NULL, NULL);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("every status has its own name", every_status_has_its_own_name),
        NPT_CASE("a failure is returned and remembered", a_failure_is_returned_and_remembered),
        NPT_CASE("a prefix goes before the sentence", a_prefix_goes_before_the_sentence),
        NPT_CASE("the last sentence may be an argument", the_last_sentence_may_be_an_argument),
        NPT_CASE("long sentences are cut between characters",
                 long_sentences_are_cut_between_characters),
        NPT_CASE("a failure is forwarded and success goes on",
                 a_failure_is_forwarded_and_success_goes_on),
        NPT_CASE("each thread has its own sentence", each_thread_has_its_own_sentence),
        NPT_CASE("log lines reach the sink", log_lines_reach_the_sink),
        NPT_CASE("verbose lines need NPT_VERBOSE=1", verbose_lines_need_the_variable),
    };
    return npt_test_run("status", cases, NPT_COUNT(cases));
}
