/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "doctor/selftest.h"
#include "npt_test.h"
#include "unit/temp_dir.h"

#include <math.h>

/* The checks of npt selftest can fail: each is handed what is right, and reports nothing, then a
 * tampered expectation or a tampered value, and must report it with what and where. */

static char *directory;
static npt_selftest_context context;
static npt_tap tap;

enum { FP16 = 0, FP32 = 1 };

static void open_models(void)
{
    static const npt_dtype dtypes[] = {NPT_F32, NPT_F16, NPT_BF16};
    directory = temp_dir();
    for (size_t i = 0; i < NPT_COUNT(dtypes); i++) {
        npt_make_model_options options;
        npt_make_model_options_init(&options);
        char *path = npt_path_join(directory, npt_dtype_name(dtypes[i]));
        options.path = context.model[dtypes[i]] = path;
        options.hidden = 64;
        options.inter = 96;
        options.layers = 2;
        options.vocab = 64;
        options.dtype = dtypes[i];
        assert_int_equal(npt_make_model(&options), NPT_OK);
    }
    context.threads = 2;
    context.t = &tap;
}

static void open_trial(npt_trial *trial, int row, bool step)
{
    const npt_trial_setup setup =
        npt_selftest_setup(&context, &npt_selftest_rows[row], "reference", 1);
    if (directory == NULL) open_models();
    npt_trial_setup now = setup;
    now.model = context.model[npt_selftest_rows[row].file];
    tap = (npt_tap){0};
    assert_int_equal(npt_trial_open(trial, &now), NPT_OK);
    assert_int_equal(step ? npt_trial_step(trial) : npt_trial_run(trial, false, 1, 1), NPT_OK);
}

static void assert_silent(void)
{
    if (tap.breaches != 0) fail_msg("a breach where there is none: %s", tap.lines[0]);
}

/* The first breach says this; then there is none. */
static void assert_breach(const char *part)
{
    if (tap.breaches == 0) fail_msg("no breach; it should say '%s'", part);
    if (strstr(tap.lines[0], part) == NULL) fail_msg("'%s' does not say '%s'", tap.lines[0], part);
    tap.breaches = 0;
}

/* ---- Values ---- */

static void policies(void **state)
{
    npt_selftest_policy row = {.request = {.use_fp16 = true},
                               .rule = NPT_R2,
                               .adapter_rule = NPT_R2,
                               .frozen = NPT_F16,
                               .act = NPT_F16,
                               .compute = NPT_F16,
                               .adapter = NPT_F16,
                               .master = NPT_F32,
                               .dynamic_loss_scale = true};
    (void)state;
    tap = (npt_tap){0};
    npt_selftest_check_policy(&tap, &row);
    assert_silent();
    row.adapter = NPT_F32;
    npt_selftest_check_policy(&tap, &row);
    assert_breach("fp16, mixed none, adapter none: adapter: expected F32, got F16");
    row.adapter = NPT_F16;
    row.dynamic_loss_scale = false;
    npt_selftest_check_policy(&tap, &row);
    assert_breach("loss scale: expected off");
    row.dynamic_loss_scale = true;
    row.rule = NPT_R3;
    npt_selftest_check_policy(&tap, &row);
    assert_breach("expected R3");
    row.request.use_bf16 = true;
    npt_selftest_check_policy(&tap, &row);
    assert_breach("exclude each other");
}

static void refusals(void **state)
{
    npt_selftest_refusal row = {{.use_fp16 = true, .use_bf16 = true}, "drop one"};
    (void)state;
    tap = (npt_tap){0};
    npt_selftest_check_refusal(&tap, &row);
    assert_silent();
    row.says = "drop both";
    npt_selftest_check_refusal(&tap, &row);
    assert_breach("expected \"drop both\"");
    row.request.use_bf16 = false;
    npt_selftest_check_refusal(&tap, &row);
    assert_breach("expected a refusal");
}

