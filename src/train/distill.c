/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "train/distill_run.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/log.h"
#include "base/rng.h"

/* The two models advance together, block by block. A *segment* is a run of blocks through which
 * gradients flow: all of them end-to-end; one block when it reads the teacher's input (layerwise,
 * or drawn in mixed mode). Backward runs at the end of a segment, then its activations are
 * forgotten. Where the student's state is still the teacher's (below the first NPT block, or at a
 * teacher's input), nothing is computed twice: attention is shared, and standard blocks have no
 * student at all. */

npt_sites *npt_sites_for(const npt_policy *policy, const npt_config *config,
                         const npt_adapters *adapters)
{
    npt_site_block *blocks = npt_alloc((size_t)config->layers, sizeof *blocks);
    if (blocks == NULL) return NULL;
    for (int64_t i = 0; i < config->layers; i++) {
        bool npt = adapters != NULL && adapters->active[i];
        blocks[i] = (npt_site_block){
            .npt = npt,
            .additive = npt && adapters->modulation != NPT_MODULATION_MULTIPLICATIVE,
            .multiplicative = npt && adapters->modulation != NPT_MODULATION_ADDITIVE,
            .qk_norm = config->qk_norm,
            .hidden = config->hidden,
            .inter = config->inter,
            .q_width = config->heads * config->head_dim,
            .kv_width = config->kv_heads * config->head_dim,
            .rank = npt ? adapters->rank : 0};
    }
    npt_sites *sites = npt_sites_create(policy, (int)config->layers, blocks);
    npt_free(blocks);
    return sites;
}

npt_status npt_distiller_init(npt_distiller *d, npt_exec *exec, const npt_model *model,
                              const npt_policy *policy, npt_adapters *adapters,
                              const npt_objective *objective)
{
    size_t layers = (size_t)model->config.layers;
    *d = (npt_distiller){.exec = exec,
                         .model = model,
                         .policy = policy,
                         .adapters = adapters,
                         .objective = *objective};
    d->teacher_sites = npt_sites_for(policy, &model->config, NULL);
    d->student_sites = npt_sites_for(policy, &model->config, adapters);
    d->step = npt_arena_create("step");
    d->boundaries = npt_arena_create("boundaries");
    d->states = npt_alloc(layers, sizeof *d->states);
    d->teacher_h = npt_alloc(layers, sizeof *d->teacher_h);
    d->student_h = npt_alloc(layers, sizeof *d->student_h);
    if (d->teacher_sites && d->student_sites && d->step && d->boundaries && d->states &&
        d->teacher_h && d->student_h) {
        npt_adapters_round(adapters, d->student_sites);
        return NPT_OK;
    }
    npt_distiller_fini(d);
    return NPT_E_NOMEM;
}

void npt_distiller_fini(npt_distiller *d)
{
    npt_sites_destroy(d->teacher_sites);
    npt_sites_destroy(d->student_sites);
    npt_arena_destroy(d->step);
    npt_arena_destroy(d->boundaries);
    npt_free(d->states);
    npt_free(d->teacher_h);
    npt_free(d->student_h);
    npt_free(d->row_sums);
    npt_free(d->cos);
    npt_free(d->sin);
    *d = (npt_distiller){0};
}

/* ---- Tables that depend on the longest sequence ---- */

