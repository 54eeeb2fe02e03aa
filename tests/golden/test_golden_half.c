/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "golden/golden_case.h"

#include <math.h>

/* Training in halves (R2, R3, R4) against the F64 truth, on every matmul backend: npt may be twice
 * as far from the truth as eager PyTorch in the same dtype, or one ulp of the half type where that
 * is more, in D, reg, the whole gradient, each tensor of it, and the update of five steps.
 *
 * One run's distance is one realisation of rounding noise: the noise of a tensor of the gradient
 * hangs on a few forward roundings, and the update's on how many gradients near zero were rounded
 * to the other sign, because Adam makes a full step of each. So both programs' distances are root
 * mean squares over independent draws (other rows, other initial adapters, the same for both), and
 * these meet the limit everywhere, without exception.
 *
 * The cases of the other golden tests are one draw of many more settings. They are judged, too: D,
 * reg and the whole gradient by the same limit; a single tensor and the update, where PyTorch may
 * have been lucky, only against something broken: two ulps for a tensor, 16 (F16) or 8 (BF16) for
 * the update. */

static const char *const names[] = {"llama",
                                    "llama-adam",
                                    "llama-additive",
                                    "llama-cosine",
                                    "llama-lambda-0",
                                    "llama-layers-lower",
                                    "llama-layers-upper",
                                    "llama-layerwise",
                                    "llama-layerwise-plain",
                                    "llama-linear",
                                    "llama-multiplicative",
                                    "llama-plain",
                                    "llama-ragged",
                                    "llama-rope-linear-bias",
                                    "llama-rope-llama3",
                                    "llama-scale-0.5",
                                    "mistral",
                                    "qwen2",
                                    "qwen3",
                                    "tiny-llama"};

/* What the slower or less used backends run; the same arithmetic but for the products. */
static const char *const few[] = {
    "llama",   "llama-adam", "llama-layerwise", "llama-multiplicative", "llama-rope-linear-bias",
    "mistral", "qwen3"};

/* What there are draws of; the other backends run the last of them. */
static const char *const drawn[] = {"llama",           "llama-adam",
                                    "llama-layerwise", "llama-layers-upper",
                                    "qwen3",           "llama-rope-linear-bias",
                                    "mistral"};
enum { DRAWS_AT_LEAST = 8, DRAWN_ELSEWHERE = 2 };

static const char *const backends[] = {"reference", "native", "openblas", "onednn"};

/* One row of the policy, and how its distances are judged. */
typedef struct precision {
    const char *text, *key; /* `key`: of PyTorch's run in case.json */
    npt_policy_request request;
    bool rounds_weights; /* before the run, so that the truth is that of the rounded ones */
    double ulp;
    double single_update; /* one draw's update may be this far off */
    /* At most: geometric means of npt's distance / PyTorch's in all of these but the update. npt
     * makes fewer roundings, so this is what notices one too many. */
    double typical_draws, typical_singles;
} precision;

static const precision r2 = {"R2", "f16", {.use_fp16 = true}, true, 0x1p-10, 0x1p-6, 0.95, 1.05};
static const precision r3 = {"R3", "bf16", {.use_bf16 = true}, true, 0x1p-7, 0x1p-4, 0.95, 1.05};
/* Mixed: weights rounded for the products only, so the truth is F32's, and only operands are
 * rounded. */
static const precision r4_f16 = {
    "R4 fp16", "f16", {.mixed_precision = NPT_F16}, false, 0x1p-10, 0x1p-6, 0.6, 0.7};
static const precision r4_bf16 = {
    "R4 bf16", "bf16", {.mixed_precision = NPT_BF16}, false, 0x1p-7, 0x1p-4, 0.6, 0.7};

/* ---- One run's distances, or the squares of many ---- */

enum { D, REG, GRADIENT, UPDATE, TENSORS, DISTANCES = TENSORS + GOLDEN_MAX_TENSORS };

typedef struct distances {
    int count;
    bool has_update;
    char names[DISTANCES][128];
    double npt[DISTANCES], pytorch[DISTANCES];
} distances;

static void set_distance(distances *all, int what, const char *name, const golden_gap *gap,
                         double pytorch)
{
    snprintf(all->names[what], sizeof all->names[what], "%s", name);
    all->npt[what] = golden_gap_relative(gap);
    all->pytorch[what] = pytorch;
}

