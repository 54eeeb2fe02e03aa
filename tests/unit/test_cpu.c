/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "base/cpu.h"

#include "../npt_test.h"

/* CPU detection against the compiler's own and against the kernel's list of flags. */

static npt_cpu detect(const char *cap)
{
    npt_cpu cpu;
    memset(&cpu, 0xFF, sizeof(cpu));
    if (cap != NULL)
        setenv("NPT_CPU_MAX", cap, 1);
    else
        unsetenv("NPT_CPU_MAX");
    assert_int_equal(npt_cpu_detect(&cpu), NPT_OK);
    unsetenv("NPT_CPU_MAX");
    return cpu;
}

static void detection_agrees_with_the_compiler(void **state)
{
    (void)state;
    npt_cpu cpu = detect(NULL);
#ifdef __x86_64__
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
    npt_cpu_level level = avx512 ? NPT_CPU_AVX512 : avx2 ? NPT_CPU_AVX2 : NPT_CPU_REFERENCE;
    assert_int_equal(cpu.level, level);
    bool vbmi = avx512 && __builtin_cpu_supports("avx512vbmi");
    assert_int_equal((cpu.features & NPT_CPU_AVX512_VBMI) != 0, vbmi);
#else
    assert_int_equal(cpu.level, NPT_CPU_REFERENCE);
    assert_int_equal(cpu.features, 0);
#endif
    print_message("this CPU: %s, %s, features 0x%x\n", cpu.brand, npt_cpu_level_name(cpu.level),
                  cpu.features);
}

static void caps_only_ever_lower(void **state)
{
    (void)state;
    static const char *const words[] = {"reference", "avx2", "avx512", "avx512_bf16",
                                        "avx512_fp16", "amx"};
    const npt_cpu full = detect(NULL);
    npt_cpu before = detect("reference");
    assert_int_equal(before.level, NPT_CPU_REFERENCE);
    for (size_t i = 0; i < NPT_COUNT(words); i++) {
        npt_cpu cpu = detect(words[i]);
        assert_true(cpu.level >= before.level && cpu.level <= full.level);
        assert_int_equal(cpu.features & before.features, before.features);
        assert_int_equal(cpu.features & ~full.features, 0);
        before = cpu;
    }
    assert_int_equal(before.level, full.level);
    assert_int_equal(before.features, full.features);
}

static void each_cap_hides_what_it_does_not_name(void **state)
{
    (void)state;
    assert_true(detect("avx2").level <= NPT_CPU_AVX2);
    assert_int_equal(detect("avx2").features, 0);
    assert_int_equal(detect("avx512").features, 0);
    assert_int_equal(detect("avx512_bf16").features & NPT_CPU_AVX512_FP16, 0);
    assert_int_equal(detect("avx512_fp16").features & NPT_CPU_AMX_BF16, 0);
}

static void an_empty_cap_is_none(void **state)
{
    (void)state;
    const npt_cpu full = detect(NULL), empty = detect("");
    assert_int_equal(empty.level, full.level);
    assert_int_equal(empty.features, full.features);
}

static void another_word_is_refused_with_the_list(void **state)
{
    (void)state;
    npt_cpu cpu = {.level = NPT_CPU_AVX2};
    setenv("NPT_CPU_MAX", "sse9", 1);
    assert_int_equal(npt_cpu_detect(&cpu), NPT_E_USAGE);
    unsetenv("NPT_CPU_MAX");
    assert_int_equal(cpu.level, NPT_CPU_AVX2);
    assert_non_null(strstr(npt_error_message(), "sse9"));
    assert_non_null(strstr(npt_error_message(), "avx512_bf16"));
}

/* The flags line of the first CPU, or NULL where there is none. */
static char *kernel_flags(void)
{
    static char line[65536];
    FILE *file = fopen("/proc/cpuinfo", "r");
    if (file == NULL) return NULL;
    char *found = NULL;
    while (found == NULL && fgets(line, sizeof(line) - 1, file) != NULL)
        if (strncmp(line, "flags", 5) == 0) found = line;
    fclose(file);
    if (found != NULL) found[strcspn(found, "\n")] = ' ';
    return found;
}

static void features_are_among_the_kernels_flags(void **state)
{
    (void)state;
    static const struct {
        unsigned feature;
        const char *flag;
    } pairs[] = {
        {NPT_CPU_AVX512_BF16, " avx512_bf16 "},
        {NPT_CPU_AVX512_FP16, " avx512_fp16 "},
        {NPT_CPU_AMX_BF16, " amx_bf16 "},
        {NPT_CPU_AVX512_VBMI, " avx512vbmi "},
    };
    const npt_cpu cpu = detect(NULL);
    const char *flags = kernel_flags();
    if (flags == NULL) {
        print_message("no /proc/cpuinfo flags to compare with\n");
        return;
    }
    for (size_t i = 0; i < NPT_COUNT(pairs); i++)
        if ((cpu.features & pairs[i].feature) != 0) assert_non_null(strstr(flags, pairs[i].flag));
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("detection agrees with the compiler", detection_agrees_with_the_compiler),
        NPT_CASE("caps only ever lower", caps_only_ever_lower),
        NPT_CASE("each cap hides what it does not name", each_cap_hides_what_it_does_not_name),
        NPT_CASE("an empty cap is none", an_empty_cap_is_none),
        NPT_CASE("another word is refused with the list", another_word_is_refused_with_the_list),
        NPT_CASE("features are among the kernel's flags", features_are_among_the_kernels_flags),
    };
    return npt_test_run("cpu", cases, NPT_COUNT(cases));
}