/* cos and sin of position × frequency, in F32, then rounded once to the act dtype (rope_table). */
static npt_status extend_rope(npt_distiller *d, int64_t positions)
{
    if (positions <= d->positions) return NPT_OK;
    const int64_t half = d->model->config.head_dim / 2;
    float *cosines = npt_realloc(d->cos, (size_t)(positions * half), sizeof *cosines);
    if (cosines == NULL) return NPT_E_NOMEM;
    d->cos = cosines;
    float *sines = npt_realloc(d->sin, (size_t)(positions * half), sizeof *sines);
    if (sines == NULL) return NPT_E_NOMEM;
    d->sin = sines;
    const int64_t fresh = (positions - d->positions) * half;
    npt_dtype to =
        npt_site(d->teacher_sites, NPT_SITE_ROPE_TABLE, -1, NPT_FORWARD, NPT_F32, 2 * fresh);
    for (int64_t p = d->positions; p < positions; p++)
        for (int64_t i = 0; i < half; i++) {
            float angle = (float)p * d->model->inverse_frequencies[i];
            uint32_t rounded;
            npt_store(&rounded, to, 0, cosf(angle));
            d->cos[p * half + i] = npt_load(&rounded, to, 0);
            npt_store(&rounded, to, 0, sinf(angle));
            d->sin[p * half + i] = npt_load(&rounded, to, 0);
        }
    d->positions = positions;
    return NPT_OK;
}

static npt_status prepare(npt_distiller *d, const npt_batch *batch)
{
    const npt_config *c = &d->model->config;
    NPT_TRY(extend_rope(d, batch->longest));
    if (batch->tokens > d->row_sums_size) {
        double *sums = npt_realloc(d->row_sums, (size_t)batch->tokens, sizeof *sums);
        if (sums == NULL) return NPT_E_NOMEM;
        d->row_sums = sums;
        d->row_sums_size = batch->tokens;
    }
    npt_arena_reset(d->step);
    return npt_exec_reserve(d->exec, batch->longest, c->head_dim,
                            c->inter > c->hidden ? c->inter : c->hidden);
}

/* ---- One run ---- */

bool npt_distill_is_forced(const npt_distiller *d, int64_t step, int layer)
{
    if (layer == 0) return true; /* the embedding is the same */
    if (d->objective.distill == NPT_DISTILL_LAYERWISE) return true;
    if (d->objective.distill == NPT_DISTILL_END_TO_END) return false;
    uint64_t index = (uint64_t)step * (uint64_t)d->model->config.layers + (uint64_t)layer;
    return npt_rng_uniform(d->objective.seed, NPT_RNG_TEACHER_FORCING, index) <
           d->objective.teacher_forcing;
}

static void add_distance(npt_distill_run *r, int layer)
{
    npt_distiller *d = r->d;
    npt_mat s = d->student_h[layer], t = d->teacher_h[layer];
    const npt_distance_args args = {.rows = s.rows,
                                    .width = s.cols,
                                    .normalized = d->objective.loss == NPT_LOSS_NORMALIZED,
                                    .s = npt_mat_in(s),
                                    .t = npt_mat_in(t),
                                    .row_sums = d->row_sums};
    double sum = npt_exec_kernels(d->exec)->distance(npt_exec_run(d->exec), &args);
    r->sums->distance += sum;
    if (r->sums->layer_distance != NULL) r->sums->layer_distance[layer] += sum;
}

static void add_regularizer(npt_distill_run *r, int layer)
{
    const double sum = r->d->states[layer].adapter.regularizer;
    r->sums->regularizer += sum;
    if (r->sums->layer_regularizer != NULL) r->sums->layer_regularizer[layer] += sum;
}

/* Side by side; one after the other where somebody watches, who then sees the teacher's block first
 * and for whom terms are written out besides. */
static npt_status run_sides(npt_side *sides, int layer, bool shared, bool differs)
{
    const bool together = differs && !npt_env_is_watched(sides[0].env);
    NPT_TRY(npt_block_attention(&sides[0], together && !shared ? 2 : 1, layer));
    if (shared) sides[1].a = sides[0].a;
    NPT_TRY(npt_block_mlp(&sides[0], together ? 2 : 1, layer));
    if (together || !differs) return NPT_OK;
    if (!shared) NPT_TRY(npt_block_attention(&sides[1], 1, layer));
    return npt_block_mlp(&sides[1], 1, layer);
}

