/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "golden/golden_case.h"

#include <math.h>

#include "base/memory.h"
#include "files/files.h"
#include "train/culprit.h"
#include "train/scaler.h"
#include "unit/temp_dir.h"

/* What goes wrong in fp16, and that npt says where: gradients that overflow at the loss scale, a
 * forward that no loss scale mends, and updates smaller than a half can hold. */

static const golden_setup fp16 = {
    .backend = "native", .threads = 1, .request = {.use_fp16 = true}, .loss_scale = 65536};

static void first_batch(golden_run *run, bool backward)
{
    golden_losses losses;
    const json_t *step = json_array_get(json_object_get(run->c->json, "steps"), 0);
    golden_batch(run, json_array_get(json_object_get(step, "micro_batches"), 0));
    npt_gradients_clear(&run->adapters);
    golden_batch_run(run, run->batch.tokens, backward, &losses);
}

/* ---- Gradients ---- */

static void scale_parameter(golden_run *run, int layer, int index, float factor)
{
    npt_parameter *p = &run->adapters.adapter[layer].parameters[index];
    for (int64_t i = 0; i < p->rows * p->cols; i++) {
        p->master[i] *= factor;
        npt_store(p->value, run->adapters.dtype, (size_t)i, p->master[i]);
    }
}

/* Whether the gradients are finite at this scale; the fault where they are not. */
static bool is_finite_at(golden_run *run, double scale, npt_gradient_fault *fault)
{
    run->loss_scale = scale;
    first_batch(run, true);
    double norm = npt_gradients_norm(&run->adapters, run->exec, scale, fault);
    assert_true(fault->found == !isfinite(norm));
    return !fault->found;
}

/* The penalty λ/(L·T)·add × scale of a large `add` is the first thing to overflow: layer 1's add.
 */
static void overflow_is_found_and_mended(void **state)
{
    golden_case c;
    golden_run run;
    npt_gradient_fault fault;
    npt_scaler scaler;
    npt_culprit watch;
    int skipped = 0;
    (void)state;
    golden_open(&c, "llama");
    golden_run_open(&run, &c, &fp16);
    scale_parameter(&run, 1, 1, 256);
    run.lambda *= 64;
    npt_scaler_init(&scaler, run.policy.dynamic_loss_scale, 65536);
    assert_true(scaler.enabled);
    npt_culprit_init(&watch);
    run.distiller.observer = &watch.observer;
    while (!is_finite_at(&run, scaler.scale, &fault)) {
        if (skipped++ == 0) {
            /* the first tensor in the order of files, to which infinity came down; the watch has
             * the source */
            assert_int_equal(fault.layer, 0);
            assert_string_equal(fault.parameter, "A_proj");
            assert_true(watch.found);
            assert_int_equal(watch.seen.direction, NPT_BACKWARD);
            assert_int_equal(watch.seen.layer, 1);
            assert_int_equal(watch.seen.site, NPT_SITE_ADD);
        }
        assert_true(npt_scaler_back_off(&scaler));
        npt_culprit_init(&watch);
    }
    assert_true(skipped > 0);
    assert_false(watch.found);
    assert_true(scaler.scale == ldexp(65536, -skipped));
    golden_run_close(&run);
    golden_close(&c);
}

/* ---- Forward ---- */

/* The case's model with gate and up of one layer × 256, as a checkpoint of its own. */
static void write_loud_model(const golden_case *c, int layer, const char *directory)
{
    npt_st *st;
    npt_st_writer *writer;
    char gate[64], up[64], *model = npt_test_path(golden_word(c->json, "model"));
    void *kept[2] = {0};
    size_t count = 0;
    snprintf(gate, sizeof gate, "model.layers.%d.mlp.gate_proj.weight", layer);
    snprintf(up, sizeof up, "model.layers.%d.mlp.up_proj.weight", layer);
    assert_int_equal(npt_st_open(&st, model, false), NPT_OK);
    char *path = npt_path_join(directory, "model.safetensors");
    assert_int_equal(npt_st_writer_create(&writer, path), NPT_OK);
    for (size_t i = 0; i < npt_st_count(st); i++) {
        const npt_st_tensor *t = npt_st_at(st, i);
        const void *data = t->data;
        if (strcmp(t->name, gate) == 0 || strcmp(t->name, up) == 0) {
            const size_t n = (size_t)(t->shape[0] * t->shape[1]);
            data = kept[count++] = npt_alloc(n, npt_dtype_bytes(t->dtype));
            for (size_t k = 0; k < n; k++)
                npt_store(kept[count - 1], t->dtype, k, 256 * npt_load(t->data, t->dtype, k));
        }
        assert_int_equal(
            npt_st_writer_add(writer, t->name, t->dtype, t->rank, t->shape, data, NULL, NULL),
            NPT_OK);
    }
    assert_int_equal(count, 2);
    assert_int_equal(npt_st_writer_commit(writer), NPT_OK);
    npt_st_writer_destroy(writer);
    npt_st_close(st);
    npt_free(path);
    char *config = npt_path_join(model, "config.json"), *text;
    size_t bytes;
    assert_int_equal(npt_read_file(config, 1 << 20, &text, &bytes), NPT_OK);
    path = npt_path_join(directory, "config.json");
    assert_int_equal(npt_write_file(path, text, bytes), NPT_OK);
    npt_free(text);
    npt_free(config);
    npt_free(path);
    npt_free(kept[0]);
    npt_free(kept[1]);
    free(model);
}