/* Rounds toward zero, as a plain shift does. */
static void cut_off(const npt_run *run, int64_t n, npt_in src, npt_out dst, npt_cast_stats *stats)
{
    (void)run;
    (void)stats;
    for (int64_t i = 0; i < n; i++) {
        const float value = npt_load(src.data, src.dtype, (size_t)i);
        npt_store(dst.data, dst.dtype, (size_t)i, value);
        if (dst.dtype == NPT_BF16 && isfinite(value))
            ((uint16_t *)dst.data)[i] = (uint16_t)(npt_float_bits(value) >> 16);
    }
}

static void conversions(void **state)
{
    npt_selftest_probe probe = {0x477fefff, 0x7bff, 0x4780};
    npt_exec *exec;
    npt_kernels kernels;
    (void)state;
    tap = (npt_tap){0};
    assert_int_equal(npt_exec_create(&exec, "reference", 1), NPT_OK);
    npt_kernels_fill_reference(&kernels);
    npt_selftest_check_probe(&tap, &kernels, npt_exec_run(exec), &probe);
    npt_selftest_check_half(&tap, &kernels, npt_exec_run(exec), NPT_BF16);
    assert_silent();
    probe.f16 = 0x7c00;
    npt_selftest_check_probe(&tap, &kernels, npt_exec_run(exec), &probe);
    assert_breach("0x477fefff to F16: expected 0x7c00, got 0x7bff");
    kernels.cast = cut_off;
    npt_selftest_check_half(&tap, &kernels, npt_exec_run(exec), NPT_F16);
    assert_silent();
    npt_selftest_check_half(&tap, &kernels, npt_exec_run(exec), NPT_BF16);
    assert_int_equal(tap.breaches, 32640 + 2 * 32640); /* ties to odd, and all above a middle */
    assert_breach("to BF16: expected 0x0002, got 0x0001");
    npt_exec_destroy(exec);
}

/* ---- Steps ---- */

static int64_t one_more(const npt_trial *trial, bool student, npt_site_id id, int layer,
                        npt_direction direction)
{
    const bool here = student && id == NPT_SITE_MULT && layer == 1 && direction == NPT_RECOMPUTE;
    return npt_trial_planned(trial, student, id, layer, direction) + (here ? 1 : 0);
}

static void casts(void **state)
{
    npt_trial trial;
    (void)state;
    open_trial(&trial, FP16, true);
    npt_selftest_check_casts(&tap, &trial, npt_trial_planned);
    assert_silent();
    npt_selftest_check_casts(&tap, &trial, one_more);
    assert_breach("L01.mult.recompute of the student: expected 1153 casts, got 1152");
    npt_site(trial.distiller.teacher_sites, NPT_SITE_GATE, 0, NPT_FORWARD, NPT_F64, 1);
    npt_selftest_check_casts(&tap, &trial, npt_trial_planned);
    assert_breach("unplanned cast at L00.gate");
    npt_trial_close(&trial);
}

static void dtypes(void **state)
{
    npt_trial trial;
    npt_selftest_row row = npt_selftest_rows[FP16];
    (void)state;
    open_trial(&trial, FP16, true);
    npt_selftest_check_dtypes(&tap, &row, &trial);
    assert_silent();
    row.adapter = NPT_F32;
    npt_selftest_check_dtypes(&tap, &row, &trial);
    assert_breach("adapter: expected F32, got F16");
    npt_parameter *p = &trial.adapters.adapter[1].parameters[2];
    p->master[5] = nextafterf(p->master[5] + 1, 2);
    npt_selftest_check_dtypes(&tap, &npt_selftest_rows[FP16], &trial);
    assert_breach("L01 B_mult[5]: master");
    npt_trial_close(&trial);
}

