/* SPDX-License-Identifier: BSD-2-Clause */
/* The one door to the test library. With cmocka, its assertions and its runner; without, the few of
 * them that the tests use, so that `make check` needs no library. A test program is
 *
 *     static void lengths_are_checked(void **state) { (void)state; assert_int_equal(…); }
 *     int main(void) {
 *         const npt_case cases[] = { NPT_CASE("a length past the end is refused", lengths_are_checked) };
 *         return npt_test_run("safetensors", cases, NPT_COUNT(cases));
 *     }
 *
 * and prints TAP. A program that cannot run here calls npt_test_skip_all("reason") first. */
#ifndef NPT_TEST_H
#define NPT_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NPT_COUNT(array) (sizeof(array) / sizeof((array)[0]))

#ifdef HAVE_CMOCKA
#include <cmocka.h>
typedef struct CMUnitTest npt_case;
#define NPT_CASE(sentence, function) {(sentence), (function), NULL, NULL, NULL}
static inline int npt_test_run(const char *suite, const npt_case *cases, size_t count)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return _cmocka_run_group_tests(suite, cases, count, NULL, NULL) == 0 ? 0 : 1;
}
#else
typedef struct npt_case {
    const char *name;
    void (*function)(void **state);
} npt_case;
#define NPT_CASE(sentence, function) {(sentence), (function)}
static jmp_buf npt_test_failed_;
#define npt_test_fail_(...)                                                                        \
    (printf("# %s:%d: ", __FILE__, __LINE__), printf(__VA_ARGS__), printf("\n"),                   \
     longjmp(npt_test_failed_, 1))
#define fail_msg(...) npt_test_fail_(__VA_ARGS__)
#define print_message(...) printf("# " __VA_ARGS__)
#define assert_true(c) ((c) ? (void)0 : (void)npt_test_fail_("not true: %s", #c))
#define assert_false(c) ((c) ? (void)npt_test_fail_("not false: %s", #c) : (void)0)
#define assert_null(p) assert_true((p) == NULL)
#define assert_non_null(p) assert_true((p) != NULL)
#define assert_int_equal(a, b)                                                                     \
    ((long long)(a) == (long long)(b)                                                              \
         ? (void)0                                                                                 \
         : (void)npt_test_fail_("%s: %lld != %lld", #a, (long long)(a), (long long)(b)))
#define assert_int_not_equal(a, b) assert_true((long long)(a) != (long long)(b))
#define assert_string_equal(a, b)                                                                  \
    (strcmp((a), (b)) == 0 ? (void)0 : (void)npt_test_fail_("\"%s\" != \"%s\"", (a), (b)))
#define assert_memory_equal(a, b, n)                                                               \
    (memcmp((a), (b), (n)) == 0 ? (void)0 : (void)npt_test_fail_("%s: bytes differ", #a))
/* A function of its own: what it calls may come back by longjmp(), which spares no local. */
static inline bool npt_test_passes_(const npt_case *test)
{
    void *state = NULL;
    if (setjmp(npt_test_failed_) != 0) return false;
    test->function(&state);
    return true;
}
static inline int npt_test_run(const char *suite, const npt_case *cases, size_t count)
{
    size_t failed = 0;
    printf("# %s (cmocka absent: npt's own runner)\n1..%zu\n", suite, count);
    for (size_t i = 0; i < count; i++) {
        bool passes = npt_test_passes_(&cases[i]);
        printf("%s %zu - %s\n", passes ? "ok" : "not ok", i + 1, cases[i].name);
        fflush(stdout);
        failed += !passes;
    }
    return failed == 0 ? 0 : 1;
}
#endif

/* The whole program as skipped, visibly; returns the exit status for main(). */
static inline int npt_test_skip_all(const char *reason)
{
    printf("1..0 # SKIP %s\n", reason);
    return 0;
}

/* "<source tree>/name" for committed data; the caller frees. */
static inline char *npt_test_path(const char *name)
{
    const char *top = getenv("NPT_SRCDIR");
    if (top == NULL) top = ".";
    char *path = (char *)malloc(strlen(top) + strlen(name) + 2);
    if (path != NULL) sprintf(path, "%s/%s", top, name);
    return path;
}

#endif
