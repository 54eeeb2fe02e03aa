/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "golden/golden_case.h"

/* Casts executed are casts planned. A step of a small model is run under every row of the policy on
 * every backend; then every cell of the plan (site, layer, direction) must have been executed
 * exactly tokens × per_token times, or not at all where the lists below say that the mode leaves it
 * out. */

/* ---- What runs ---- */

static const npt_policy_request requests[] = {
    {0},                          /* R5 */
    {.use_fp16 = true},           /* R2 */
    {.use_bf16 = true},           /* R3 */
    {.mixed_precision = NPT_F16}, /* R4 */
    {.mixed_precision = NPT_BF16},
    {.use_fp16 = true, .adapter_dtype = NPT_F32}, /* R6 on each of these */
    {.use_fp16 = true, .adapter_dtype = NPT_BF16},
    {.use_bf16 = true, .adapter_dtype = NPT_F32},
    {.adapter_dtype = NPT_F16},
    {.adapter_dtype = NPT_BF16},
    {.mixed_precision = NPT_F16, .adapter_dtype = NPT_F16},
    {.mixed_precision = NPT_F16, .adapter_dtype = NPT_BF16},
    {.mixed_precision = NPT_BF16, .adapter_dtype = NPT_BF16},
};

/* All layers; with heads normalized; the lowest layer shared; a standard block above; one term
 * only; layer by layer; stored in 4 bits (R1). */
static const char *const names[] = {"llama",
                                    "qwen3",
                                    "llama-layers-upper",
                                    "llama-layers-lower",
                                    "llama-additive",
                                    "llama-multiplicative",
                                    "llama-layerwise",
                                    "nf4-double"};

static const char *const backends[] = {"reference", "native", "openblas", "onednn"};

/* ---- What each part of a block executes ---- */

#define LIST_END NPT_SITE_COUNT
/* Attention is the teacher's where the student reads the teacher's input. */
static const npt_site_id attention_sites[] = {
    NPT_SITE_NORM_IN, NPT_SITE_Q,    NPT_SITE_K,    NPT_SITE_V,        NPT_SITE_Q_NORM,
    NPT_SITE_K_NORM,  NPT_SITE_ROPE, NPT_SITE_ATTN, NPT_SITE_ATTN_OUT, LIST_END};
/* Outside the blocks: the teacher's embedding serves both; the head is for evaluation. */
static const npt_site_id model_sites[] = {NPT_SITE_WEIGHT,     NPT_SITE_EMBED,  NPT_SITE_ROPE_TABLE,
                                          NPT_SITE_NORM_FINAL, NPT_SITE_LOGITS, LIST_END};
/* Backward, taken although nothing flows into the block's input. */
static const npt_site_id adapter_sites[] = {
    NPT_SITE_RESIDUAL, NPT_SITE_MLP_ACT, NPT_SITE_GATE_MOD,        NPT_SITE_ADD,     NPT_SITE_U,
    NPT_SITE_Z,        NPT_SITE_MULT,    NPT_SITE_ADAPTER_OPERAND, NPT_SITE_OPERAND, LIST_END};

static bool is_in(const npt_site_id *list, npt_site_id id)
{
    for (; *list != LIST_END; list++)
        if (*list == id) return true;
    return false;
}

typedef struct block_run {
    bool student;   /* the student has this block to itself, or what follows its attention */
    bool attention; /* …and its own attention; then its input gets a gradient, too */
} block_run;

static block_run block_run_of(const golden_run *run, int layer)
{
    const bool *active = run->adapters.active;
    bool layerwise = run->distiller.objective.distill == NPT_DISTILL_LAYERWISE, below = false;
    for (int i = 0; i < layer; i++) below = below || active[i];
    below = below && !layerwise;
    return (block_run){.student = active[layer] || below, .attention = below};
}

/* Elements that enter products under R4 (0 elsewhere). */
static int64_t operands(const golden_run *run, npt_site_id id, int layer, npt_direction direction)
{
    const npt_config *c = &run->model->config;
    const npt_adapter *adapter = &run->adapters.adapter[layer];
    const int64_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim,
                  tokens = run->batch.tokens;
    const block_run part = block_run_of(run, layer);
    const int64_t rank = run->adapters.rank, terms = adapter->count - 1;
    if (id == NPT_SITE_OPERAND && direction == NPT_FORWARD) /* m, act; n, attn */
        return tokens * (c->hidden + c->inter + (part.attention ? c->hidden + q : 0));
    if (id == NPT_SITE_OPERAND) /* dh; dgate, dup, da, dq, dk, dv */
        return tokens * (c->hidden + (part.attention ? 2 * c->inter + c->hidden + q + 2 * kv : 0));
    const int64_t down = rank * c->hidden, up = c->inter * rank; /* A, B */
    if (direction == NPT_FORWARD) return tokens * (c->hidden + rank) + down + terms * up;
    return tokens * (c->hidden + 2 * rank + terms * c->inter) + terms * up +
           (part.attention ? down : 0);
}