/* silu(g)·up of finite g and up above 65504: no loss scale mends it, and the watch names the place.
 */
static void broken_forward_is_named(void **state)
{
    golden_case c;
    golden_run run;
    npt_gradient_fault fault;
    npt_culprit watch;
    char label[64];
    (void)state;
    golden_open(&c, "llama");
    char *directory = temp_dir();
    write_loud_model(&c, 1, directory);
    golden_setup setup = fp16;
    setup.model = directory;
    golden_run_open(&run, &c, &setup);
    npt_culprit_init(&watch);
    run.distiller.observer = &watch.observer;
    assert_false(is_finite_at(&run, 1, &fault));
    assert_true(watch.found);
    assert_string_equal(npt_site_label(watch.seen.site, watch.seen.layer, watch.seen.direction,
                                       label, sizeof label),
                        "L01.mlp_act");
    assert_true(watch.survey.nonfinite > 0);
    assert_true(watch.survey.max <= 65504);
    golden_run_close(&run);
    /* bf16 has the range */
    npt_culprit_init(&watch);
    setup.request = (npt_policy_request){.use_bf16 = true};
    golden_run_open(&run, &c, &setup);
    run.distiller.observer = &watch.observer;
    assert_true(is_finite_at(&run, 1, &fault));
    assert_false(watch.found);
    golden_run_close(&run);
    golden_close(&c);
    temp_dir_remove(directory);
}

/* ---- Small updates ---- */

static float *values_of(golden_run *run)
{
    const npt_parameter *p = &run->adapters.adapter[0].parameters[0];
    float *values = npt_alloc((size_t)(p->rows * p->cols), sizeof *values);
    for (int64_t i = 0; i < p->rows * p->cols; i++)
        values[i] = npt_load(p->value, run->adapters.dtype, (size_t)i);
    return values;
}

/* Takes `steps` steps of a rate far below half an ulp of the larger weights; the share of those
 * weights
 * (|w| ≥ 2^-5: half an ulp is 2^-16) whose half value moved. `master` false: the master is rounded
 * after every step, as if there were none. */
static double share_moved(const golden_case *c, int steps, bool master)
{
    golden_run run;
    golden_run_open(&run, c, &fp16);
    run.optimizer.weight_decay = 0;
    npt_parameter *p = &run.adapters.adapter[0].parameters[0];
    float *before = values_of(&run);
    npt_gradient_fault fault;
    for (int step = 1; step <= steps; step++) {
        first_batch(&run, true);
        double norm = npt_gradients_norm(&run.adapters, run.exec, run.loss_scale, &fault);
        assert_false(fault.found);
        npt_optimizer_step(&run.adapters, run.exec, run.distiller.student_sites, &run.optimizer,
                           step, 2e-6, run.loss_scale, norm);
        for (int64_t i = 0; !master && i < p->rows * p->cols; i++)
            p->master[i] = npt_load(p->value, NPT_F16, (size_t)i);
    }
    float *after = values_of(&run);
    int64_t large = 0, moved = 0;
    for (int64_t i = 0; i < p->rows * p->cols; i++)
        if (fabsf(before[i]) >= 0x1p-5f) {
            large++;
            moved += before[i] != after[i];
        }
    assert_true(large > 10);
    npt_free(before);
    npt_free(after);
    golden_run_close(&run);
    return (double)moved / (double)large;
}

static void masters_keep_small_updates(void **state)
{
    golden_case c;
    (void)state;
    golden_open(&c, "llama");
    const double with = share_moved(&c, 40, true), without = share_moved(&c, 40, false);
    printf("# share of large weights moved after 40 steps of 2e-6: %.2f with F32 masters, %.2f "
           "without\n",
           with, without);
    assert_true(without == 0);
    assert_true(with > 0.5);
    golden_close(&c);
}

/* The adapter is always the rounding of its master, and AdamW on the master is finite where it is
 * not in fp16: ε = 1e-8 is 0 there, and a zero gradient would give 0/0. */
static void zero_gradients_are_harmless(void **state)
{
    golden_case c;
    golden_run run;
    (void)state;
    golden_open(&c, "llama");
    golden_run_open(&run, &c, &fp16);
    npt_gradients_clear(&run.adapters);
    npt_optimizer_step(&run.adapters, run.exec, run.distiller.student_sites, &run.optimizer, 1,
                       1e-3, 65536, 0);
    const npt_parameter *p = &run.adapters.adapter[2].parameters[1];
    for (int64_t i = 0; i < p->rows * p->cols; i++) {
        uint16_t rounded;
        assert_true(isfinite(p->master[i]));
        npt_store(&rounded, NPT_F16, 0, p->master[i]);
        assert_int_equal(rounded, ((const uint16_t *)p->value)[i]);
    }
    golden_run_close(&run);
    golden_close(&c);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("gradients that overflow are named, and a lower scale mends them",
                 overflow_is_found_and_mended),
        NPT_CASE("a forward that overflows is named by layer and site", broken_forward_is_named),
        NPT_CASE("updates below half an ulp add up in the F32 master, and are lost without",
                 masters_keep_small_updates),
        NPT_CASE("zero gradients do no harm in fp16", zero_gradients_are_harmless),
    };
    return npt_test_run("fp16", cases, NPT_COUNT(cases));
}