/* D and reg of all layers and micro-batches of the first step, as one vector each. */
static void measure_losses(const json_t *truth, const golden_losses *parts, const json_t *pytorch,
                           distances *all)
{
    golden_gap d = {0}, reg = {0};
    const json_t *batches = json_object_get(truth, "micro_batches");
    assert_true(json_array_size(batches) > 0);
    for (size_t i = 0; i < json_array_size(batches); i++) {
        const json_t *ds = json_object_get(json_array_get(batches, i), "D");
        const json_t *regs = json_object_get(json_array_get(batches, i), "reg");
        for (size_t layer = 0; layer < json_array_size(ds); layer++) {
            golden_gap_add(&d, parts[i].d[layer], json_number_value(json_array_get(ds, layer)));
            golden_gap_add(&reg, parts[i].reg[layer],
                           json_number_value(json_array_get(regs, layer)));
        }
    }
    set_distance(all, D, "D", &d, golden_real(pytorch, "D"));
    set_distance(all, REG, "reg", &reg, golden_real(pytorch, "reg"));
}

static void measure_gradient(const golden_gaps *gaps, const json_t *pytorch, distances *all)
{
    const json_t *by_tensor = json_object_get(pytorch, "grad_by_tensor");
    set_distance(all, GRADIENT, "the gradient", &gaps->whole, golden_real(pytorch, "grad"));
    assert_int_equal(gaps->count, json_object_size(by_tensor));
    all->count = TENSORS + gaps->count;
    for (int i = 0; i < gaps->count; i++)
        set_distance(all, TENSORS + i, gaps->names[i], &gaps->tensors[i],
                     golden_real(by_tensor, gaps->names[i]));
}

/* The truth of a case is in a file, which may have no update; that of a draw has everything. */
static bool compare(golden_run *run, golden_kind kind, const char *weights, golden_gaps *gaps)
{
    char file[64];
    if (run->c->draws != NULL) {
        golden_compare_draw(run, kind, weights, gaps);
        return true;
    }
    const bool stored =
        weights[0] == '\0' && !json_is_true(json_object_get(run->c->json, "after_not_stored"));
    if (kind == GOLDEN_UPDATE && !stored) return false;
    snprintf(file, sizeof file, "expect%s.safetensors", weights);
    npt_st *expect = golden_tensors(run->c, file);
    assert_non_null(expect);
    golden_compare(run, kind, expect, gaps);
    npt_st_close(expect);
    return true;
}

static void measure(const golden_case *c, const char *backend, const precision *p, distances *all)
{
    golden_run run;
    golden_losses losses, parts[GOLDEN_MAX_BATCHES];
    golden_gaps gaps;
    char key[32], weights[16] = "";
    const json_t *pytorch = json_object_get(json_object_get(c->json, "pytorch_distance"), p->key);
    const golden_setup setup = {.backend = backend,
                                .threads = 1,
                                .request = p->request,
                                .loss_scale = golden_real(pytorch, "loss_scale")};
    *all = (distances){0};
    snprintf(key, sizeof key, "truth_%s",
             p->key); /* only where rounding the weights changes them */
    const json_t *truth = p->rounds_weights ? json_object_get(c->json, key) : NULL;
    if (truth != NULL) snprintf(weights, sizeof weights, "_%s", p->key);
    if (truth == NULL) truth = json_object_get(c->json, "first_step");
    golden_run_open(&run, c, &setup);
    golden_accumulate(&run, 0, &losses, parts);
    measure_losses(truth, parts, pytorch, all);
    compare(&run, GOLDEN_GRADIENT, weights, &gaps);
    measure_gradient(&gaps, pytorch, all);
    for (size_t i = 0; i < json_array_size(json_object_get(c->json, "steps")); i++)
        golden_step(&run, i, &losses);
    all->has_update = compare(&run, GOLDEN_UPDATE, weights, &gaps);
    if (all->has_update)
        set_distance(all, UPDATE, "the update", &gaps.whole, golden_real(pytorch, "update"));
    golden_run_close(&run);
}

/* ---- Judging them ---- */

typedef struct tally {
    double worst[TENSORS + 1], log_sum[TENSORS + 1]; /* all tensors together are the last */
    int count[TENSORS + 1];
} tally;

/* Fails where npt is farther than twice PyTorch's distance and than the floor. */
static void judge(const distances *all, int what, double floor, const char *name, tally *t)
{
    const double npt = all->npt[what], twice = 2 * all->pytorch[what];
    const int row = what < TENSORS ? what : TENSORS;
    golden_assert_within(npt, twice > floor ? twice : floor, "%s: %s (PyTorch's is %g)", name,
                         all->names[what], twice / 2);
    const double ratio = 2 * npt / (twice > floor ? twice : floor);
    if (ratio > t->worst[row]) t->worst[row] = ratio;
    t->log_sum[row] += log(2 * npt / twice);
    t->count[row]++;
}

static void judge_all(const distances *all, const double floors[TENSORS + 1], const char *name,
                      tally *t)
{
    for (int i = 0; i < all->count; i++)
        if (i != UPDATE || all->has_update)
            judge(all, i, floors[i < TENSORS ? i : TENSORS], name, t);
}