static int64_t expected(const golden_run *run, npt_site_id id, int layer, npt_direction direction)
{
    const npt_site_plan plan =
        npt_sites_planned(run->distiller.student_sites, id, layer, direction);
    if (plan.to == NPT_DTYPE_NONE || layer < 0 || is_in(model_sites, id)) return 0;
    const block_run part = block_run_of(run, layer);
    if (!part.student) return 0;
    if (id == NPT_SITE_UPDATE) { /* the adapters as they begin, and one optimizer step */
        int64_t size = 0;
        for (int i = 0; i < run->adapters.adapter[layer].count; i++)
            size += run->adapters.adapter[layer].parameters[i].rows *
                    run->adapters.adapter[layer].parameters[i].cols;
        return 2 * size;
    }
    if (id == NPT_SITE_OPERAND || id == NPT_SITE_ADAPTER_OPERAND)
        return operands(run, id, layer, direction);
    if (direction == NPT_FORWARD && is_in(attention_sites, id) && !part.attention) return 0;
    if (direction == NPT_BACKWARD && !is_in(adapter_sites, id) && !part.attention) return 0;
    return run->batch.tokens * plan.per_token;
}

static int64_t expected_of_teacher(const golden_run *run, npt_site_id id, int layer,
                                   npt_direction direction)
{
    const npt_site_plan plan =
        npt_sites_planned(run->distiller.teacher_sites, id, layer, direction);
    const npt_config *c = &run->model->config;
    if (plan.to == NPT_DTYPE_NONE || direction != NPT_FORWARD) return 0;
    if (id == NPT_SITE_ROPE_TABLE) return 2 * run->batch.longest * (c->head_dim / 2);
    if (id == NPT_SITE_WEIGHT || id == NPT_SITE_NORM_FINAL || id == NPT_SITE_LOGITS) return 0;
    return run->batch.tokens * plan.per_token;
}

/* ---- The comparison ---- */

static void check_cells(const golden_run *run, const char *backend)
{
    const npt_sites *plans[2] = {run->distiller.teacher_sites, run->distiller.student_sites};
    for (int who = 0; who < 2; who++)
        for (int layer = -1; layer < (int)run->model->config.layers; layer++)
            for (int id = 0; id < NPT_SITE_COUNT; id++)
                for (int direction = 0; direction < NPT_DIRECTION_COUNT; direction++) {
                    int64_t done = (int64_t)npt_sites_executed(plans[who], (npt_site_id)id, layer,
                                                               (npt_direction)direction);
                    int64_t wanted = (who == 0 ? expected_of_teacher : expected)(
                        run, (npt_site_id)id, layer, (npt_direction)direction);
                    char label[64];
                    if (done != wanted)
                        fail_msg("%s, %s, %s, %s: %s: %lld casts executed, %lld planned",
                                 run->c->name, backend, npt_rule_text(run->policy.base_rule),
                                 who == 0 ? "teacher" : "student",
                                 npt_site_label((npt_site_id)id, layer, (npt_direction)direction,
                                                label, sizeof label),
                                 (long long)done, (long long)wanted);
                }
}

/* Forward, backward and an update; the digests of both plans. */
static uint64_t run_once(const char *name, const char *backend, int threads,
                         const npt_policy_request *request)
{
    golden_case c;
    golden_run run;
    golden_losses losses;
    golden_open(&c, name);
    const golden_setup setup = {.backend = backend, .threads = threads, .request = *request};
    golden_run_open(&run, &c, &setup);
    const json_t *first = json_array_get(json_object_get(c.json, "steps"), 0);
    golden_batch(&run, json_array_get(json_object_get(first, "micro_batches"), 0));
    golden_batch_run(&run, run.batch.tokens, true, &losses);
    npt_optimizer_step(&run.adapters, run.exec, run.distiller.student_sites, &run.optimizer, 1,
                       1e-4, 1, 1);
    assert_int_equal(npt_sites_check(run.distiller.student_sites), NPT_OK);
    check_cells(&run, backend);
    uint64_t digest = npt_sites_digest(run.distiller.student_sites) ^
                      npt_sites_digest(run.distiller.teacher_sites) << 1;
    golden_run_close(&run);
    golden_close(&c);
    return digest;
}

static void executed_is_planned(void **state)
{
    (void)state;
    for (size_t n = 0; n < NPT_COUNT(names); n++)
        for (size_t r = 0; r < NPT_COUNT(requests); r++) {
            const bool quantized = strcmp(names[n], "nf4-double") == 0;
            if (quantized && r > 0) break; /* R1 allows no other choice */
            const uint64_t digest = run_once(names[n], "native", 1, &requests[r]);
            assert_true(run_once(names[n], "native", 3, &requests[r]) == digest);
            for (size_t b = 0; b < NPT_COUNT(backends); b++)
                if (golden_has_backend(backends[b]))
                    assert_true(run_once(names[n], backends[b], 1, &requests[r]) == digest);
        }
}

