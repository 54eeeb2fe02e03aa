/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "golden/golden_case.h"

#include <math.h>

/* F32 training against PyTorch's F64 truth, on every matmul backend: losses, hidden states, logits,
 * gradients, five optimizer steps. The limits are twice the distance that PyTorch's own F32 run
 * has, with the floors of tests/golden/README.md, and never more than the ones promised below. */

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
                                    "tiny-llama",
                                    "nf4",
                                    "nf4-double"};

static const double loss_promise = 1e-5, gradient_promise = 1e-4, update_promise = 1e-2;

/* The worst ratio to PyTorch's own distance seen by this program, for the log. */
static int64_t pieces; /* panels made in bf16 pieces */
static double worst_loss, worst_gradient, worst_tensor, worst_update;

static double larger(double a, double b)
{
    return a > b ? a : b;
}

static void near(double value, double truth, double limit, const char *name, const char *what)
{
    golden_assert_within(fabs(value - truth), limit * fabs(truth) + 1e-30, "%s: %s %.9g for %.9g",
                         name, what, value, truth);
}

static void check_losses(const char *name, const json_t *expect, const golden_losses *losses,
                         double limit)
{
    near(losses->loss, golden_real(expect, "loss"), limit, name, "loss");
    near(losses->mse, golden_real(expect, "loss_mse"), limit, name, "loss_mse");
    near(losses->regularization, golden_real(expect, "loss_regularization"), limit, name,
         "loss_regularization");
}

static void check_layers(const char *name, const json_t *expect, const golden_losses *losses)
{
    golden_gap d = {0}, reg = {0};
    const json_t *ds = json_object_get(expect, "D"), *regs = json_object_get(expect, "reg");
    for (size_t i = 0; i < json_array_size(ds); i++) {
        near(losses->d[i], json_number_value(json_array_get(ds, i)), loss_promise, name,
             "D of a layer");
        near(losses->reg[i], json_number_value(json_array_get(regs, i)), loss_promise, name,
             "reg of a layer");
        golden_gap_add(&d, losses->d[i], json_number_value(json_array_get(ds, i)));
        golden_gap_add(&reg, losses->reg[i], json_number_value(json_array_get(regs, i)));
    }
    golden_assert_within(golden_gap_relative(&d), 1e-6, "%s: D", name);
    golden_assert_within(golden_gap_relative(&reg), 1e-6, "%s: reg", name);
    worst_loss = larger(worst_loss, larger(golden_gap_relative(&d), golden_gap_relative(&reg)));
}

/* h of every block and the logits, for the first micro-batch of the cases that store them. */
static void check_hidden(golden_run *run, const npt_st *expect)
{
    const json_t *first = json_array_get(json_object_get(run->c->json, "steps"), 0);
    npt_distiller *d = &run->distiller;
    golden_losses losses;
    if (npt_st_find(expect, "teacher.logits") == NULL) return;
    golden_batch(run, json_array_get(json_object_get(first, "micro_batches"), 0));
    golden_batch_run(run, run->batch.tokens, false, &losses);
    const int64_t tokens = run->batch.tokens, vocab = run->model->config.vocab;
    float *logits = npt_alloc((size_t)(tokens * vocab), sizeof *logits);
    if (npt_model_load_head(run->model, run->exec, &run->policy, run->load_sites) != NPT_OK)
        fail_msg("%s", npt_error_message());
    const npt_env env = {.exec = run->exec,
                         .model = run->model,
                         .policy = &run->policy,
                         .sites = d->teacher_sites,
                         .arena = d->step,
                         .batch = &run->batch};
    const int last = (int)run->model->config.layers - 1;
    for (int who = 0; who < 2; who++)
        for (int layer = 0; layer <= last + 1; layer++) {
            const char *model = who == 0 ? "teacher" : "student";
            npt_mat h = (who == 0 ? d->teacher_h : d->student_h)[layer <= last ? layer : last];
            const float *values = h.data;
            char name[64];
            snprintf(name, sizeof name, layer <= last ? "%s.h.%d" : "%s.logits", model, layer);
            const npt_st_tensor *truth = npt_st_find(expect, name);
            assert_non_null(truth);
            if (layer > last) {
                assert_int_equal(npt_logits(&env, h, 0, tokens, logits), NPT_OK);
                values = logits;
            }
            golden_gap gap = {0};
            assert_int_equal(truth->bytes,
                             (uint64_t)(tokens * (layer > last ? vocab : h.cols)) * sizeof(float));
            for (size_t i = 0; i < truth->bytes / sizeof(float); i++)
                golden_gap_add(&gap, (double)values[i],
                               (double)npt_load(truth->data, truth->dtype, i));
            golden_assert_within(golden_gap_relative(&gap), 1e-6, "%s: %s", run->c->name, name);
        }
    npt_free(logits);
}

