/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include <string.h>

#include "train/distill_run.h"

/* All micro-batches through a model whose blocks pass by: blocks outside, micro-batches inside.
 *
 * Between two blocks a micro-batch has the teacher's h, and where segments are longer than a block
 * what backward will need of every boundary: h of teacher and student. Backward of a segment of one
 * block follows at once; longer ones are gone through from the top a second time, each block made
 * again from its input (the same casts, in a plan of their own that must be equal; the same bits,
 * which is checked) and then differentiated.
 *
 * Invariant: a gradient buffer sees the micro-batches in their order, and the sums are added up in
 * the order of npt_distiller_run() for one micro-batch after the other. So the bits are the same.
 */

typedef struct passenger {
    npt_mat h;                      /* the teacher's, before the block that is next */
    npt_mat *inputs;                /* [layers] of the student's blocks; data NULL: not kept */
    npt_mat *teacher_h, *student_h; /* [layers] after each block, where backward comes later */
    npt_mat dh;
    double *layer_distance, *layer_regularizer; /* [layers] */
} passenger;

typedef struct streamed_pass {
    npt_distiller *d;
    npt_model *model;
    const npt_distill_pass *pass;
    int layers;
    bool *begins;  /* [layers + 1] a segment: the student reads the teacher's h */
    bool *differs; /* [layers] the student has this block to itself */
    int lowest;    /* block that backward comes back to; layers: none */
    bool keeps;    /* boundaries for a second time through */
    passenger *passengers;
    npt_mat *mats;       /* [batches × 3 × layers] */
    double *parts;       /* of the sums: [batches × 2 × layers] */
    npt_sites *again[2]; /* plans of what is made again: the teacher's, the student's */
} streamed_pass;

typedef npt_status travel(streamed_pass *p, npt_distill_run *run, int layer, passenger *rider);

/* ---- Before and after ---- */

static void plan_segments(streamed_pass *p)
{
    bool same = true;
    p->lowest = p->layers;
    p->begins[p->layers] = true;
    for (int layer = 0; layer < p->layers; layer++) {
        p->begins[layer] = npt_distill_is_forced(p->d, p->pass->request.step, layer);
        same = same || p->begins[layer];
        p->differs[layer] = p->d->adapters->active[layer] || !same;
        same = !p->differs[layer];
        if (p->differs[layer] && p->lowest == p->layers) p->lowest = layer;
    }
    p->keeps = p->pass->request.backward && p->d->objective.distill != NPT_DISTILL_LAYERWISE;
}

static npt_status open_pass(streamed_pass *p)
{
    const size_t layers = (size_t)p->layers, batches = (size_t)p->pass->batches;
    p->begins = npt_alloc(layers + 1, sizeof *p->begins);
    p->differs = npt_alloc(layers, sizeof *p->differs);
    p->passengers = npt_alloc(batches, sizeof *p->passengers);
    p->mats = npt_alloc(batches * 3 * layers, sizeof *p->mats);
    p->parts = npt_alloc(batches * 2 * layers, sizeof *p->parts);
    if (!p->begins || !p->differs || !p->passengers || !p->mats || !p->parts) return NPT_E_NOMEM;
    for (size_t i = 0; i < batches; i++)
        p->passengers[i] = (passenger){.inputs = p->mats + 3 * i * layers,
                                       .teacher_h = p->mats + (3 * i + 1) * layers,
                                       .student_h = p->mats + (3 * i + 2) * layers,
                                       .layer_distance = p->parts + 2 * i * layers,
                                       .layer_regularizer = p->parts + (2 * i + 1) * layers};
    plan_segments(p);
    if (p->keeps) {
        p->again[0] = npt_sites_for(p->d->policy, &p->model->config, NULL);
        p->again[1] = npt_sites_for(p->d->policy, &p->model->config, p->d->adapters);
        if (p->again[0] == NULL || p->again[1] == NULL) return NPT_E_NOMEM;
    }
    npt_arena_reset(p->d->boundaries);
    return npt_model_rewind_blocks(p->model);
}

static void close_pass(streamed_pass *p)
{
    npt_sites_destroy(p->again[0]);
    npt_sites_destroy(p->again[1]);
    npt_free(p->begins);
    npt_free(p->differs);
    npt_free(p->passengers);
    npt_free(p->mats);
    npt_free(p->parts);
}

static bool is_stopped(const npt_distill_pass *pass)
{
    return pass->stop != NULL && pass->stop() != 0;
}

