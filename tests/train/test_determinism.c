/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "golden/golden_case.h"

#include <math.h>

/* The same bits whatever the number of threads, and the same mathematics however a batch is cut
 * into micro-batches. */

typedef struct three_steps {
    golden_losses losses[3];
    double norms[3];
    float *gradient, *masters; /* of the last step, after it */
    size_t count;
} three_steps;

static npt_status look_away(npt_observer *observer, const npt_env *env, const npt_observation *seen)
{
    (void)observer;
    (void)env;
    (void)seen;
    return NPT_OK;
}

static void take_steps(const char *name, const golden_setup *setup, bool watched,
                       three_steps *taken)
{
    npt_observer observer = {look_away};
    golden_case c;
    golden_run run;
    golden_open(&c, name);
    golden_run_open(&run, &c, setup);
    if (watched) run.distiller.observer = &observer;
    *taken = (three_steps){0};
    for (size_t i = 0; i < 3; i++) taken->norms[i] = golden_step(&run, i, &taken->losses[i]);
    taken->gradient = golden_flat(&run, GOLDEN_GRADIENT, &taken->count);
    taken->masters = golden_flat(&run, GOLDEN_UPDATE, &taken->count);
    golden_run_close(&run);
    golden_close(&c);
}

static void free_steps(three_steps *taken)
{
    npt_free(taken->gradient);
    npt_free(taken->masters);
}

static void assert_same_steps(const three_steps *one, const three_steps *more)
{
    assert_memory_equal(one->losses, more->losses, sizeof one->losses);
    assert_memory_equal(one->norms, more->norms, sizeof one->norms);
    assert_memory_equal(one->gradient, more->gradient, one->count * sizeof *one->gradient);
    assert_memory_equal(one->masters, more->masters, one->count * sizeof *one->masters);
}

static void check_threads(const char *name, npt_policy_request request, double loss_scale)
{
    static const char *const backends[] = {"reference", "native"};
    for (size_t b = 0; b < NPT_COUNT(backends); b++) {
        three_steps one, more;
        golden_setup setup = {
            .backend = backends[b], .threads = 1, .request = request, .loss_scale = loss_scale};
        take_steps(name, &setup, false, &one);
        for (int threads = 2; threads <= 3; threads++) {
            setup.threads = threads;
            take_steps(name, &setup, false, &more);
            assert_same_steps(&one, &more);
            free_steps(&more);
        }
        free_steps(&one);
    }
}

static void threads_in_f32(void **state)
{
    (void)state;
    check_threads("tiny-llama", (npt_policy_request){0}, 1);
    check_threads("qwen3", (npt_policy_request){0}, 1);
    check_threads("llama-layerwise", (npt_policy_request){0}, 1);
}

static void threads_in_halves(void **state)
{
    (void)state;
    check_threads("tiny-llama", (npt_policy_request){.use_fp16 = true}, 4096);
    check_threads("tiny-llama", (npt_policy_request){.use_bf16 = true}, 1);
    check_threads("mistral", (npt_policy_request){.mixed_precision = NPT_BF16}, 1);
}

static void threads_in_nf4(void **state)
{
    (void)state;
    check_threads("nf4-double", (npt_policy_request){0}, 1);
}

/* ---- Watchers ---- */

/* For somebody who looks at every result, results are written out that otherwise are not, and
 * teacher and student go one after the other instead of side by side. */
static void a_watcher_changes_nothing(void **state)
{
    static const struct {
        const char *name;
        npt_policy_request request;
    } runs[] = {{"tiny-llama", {0}},
                {"tiny-llama", {.use_fp16 = true}},
                {"tiny-llama", {.use_bf16 = true}},
                {"mistral", {.mixed_precision = NPT_BF16}},
                {"qwen3", {0}},
                {"llama-layerwise", {0}},
                {"nf4-double", {0}}};
    (void)state;
    for (size_t i = 0; i < NPT_COUNT(runs); i++) {
        three_steps alone, watched;
        const golden_setup setup = {
            .backend = "native", .threads = 2, .request = runs[i].request, .loss_scale = 256};
        take_steps(runs[i].name, &setup, false, &alone);
        take_steps(runs[i].name, &setup, true, &watched);
        assert_same_steps(&alone, &watched);
        free_steps(&alone);
        free_steps(&watched);
    }
}

/* ---- Batches ---- */

enum { ROWS = 8 };

