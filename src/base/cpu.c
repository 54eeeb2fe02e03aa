/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "base/cpu.h"

#include <stdlib.h>
#include <string.h>

#ifdef HAVE_X86
#include <cpuid.h>
#endif
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* A feature counts when CPUID shows it and the kernel saves its registers (XCR0); for AMX the
 * process must ask for the tile state besides, once. What NPT_CPU_MAX caps is never asked for. */

typedef struct npt_cpu_cap {
    const char *word;
    npt_cpu_level level;
    unsigned features;
} npt_cpu_cap;

enum {
    CAP_BF16 = NPT_CPU_AVX512_BF16 | NPT_CPU_AVX512_VBMI,
    CAP_FP16 = CAP_BF16 | NPT_CPU_AVX512_FP16,
    CAP_AMX = CAP_FP16 | NPT_CPU_AMX_BF16
};

static const npt_cpu_cap caps[] = {
    {"reference", NPT_CPU_REFERENCE, 0},          {"avx2", NPT_CPU_AVX2, 0},
    {"avx512", NPT_CPU_AVX512, 0},                {"avx512_bf16", NPT_CPU_AVX512, CAP_BF16},
    {"avx512_fp16", NPT_CPU_AVX512, CAP_FP16},    {"amx", NPT_CPU_AVX512, CAP_AMX},
};
enum { CAP_COUNT = sizeof(caps) / sizeof(caps[0]) };

static const char *const level_names[] = {
    [NPT_CPU_REFERENCE] = "reference",
    [NPT_CPU_AVX2] = "avx2",
    [NPT_CPU_AVX512] = "avx512",
};

#ifdef HAVE_X86

typedef struct npt_cpuid {
    unsigned a, b, c, d;
} npt_cpuid;

/* Zeros where the CPU has no such leaf. */
static npt_cpuid cpuid(unsigned leaf, unsigned subleaf)
{
    npt_cpuid r = {0, 0, 0, 0};
    if (!__get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d)) memset(&r, 0, sizeof(r));
    return r;
}

static bool has(unsigned word, unsigned bits)
{
    return (word & bits) == bits;
}

/* The register states that the kernel saves. */
static unsigned xcr0(void)
{
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static bool amx_permitted(void)
{
#if defined(__linux__) && defined(SYS_arch_prctl)
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
    return false;
#endif
}

static void read_brand(char brand[64])
{
    if (cpuid(0x80000000u, 0).a < 0x80000004u) return;
    for (unsigned i = 0; i < 3; i++) {
        npt_cpuid r = cpuid(0x80000002u + i, 0);
        memcpy(brand + 16 * i, &r, 16);
    }
    brand[48] = '\0';
    size_t blanks = strspn(brand, " ");
    memmove(brand, brand + blanks, strlen(brand + blanks) + 1);
}

static void read_features(npt_cpu *cpu, const npt_cpu_cap *cap)
{
    const unsigned fma_osxsave_avx_f16c = 1u << 12 | 1u << 27 | 1u << 28 | 1u << 29;
    const unsigned avx512_f_dq_cd_bw_vl = 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31;
    const unsigned avx_state = 0x6, avx512_state = 0xE6, amx_state = 0x60000;
    if (!has(cpuid(1, 0).c, fma_osxsave_avx_f16c)) return;
    const unsigned states = xcr0();
    const npt_cpuid seven = cpuid(7, 0);
    if (!has(states, avx_state) || !has(seven.b, 1u << 5) || cap->level < NPT_CPU_AVX2) return;
    cpu->level = NPT_CPU_AVX2;
    if (!has(states, avx512_state) || !has(seven.b, avx512_f_dq_cd_bw_vl)) return;
    if (cap->level < NPT_CPU_AVX512) return;
    cpu->level = NPT_CPU_AVX512;
    unsigned found = 0;
    if (has(seven.c, 1u << 1)) found |= NPT_CPU_AVX512_VBMI;
    if (has(seven.d, 1u << 23)) found |= NPT_CPU_AVX512_FP16;
    if (seven.a >= 1 && has(cpuid(7, 1).a, 1u << 5)) found |= NPT_CPU_AVX512_BF16;
    if (has(seven.d, 1u << 22 | 1u << 24) && has(states, amx_state) &&
        (cap->features & NPT_CPU_AMX_BF16) != 0 && amx_permitted())
        found |= NPT_CPU_AMX_BF16;
    cpu->features = found & cap->features;
}

#endif

static npt_status find_cap(const npt_cpu_cap **cap)
{
    const char *word = getenv("NPT_CPU_MAX");
    *cap = &caps[CAP_COUNT - 1];
    if (word == NULL || word[0] == '\0') return NPT_OK;
    for (int i = 0; i < CAP_COUNT; i++)
        if (strcmp(word, caps[i].word) == 0) {
            *cap = &caps[i];
            return NPT_OK;
        }
    return npt_fail(NPT_E_USAGE,
                    "NPT_CPU_MAX is \"%s\"; it may be reference, avx2, avx512, avx512_bf16, "
                    "avx512_fp16 or amx",
                    word);
}

npt_status npt_cpu_detect(npt_cpu *cpu)
{
    const npt_cpu_cap *cap;
    npt_cpu found = {.level = NPT_CPU_REFERENCE};
    NPT_TRY(find_cap(&cap));
#ifdef HAVE_X86
    read_brand(found.brand);
    read_features(&found, cap);
#endif
    *cpu = found;
    return NPT_OK;
}

const char *npt_cpu_level_name(npt_cpu_level level)
{
    const size_t count = sizeof(level_names) / sizeof(level_names[0]);
    return (size_t)level < count ? level_names[level] : "unknown";
}