npt_status npt_distill_block(npt_distill_run *r, int layer, bool differs, npt_mat x,
                             npt_mat student_x)
{
    npt_distiller *d = r->d;
    npt_adapters *adapters = d->adapters->active[layer] ? d->adapters : NULL;
    npt_block_state scratch;
    npt_side sides[NPT_SIDES] = {{.env = &r->teacher, .x = x, .state = &scratch},
                                 {.env = &r->student,
                                  .adapters = adapters,
                                  .x = student_x,
                                  .state = &d->states[layer],
                                  .keeps = true}};
    NPT_TRY(run_sides(sides, layer, student_x.data == x.data, differs));
    d->teacher_h[layer] = sides[0].h;
    d->student_h[layer] = differs ? sides[1].h : sides[0].h;
    if (differs && adapters != NULL) add_regularizer(r, layer);
    if (differs) add_distance(r, layer);
    return NPT_OK;
}

npt_status npt_distill_loss_backward(npt_distill_run *r, int layer, npt_mat *dh)
{
    npt_distiller *d = r->d;
    npt_mat s = d->student_h[layer], t = d->teacher_h[layer];
    npt_in base = npt_mat_in(*dh);
    if (dh->data == NULL) {
        NPT_TRY(npt_mat_produce(&r->student, NPT_SITE_RESIDUAL, layer, NPT_BACKWARD, NPT_F32,
                                s.rows, s.cols, dh));
        base = (npt_in){NULL, dh->dtype};
    } else {
        NPT_TRY(npt_mat_announce(&r->student, NPT_SITE_RESIDUAL, layer, NPT_BACKWARD, *dh));
    }
    const npt_distance_backward_args args = {.rows = s.rows,
                                             .width = s.cols,
                                             .normalized = d->objective.loss == NPT_LOSS_NORMALIZED,
                                             .factor = (float)r->request->distance_factor,
                                             .s = npt_mat_in(s),
                                             .t = npt_mat_in(t),
                                             .base = base,
                                             .dst = npt_mat_out(*dh)};
    npt_exec_kernels(d->exec)->distance_backward(npt_exec_run(d->exec), &args);
    return npt_mat_finish(&r->student, NPT_SITE_RESIDUAL, layer, NPT_BACKWARD, *dh);
}

npt_status npt_distill_block_backward(npt_distill_run *r, int layer, bool input, npt_mat dh)
{
    npt_distiller *d = r->d;
    return npt_block_backward(&r->student, d->adapters->active[layer] ? d->adapters : NULL, layer,
                              &d->states[layer], r->request->regularizer_factor, input, dh);
}

/* Backward through blocks last … first of a segment, first being the lowest whose student differs.
 */
static npt_status segment_backward(npt_distill_run *r, int first, int last)
{
    npt_mat dh = {0};
    for (int layer = last; layer >= first; layer--) {
        NPT_TRY(npt_distill_loss_backward(r, layer, &dh));
        NPT_TRY(npt_distill_block_backward(r, layer, layer > first, dh));
    }
    return NPT_OK;
}

/* Copies the teacher's h below the segment's activations, which are then forgotten. */
static npt_status close_segment(npt_distill_run *r, int first, int last, npt_arena_mark mark,
                                npt_mat *h)
{
    npt_distiller *d = r->d;
    if (r->request->backward && first <= last) NPT_TRY(segment_backward(r, first, last));
    if (last == d->model->config.layers - 1) return NPT_OK; /* the callers may want the last h */
    memcpy(h->data, d->teacher_h[last].data,
           (size_t)(h->rows * h->cols) * npt_dtype_bytes(h->dtype));
    npt_arena_rewind(d->step, mark);
    return NPT_OK;
}