static void report(const tally *t, const precision *p, const char *backend, bool draws)
{
    static const char *const rows[] = {"D", "reg", "gradient", "update", "tensor"};
    const char *what = draws ? "rms of draws" : "single cases";
    double log_sum = 0;
    int count = 0;
    printf("# %s, %s, %s: npt's distance / PyTorch's: typical (worst)", p->text, backend, what);
    for (int i = 0; i <= TENSORS; i++) {
        printf("%s %s %.2f (%.2f)", i > 0 ? "," : "", rows[i], exp(t->log_sum[i] / t->count[i]),
               t->worst[i]);
        if (i == UPDATE) continue;
        log_sum += t->log_sum[i];
        count += t->count[i];
    }
    printf(", all but update %.3f\n", exp(log_sum / count));
    golden_assert_within(exp(log_sum / count), draws ? p->typical_draws : p->typical_singles,
                         "%s, %s, %s: the typical ratio", p->text, backend, what);
}

/* ---- The draws, and the cases ---- */

static void add_squares(distances *sum, const distances *all)
{
    sum->count = all->count;
    sum->has_update = all->has_update;
    memcpy(sum->names, all->names, sizeof sum->names);
    for (int i = 0; i < all->count; i++) {
        sum->npt[i] += all->npt[i] * all->npt[i];
        sum->pytorch[i] += all->pytorch[i] * all->pytorch[i];
    }
}

static void check_draws_of(const char *name, const char *backend, const precision *p, tally *t)
{
    const double floors[] = {p->ulp, p->ulp, p->ulp, p->ulp, p->ulp};
    distances all, rms = {0};
    golden_case c;
    size_t draws = 0;
    for (; golden_open_draw(&c, name, draws); draws++) {
        measure(&c, backend, p, &all);
        assert_true(all.has_update);
        add_squares(&rms, &all);
        golden_close(&c);
    }
    assert_true(draws >= DRAWS_AT_LEAST);
    for (int i = 0; i < rms.count; i++) {
        rms.npt[i] = sqrt(rms.npt[i] / (double)draws);
        rms.pytorch[i] = sqrt(rms.pytorch[i] / (double)draws);
    }
    judge_all(&rms, floors, name, t);
}

static void check_draws(const precision *p)
{
    for (size_t b = 0; b < NPT_COUNT(backends); b++) {
        tally t = {0};
        if (!golden_has_backend(backends[b])) continue;
        const bool native = strcmp(backends[b], "native") == 0;
        for (size_t i = native ? 0 : NPT_COUNT(drawn) - DRAWN_ELSEWHERE; i < NPT_COUNT(drawn); i++)
            check_draws_of(drawn[i], backends[b], p, &t);
        report(&t, p, backends[b], true);
    }
}

static void check_cases(const precision *p)
{
    const double floors[] = {p->ulp, p->ulp, p->ulp, p->single_update, 2 * p->ulp};
    for (size_t b = 0; b < NPT_COUNT(backends); b++) {
        tally t = {0};
        if (!golden_has_backend(backends[b])) continue;
        const bool native = strcmp(backends[b], "native") == 0;
        for (size_t i = 0; i < (native ? NPT_COUNT(names) : NPT_COUNT(few)); i++) {
            golden_case c;
            distances all;
            golden_open(&c, native ? names[i] : few[i]);
            measure(&c, backends[b], p, &all);
            judge_all(&all, floors, c.name, &t);
            golden_close(&c);
        }
        report(&t, p, backends[b], false);
    }
}

static void check_precision(const precision *p)
{
    check_draws(p);
    check_cases(p);
}

static void r2_agrees(void **state)
{
    (void)state;
    check_precision(&r2);
}

static void r3_agrees(void **state)
{
    (void)state;
    check_precision(&r3);
}

static void r4_f16_agrees(void **state)
{
    (void)state;
    check_precision(&r4_f16);
}

static void r4_bf16_agrees(void **state)
{
    (void)state;
    check_precision(&r4_bf16);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE(
            "fp16 training with its loss scale is as near the truth as PyTorch's, on every backend",
            r2_agrees),
        NPT_CASE("bf16 training is as near the truth as PyTorch's, on every backend", r3_agrees),
        NPT_CASE("mixed fp16, on F32 weights, is nearer the truth than PyTorch's fp16",
                 r4_f16_agrees),
        NPT_CASE("mixed bf16, on F32 weights, is nearer the truth than PyTorch's bf16",
                 r4_bf16_agrees),
    };
    return npt_test_run("golden, halves", cases, NPT_COUNT(cases));
}