static void values(void **state)
{
    npt_trial trial;
    npt_trial_values half, single;
    (void)state;
    open_trial(&trial, FP16, true);
    assert_int_equal(npt_trial_values_take(&trial, &half), NPT_OK);
    npt_trial_close(&trial);
    /* the same in F32: within the tolerance of F16, not within that of F32 */
    npt_trial_setup setup = npt_selftest_setup(&context, &npt_selftest_rows[FP16], "reference", 1);
    setup.request = (npt_policy_request){0};
    assert_int_equal(npt_trial_open(&trial, &setup), NPT_OK);
    assert_int_equal(npt_trial_step(&trial), NPT_OK);
    assert_int_equal(npt_trial_values_take(&trial, &single), NPT_OK);
    npt_trial_close(&trial);
    npt_selftest_check_values(&tap, &half, &single, npt_selftest_tolerance(NPT_F16));
    assert_silent();
    npt_selftest_check_values(&tap, &half, &single, npt_selftest_tolerance(NPT_F32));
    assert_int_equal(tap.breaches, 7);
    assert_breach("h of the last block: expected a relative error up to");
    single.gradient[single.parameters - 1] += 10 * fabsf(single.gradient[single.parameters - 1]);
    npt_selftest_check_values(&tap, &half, &single, npt_selftest_tolerance(NPT_F16));
    assert_breach("the gradient of L01 B_mult: expected");
    half.output[3] = NAN;
    npt_selftest_check_values(&tap, &half, &single, npt_selftest_tolerance(NPT_F16));
    assert_breach("h of the last block: 1 of 768 values are not finite");
    half.outputs--;
    npt_selftest_check_values(&tap, &half, &single, 1);
    assert_breach("expected 768");
    npt_trial_values_free(&half);
    npt_trial_values_free(&single);
}

static void modulation(void **state)
{
    npt_trial trial;
    (void)state;
    for (int row = FP16; row <= FP32; row++) {
        open_trial(&trial, row, false);
        const double strength = (double)trial.adapters.strength;
        npt_selftest_check_modulation(&tap, &trial, strength);
        assert_silent();
        npt_selftest_check_modulation(&tap, &trial, strength * 1.01);
        assert_int_equal(tap.breaches, 2);
        assert_breach("L00.gate_mod[");
        trial.distiller.fault = (npt_fault){.kind = NPT_FAULT_UNDERFLOW,
                                            .site = NPT_SITE_ADD,
                                            .layer = 1,
                                            .direction = NPT_FORWARD};
        npt_selftest_check_modulation(&tap, &trial, strength);
        assert_breach("L01.add[0,0]: expected");
        trial.distiller.fault = (npt_fault){0};
        npt_parameter *p = &trial.adapters.adapter[1].parameters[0];
        npt_store(p->value, trial.adapters.dtype, 0, 100);
        npt_selftest_check_modulation(&tap, &trial, strength);
        assert_breach("L01.z[0,0]: expected");
        npt_trial_close(&trial);
    }
}

static void quantized(void **state)
{
    npt_trial plain, trial;
    (void)state;
    open_trial(&plain, FP32, false);
    open_trial(&trial, NPT_SELFTEST_ROWS - 1, false); /* scales in F32 */
    npt_weight *q = &trial.model->blocks[1].up;
    const npt_weight *p = &plain.model->blocks[1].up;
    npt_selftest_check_quantized(&tap, "up", q, p, true);
    assert_silent();
    ((uint8_t *)(uintptr_t)q->data)[40] ^= 0x88;
    npt_selftest_check_quantized(&tap, "up", q, p, true);
    assert_breach("up, block 1: scale");
    ((uint8_t *)(uintptr_t)q->data)[40] ^= 0x88;
    ((float *)(uintptr_t)q->absmax)[0] *= 1.03f;
    npt_selftest_check_quantized(&tap, "up", q, p, false);
    assert_breach("up, block 0: scale");
    npt_trial_close(&trial);
    npt_trial_close(&plain);
}

/* ---- TAP, and the whole ---- */

