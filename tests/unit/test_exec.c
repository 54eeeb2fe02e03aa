/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "tests/npt_test.h"

#include "tensor/exec.h"

static const npt_matmul_desc small = {
    .m = 3, .n = 5, .k = 7, .trans_w = true, .a = NPT_F32, .w = NPT_F32, .c = NPT_F32};

static npt_exec *create(const char *backends, int threads)
{
    npt_exec *exec = NULL;
    if (npt_exec_create(&exec, backends, threads) != NPT_OK) fail_msg("%s", npt_error_message());
    return exec;
}

static void built_in_order(void **state)
{
    const npt_matmul_backend *list[NPT_MAX_BACKENDS];
    npt_exec *exec = create(NULL, 1);
    const size_t count = npt_cpu_backends(npt_exec_cpu(exec), list);
    (void)state;
    assert_int_equal(npt_exec_backend_count(exec), count);
    for (size_t i = 0; i < count; i++) assert_true(npt_exec_backend(exec, i) == list[i]);
    assert_string_equal(npt_exec_backend(exec, count - 1)->name, "reference");
    assert_true(npt_exec_choose(exec, &small) != NULL);
    npt_exec_destroy(exec);
}

static void named_order(void **state)
{
    npt_exec *exec = create("reference", 2);
    (void)state;
    assert_int_equal(npt_exec_threads(exec), 2);
    assert_int_equal(npt_exec_backend_count(exec), 1);
    assert_true(npt_exec_choose(exec, &small) == &npt_matmul_reference);
    npt_exec_destroy(exec);
    const npt_matmul_backend *list[NPT_MAX_BACKENDS];
    npt_cpu cpu;
    assert_int_equal(npt_cpu_detect(&cpu), NPT_OK);
    const size_t count = npt_cpu_backends(&cpu, list);
    if (count < 3) return; /* nothing to reorder in this build */
    char words[64];
    snprintf(words, sizeof(words), "reference,%s,%s,%s", list[1]->name, list[0]->name,
             list[1]->name);
    exec = create(words, 1);
    assert_int_equal(npt_exec_backend_count(exec), 3);
    assert_true(npt_exec_backend(exec, 0) == list[1]);
    assert_true(npt_exec_backend(exec, 1) == list[0]);
    assert_true(npt_exec_backend(exec, 2) == &npt_matmul_reference);
    npt_exec_destroy(exec);
}

static void environment(void **state)
{
    (void)state;
    setenv("NPT_BACKEND", "reference", 1);
    npt_exec *exec = create("", 1);
    assert_int_equal(npt_exec_backend_count(exec), 1);
    npt_exec_destroy(exec);
    setenv("NPT_BACKEND", "abacus", 1);
    assert_int_equal(npt_exec_create(&exec, NULL, 1), NPT_E_USAGE);
    exec = create("reference", 1); /* what the caller says counts before the environment */
    npt_exec_destroy(exec);
    unsetenv("NPT_BACKEND");
}

static void unknown_name(void **state)
{
    npt_exec *exec = NULL;
    (void)state;
    assert_int_equal(npt_exec_create(&exec, "reference,abacus", 1), NPT_E_USAGE);
    assert_null(exec);
    assert_non_null(strstr(npt_error_message(), "\"abacus\""));
    assert_non_null(strstr(npt_error_message(), "reference"));
    assert_int_equal(npt_exec_create(&exec, "reference,", 1), NPT_E_USAGE);
}

static void refused_goes_on(void **state)
{
    npt_cpu cpu;
    const npt_matmul_backend *list[NPT_MAX_BACKENDS];
    npt_matmul_desc desc = small;
    (void)state;
    assert_int_equal(npt_cpu_detect(&cpu), NPT_OK);
    desc.w = NPT_NF4;
    for (size_t i = 0, count = npt_cpu_backends(&cpu, list); i < count; i++) {
        char reason[128];
        npt_exec *exec = create(list[i]->name, 1);
        const bool willing = list[i]->refuse(&desc, npt_exec_cpu(exec), reason) == NULL;
        assert_true(npt_exec_choose(exec, &desc) == (willing ? list[i] : &npt_matmul_reference));
        npt_exec_destroy(exec);
    }
}

