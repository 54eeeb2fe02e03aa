/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "doctor/diff.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "doctor/flow.h"

/* The formula is in diff.h. Rows are matched by what they are, not by where they stand; a merged
 * list keeps the order of execution, so that whatever a row read stands before it. */

/* ---- Finding rows ---- */

enum { PART_BITS = 21 };

/* Everything that tells one row of a probe from another; the parts of a site are neighbours. */
static uint64_t key_of(bool student, int layer, npt_site_id site, npt_direction direction)
{
    uint64_t key = student;
    key = key << 20 | (uint64_t)(layer + 1);
    key = key << 6 | (uint64_t)site;
    key = key << 2 | (uint64_t)direction;
    return key << PART_BITS;
}

static uint64_t key_of_row(const npt_probe_row *row)
{
    return key_of(row->student, row->layer, row->site, row->direction) | (uint64_t)row->part;
}

typedef struct place {
    uint64_t key;
    size_t row;
} place;

static int by_key(const void *a, const void *b)
{
    const place *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

/* The first place whose key is not below. */
static size_t lower_bound(const place *places, size_t count, uint64_t key)
{
    size_t low = 0, high = count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (places[middle].key < key)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* ---- One list of both ---- */

static npt_status index_side(const npt_diff_side *side, place *places)
{
    char label[80];
    for (size_t i = 0; i < side->count; i++) places[i] = (place){key_of_row(&side->rows[i]), i};
    qsort(places, side->count, sizeof *places, by_key);
    for (size_t i = 1; i < side->count; i++)
        if (places[i].key == places[i - 1].key)
            return npt_fail(NPT_E_FORMAT, "%s: there is more than one %s", side->path,
                            npt_probe_label(&side->rows[places[i].row], label, sizeof label));
    return NPT_OK;
}

static void append(npt_diff *diff, const npt_probe_row *a, const npt_probe_row *b)
{
    diff->rows[diff->count++] = (npt_diff_row){.a = a, .b = b};
}

/* Rows of A in their order; what only B has stands where it stands in B. */
static void merge(npt_diff *diff, const place *in_a, const place *in_b)
{
    const npt_diff_side *a = &diff->side[0], *b = &diff->side[1];
    size_t next = 0; /* of B */
    for (size_t i = 0; i < a->count; i++) {
        const uint64_t key = key_of_row(&a->rows[i]);
        const size_t at = lower_bound(in_b, b->count, key);
        const bool both = at < b->count && in_b[at].key == key;
        for (; both && next < in_b[at].row; next++) {
            const uint64_t other = key_of_row(&b->rows[next]);
            const size_t there = lower_bound(in_a, a->count, other);
            if (there == a->count || in_a[there].key != other) append(diff, NULL, &b->rows[next]);
        }
        append(diff, &a->rows[i], both ? &b->rows[in_b[at].row] : NULL);
        diff->compared += both;
    }
    for (; next < b->count; next++) {
        const uint64_t other = key_of_row(&b->rows[next]);
        const size_t there = lower_bound(in_a, a->count, other);
        if (there == a->count || in_a[there].key != other) append(diff, NULL, &b->rows[next]);
    }
}

static npt_status pair_rows(npt_diff *diff)
{
    const npt_diff_side *a = &diff->side[0], *b = &diff->side[1];
    place *in_a = npt_alloc(a->count, sizeof *in_a), *in_b = npt_alloc(b->count, sizeof *in_b);
    diff->rows = npt_alloc(a->count + b->count, sizeof *diff->rows);
    npt_status status = in_a == NULL || in_b == NULL || diff->rows == NULL ? NPT_E_NOMEM : NPT_OK;
    if (status == NPT_OK) status = index_side(a, in_a);
    if (status == NPT_OK) status = index_side(b, in_b);
    if (status == NPT_OK) merge(diff, in_a, in_b);
    npt_free(in_a);
    npt_free(in_b);
    return status;
}

const npt_probe_row *npt_diff_either(const npt_diff_row *row)
{
    return row->a != NULL ? row->a : row->b;
}

/* ---- Whether they can be compared ---- */

static npt_status not_the_same(const npt_diff *diff, const char *what, long long a, long long b)
{
    return npt_fail(NPT_E_USAGE,
                    "'%s' and '%s' are not probes of the same batch and model: %s, %lld and %lld; "
                    "probe twice with the same model, adapter and data",
                    diff->side[0].path, diff->side[1].path, what, a, b);
}

static npt_status check_rows(const npt_diff *diff)
{
    char label[96];
    for (size_t i = 0; i < diff->count; i++) {
        const npt_diff_row *row = &diff->rows[i];
        if (row->a == NULL || row->b == NULL || row->a->elements == row->b->elements) continue;
        if (row->a->site == NPT_SITE_WEIGHT) continue; /* how many were narrowed */
        npt_probe_label(row->a, label, 80);
        return not_the_same(diff, strcat(label, ", elements"), row->a->elements, row->b->elements);
    }
    if (diff->compared > 0) return NPT_OK;
    return not_the_same(diff, "no site is in both; sites", (long long)diff->side[0].count,
                        (long long)diff->side[1].count);
}

static npt_status check_sides(const npt_diff *diff)
{
    const npt_diff_side *a = &diff->side[0], *b = &diff->side[1];
    if (strcmp(a->model, b->model) != 0)
        return npt_fail(NPT_E_USAGE,
                        "'%s' and '%s' are not probes of the same model: one family is %.32s, the "
                        "other %.32s",
                        a->path, b->path, a->model, b->model);
    if (a->layers != b->layers) return not_the_same(diff, "blocks", a->layers, b->layers);
    if (a->sequences != b->sequences) return not_the_same(diff, "rows", a->sequences, b->sequences);
    if (a->tokens != b->tokens) return not_the_same(diff, "tokens", a->tokens, b->tokens);
    return NPT_OK;
}

/* ---- What a row read ---- */

typedef struct search {
    npt_diff *diff;
    place *places; /* of the merged list */
} search;

typedef void visit_input(void *context, npt_diff_row *input);

/* Calls for every part of one result that stands before `row`; whether there is one. */
static bool visit_parts(const search *s, const npt_diff_row *row, uint64_t key, visit_input *visit,
                        void *context)
{
    const size_t own = (size_t)(row - s->diff->rows);
    bool found = false;
    for (size_t i = lower_bound(s->places, s->diff->count, key);
         i < s->diff->count && s->places[i].key >> PART_BITS == key >> PART_BITS; i++) {
        if (s->places[i].row >= own) continue;
        found = true;
        visit(context, &s->diff->rows[s->places[i].row]);
    }
    return found;
}

static void visit_inputs(const search *s, const npt_diff_row *row, visit_input *visit,
                         void *context)
{
    const npt_probe_row *r = npt_diff_either(row);
    npt_flow_source from[NPT_FLOW_MAX];
    const int count = npt_flow_sources(r->site, r->layer, r->direction, from);
    for (int i = 0; i < count; i++) {
        const npt_flow_source *f = &from[i];
        const uint64_t own = key_of(r->student, f->layer, f->site, f->direction);
        const uint64_t teachers = key_of(false, f->layer, f->site, f->direction);
        if (!visit_parts(s, row, own, visit, context) && r->student && f->may_be_shared)
            (void)visit_parts(s, row, teachers, visit, context);
    }
}

/* ---- Tolerance ---- */

/* Unit roundoff, and half of the smallest number. */
static double roundoff(npt_dtype dtype)
{
    return dtype == NPT_F16 ? 0x1p-11 : dtype == NPT_BF16 ? 0x1p-8 : 0x1p-24;
}

static double half_of_smallest(npt_dtype dtype)
{
    return dtype == NPT_F16 ? 0x1p-25 : dtype == NPT_BF16 ? 0x1p-134 : 0x1p-150;
}

/* A value of NF4 is off by this, of the spread of its block, compared with the weight it was made
 * of: the levels are 16 in a range of about six standard deviations. */
static const double nf4_roundoff = 0.1;

static const bool twice[NPT_SITE_COUNT] = {[NPT_SITE_NORM_IN] = true,
                                           [NPT_SITE_NORM_POST] = true,
                                           [NPT_SITE_Q_NORM] = true,
                                           [NPT_SITE_K_NORM] = true,
                                           [NPT_SITE_NORM_FINAL] = true};

/* Where a matmul ends: forward, and the gradients that one makes. */
static const bool products[NPT_SITE_COUNT][2] = {
    [NPT_SITE_Q] = {true},          [NPT_SITE_K] = {true},
    [NPT_SITE_V] = {true},          [NPT_SITE_ATTN_OUT] = {true},
    [NPT_SITE_Z] = {true, true},    [NPT_SITE_ADD] = {true},
    [NPT_SITE_U] = {true},          [NPT_SITE_GATE] = {true},
    [NPT_SITE_UP] = {true},         [NPT_SITE_DOWN] = {true},
    [NPT_SITE_NORM_IN] = {0, true}, [NPT_SITE_NORM_POST] = {0, true},
    [NPT_SITE_ATTN] = {0, true},    [NPT_SITE_ADAPTER_IN] = {0, true},
    [NPT_SITE_MLP_ACT] = {0, true},
};

static double square(double x)
{
    return x * x;
}

/* What is known of the inputs of a row. */
typedef struct inputs {
    const npt_probe_row *reader;
    double chain;  /* together */
    double ratio;  /* the largest */
    int64_t width; /* elements, the most of one */
    bool differ;
} inputs;

/* Sites that add what they read up. */
static bool is_sum(const npt_probe_row *row)
{
    if (row->site == NPT_SITE_RESIDUAL) return true;
    return row->direction != NPT_BACKWARD &&
           (row->site == NPT_SITE_RESIDUAL_ATTN || row->site == NPT_SITE_GATE_MOD);
}

/* How much of its relative error a term brings into a sum: its share. The multiplier 0.5 to 1 of u
 * moves by less than half of what u moves by. */
static double share_of(const npt_probe_row *sum, const npt_probe_row *term)
{
    if (sum->site == NPT_SITE_GATE_MOD && term->site == NPT_SITE_U) return fmin(1, term->rms);
    return sum->rms > 0 && term->rms >= 0 ? fmin(1, term->rms / sum->rms) : 1;
}

static void see_input(void *context, npt_diff_row *input)
{
    inputs *in = context;
    const npt_probe_row *row = npt_diff_either(input);
    const int64_t width = row->elements;
    /* the state that the gradient of the distance read is no term of it: distance_square() */
    const bool state = in->reader->direction == NPT_BACKWARD && row->direction == NPT_FORWARD;
    if (is_sum(in->reader) && !state)
        in->chain = hypot(in->chain, share_of(in->reader, row) * input->chain);
    else
        in->chain = fmax(in->chain, input->chain);
    in->ratio = fmax(in->ratio, input->ratio);
    if (width > in->width) in->width = width;
    in->differ = in->differ || input->kind != NPT_DIFF_SAME;
}

/* own² of one side; `sum` is the length of the sums of a matmul. */
static double own_square(const npt_diff_side *side, const npt_probe_row *row, double sum)
{
    const double u = roundoff(row->dtype), eta = half_of_smallest(row->dtype);
    double own = (twice[row->site] ? 2 : 1) * square(u);
    if (row->rms > 0) own += square(eta / row->rms);
    if (row->direction == NPT_RECOMPUTE || !products[row->site][row->direction]) return own;
    const double w = side->operand != NPT_DTYPE_NONE ? roundoff(side->operand) : u;
    return own + 2 * square(w) + sum * square(roundoff(NPT_F32));
}

typedef struct distance_sums {
    double state, distance; /* squares: s, and s − t */
} distance_sums;

static void add_distance(const npt_probe_row *s, const npt_probe_row *t, distance_sums *sums)
{
    for (int i = 0; i < 8; i++) {
        const double x = (double)s->sample[i], y = (double)t->sample[i];
        if (!isfinite(x) || !isfinite(y)) continue;
        sums->state += square(x);
        sums->distance += square(x - y);
    }
}

static void take_row(void *context, npt_diff_row *input)
{
    const npt_diff_row **found = context;
    *found = input;
}

/* What s − t adds to own² of the gradient of the distance. */
static double distance_square(const search *s, const npt_diff_row *row)
{
    const int layer = npt_diff_either(row)->layer;
    const npt_diff_row *state = NULL, *teacher = NULL;
    distance_sums sums = {0, 0};
    (void)visit_parts(s, row, key_of(true, layer, NPT_SITE_RESIDUAL, NPT_FORWARD), take_row,
                      &state);
    (void)visit_parts(s, row, key_of(false, layer, NPT_SITE_RESIDUAL, NPT_FORWARD), take_row,
                      &teacher);
    if (state == NULL || teacher == NULL) return 0;
    if (state->a != NULL && teacher->a != NULL) add_distance(state->a, teacher->a, &sums);
    if (state->b != NULL && teacher->b != NULL) add_distance(state->b, teacher->b, &sums);
    if (sums.distance == 0) return 0;
    return sums.state / sums.distance * (square(state->chain) + square(teacher->chain));
}

static double chain_of(const search *s, const npt_diff_row *row, const inputs *in)
{
    const npt_diff_side *side = s->diff->side;
    const npt_probe_row *r = npt_diff_either(row);
    const double sum = (double)in->width / (double)side[0].tokens;
    double own = square(in->chain);
    if (row->a != NULL) own += own_square(&side[0], row->a, sum);
    if (row->b != NULL) own += own_square(&side[1], row->b, sum);
    if (r->site == NPT_SITE_RESIDUAL && r->direction == NPT_BACKWARD)
        own += distance_square(s, row);
    if (side[0].nf4 != side[1].nf4 && r->direction != NPT_RECOMPUTE &&
        products[r->site][r->direction])
        own += square(nf4_roundoff);
    return sqrt(own);
}

static double tolerance_of(const npt_diff_row *row)
{
    const double errors = fmax(row->a->error, 0) + fmax(row->b->error, 0);
    return fmax(row->chain, fmin(errors, 4 * row->chain));
}

/* ---- Distances ---- */

/* Gradients without the loss scale; what is cast for a matmul again in backward is not scaled
 * throughout. */
static double scale_of(const npt_diff_side *side, const npt_probe_row *row)
{
    return row->direction == NPT_BACKWARD ? 1 / side->loss_scale : 1;
}

static bool is_mixture(const npt_diff *diff, const npt_probe_row *row)
{
    return row->site == NPT_SITE_ADAPTER_OPERAND && row->direction == NPT_BACKWARD &&
           diff->side[0].loss_scale != diff->side[1].loss_scale;
}

static void measure(npt_diff_row *row, npt_diff_measure what, double distance, double limit)
{
    const double ratio = distance > 0 ? distance / limit : 0;
    if (!(ratio > row->ratio)) return;
    row->measure = what;
    row->distance = distance;
    row->limit = limit;
    row->ratio = ratio;
}

/* Of single values: relative to their size or the rms, whichever is more. */
static double value_distance(double x, double y, double rms)
{
    const double size = sqrt(square(rms) + square(fmax(fabs(x), fabs(y))));
    if (isnan(x) || isnan(y)) return 0; /* counted among those that are not finite */
    return size > 0 ? fabs(x - y) / size : 0;
}

static void measure_values(const npt_diff *diff, npt_diff_row *row)
{
    const npt_probe_row *a = row->a, *b = row->b;
    const double sa = scale_of(&diff->side[0], a), sb = scale_of(&diff->side[1], b);
    const double ra = sa * a->rms, rb = sb * b->rms, rms = fmax(ra, rb), most = 0.5;
    const double tolerance = tolerance_of(row), extreme = fmin(4 * tolerance, most),
                 single = fmin(8 * tolerance, most);
    if (!(rms > 0) || isnan(ra) || isnan(rb)) return;
    measure(row, NPT_DIFF_RMS, fabs(ra - rb) / rms, fmin(tolerance, most));
    measure(row, NPT_DIFF_MIN,
            value_distance(sa * (double)a->survey.min, sb * (double)b->survey.min, rms), extreme);
    measure(row, NPT_DIFF_MAX,
            value_distance(sa * (double)a->survey.max, sb * (double)b->survey.max, rms), extreme);
    for (int i = 0; i < 8; i++) {
        const double before = row->ratio;
        measure(row, NPT_DIFF_SAMPLE,
                value_distance(sa * (double)a->sample[i], sb * (double)b->sample[i], rms), single);
        if (row->ratio > before) row->element = i;
    }
    if (a->dtype == b->dtype && diff->side[0].loss_scale == diff->side[1].loss_scale)
        measure(row, NPT_DIFF_FLUSHED, fabs(a->flushed - b->flushed), 8 * tolerance);
}

static void measure_row(npt_diff *diff, npt_diff_row *row)
{
    static const npt_probe_row nothing;
    const npt_probe_row *a = row->a != NULL ? row->a : &nothing;
    const npt_probe_row *b = row->b != NULL ? row->b : &nothing;
    const int64_t x = a->survey.nonfinite, y = b->survey.nonfinite;
    if (x != y || a->survey.nan != b->survey.nan) {
        row->measure = NPT_DIFF_NONFINITE;
        row->distance = (double)(x > y ? x - y : y - x);
        row->ratio = INFINITY;
        diff->one_is_not_finite = diff->one_is_not_finite || (x > 0) != (y > 0);
    } else if (row->a != NULL && row->b != NULL && a->site != NPT_SITE_WEIGHT &&
               !is_mixture(diff, a)) {
        measure_values(diff, row);
    }
}

/* ---- What follows from what ---- */

/* Growth of a difference, in its limit, from which it is the site's own. */
static const double own_growth = 8;

static npt_diff_kind kind_of(const npt_diff *diff, const npt_diff_row *row, const inputs *in)
{
    if (!(row->ratio > 1)) return NPT_DIFF_SAME;
    if (diff->first == NULL) return NPT_DIFF_FIRST;
    /* broken weights explain everything after them */
    if (npt_diff_either(diff->first)->site == NPT_SITE_WEIGHT) return NPT_DIFF_FOLLOWS;
    if (in->differ || row->ratio <= own_growth * in->ratio) return NPT_DIFF_FOLLOWS;
    return NPT_DIFF_ALSO;
}

static void judge_rows(const search *s)
{
    npt_diff *diff = s->diff;
    for (size_t i = 0; i < diff->count; i++) {
        npt_diff_row *row = &diff->rows[i];
        inputs in = {npt_diff_either(row), 0, 0, 0, false};
        visit_inputs(s, row, see_input, &in);
        row->chain = chain_of(s, row, &in);
        measure_row(diff, row);
        row->kind = kind_of(diff, row, &in);
        if (row->kind == NPT_DIFF_FIRST) diff->first = row;
        if (row->a == NULL || row->b == NULL) continue;
        if (diff->largest == NULL || row->ratio > diff->largest->ratio) diff->largest = row;
    }
}

static void judge_updates(npt_diff *diff)
{
    const npt_diff_side *a = &diff->side[0], *b = &diff->side[1];
    const double useless = 0.5;
    diff->update[0] = diff->update[1] = -1;
    for (int i = 0; i < a->update_count; i++)
        for (int k = 0; k < b->update_count; k++) {
            if (strcmp(a->updates[i].parameter, b->updates[k].parameter) != 0) continue;
            if ((a->updates[i].lost > useless) == (b->updates[k].lost > useless)) continue;
            if (diff->update[0] < 0) diff->update[0] = i, diff->update[1] = k;
        }
}

npt_status npt_diff_run(npt_diff *diff)
{
    const npt_diff_side *a = &diff->side[0], *b = &diff->side[1];
    NPT_TRY(check_sides(diff));
    NPT_TRY(pair_rows(diff));
    NPT_TRY(check_rows(diff));
    place *places = npt_alloc(diff->count, sizeof *places);
    if (places == NULL) return NPT_E_NOMEM;
    for (size_t i = 0; i < diff->count; i++)
        places[i] = (place){key_of_row(npt_diff_either(&diff->rows[i])), i};
    qsort(places, diff->count, sizeof *places, by_key);
    judge_rows(&(search){diff, places});
    npt_free(places);
    judge_updates(diff);
    diff->verdict =
        diff->first != NULL || diff->update[0] >= 0 ? NPT_VERDICT_WARNING : NPT_VERDICT_FINE;
    if (diff->one_is_not_finite || isnan(a->loss) != isnan(b->loss))
        diff->verdict = NPT_VERDICT_NUMERIC;
    return NPT_OK;
}

void npt_diff_fini(npt_diff *diff)
{
    npt_free(diff->rows);
    npt_diff_side_close(&diff->side[0]);
    npt_diff_side_close(&diff->side[1]);
    *diff = (npt_diff){0};
}

const char *npt_diff_measure_name(npt_diff_measure what)
{
    static const char *const names[NPT_DIFF_MEASURE_COUNT] = {"nonfinite", "rms",    "min",
                                                              "max",       "sample", "flushed"};
    return names[what];
}

/* ---- All of it ---- */

npt_status npt_doctor_diff(const char *path_a, const char *path_b, const npt_doctor_options *doctor,
                           FILE *out, npt_verdict *verdict)
{
    npt_diff diff = {0};
    npt_status status = npt_diff_side_open(&diff.side[0], path_a);
    if (status == NPT_OK) status = npt_diff_side_open(&diff.side[1], path_b);
    if (status == NPT_OK) status = npt_diff_run(&diff);
    if (status == NPT_OK) {
        *verdict = diff.verdict;
        if (doctor->json)
            status = npt_diff_print_json(&diff, doctor->all, out);
        else
            npt_diff_print(&diff, doctor->all, out);
    }
    npt_diff_fini(&diff);
    return status;
}