static size_t bytes_of(npt_mat mat)
{
    return (size_t)(mat.rows * mat.cols) * npt_dtype_bytes(mat.dtype);
}

/* `mat` where it outlasts the step arena: in `*kept`, which is made when it is not there yet. */
static npt_status keep(const streamed_pass *p, npt_mat mat, npt_mat *kept)
{
    if (kept->data == NULL) {
        *kept = mat;
        kept->data = npt_arena_alloc(p->d->boundaries, NPT_MEM_ACTIVATIONS,
                                     (size_t)(mat.rows * mat.cols), npt_dtype_bytes(mat.dtype));
    }
    if (kept->data == NULL) return NPT_E_NOMEM;
    memcpy(kept->data, mat.data, bytes_of(mat));
    return NPT_OK;
}

/* ---- Forward ---- */

/* The embedding of a batch; its rows come from the file, since a mapping of the table would grow
 * with every new token. */
static npt_status board(streamed_pass *p, npt_distill_run *run, int layer, passenger *rider)
{
    npt_distiller *d = p->d;
    const npt_batch *batch = run->request->batch;
    const npt_dtype dtype = npt_model_embedding_dtype(p->model);
    const int64_t hidden = p->model->config.hidden;
    int32_t *order =
        npt_arena_alloc(d->step, NPT_MEM_SCRATCH, (size_t)batch->tokens, sizeof *order);
    void *rows = npt_arena_alloc(d->step, NPT_MEM_SCRATCH, (size_t)(batch->tokens * hidden),
                                 npt_dtype_bytes(dtype));
    (void)layer;
    if (order == NULL || rows == NULL) return NPT_E_NOMEM;
    NPT_TRY(npt_model_read_embedding(p->model, batch->ids, batch->tokens, rows));
    for (int64_t i = 0; i < batch->tokens; i++) order[i] = (int32_t)i;
    npt_model table = *p->model;
    npt_batch looked_up = *batch;
    npt_env env = run->teacher;
    npt_mat h;
    table.embed = (npt_in){rows, dtype};
    looked_up.ids = order;
    env.model = &table;
    env.batch = &looked_up;
    NPT_TRY(npt_embed(&env, &h));
    return keep(p, h, &rider->h);
}

static npt_status segment_of_one(streamed_pass *p, npt_distill_run *run, int layer)
{
    npt_mat dh = {0};
    if (!run->request->backward || !p->differs[layer]) return NPT_OK;
    NPT_TRY(npt_distill_loss_backward(run, layer, &dh));
    return npt_distill_block_backward(run, layer, false, dh);
}

/* What the student's block reads: the teacher's h where they are the same. */
static bool is_shared(const streamed_pass *p, int layer)
{
    return p->begins[layer] || !p->differs[layer - 1];
}

/* One block and one micro-batch: a turn of run_blocks() of distill.c. */
static npt_status ride(streamed_pass *p, npt_distill_run *run, int layer, passenger *rider)
{
    npt_distiller *d = p->d;
    const npt_mat x = rider->h;
    const bool shared = !p->differs[layer] || is_shared(p, layer);
    NPT_TRY(npt_distill_block(run, layer, p->differs[layer], x,
                              shared ? x : rider->student_h[layer - 1]));
    if (p->differs[layer]) {
        if (p->keeps && shared) NPT_TRY(keep(p, x, &rider->inputs[layer]));
        if (p->keeps) NPT_TRY(keep(p, d->teacher_h[layer], &rider->teacher_h[layer]));
        if (!p->begins[layer + 1] || p->keeps)
            NPT_TRY(keep(p, d->student_h[layer], &rider->student_h[layer]));
        if (!p->keeps) NPT_TRY(segment_of_one(p, run, layer));
    }
    memcpy(rider->h.data, d->teacher_h[layer].data, bytes_of(rider->h));
    return NPT_OK;
}

/* ---- Backward ---- */

/* The student's block once more, so that states[layer] is what it was. */
static npt_status make_again(streamed_pass *p, npt_distill_run *run, int layer, npt_mat x)
{
    npt_distiller *d = p->d;
    npt_adapters *adapters = d->adapters->active[layer] ? d->adapters : NULL;
    npt_env teacher = run->teacher, student = run->student;
    npt_block_state scratch;
    npt_side shared = {.env = &teacher, .x = x, .state = &scratch};
    npt_side side = {
        .env = &student, .adapters = adapters, .x = x, .state = &d->states[layer], .keeps = true};
    teacher.sites = p->again[0];
    student.sites = p->again[1];
    teacher.observer = student.observer = NULL; /* they saw it */
    NPT_TRY(npt_block_attention(is_shared(p, layer) ? &shared : &side, 1, layer));
    if (is_shared(p, layer)) side.a = shared.a;
    NPT_TRY(npt_block_mlp(&side, 1, layer));
    if (memcmp(side.h.data, d->student_h[layer].data, bytes_of(side.h)) == 0) return NPT_OK;
    return npt_fail(NPT_E_INTERNAL,
                    "block %d is not the same when it is computed again; please report this",
                    layer);
}

