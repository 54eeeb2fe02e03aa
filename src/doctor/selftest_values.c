/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "doctor/selftest.h"

#include <math.h>
#include <string.h>

/* The cases without a model: the policy as a table, and the conversions by their definition. The
 * expectations are written out here, not taken from policy.c or dtype.c. */

/* ---- The policy (precision.md §2) ---- */

/* clang-format off */
#define ROW(r, ar, frozen, act, compute, adapter, master, dynamic, ...)                            \
    {{__VA_ARGS__}, NPT_##r, NPT_##ar, NPT_##frozen, NPT_##act, NPT_##compute, NPT_##adapter,      \
     NPT_##master, dynamic}
#define NPT_NONE NPT_DTYPE_NONE
static const npt_selftest_policy policies[] = {
    ROW(R1, R1, NF4,  F32,  F32,  F32,  NONE, false, .use_quantization = true),
    ROW(R1, R1, NF4,  F32,  F32,  F32,  NONE, false, .base_is_quantized = true),
    ROW(R1, R1, NF4,  F32,  F32,  F32,  NONE, false, .use_quantization = true,
        .base_is_quantized = true),
    ROW(R1, R1, NF4,  F32,  F32,  F32,  NONE, false, .use_quantization = true,
        .mixed_precision = NPT_F16),
    ROW(R1, R1, NF4,  F32,  F32,  F32,  NONE, false, .base_is_quantized = true,
        .mixed_precision = NPT_BF16),
    ROW(R1, R6, NF4,  F32,  F32,  F32,  NONE, false, .use_quantization = true,
        .adapter_dtype = NPT_F32),
    ROW(R2, R2, F16,  F16,  F16,  F16,  F32,  true,  .use_fp16 = true),
    ROW(R2, R2, F16,  F16,  F16,  F16,  F32,  true,  .use_fp16 = true, .mixed_precision = NPT_F16),
    ROW(R2, R6, F16,  F16,  F16,  F32,  NONE, true,  .use_fp16 = true, .adapter_dtype = NPT_F32),
    ROW(R2, R6, F16,  F16,  F16,  F16,  F32,  true,  .use_fp16 = true, .adapter_dtype = NPT_F16),
    ROW(R2, R6, F16,  F16,  F16,  BF16, F32,  true,  .use_fp16 = true, .adapter_dtype = NPT_BF16),
    ROW(R3, R3, BF16, BF16, BF16, BF16, F32,  false, .use_bf16 = true),
    ROW(R3, R3, BF16, BF16, BF16, BF16, F32,  false, .use_bf16 = true, .mixed_precision = NPT_BF16),
    ROW(R3, R6, BF16, BF16, BF16, F32,  NONE, false, .use_bf16 = true, .adapter_dtype = NPT_F32),
    ROW(R3, R6, BF16, BF16, BF16, F16,  F32,  false, .use_bf16 = true, .adapter_dtype = NPT_F16),
    ROW(R4, R4, F32,  F32,  F16,  F32,  NONE, true,  .mixed_precision = NPT_F16),
    ROW(R4, R4, F32,  F32,  BF16, F32,  NONE, false, .mixed_precision = NPT_BF16),
    ROW(R4, R6, F32,  F32,  F16,  F16,  F32,  true,  .mixed_precision = NPT_F16,
        .adapter_dtype = NPT_F16),
    ROW(R4, R6, F32,  F32,  BF16, BF16, F32,  false, .mixed_precision = NPT_BF16,
        .adapter_dtype = NPT_BF16),
    ROW(R5, R5, F32,  F32,  F32,  F32,  NONE, false, .use_fp16 = false),
    ROW(R5, R6, F32,  F32,  F32,  F32,  NONE, false, .adapter_dtype = NPT_F32),
    ROW(R5, R6, F32,  F32,  F32,  F16,  F32,  false, .adapter_dtype = NPT_F16),
    ROW(R5, R6, F32,  F32,  F32,  BF16, F32,  false, .adapter_dtype = NPT_BF16),
};
/* clang-format on */
#undef NPT_NONE
#undef ROW

static const npt_selftest_refusal refusals[] = {
    {{.use_quantization = true, .use_fp16 = true}, "use one or the other"},
    {{.use_quantization = true, .use_bf16 = true}, "use one or the other"},
    {{.base_is_quantized = true, .use_fp16 = true}, "use one or the other"},
    {{.base_is_quantized = true, .use_bf16 = true}, "use one or the other"},
    {{.use_quantization = true, .adapter_dtype = NPT_F16}, "drop --adapter_dtype"},
    {{.base_is_quantized = true, .adapter_dtype = NPT_BF16}, "drop --adapter_dtype"},
    {{.use_fp16 = true, .use_bf16 = true}, "drop one"},
    {{.use_fp16 = true, .mixed_precision = NPT_BF16}, "drop one"},
    {{.use_bf16 = true, .mixed_precision = NPT_F16}, "drop one"},
    {{.use_fp16 = true, .adapter_dtype = NPT_U8}, "F32, F16 or BF16"},
    {{.adapter_dtype = NPT_I8}, "F32, F16 or BF16"},
    {{.adapter_dtype = NPT_NF4}, "F32, F16 or BF16"},
    {{.mixed_precision = NPT_F32}, "F16 or BF16"},
};

/* R7: what is said of a base → the rule that follows. An integer is no base dtype. */
static const struct {
    bool record;
    npt_dtype tensor, config;
    npt_rule rule;
} inferred[] = {
    {true, NPT_U8, NPT_F16, NPT_R1},         {true, NPT_BF16, NPT_BF16, NPT_R1},
    {false, NPT_F16, NPT_F32, NPT_R2},       {false, NPT_BF16, NPT_F16, NPT_R3},
    {false, NPT_F32, NPT_F16, NPT_R5},       {false, NPT_U8, NPT_F16, NPT_R2},
    {false, NPT_I8, NPT_BF16, NPT_R3},       {false, NPT_DTYPE_NONE, NPT_BF16, NPT_R3},
    {false, NPT_U8, NPT_DTYPE_NONE, NPT_R5}, {false, NPT_DTYPE_NONE, NPT_F32, NPT_R5},
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* The flags of a request, for the line that tells what failed. */
static const char *describe(const npt_policy_request *r, char text[160])
{
    snprintf(text, 160, "%s%s%s%smixed %s, adapter %s", r->use_quantization ? "quantization, " : "",
             r->base_is_quantized ? "quantized base, " : "", r->use_fp16 ? "fp16, " : "",
             r->use_bf16 ? "bf16, " : "", npt_dtype_name(r->mixed_precision),
             npt_dtype_name(r->adapter_dtype));
    return text;
}

void npt_selftest_check_policy(npt_tap *t, const npt_selftest_policy *row)
{
    npt_policy policy;
    char text[160];
    describe(&row->request, text);
    if (npt_tap_expect_ok(t, text, npt_policy_decide(&row->request, &policy)) != NPT_OK) return;
    const npt_dtype expected[NPT_ROLE_COUNT] = {
        [NPT_ROLE_FROZEN] = row->frozen,
        [NPT_ROLE_PLAIN] = row->frozen == NPT_NF4 ? NPT_F32 : row->frozen,
        [NPT_ROLE_ACT] = row->act,
        [NPT_ROLE_COMPUTE] = row->compute,
        [NPT_ROLE_ACCUM] = NPT_F32,
        [NPT_ROLE_ADAPTER] = row->adapter,
        [NPT_ROLE_MASTER] = row->master,
        [NPT_ROLE_GRAD] = NPT_F32,
        [NPT_ROLE_OPT] = NPT_F32,
        [NPT_ROLE_LOSS] = NPT_F32};
    for (int i = 0; i < NPT_ROLE_COUNT; i++)
        if (policy.dtype[i] != expected[i])
            npt_tap_breach(t, "%s: %s: expected %s, got %s", text, npt_role_name((npt_role)i),
                           npt_dtype_name(expected[i]), npt_dtype_name(policy.dtype[i]));
    const npt_rule rule = policy.base_rule, adapter_rule = policy.rule[NPT_ROLE_ADAPTER];
    if (rule != row->rule || adapter_rule != row->adapter_rule)
        npt_tap_breach(t, "%s: expected R%d and R%d for the adapter, got R%d and R%d", text,
                       (int)row->rule, (int)row->adapter_rule, (int)rule, (int)adapter_rule);
    if (policy.dynamic_loss_scale != row->dynamic_loss_scale)
        npt_tap_breach(t, "%s: loss scale: expected %s", text,
                       row->dynamic_loss_scale ? "dynamic" : "off");
    const bool quantized = row->rule == NPT_R1;
    if (policy.quantize_on_load != (quantized && !row->request.base_is_quantized))
        npt_tap_breach(t, "%s: quantize on load is %d", text, policy.quantize_on_load);
    if (policy.mixed_switched_off != (quantized && row->request.mixed_precision != NPT_DTYPE_NONE))
        npt_tap_breach(t, "%s: mixed precision switched off is %d", text,
                       policy.mixed_switched_off);
}

void npt_selftest_check_refusal(npt_tap *t, const npt_selftest_refusal *row)
{
    npt_policy policy;
    char text[160];
    const npt_status status = npt_policy_decide(&row->request, &policy);
    describe(&row->request, text);
    if (status != NPT_E_USAGE)
        npt_tap_breach(t, "%s: expected a refusal (usage), got %s", text, npt_status_name(status));
    else if (strstr(npt_error_message(), row->says) == NULL)
        npt_tap_breach(t, "%s: expected \"%s\" in: %s", text, row->says, npt_error_message());
}

static void check_inferred(npt_tap *t, size_t i)
{
    npt_policy policy;
    const npt_policy_request request =
        npt_policy_infer(inferred[i].record, inferred[i].tensor, inferred[i].config);
    if (npt_tap_expect_ok(t, "inferred", npt_policy_decide(&request, &policy)) != NPT_OK) return;
    if (policy.base_rule != inferred[i].rule)
        npt_tap_breach(t, "tensors %s, config %s%s: expected R%d, got R%d",
                       npt_dtype_name(inferred[i].tensor), npt_dtype_name(inferred[i].config),
                       inferred[i].record ? ", quantization record" : "", (int)inferred[i].rule,
                       (int)policy.base_rule);
}

/* ---- Conversions (precision.md §7) ---- */

static const npt_selftest_probe probes[] = {
    {0x477fefff, 0x7bff, 0x4780}, /* 65519.996 → 65504 */
    {0x477ff000, 0x7c00, 0x4780}, /* 65520 → infinity */
    {0xc77ff000, 0xfc00, 0xc780},
    {0x7f7fffff, 0x7c00, 0x7f80}, /* the largest F32 → infinity in both */
    {0x7f7f7fff, 0x7c00, 0x7f7f}, /* the largest that BF16 still holds */
    {0x7f800000, 0x7c00, 0x7f80},
    {0xff800000, 0xfc00, 0xff80},
    {0x7fc00001, 0x7e00, 0x7fc0}, /* every NaN → the canonical one */
    {0xffc00000, 0x7e00, 0x7fc0},
    {0x7f800001, 0x7e00, 0x7fc0},
    {0xffffffff, 0x7e00, 0x7fc0},
    {0x33000000, 0x0000, 0x3300}, /* 2^-25: a tie with zero */
    {0x33000001, 0x0001, 0x3300},
    {0x33c00000, 0x0002, 0x33c0}, /* 1.5·2^-24: a tie between subnormals */
    {0x387fe000, 0x0400, 0x3880}, /* rounds up into the normal range of F16 */
    {0x00008000, 0x0000, 0x0000}, /* ties of BF16's subnormals */
    {0x00018000, 0x0000, 0x0002},
    {0x80000000, 0x8000, 0x8000},
    {0x3f801000, 0x3c00, 0x3f80}, /* ties between 1 and its neighbour: F16 */
    {0x3f808000, 0x3c04, 0x3f80}, /* BF16 */
    {0x3f818000, 0x3c0c, 0x3f82},
};

/* A half by its definition: magnitude 0 … infinity, which is given the value that would follow. */
static double value_of(npt_dtype half, unsigned magnitude)
{
    const int bits = half == NPT_F16 ? 10 : 7, bias = half == NPT_F16 ? 15 : 127;
    const int exponent = (int)(magnitude >> bits);
    const double fraction = (double)(magnitude & ((1u << bits) - 1));
    if (exponent == 0) return ldexp(fraction, 1 - bias - bits);
    return ldexp(fraction + ldexp(1, bits), exponent - bias - bits);
}

void npt_selftest_check_probe(npt_tap *t, const npt_kernels *kernels, const npt_run *run,
                              const npt_selftest_probe *probe)
{
    const float value = npt_bits_float(probe->value);
    const npt_dtype halves[] = {NPT_F16, NPT_BF16};
    for (int i = 0; i < 2; i++) {
        const uint16_t expected = i == 0 ? probe->f16 : probe->bf16;
        uint16_t got = 0;
        kernels->cast(run, 1, (npt_in){&value, NPT_F32}, (npt_out){&got, halves[i]}, NULL);
        if (got != expected)
            npt_tap_breach(t, "%s: 0x%08x to %s: expected 0x%04x, got 0x%04x", kernels->name,
                           (unsigned)probe->value, npt_dtype_name(halves[i]), expected, got);
    }
}

enum { HALVES = 65536 };

typedef struct half_buffers {
    uint16_t half[HALVES];
    float wide[HALVES];
} half_buffers;

/* What a half must be in F32, as bits. */
static uint32_t widened(npt_dtype half, unsigned code)
{
    const unsigned infinity = half == NPT_F16 ? 0x7c00 : 0x7f80, magnitude = code & 0x7fffu;
    const uint32_t sign = (code & 0x8000u) << 16;
    if (magnitude > infinity) return 0x7fc00000u;
    if (magnitude == infinity) return sign | 0x7f800000u;
    return sign | npt_float_bits((float)value_of(half, magnitude));
}

static void check_there_and_back(npt_tap *t, const npt_kernels *kernels, const npt_run *run,
                                 npt_dtype half, half_buffers *b)
{
    const unsigned infinity = half == NPT_F16 ? 0x7c00 : 0x7f80,
                   nan = half == NPT_F16 ? 0x7e00 : 0x7fc0;
    for (unsigned i = 0; i < HALVES; i++) b->half[i] = (uint16_t)i;
    kernels->cast(run, HALVES, (npt_in){b->half, half}, (npt_out){b->wide, NPT_F32}, NULL);
    for (unsigned i = 0; i < HALVES; i++)
        if (npt_float_bits(b->wide[i]) != widened(half, i))
            npt_tap_breach(t, "%s: %s 0x%04x to F32: expected 0x%08x, got 0x%08x", kernels->name,
                           npt_dtype_name(half), i, (unsigned)widened(half, i),
                           (unsigned)npt_float_bits(b->wide[i]));
    kernels->cast(run, HALVES, (npt_in){b->wide, NPT_F32}, (npt_out){b->half, half}, NULL);
    for (unsigned i = 0; i < HALVES; i++) {
        const unsigned expected = (i & 0x7fffu) > infinity ? nan : i;
        if (b->half[i] != expected)
            npt_tap_breach(t, "%s: %s 0x%04x through F32: got 0x%04x", kernels->name,
                           npt_dtype_name(half), i, b->half[i]);
    }
}

/* Halfway from each half to the next, and the F32 on either side of that (`side` −1, 0, 1): these
 * are all the places where rounding decides. */
static void check_boundaries(npt_tap *t, const npt_kernels *kernels, const npt_run *run,
                             npt_dtype half, int side, half_buffers *b)
{
    const unsigned infinity = half == NPT_F16 ? 0x7c00 : 0x7f80;
    for (unsigned i = 0; i < HALVES; i++) {
        const unsigned low = i & 0x7fffu;
        float middle = 0;
        if (low < infinity) middle = (float)((value_of(half, low) + value_of(half, low + 1)) / 2);
        if (low < infinity && side != 0)
            middle = npt_bits_float(npt_float_bits(middle) + (uint32_t)side);
        b->wide[i] = (i & 0x8000u) != 0 ? -middle : middle;
    }
    kernels->cast(run, HALVES, (npt_in){b->wide, NPT_F32}, (npt_out){b->half, half}, NULL);
    for (unsigned i = 0; i < HALVES; i++) {
        const unsigned up = side > 0 || (side == 0 && (i & 1u) != 0) ? 1 : 0;
        if ((i & 0x7fffu) >= infinity || b->half[i] == i + up) continue;
        npt_tap_breach(t, "%s: 0x%08x to %s: expected 0x%04x, got 0x%04x", kernels->name,
                       (unsigned)npt_float_bits(b->wide[i]), npt_dtype_name(half), i + up,
                       b->half[i]);
    }
}

void npt_selftest_check_half(npt_tap *t, const npt_kernels *kernels, const npt_run *run,
                             npt_dtype half)
{
    half_buffers *buffers = npt_alloc(1, sizeof *buffers);
    if (buffers == NULL) {
        npt_tap_expect_ok(t, "buffers", NPT_E_NOMEM);
        return;
    }
    check_there_and_back(t, kernels, run, half, buffers);
    for (int side = -1; side <= 1; side++) check_boundaries(t, kernels, run, half, side, buffers);
    npt_free(buffers);
}

/* ---- The cases ---- */

static void level_case(npt_tap *t, const npt_exec *exec, npt_cpu_level level)
{
    const npt_run *run = npt_exec_run(exec);
    char name[96];
    npt_cpu cpu = *npt_exec_cpu(exec);
    npt_kernels kernels;
    snprintf(name, sizeof name, "F16 and BF16 conversions, all halves and boundaries (kernels %s)",
             npt_cpu_level_name(level));
    if (cpu.level < level) {
        npt_tap_skip(t, name, "this CPU has them not, or NPT_CPU_MAX excludes them");
        return;
    }
    cpu.level = level;
    npt_cpu_kernels(&cpu, &kernels);
    if (strcmp(kernels.name, npt_cpu_level_name(level)) != 0) {
        npt_tap_skip(t, name, "not compiled in");
        return;
    }
    npt_selftest_check_half(t, &kernels, run, NPT_F16);
    npt_selftest_check_half(t, &kernels, run, NPT_BF16);
    for (size_t i = 0; i < COUNT(probes); i++)
        npt_selftest_check_probe(t, &kernels, run, &probes[i]);
    npt_tap_end(t, "%s", name);
}

int npt_selftest_value_cases(void)
{
    return 3 + NPT_CPU_AVX512 + 1;
}

npt_status npt_selftest_values(npt_tap *t)
{
    npt_exec *exec;
    NPT_TRY(npt_exec_create(&exec, "reference", 1));
    for (size_t i = 0; i < COUNT(policies); i++) npt_selftest_check_policy(t, &policies[i]);
    npt_tap_end(t, "the precision policy, R1 to R6, in %zu rows", COUNT(policies));
    for (size_t i = 0; i < COUNT(refusals); i++) npt_selftest_check_refusal(t, &refusals[i]);
    npt_tap_end(t, "%zu requests that contradict themselves are refused with a sentence",
                COUNT(refusals));
    for (size_t i = 0; i < COUNT(inferred); i++) check_inferred(t, i);
    npt_tap_end(t, "the precision of an existing base is inferred, R7, never an integer");
    for (int level = NPT_CPU_REFERENCE; level <= NPT_CPU_AVX512; level++)
        level_case(t, exec, (npt_cpu_level)level);
    npt_exec_destroy(exec);
    return NPT_OK;
}