/* What was written to a stream, as text. */
static char *text_of(FILE *file)
{
    static char text[65536];
    rewind(file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    return text;
}

static void lines(void **state)
{
    npt_tap t = {.out = tmpfile()};
    (void)state;
    assert_non_null(t.out);
    npt_tap_end(&t, "a %s", "case");
    for (int i = 0; i < NPT_TAP_LINES + 3; i++) npt_tap_breach(&t, "breach %d", i);
    npt_tap_end(&t, "another");
    npt_tap_skip(&t, "a third", "no reason");
    assert_int_equal(t.failed, 1);
    assert_string_equal(text_of(t.out),
                        "ok 1 - a case\nnot ok 2 - another\n# breach 0\n# breach 1\n"
                        "# breach 2\n# breach 3\n# breach 4\n# breach 5\n"
                        "# breach 6\n# breach 7\n# and 3 more\n"
                        "ok 3 - a third # SKIP no reason\n");
}

static void backend_cases(void **state)
{
    (void)state;
    if (directory == NULL) open_models();
    tap = (npt_tap){.out = tmpfile()};
    assert_non_null(tap.out);
    assert_int_equal(npt_selftest_prepare(&context), NPT_OK);
    context.truth[FP32].output[0] += 1;
    context.reference[FP16].digest ^= 1;
    npt_selftest_backend(&context, "reference");
    assert_int_equal(tap.number, npt_selftest_backend_cases());
    assert_int_equal(tap.failed, 2);
    const char *text = text_of(tap.out);
    assert_non_null(strstr(text, "not ok 2 - fp32 model with fp32 adapters (backend reference)\n"
                                 "# h of the last block: expected"));
    assert_non_null(strstr(text, "# fp16 model with fp16 adapters: planned: expected"));
    npt_selftest_context_fini(&context);
}

static void nothing_is_left(void **state)
{
    const npt_compute_options compute = {.backend = "reference", .threads = 3};
    char *place = temp_dir();
    int failed = -1;
    FILE *out = tmpfile();
    (void)state;
    assert_non_null(out);
    assert_int_equal(setenv("TMPDIR", place, 1), 0);
    assert_int_equal(npt_selftest(&compute, out, &failed), NPT_OK);
    assert_int_equal(failed, 0);
    assert_int_equal(temp_dir_count(place), 0);
    /* also where memory runs out, early or late; what was begun is closed */
    const long count = npt_alloc_count();
    for (long n = 1; n < 400; n = n * 3 / 2 + 1) {
        failed = -1;
        npt_alloc_fail_at(n);
        const npt_status status = npt_selftest(&compute, out, &failed);
        npt_alloc_fail_at(0);
        if (status == NPT_OK ? failed < 0 : failed != -1) fail_msg("request %ld", n);
        assert_int_equal(temp_dir_count(place), 0);
    }
    assert_true(npt_alloc_count() > count);
    fclose(out);
    unsetenv("TMPDIR");
    temp_dir_remove(place);
}

static void close_models(void **state)
{
    (void)state;
    if (directory == NULL) return;
    for (int i = 0; i < NPT_DTYPE_COUNT; i++) npt_free((void *)(uintptr_t)context.model[i]);
    temp_dir_remove(directory);
    directory = NULL;
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("a row of the policy that is wrong is told", policies),
        NPT_CASE("a refusal that is not, or says something else, is told", refusals),
        NPT_CASE("a wrong conversion is told, and every wrong rounding", conversions),
        NPT_CASE("a cast more or less, or an unplanned one, is told", casts),
        NPT_CASE("a dtype that is not the planned one is told, and a value apart from its master",
                 dtypes),
        NPT_CASE("values beyond the tolerance are told", values),
        NPT_CASE("a modulation that is not the formula's is told", modulation),
        NPT_CASE("weights in 4 bits that are not the file's are told", quantized),
        NPT_CASE("a failure is TAP, with what was found", lines),
        NPT_CASE("cases of a backend fail where their truth is another", backend_cases),
        NPT_CASE("nothing is left in the directory for temporary files", nothing_is_left),
        NPT_CASE("the models are removed", close_models),
    };
    return npt_test_run("selftest", cases, NPT_COUNT(cases));
}