static void check_gradient(golden_run *run, const npt_st *expect, const json_t *distance)
{
    golden_gaps gaps;
    const json_t *by_tensor = json_object_get(distance, "grad_by_tensor");
    golden_compare(run, GOLDEN_GRADIENT, expect, &gaps);
    double whole = golden_gap_relative(&gaps.whole),
           pytorch = larger(golden_real(distance, "grad"), 1e-6);
    golden_assert_within(whole, fmin(gradient_promise, 2 * pytorch), "%s: the gradient",
                         run->c->name);
    worst_gradient = larger(worst_gradient, whole / pytorch);
    for (int i = 0; i < gaps.count; i++) {
        pytorch = larger(golden_real(by_tensor, gaps.names[i]), 1e-6);
        double gap = golden_gap_relative(&gaps.tensors[i]);
        golden_assert_within(gap, fmin(gradient_promise, 2 * pytorch), "%s: gradient of %s",
                             run->c->name, gaps.names[i]);
        worst_tensor = larger(worst_tensor, gap / pytorch);
    }
    assert_int_equal((size_t)gaps.count, json_object_size(by_tensor));
}

static void check_update(golden_run *run, const npt_st *expect, const json_t *distance)
{
    golden_gaps gaps;
    if (json_is_true(json_object_get(run->c->json, "after_not_stored"))) return;
    golden_compare(run, GOLDEN_UPDATE, expect, &gaps);
    double whole = golden_gap_relative(&gaps.whole),
           pytorch = larger(golden_real(distance, "update"), 1e-5);
    golden_assert_within(whole, fmin(update_promise, 2 * pytorch), "%s: the update", run->c->name);
    for (int i = 0; i < gaps.count; i++)
        golden_assert_within(golden_gap_relative(&gaps.tensors[i]), update_promise,
                             "%s: update of %s", run->c->name, gaps.names[i]);
    worst_update = larger(worst_update, whole / pytorch);
}

static void check_case(const char *name, const char *backend, npt_matmul_precision precision)
{
    golden_case c;
    golden_run run;
    golden_losses losses, parts[GOLDEN_MAX_BATCHES];
    golden_open(&c, name);
    const golden_setup setup = {.backend = backend, .threads = 1, .precision = precision};
    golden_run_open(&run, &c, &setup);
    const json_t *first = json_object_get(c.json, "first_step"),
                 *steps = json_object_get(c.json, "steps");
    const json_t *distance = json_object_get(json_object_get(c.json, "pytorch_distance"), "f32");
    npt_st *expect = golden_tensors(&c, "expect.safetensors");
    check_hidden(&run, expect);
    golden_accumulate(&run, 0, &losses, parts);
    check_losses(name, first, &losses, loss_promise);
    check_layers(name, first, &losses);
    const json_t *batches = json_object_get(first, "micro_batches");
    for (size_t i = 0; i < json_array_size(batches); i++) {
        check_losses(name, json_array_get(batches, i), &parts[i], loss_promise);
        check_layers(name, json_array_get(batches, i), &parts[i]);
    }
    check_gradient(&run, expect, distance);
    for (size_t i = 0; i < json_array_size(steps); i++) {
        double norm = golden_step(&run, i, &losses);
        const json_t *step = json_array_get(steps, i);
        check_losses(name, step, &losses, 10 * loss_promise);
        near(norm, golden_real(step, "grad_norm"), gradient_promise, name, "grad_norm");
    }
    check_update(&run, expect, distance);
    npt_st_close(expect);
    pieces += npt_exec_counts(run.exec).panels;
    golden_run_close(&run);
    golden_close(&c);
}

static void check_backend(const char *backend, npt_matmul_precision precision)
{
    if (!golden_has_backend(backend)) {
        printf("# %s is not compiled in, or not for this CPU: nothing checked\n", backend);
        return;
    }
    worst_loss = worst_gradient = worst_tensor = worst_update = 0;
    pieces = 0;
    for (size_t i = 0; i < NPT_COUNT(names); i++) check_case(names[i], backend, precision);
    printf("# %s, F32: losses within %.1e; worst distance as a multiple of PyTorch's: gradient "
           "%.2f, one tensor of it %.2f, "
           "update %.2f\n",
           backend, worst_loss, worst_gradient, worst_tensor, worst_update);
}

static void reference_agrees(void **state)
{
    (void)state;
    check_backend("reference", NPT_MATMUL_AUTO);
}

static void native_agrees(void **state)
{
    (void)state;
    check_backend("native", NPT_MATMUL_FMA);
}

/* Golden models are small: where it is for speed to decide, hardly a product is cut in pieces. */
static void native_agrees_in_pieces(void **state)
{
    (void)state;
    npt_cpu cpu;
    check_backend("native", NPT_MATMUL_PIECES);
    if (npt_cpu_detect(&cpu) != NPT_OK || (cpu.features & NPT_CPU_AMX_BF16) == 0) return;
    printf("# %lld panels were made in bf16 pieces\n", (long long)pieces);
    assert_true(pieces > 0);
}

static void openblas_agrees(void **state)
{
    (void)state;
    check_backend("openblas", NPT_MATMUL_AUTO);
}

static void onednn_agrees(void **state)
{
    (void)state;
    check_backend("onednn", NPT_MATMUL_AUTO);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("F32 training on the reference backend is PyTorch's", reference_agrees),
        NPT_CASE("F32 training on the native backend is PyTorch's", native_agrees),
        NPT_CASE("so is it in bf16 pieces, where there is AMX", native_agrees_in_pieces),
        NPT_CASE("F32 training with OpenBLAS is PyTorch's", openblas_agrees),
        NPT_CASE("F32 training with oneDNN is PyTorch's", onednn_agrees),
    };
    return npt_test_run("golden, F32", cases, NPT_COUNT(cases));
}