/* Scratch is what the largest product so far needed, and the second run of a shape adds none. */
static void scratch_grows(void **state)
{
    static float a[70 * 90], w[300 * 90], c[70 * 300];
    npt_exec *exec = create(NULL, 2);
    const npt_matmul_args args = {.a = a, .w = w, .c = c};
    npt_matmul_desc large = small;
    (void)state;
    large.m = 70;
    large.n = 300;
    large.k = 90;
    for (int i = 0; i < 70 * 90; i++) a[i] = 1.0f;
    for (int i = 0; i < 300 * 90; i++) w[i] = 0.5f;
    assert_int_equal(npt_exec_scratch_bytes(exec), 0);
    assert_int_equal(npt_matmul(exec, &small, &args), NPT_OK);
    const size_t first = npt_exec_scratch_bytes(exec);
    assert_int_equal(npt_matmul(exec, &large, &args), NPT_OK);
    const size_t second = npt_exec_scratch_bytes(exec);
    assert_true(second >= first);
    assert_true(c[0] == 45.0f && c[70 * 300 - 1] == 45.0f);
    assert_int_equal(npt_matmul(exec, &small, &args), NPT_OK);
    assert_int_equal(npt_matmul(exec, &large, &args), NPT_OK);
    assert_int_equal(npt_exec_scratch_bytes(exec), second);
    npt_exec_destroy(exec);
}

static void kernel_scratch(void **state)
{
    npt_exec *exec = create(NULL, 2);
    (void)state;
    assert_int_equal(npt_exec_reserve(exec, 100, 64, 1000), NPT_OK);
    const npt_run *run = npt_exec_run(exec);
    const size_t needed = npt_exec_kernels(exec)->scratch_bytes(100, 64, 1000);
    assert_true(run->scratch_stride >= needed);
    assert_true((uintptr_t)run->scratch % 64 == 0 && run->scratch_stride % 64 == 0);
    if (needed > 0) run->scratch[2 * run->scratch_stride - 1] = 1;
    const size_t held = run->scratch_stride;
    assert_int_equal(npt_exec_reserve(exec, 10, 64, 100), NPT_OK);
    assert_int_equal(run->scratch_stride, held);
    npt_exec_destroy(exec);
}

/* Whichever request for memory fails, creation and a product fail with it and nothing leaks. */
static void memory_is_short(void **state)
{
    static float a[70 * 90], w[300 * 90], c[70 * 300];
    const npt_matmul_args args = {.a = a, .w = w, .c = c};
    (void)state;
    for (long n = 1; n < 20; n++) {
        npt_exec *exec = NULL;
        npt_alloc_fail_at(n);
        npt_status status = npt_exec_create(&exec, NULL, 2);
        if (status == NPT_OK) {
            status = npt_matmul(exec, &small, &args);
            if (status == NPT_E_NOMEM) assert_int_equal(npt_matmul(exec, &small, &args), NPT_OK);
            npt_exec_destroy(exec);
        }
        if (status != NPT_OK) assert_int_equal(status, NPT_E_NOMEM);
    }
    npt_alloc_fail_at(0);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("without names every backend of this build, in its order", built_in_order),
        NPT_CASE("named backends, in the order named, reference last", named_order),
        NPT_CASE("NPT_BACKEND counts where the caller names none", environment),
        NPT_CASE("an unknown backend is refused with the names there are", unknown_name),
        NPT_CASE("what a backend refuses goes to the next", refused_goes_on),
        NPT_CASE("scratch for products grows, and is kept", scratch_grows),
        NPT_CASE("scratch for kernels grows, and is kept", kernel_scratch),
        NPT_CASE("memory that runs short is an error, not a leak", memory_is_short),
    };
    unsetenv("NPT_BACKEND");
    return npt_test_run("exec", cases, NPT_COUNT(cases));
}