static void digests_differ(void **state)
{
    (void)state;
    uint64_t digests[NPT_COUNT(requests)];
    for (size_t r = 0; r < NPT_COUNT(requests); r++) {
        digests[r] = run_once("llama", "native", 1, &requests[r]);
        for (size_t i = 0; i < r; i++) assert_true(digests[i] != digests[r]);
    }
}

/* ---- The same bits ---- */

static void same_bits_on_every_level(void **state)
{
    enum { COUNT = 4096 };
    static const npt_dtype halves[] = {NPT_F16, NPT_BF16};
    static uint32_t bits[COUNT];
    static uint16_t cast[COUNT];
    npt_exec *exec;
    npt_cpu cpu;
    (void)state;
    for (uint32_t i = 0; i < COUNT; i++)
        bits[i] = i * 0x9e3779b1u ^ i << 20; /* all exponents, NaN and infinity */
    bits[0] = 0x477fefff;                    /* 65519.996 → 65504 */
    bits[1] = 0x477ff000;                    /* 65520 → infinity */
    bits[2] = 0x33000000;                    /* 2^-25 → 0 in F16 */
    bits[3] = 0x33000001;
    bits[4] = 0x7f7fffff;
    assert_int_equal(npt_exec_create(&exec, NULL, 1), NPT_OK);
    assert_int_equal(npt_cpu_detect(&cpu), NPT_OK);
    const npt_cpu_level top = cpu.level;
    for (int level = 0; level <= (int)top; level++)
        for (size_t d = 0; d < NPT_COUNT(halves); d++) {
            npt_kernels kernels;
            cpu.level = (npt_cpu_level)level;
            npt_cpu_kernels(&cpu, &kernels);
            kernels.cast(npt_exec_run(exec), COUNT, (npt_in){bits, NPT_F32},
                         (npt_out){cast, halves[d]}, NULL);
            for (size_t i = 0; i < COUNT; i++) {
                uint16_t scalar;
                npt_store(&scalar, halves[d], 0, npt_bits_float(bits[i]));
                if (scalar != cast[i])
                    fail_msg("%s: 0x%08x → %s gives 0x%04x, not 0x%04x", kernels.name,
                             (unsigned)bits[i], npt_dtype_name(halves[d]), cast[i], scalar);
            }
        }
    npt_exec_destroy(exec);
}

/* ---- Breaches ---- */

static void assert_says(const char *part)
{
    if (strstr(npt_error_message(), part) == NULL)
        fail_msg("'%s' does not say '%s'", npt_error_message(), part);
}

static void breaches_are_named(void **state)
{
    golden_case c;
    golden_run run;
    (void)state;
    golden_open(&c, "llama");
    const golden_setup setup = {.backend = "native", .threads = 1, .request = {.use_bf16 = true}};
    golden_run_open(&run, &c, &setup);
    npt_sites *sites = run.distiller.student_sites;
    assert_int_equal(npt_sites_check(sites), NPT_OK);
    /* another dtype than planned, and what comes later is not the first */
    assert_int_equal(npt_site(sites, NPT_SITE_ADAPTER_IN, 1, NPT_FORWARD, NPT_F16, 5), NPT_BF16);
    assert_int_equal(npt_site(sites, NPT_SITE_GATE, 2, NPT_FORWARD, NPT_F16, 5), NPT_BF16);
    assert_int_equal(npt_sites_check(sites), NPT_E_INTERNAL);
    assert_says("L01.adapter_in");
    assert_says("F16 arrived");
    assert_says("BF16 → BF16");
    assert_says("R3");
    assert_int_equal(npt_sites_executed(sites, NPT_SITE_ADAPTER_IN, 1, NPT_FORWARD), 0);
    /* a place where no cast is planned: an NPT block has no attention residual */
    npt_sites_reset_counts(sites);
    assert_int_equal(npt_sites_check(sites), NPT_OK);
    assert_int_equal(npt_site(sites, NPT_SITE_RESIDUAL_ATTN, 0, NPT_FORWARD, NPT_F32, 5), NPT_F32);
    assert_int_equal(npt_sites_check(sites), NPT_E_INTERNAL);
    assert_says("L00.residual_attn");
    golden_run_close(&run);
    golden_close(&c);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("every cast executed is planned and every planned one executed, in every policy "
                 "on every backend",
                 executed_is_planned),
        NPT_CASE("policies that decide differently have different digests", digests_differ),
        NPT_CASE("a cast gives the same bits on every instruction set", same_bits_on_every_level),
        NPT_CASE("an unplanned cast is named with layer, site, dtypes and rule",
                 breaches_are_named),
    };
    return npt_test_run("casts", cases, NPT_COUNT(cases));
}
