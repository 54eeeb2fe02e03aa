/* SPDX-License-Identifier: BSD-2-Clause */
/* The one door to the test library. With cmocka, its assertions and its runner; without, the few of
 * them that the tests use, so that `make check` needs no library. A test program is
 *
 *     static void lengths_are_checked(void **state) { (void)state; assert_int_equal(…); }
 *     int main(void) {
 *         const npt_case cases[] = {
 *             NPT_CASE("a length past the end is refused", lengths_are_checked),
 *         };
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
#define NPT_CASE(sentence, function)                                                               \
    {                                                                                              \
        (sentence), (function), NULL, NULL, NULL                                                   \
    }
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
#define NPT_CASE(sentence, function)                                                               \
    {                                                                                              \
        (sentence), (function)                                                                     \
    }
/* Weak: one for the whole program, where helpers of a test are in a file of their own. */
__attribute__((weak)) jmp_buf npt_test_failed_;
typedef struct npt_test_place_ {
    const char *file;
    int line;
    const char *what;
} npt_test_place_;
#define NPT_TEST_HERE_(what)       ((npt_test_place_){__FILE__, __LINE__, (what)})

/* Functions, so that an argument is evaluated once, as with cmocka. */
__attribute__((format(printf, 2, 3), noreturn)) static inline void
npt_test_fail_(npt_test_place_ at, const char *format, ...)
{
    va_list args;
    printf("# %s:%d: %s: ", at.file, at.line, at.what);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
    longjmp(npt_test_failed_, 1);
}
static inline void npt_test_holds_(npt_test_place_ at, bool holds)
{
    if (!holds) npt_test_fail_(at, "does not hold");
}
static inline void npt_test_ints_(npt_test_place_ at, long long a, long long b, bool equal)
{
    if ((a == b) != equal) npt_test_fail_(at, "%lld and %lld", a, b);
}
static inline void npt_test_range_(npt_test_place_ at, unsigned long long a, unsigned long long low,
                                   unsigned long long high)
{
    if (a < low || a > high) npt_test_fail_(at, "%llu is not in %llu … %llu", a, low, high);
}
static inline void npt_test_strings_(npt_test_place_ at, const char *a, const char *b, bool equal)
{
    if ((strcmp(a, b) == 0) != equal) npt_test_fail_(at, "\"%s\" and \"%s\"", a, b);
}
static inline void npt_test_bytes_(npt_test_place_ at, const void *a, const void *b, size_t bytes,
                                   bool equal)
{
    if ((memcmp(a, b, bytes) == 0) != equal)
        npt_test_fail_(at, "%zu bytes are %s", bytes, equal ? "not equal" : "equal");
}
static inline void npt_test_floats_(npt_test_place_ at, double a, double b, double epsilon)
{
    if (!(a - b <= epsilon && b - a <= epsilon)) npt_test_fail_(at, "%.9g and %.9g", a, b);
}
#define fail_msg(...)              npt_test_fail_(NPT_TEST_HERE_("failed"), __VA_ARGS__)
#define fail()                     npt_test_fail_(NPT_TEST_HERE_("failed"), "here")
#define print_message(...)         ((void)(printf("# "), printf(__VA_ARGS__)))
#define assert_true(c)             npt_test_holds_(NPT_TEST_HERE_(#c), (c) ? true : false)
#define assert_false(c)            npt_test_holds_(NPT_TEST_HERE_("!(" #c ")"), (c) ? false : true)
#define assert_null(p)             npt_test_holds_(NPT_TEST_HERE_(#p " is NULL"), (p) == NULL)
#define assert_non_null(p)         npt_test_holds_(NPT_TEST_HERE_(#p " is not NULL"), (p) != NULL)
#define assert_ptr_equal(a, b)     npt_test_holds_(NPT_TEST_HERE_(#a " == " #b), (a) == (b))
#define assert_ptr_not_equal(a, b) npt_test_holds_(NPT_TEST_HERE_(#a " != " #b), (a) != (b))
#define assert_int_equal(a, b)                                                                     \
    npt_test_ints_(NPT_TEST_HERE_(#a " == " #b), (long long)(a), (long long)(b), true)
#define assert_int_not_equal(a, b)                                                                 \
    npt_test_ints_(NPT_TEST_HERE_(#a " != " #b), (long long)(a), (long long)(b), false)
#define assert_in_range(a, low, high)                                                              \
    npt_test_range_(NPT_TEST_HERE_(#a), (unsigned long long)(a), (unsigned long long)(low),        \
                    (unsigned long long)(high))
#define assert_string_equal(a, b) npt_test_strings_(NPT_TEST_HERE_(#a " == " #b), (a), (b), true)
#define assert_string_not_equal(a, b)                                                              \
    npt_test_strings_(NPT_TEST_HERE_(#a " != " #b), (a), (b), false)
#define assert_memory_equal(a, b, n)                                                               \
    npt_test_bytes_(NPT_TEST_HERE_(#a " == " #b), (a), (b), (n), true)
#define assert_memory_not_equal(a, b, n)                                                           \
    npt_test_bytes_(NPT_TEST_HERE_(#a " != " #b), (a), (b), (n), false)
#define assert_float_equal(a, b, e)                                                                \
    npt_test_floats_(NPT_TEST_HERE_(#a " ≈ " #b), (double)(a), (double)(b), (double)(e))

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
__attribute__((warn_unused_result)) static inline int npt_test_skip_all(const char *reason)
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

/* A file of the fixtures that are not part of the tree: below $NPT_FIXTURES, else beside the source
 * tree; NULL where it is not there. The caller frees. */
static inline char *npt_test_fixture(const char *name)
{
    const char *folder = getenv("NPT_FIXTURES");
    char relative[256], *path;
    if (folder != NULL) {
        path = (char *)malloc(strlen(folder) + strlen(name) + 2);
        if (path != NULL) sprintf(path, "%s/%s", folder, name);
    } else {
        snprintf(relative, sizeof relative, "../shared/fixtures/%s", name);
        path = npt_test_path(relative);
    }
    FILE *file = path != NULL ? fopen(path, "rb") : NULL;
    if (file != NULL) {
        fclose(file);
        return path;
    }
    free(path);
    return NULL;
}

#endif