/* Rows 0 … 7 as micro-batches of `size`; the gradient of all, as one accumulated batch. */
static float *accumulate(golden_run *run, size_t size, golden_losses *losses, size_t *count)
{
    int64_t tokens = 0;
    const json_t *rows = json_object_get(run->c->json, "rows");
    const int64_t held = (int64_t)json_array_size(rows);
    for (int64_t i = 0; i < ROWS; i++)
        tokens += (int64_t)json_array_size(json_array_get(rows, (size_t)(i % held)));
    *losses = (golden_losses){0};
    npt_gradients_clear(&run->adapters);
    for (size_t first = 0; first < ROWS; first += size) {
        golden_losses part;
        json_t *batch = json_array();
        for (size_t i = first; i < first + size; i++)
            json_array_append_new(batch, json_integer((json_int_t)(i % (size_t)held)));
        golden_batch(run, batch);
        golden_batch_run(run, tokens, true, &part);
        losses->mse += part.mse * (double)part.tokens / (double)tokens;
        losses->regularization += part.regularization * (double)part.tokens / (double)tokens;
        json_decref(batch);
    }
    return golden_flat(run, GOLDEN_GRADIENT, count);
}

static double relative(double a, double b)
{
    return fabs(a - b) / fabs(b);
}

/* Batch 8 × 1 against 2 × 4 and against each sequence alone: what a sequence's neighbours are does
 * not matter, nor how long they are. */
static void batches_do_not_matter(void **state)
{
    static const char *const names[] = {"llama", "llama-layerwise", "mistral", "qwen3",
                                        "llama-plain"};
    static const size_t sizes[] = {2, 1};
    (void)state;
    for (size_t n = 0; n < NPT_COUNT(names); n++) {
        golden_case c;
        golden_run run;
        golden_losses whole, cut;
        size_t count;
        golden_open(&c, names[n]);
        const golden_setup setup = {.backend = "native", .threads = 1};
        golden_run_open(&run, &c, &setup);
        float *truth = accumulate(&run, ROWS, &whole, &count);
        for (size_t s = 0; s < NPT_COUNT(sizes); s++) {
            golden_gap gap = {0};
            float *gradient = accumulate(&run, sizes[s], &cut, &count);
            for (size_t i = 0; i < count; i++)
                golden_gap_add(&gap, (double)gradient[i], (double)truth[i]);
            golden_assert_within(golden_gap_relative(&gap), 1e-6,
                                 "%s: gradient of micro-batches of %zu", names[n], sizes[s]);
            golden_assert_within(relative(cut.mse, whole.mse), 1e-6, "%s: loss", names[n]);
            golden_assert_within(relative(cut.regularization, whole.regularization), 1e-6,
                                 "%s: regularization", names[n]);
            npt_free(gradient);
        }
        npt_free(truth);
        golden_run_close(&run);
        golden_close(&c);
    }
}

/* A sequence's hidden states are the same alone and beside longer ones. */
static void neighbours_do_not_matter(void **state)
{
    golden_case c;
    golden_run run;
    golden_losses losses;
    (void)state;
    golden_open(&c, "mistral");
    const golden_setup setup = {.backend = "reference", .threads = 1};
    golden_run_open(&run, &c, &setup);
    json_t *all = json_pack("[i,i,i]", 1, 0, 2), *alone = json_pack("[i]", 0);
    golden_batch(&run, all);
    const int64_t first = run.offsets[1], tokens = run.offsets[2] - first,
                  width = run.model->config.hidden;
    const int last = (int)run.model->config.layers - 1;
    golden_batch_run(&run, run.batch.tokens, false, &losses);
    float *beside = npt_alloc((size_t)(tokens * width), sizeof *beside);
    memcpy(beside, (float *)run.distiller.student_h[last].data + first * width,
           (size_t)(tokens * width) * sizeof *beside);
    golden_batch(&run, alone);
    assert_int_equal(run.batch.tokens, tokens);
    golden_batch_run(&run, tokens, false, &losses);
    assert_memory_equal(beside, run.distiller.student_h[last].data,
                        (size_t)(tokens * width) * sizeof *beside);
    npt_free(beside);
    json_decref(all);
    json_decref(alone);
    golden_run_close(&run);
    golden_close(&c);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("one, two and three threads give the same bits in F32", threads_in_f32),
        NPT_CASE("one, two and three threads give the same bits in halves", threads_in_halves),
        NPT_CASE("one, two and three threads give the same bits on an NF4 base", threads_in_nf4),
        NPT_CASE("a watcher changes nothing", a_watcher_changes_nothing),
        NPT_CASE("batch 8 × 1, 2 × 4 and 1 × 8 have the same losses and gradients",
                 batches_do_not_matter),
        NPT_CASE("a sequence is the same alone and beside others", neighbours_do_not_matter),
    };
    return npt_test_run("determinism", cases, NPT_COUNT(cases));
}
