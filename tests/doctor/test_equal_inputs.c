/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "golden/golden_case.h"

#include <math.h>

/* The promise of precision.md §3: for equal inputs, bit-identical cast results at every site on
 * every backend, matmuls equal within a tolerance. A run on the reference backend is recorded; on
 * every other backend and number of threads each result is compared with the record and then
 * overwritten by it, so that the next site reads equal inputs whatever a matmul before it did. That
 * the rounding of a matmul is the same, too, shows where its sum is exact: the second case. */

/* ---- Records ---- */

enum { MAX_RESULTS = 2048 };

typedef struct record {
    npt_observation seen[MAX_RESULTS]; /* result.data: a copy */
    size_t count;
} record;

static size_t bytes_of(npt_mat mat)
{
    return (size_t)(mat.rows * mat.cols) * npt_dtype_bytes(mat.dtype);
}

typedef struct recorder {
    npt_observer observer;
    record *record;
} recorder;

static npt_status see_and_record(npt_observer *observer, const npt_env *env,
                                 const npt_observation *seen)
{
    record *r = ((recorder *)observer)->record;
    (void)env;
    assert_true(r->count < MAX_RESULTS);
    npt_observation *copy = &r->seen[r->count++];
    *copy = *seen;
    copy->result.data = npt_alloc(bytes_of(seen->result), 1);
    assert_non_null(copy->result.data);
    memcpy(copy->result.data, seen->result.data, bytes_of(seen->result));
    return NPT_OK;
}

static void forget(record *r)
{
    for (size_t i = 0; i < r->count; i++) npt_free(r->seen[i].result.data);
    r->count = 0;
}

/* ---- Comparison ---- */

/* Results that leave a matmul; the rest is elementwise, or a row at a time, on equal inputs. */
static bool leaves_a_matmul(npt_site_id site, npt_direction direction)
{
    switch (site) {
    case NPT_SITE_Q:
    case NPT_SITE_K:
    case NPT_SITE_V: return direction == NPT_FORWARD;
    case NPT_SITE_ATTN_OUT:
    case NPT_SITE_GATE:
    case NPT_SITE_UP:
    case NPT_SITE_ADD:
    case NPT_SITE_U:
    case NPT_SITE_DOWN: return direction == NPT_FORWARD;
    case NPT_SITE_Z: return true;
    case NPT_SITE_ATTN:
    case NPT_SITE_MLP_ACT:
    case NPT_SITE_ADAPTER_IN:
    case NPT_SITE_NORM_IN: /* their products; the sums with dh are elementwise, but exact here */
    case NPT_SITE_NORM_POST: return direction == NPT_BACKWARD;
    default: return false;
    }
}

/* Half an ulp for the rounding, as much for a sum that lies on the other side, and the errors of a
 * sum of k terms in F32. */
static double tolerance_of(npt_dtype dtype)
{
    return npt_dtype_epsilon(dtype) + 64 * npt_dtype_epsilon(NPT_F32);
}

typedef struct comparer {
    npt_observer observer;
    const record *record;
    size_t at;
    const char *where;
    int sites, matmuls;
    double worst; /* relative distance of a matmul's result, as a share of the tolerance */
} comparer;

static void compare_matmul(comparer *c, const npt_observation *seen, const npt_observation *wanted)
{
    golden_gap gap = {0};
    const size_t n = (size_t)(seen->result.rows * seen->result.cols);
    for (size_t i = 0; i < n; i++)
        golden_gap_add(&gap, (double)npt_load(seen->result.data, seen->result.dtype, i),
                       (double)npt_load(wanted->result.data, seen->result.dtype, i));
    const double share =
        gap.difference == 0 ? 0 : golden_gap_relative(&gap) / tolerance_of(seen->result.dtype);
    if (share > 1) fail_msg("%s: a matmul is %g tolerances away", c->where, share);
    c->worst = fmax(c->worst, share);
    c->matmuls++;
}

static npt_status see_and_compare(npt_observer *observer, const npt_env *env,
                                  const npt_observation *seen)
{
    comparer *c = (comparer *)observer;
    char label[64];
    (void)env;
    assert_true(c->at < c->record->count);
    const npt_observation *wanted = &c->record->seen[c->at++];
    npt_site_label(seen->site, seen->layer, seen->direction, label, sizeof label);
    /* the same decisions, in the same order */
    if (seen->site != wanted->site || seen->layer != wanted->layer ||
        seen->direction != wanted->direction || seen->student != wanted->student ||
        seen->result.dtype != wanted->result.dtype ||
        bytes_of(seen->result) != bytes_of(wanted->result))
        fail_msg("%s: %s is not what the reference did there", c->where, label);
    if (leaves_a_matmul(seen->site, seen->direction))
        compare_matmul(c, seen, wanted);
    else if (memcmp(seen->result.data, wanted->result.data, bytes_of(seen->result)) != 0)
        fail_msg("%s: the bits of %s are not the reference's", c->where, label);
    c->sites++;
    memcpy(seen->result.data, wanted->result.data, bytes_of(seen->result));
    return NPT_OK;
}

/* ---- Runs ---- */

static const npt_policy_request requests[] = {{.use_fp16 = true},
                                              {.use_bf16 = true},
                                              {.mixed_precision = NPT_F16},
                                              {.mixed_precision = NPT_BF16},
                                              {.use_fp16 = true, .adapter_dtype = NPT_F32},
                                              {.use_quantization = true},
                                              {0}};

typedef struct digests {
    uint64_t planned, executed;
} digests;