static npt_status ride_back(streamed_pass *p, npt_distill_run *run, int layer, passenger *rider)
{
    npt_distiller *d = p->d;
    const bool last = p->begins[layer + 1], first = is_shared(p, layer);
    npt_mat dh = last ? (npt_mat){0} : rider->dh;
    if (!p->differs[layer]) return NPT_OK;
    d->teacher_h[layer] = rider->teacher_h[layer];
    d->student_h[layer] = rider->student_h[layer];
    NPT_TRY(make_again(p, run, layer, first ? rider->inputs[layer] : rider->student_h[layer - 1]));
    NPT_TRY(npt_distill_loss_backward(run, layer, &dh));
    NPT_TRY(npt_distill_block_backward(run, layer, !first, dh));
    return last && !first ? keep(p, dh, &rider->dh) : NPT_OK;
}

/* ---- Everybody ---- */

/* Every micro-batch through one block; layer -1 is the embedding. */
static npt_status ride_all(streamed_pass *p, int layer, travel *go)
{
    for (int64_t i = 0; i < p->pass->batches && !is_stopped(p->pass); i++) {
        passenger *rider = &p->passengers[i];
        npt_distill_sums parts = {.layer_distance = rider->layer_distance,
                                  .layer_regularizer = rider->layer_regularizer};
        npt_distill_request request = p->pass->request;
        npt_distill_run run;
        npt_batch batch;
        NPT_TRY(p->pass->batch(p->pass->context, i, &batch));
        request.batch = &batch;
        NPT_TRY(npt_distill_begin(&run, p->d, &request, &parts));
        NPT_TRY(go(p, &run, layer, rider));
    }
    return NPT_OK;
}

static npt_status up(streamed_pass *p)
{
    NPT_TRY(ride_all(p, -1, board));
    for (int layer = 0; layer < p->layers && !is_stopped(p->pass); layer++) {
        NPT_TRY(npt_model_take_block(p->model, layer));
        npt_status status = ride_all(p, layer, ride);
        if (layer < p->layers - 1 || !p->keeps) npt_model_release_block(p->model);
        NPT_TRY(status);
    }
    return NPT_OK;
}

/* The highest block is still there. */
static npt_status down(streamed_pass *p)
{
    for (int layer = p->layers - 1; layer >= p->lowest && !is_stopped(p->pass); layer--) {
        if (layer < p->layers - 1) NPT_TRY(npt_model_take_block(p->model, layer));
        npt_status status = ride_all(p, layer, ride_back);
        npt_model_release_block(p->model);
        NPT_TRY(status);
    }
    NPT_TRY(npt_sites_check(p->again[0]));
    return npt_sites_check(p->again[1]);
}

/* In the order in which one micro-batch after the other adds them. A part that was never added is
 * 0, and adding it changes nothing. */
static void add_parts(const streamed_pass *p, npt_distill_sums *sums)
{
    for (int64_t i = 0; i < p->pass->batches; i++)
        for (int layer = 0; layer < p->layers; layer++) {
            const double distance = p->passengers[i].layer_distance[layer],
                         regularizer = p->passengers[i].layer_regularizer[layer];
            sums->distance += distance;
            sums->regularizer += regularizer;
            if (sums->layer_distance != NULL) sums->layer_distance[layer] += distance;
            if (sums->layer_regularizer != NULL) sums->layer_regularizer[layer] += regularizer;
        }
}

npt_status npt_distiller_stream(npt_distiller *d, npt_model *model, const npt_distill_pass *pass,
                                npt_distill_sums *sums)
{
    streamed_pass p = {.d = d, .model = model, .pass = pass, .layers = (int)model->config.layers};
    NPT_ASSERT(d->model == model);
    npt_status status = open_pass(&p);
    if (status == NPT_OK) status = up(&p);
    if (status == NPT_OK && p.keeps) status = down(&p);
    if (status == NPT_OK) status = npt_distill_end(d);
    if (status == NPT_OK) add_parts(&p, sums);
    close_pass(&p);
    return status;
}