static npt_status run_blocks(npt_distill_run *r)
{
    npt_distiller *d = r->d;
    const int layers = (int)d->model->config.layers;
    npt_mat boundary; /* the teacher's h at the beginning of the segment */
    NPT_TRY(npt_embed(&r->teacher, &boundary));
    npt_arena_mark mark = npt_arena_get_mark(d->step);
    npt_mat teacher_x = boundary, student_x = boundary;
    int first = layers; /* lowest block of the segment whose student differs */
    for (int layer = 0; layer < layers; layer++) {
        const bool differs = d->adapters->active[layer] || student_x.data != teacher_x.data;
        NPT_TRY(npt_distill_block(r, layer, differs, teacher_x, student_x));
        if (differs && first > layer) first = layer;
        teacher_x = d->teacher_h[layer];
        student_x = d->student_h[layer];
        if (layer + 1 < layers && !npt_distill_is_forced(d, r->request->step, layer + 1)) continue;
        NPT_TRY(close_segment(r, first, layer, mark, &boundary));
        if (layer + 1 < layers) teacher_x = student_x = boundary;
        first = layers;
    }
    r->sums->teacher_h = d->teacher_h[layers - 1];
    r->sums->student_h = d->student_h[layers - 1];
    return NPT_OK;
}

/* ---- Faults and breaches ---- */

static bool is_damaged(const npt_distiller *d, int64_t step)
{
    return d->fault.kind != NPT_FAULT_NONE && (d->fault.step == 0 || d->fault.step == step + 1);
}

/* A cast that is disturbed at one step is itself again at the next. */
static void disturb(npt_distiller *d, int64_t step)
{
    const npt_fault *f = &d->fault;
    if (f->kind == NPT_FAULT_CAST)
        npt_sites_disturb(f->teacher ? d->teacher_sites : d->student_sites, f->site, f->layer,
                          f->direction, is_damaged(d, step) ? f->dtype : NPT_DTYPE_NONE);
}

npt_status npt_distiller_damage(npt_distiller *d, const npt_fault *fault)
{
    const int64_t layers = d->model->config.layers;
    if (fault->kind != NPT_FAULT_NONE && fault->layer >= layers)
        return npt_fail(NPT_E_USAGE, "the fault is in layer %d; the model has %" PRId64,
                        fault->layer, layers);
    d->fault = *fault;
    disturb(d, 0);
    return NPT_OK;
}

npt_status npt_distiller_guard(npt_distiller *d, bool strict)
{
    npt_fault fault;
    d->strict = strict;
    NPT_TRY(npt_fault_from_environment(&fault));
    return npt_distiller_damage(d, &fault);
}

/* An unplanned cast is a bug of npt's. Without --strict the run goes on, in the planned dtypes. */
static npt_status check_sites(npt_distiller *d, const npt_sites *sites)
{
    npt_status status = npt_sites_check(sites);
    if (status == NPT_OK || d->strict) return status;
    if (!d->warned) npt_log(NPT_LOG_WARNING, "%s (--strict stops there)", npt_error_message());
    d->warned = true;
    return NPT_OK;
}

npt_status npt_distill_begin(npt_distill_run *run, npt_distiller *d,
                             const npt_distill_request *request, npt_distill_sums *sums)
{
    NPT_TRY(prepare(d, request->batch));
    npt_env env = {.exec = d->exec,
                   .model = d->model,
                   .policy = d->policy,
                   .sites = d->teacher_sites,
                   .arena = d->step,
                   .batch = request->batch,
                   .cos = d->cos,
                   .sin = d->sin,
                   .strict = d->strict,
                   .observer = d->observer,
                   .fault = is_damaged(d, request->step) ? &d->fault : NULL};
    *run =
        (npt_distill_run){.d = d, .request = request, .sums = sums, .teacher = env, .student = env};
    run->student.sites = d->student_sites;
    run->student.student = true;
    disturb(d, request->step);
    return NPT_OK;
}

npt_status npt_distill_end(npt_distiller *d)
{
    NPT_TRY(check_sites(d, d->teacher_sites));
    return check_sites(d, d->student_sites);
}

npt_status npt_distiller_run(npt_distiller *d, const npt_distill_request *request,
                             npt_distill_sums *sums)
{
    npt_distill_run run;
    NPT_TRY(npt_distill_begin(&run, d, request, sums));
    NPT_TRY(run_blocks(&run));
    return npt_distill_end(d);
}