static digests observe(const char *name, const npt_policy_request *request, const char *backend,
                       int threads, npt_observer *observer)
{
    golden_case c;
    golden_run run;
    golden_losses losses;
    const golden_setup setup = {
        .backend = backend, .threads = threads, .request = *request, .loss_scale = 1024};
    golden_open(&c, name);
    golden_run_open(&run, &c, &setup);
    run.distiller.observer = observer;
    golden_accumulate(&run, 0, &losses, NULL);
    const digests made = {npt_sites_digest(run.distiller.student_sites),
                          npt_sites_executed_digest(run.distiller.student_sites)};
    golden_run_close(&run);
    golden_close(&c);
    return made;
}

/* Attention may differ in its last bits between kernel levels, not between backends: all of them
 * use the kernels of the CPU. */
static void equal_inputs_give_equal_bits(void **state)
{
    static const char *const backends[] = {"native", "openblas", "onednn"};
    static const char *const names[] = {"llama", "qwen3"};
    static record reference;
    comparer all = {0};
    (void)state;
    for (size_t n = 0; n < NPT_COUNT(names); n++)
        for (size_t r = 0; r < NPT_COUNT(requests); r++) {
            recorder rec = {{see_and_record}, &reference};
            digests wanted = observe(names[n], &requests[r], "reference", 1, &rec.observer);
            for (size_t b = 0; b < NPT_COUNT(backends); b++) {
                if (!golden_has_backend(backends[b])) continue;
                for (int threads = 1; threads <= 3; threads += 2) {
                    comparer c = {
                        .observer = {see_and_compare}, .record = &reference, .where = backends[b]};
                    digests made =
                        observe(names[n], &requests[r], backends[b], threads, &c.observer);
                    assert_int_equal(c.at, reference.count);
                    assert_true(made.planned == wanted.planned);
                    assert_true(made.executed == wanted.executed);
                    all.sites += c.sites;
                    all.matmuls += c.matmuls;
                    all.worst = fmax(all.worst, c.worst);
                }
            }
            forget(&reference);
        }
    print_message("%d results compared, %d of them of matmuls, the farthest at %.2f of the "
                  "tolerance\n",
                  all.sites, all.matmuls, all.worst);
}

/* ---- Exact sums ---- */

/* Whole numbers from -32 to 32, whose sums of k products F32 holds exactly in any order, and that
 * halves must round: ties included. */
static void fill(void *data, npt_dtype dtype, int64_t n, uint32_t seed)
{
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        npt_store(data, dtype, (size_t)i, (float)((int)(seed >> 16) % 65 - 32));
    }
}

static void check_exact(const char *backend, npt_dtype a_dtype, npt_dtype w_dtype,
                        npt_dtype c_dtype, bool trans_w, int64_t m)
{
    enum { N = 48, K = 512 };
    npt_exec *exec;
    void *a = npt_alloc((size_t)(m * K), 4), *w = npt_alloc(N * K, 4),
         *c = npt_alloc((size_t)(m * N), 4);
    const npt_matmul_desc desc = {
        .m = m, .n = N, .k = K, .trans_w = trans_w, .a = a_dtype, .w = w_dtype, .c = c_dtype};
    const npt_matmul_args args = {.a = a, .w = w, .c = c};
    assert_int_equal(npt_exec_create(&exec, backend, 2), NPT_OK);
    fill(a, a_dtype, m * K, 1);
    fill(w, w_dtype, N * K, 2);
    assert_int_equal(npt_matmul(exec, &desc, &args), NPT_OK);
    int ties = 0;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < N; j++) {
            double sum = 0;
            for (int64_t k = 0; k < K; k++)
                sum += (double)npt_load(a, a_dtype, (size_t)(i * K + k)) *
                       (double)npt_load(w, w_dtype, (size_t)(trans_w ? j * K + k : k * N + j));
            uint32_t bits;
            npt_store(&bits, c_dtype, 0, (float)sum);
            ties += (double)npt_load(&bits, c_dtype, 0) != sum;
            if (npt_load(c, c_dtype, (size_t)(i * N + j)) != npt_load(&bits, c_dtype, 0))
                fail_msg("%s, %s x %s -> %s, %d rows: %g is not the rounding of %g", backend,
                         npt_dtype_name(a_dtype), npt_dtype_name(w_dtype), npt_dtype_name(c_dtype),
                         (int)m, (double)npt_load(c, c_dtype, (size_t)(i * N + j)), sum);
        }
    assert_true(ties > 0 || c_dtype == NPT_F32);
    npt_exec_destroy(exec);
    npt_free(a);
    npt_free(w);
    npt_free(c);
}

static void exact_sums_are_rounded_alike(void **state)
{
    static const char *const backends[] = {"reference", "native", "openblas,reference",
                                           "onednn,reference"};
    static const npt_dtype dtypes[] = {NPT_F32, NPT_F16, NPT_BF16};
    static const int64_t rows[] = {1, 7, 40};
    (void)state;
    for (size_t b = 0; b < NPT_COUNT(backends); b++) {
        if (!golden_has_backend(backends[b])) continue;
        for (size_t a = 0; a < 3; a++)
            for (size_t w = 0; w < 3; w++)
                for (size_t c = 0; c < 3; c++)
                    for (size_t r = 0; r < NPT_COUNT(rows); r++)
                        for (int trans_w = 0; trans_w < 2; trans_w++)
                            check_exact(backends[b], dtypes[a], dtypes[w], dtypes[c], trans_w,
                                        rows[r]);
    }
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("equal inputs give the same bits at every site, on every backend",
                 equal_inputs_give_equal_bits),
        NPT_CASE("a matmul whose sum is exact is rounded alike on every backend",
                 exact_sums_are_rounded_alike),
    };
    return npt_test_run("equal inputs", cases, NPT_COUNT(cases));
}
