/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "cpu/matmul_blocked.h"

/* The blocked product, straight from the stored dtypes.
 *
 * One matrix is streamed: cut into chunks, a task each, packed panel by panel just before use. The
 * other is resident: packed once, by all workers, into shared scratch, at most NPT_RESIDENT_MAX of
 * its vectors at a time. Independently of that, one matrix is the row operand of the tile and the
 * other the lane operand (matmul_native.h): the streamed matrix takes the part that its layout
 * packs into without turning. Sums of a task stay in F32 scratch, in the tile's own form, over all
 * of k; bias, accumulation and the one rounding come at the end. What stays in first-level cache
 * while the other operand passes is a panel of rows, or of lanes where those fit (lanes_stay): then
 * a chunk of rows is packed at once, and every tile asks for its share of what comes next, since a
 * whole panel asked for by its first tile would have it wait. Invariant: panels and k blocks
 * follow from the shape alone, and what is judged is a panel against a panel; chunks, of which
 * every worker gets some, are whole panels. So the bits do not depend on the number of threads. */

enum {
    CHUNK_LANES = NPT_NATIVE_CHUNK, /* most streamed vectors of a task, as lanes; half of that */
    WIDE_UP_TO = 256,               /* for more resident ones: sums must stay in the cache */
    CHUNK_PANELS = 8,               /* the same as rows: panels */
    STAY_PANELS = 16, /* that pass while lanes stay: they must stay in second-level cache */
    WORKER_TASKS = 4, /* of a worker: smaller chunks where there would be fewer */
    STORE_ROWS = 8,   /* of C, at a time */
    LINE = 64,
    MAX_AHEAD = 4096, /* lines asked for before they are packed */
    SMALL_DEPTH = 64  /* below, turning C costs more than turning an operand */
};

/* ---- The shape of the work ----------------------------------------------------------------- */

/* An even tile height that cuts `count` rows with little waste. */
static int tile_rows(const npt_native_ops *ops, int64_t count)
{
    const int64_t panels = npt_parts(count, ops->max_rows);
    return (int)npt_round_up(npt_parts(count, panels), ops->row_unit);
}

static int64_t even_blocks(int64_t total, int64_t most, int64_t unit)
{
    return npt_round_up(npt_parts(total, npt_parts(total, most)), unit);
}

static int64_t clamp(int64_t value, int64_t low, int64_t high)
{
    return value < low ? low : value > high ? high : value;
}

/* Panels are of one A, and as wide as by itself. */
static void shape_resident(npt_native_shape *shape, bool two)
{
    const int wide = 2 * shape->ops.lanes;
    const bool stream_lanes = shape->stream_w == shape->lanes_w;
    shape->block = even_blocks(shape->resident, NPT_RESIDENT_MAX, wide);
    if (stream_lanes)
        shape->resident_rows = tile_rows(&shape->ops, npt_min64(shape->resident, shape->block));
    if (!two) return;
    shape->second = npt_round_up(shape->resident, stream_lanes ? shape->resident_rows : wide);
    shape->resident += shape->second;
    shape->block = npt_round_up(shape->resident, wide);
}

static void shape_chunks(npt_native_shape *shape, int workers)
{
    const int wide = 2 * shape->ops.lanes;
    const bool stream_lanes = shape->stream_w == shape->lanes_w;
    const int64_t share = npt_parts(shape->streamed, WORKER_TASKS * workers);
    int64_t sums_rows, sums_lanes;
    if (stream_lanes) {
        const bool narrow = shape->ops.lanes_stay || shape->block > WIDE_UP_TO;
        const int64_t most = narrow ? CHUNK_LANES / 2 : CHUNK_LANES;
        shape->chunk = clamp(npt_round_up(share, wide), 4 * wide, most);
        sums_rows = npt_round_up(shape->block, shape->resident_rows);
        sums_lanes = shape->chunk;
        shape->panel_bytes = (size_t)(shape->ops.lane_step * shape->chunk * shape->ops.lane_bytes);
    } else {
        shape->stream_rows = tile_rows(&shape->ops, shape->streamed);
        const int64_t height = shape->stream_rows;
        const int64_t most = shape->ops.lanes_stay ? STAY_PANELS : CHUNK_PANELS;
        shape->chunk = clamp(npt_round_up(share, height), height, most * height);
        shape->step_rows = shape->ops.lanes_stay ? shape->chunk : height;
        sums_rows = shape->chunk;
        sums_lanes = npt_round_up(shape->block, wide);
        shape->panel_bytes = (size_t)(shape->ops.depth * shape->step_rows * shape->ops.row_bytes);
    }
    shape->panel_bytes = (shape->panel_bytes + 63) / 64 * 64;
    shape->sums_floats = (size_t)(sums_rows * sums_lanes);
}

static npt_native_shape shape_of(const npt_matmul_desc *desc, const npt_native_ops *ops, bool two,
                                 int workers)
{
    npt_native_shape shape = {.ops = *ops, .depth_blocks = npt_parts(desc->k, ops->depth)};
    shape.stream_w = desc->n >= 128 || desc->n >= desc->m;
    shape.streamed = shape.stream_w ? desc->n : desc->m;
    shape.resident = shape.stream_w ? desc->m : desc->n;
    if (desc->k < SMALL_DEPTH)
        shape.lanes_w = true;
    else
        shape.lanes_w = shape.stream_w ? !desc->trans_w : !desc->trans_a;
    shape_resident(&shape, two);
    shape_chunks(&shape, workers);
    return shape;
}

/* ---- Blocked route -------------------------------------------------------------------------- */

/* Where a panel of the resident matrix lies at one k block: rows, by number of panel; lanes, by
 * first vector. All panels of a block lie together: a whole k of each apart they would be some
 * multiple of the second-level cache's way and drive each other out. */
static char *resident_rows(const npt_native_job *job, int64_t panel, int64_t k0)
{
    const npt_native_shape *shape = &job->shape;
    const int64_t panels =
        k0 / shape->ops.depth * npt_parts(job->count, shape->resident_rows) + panel;
    return job->packed + panels * shape->resident_rows * shape->ops.depth * shape->ops.row_bytes;
}

static char *resident_lanes(const npt_native_job *job, int64_t first, int64_t k0)
{
    const npt_native_ops *ops = &job->shape.ops;
    const int64_t depth = npt_round_up(npt_min64(ops->depth, job->desc->k - k0), ops->depth_unit);
    return job->packed +
           (k0 * npt_round_up(job->count, ops->lanes) + first * depth) * ops->lane_bytes;
}

static int64_t units_of(const npt_native_ops *ops, const npt_native_packing *packing, bool as_rows)
{
    if (as_rows) return packing->count * npt_parts(packing->depth, NPT_NATIVE_UNIT_DEPTH);
    return npt_parts(npt_round_up(packing->depth, ops->depth_unit), 2) *
           npt_parts(packing->count, npt_native_unit_lanes(packing->src->dtype));
}

static void pack_units(const npt_native_ops *ops, const npt_native_packing *packing, bool as_rows,
                       int64_t from, int64_t to)
{
    if (from == to) return;
    (as_rows ? ops->pack_rows : ops->pack_lanes)(packing, from, to);
}

/* One panel of the resident matrix, all of k. */
static void pack_resident_task(void *context, int64_t index, int worker)
{
    npt_native_job *job = context;
    const npt_native_shape *shape = &job->shape;
    const npt_native_ops *ops = &shape->ops;
    const bool as_rows = shape->stream_w == shape->lanes_w;
    const int64_t unit = as_rows ? shape->resident_rows : 2 * ops->lanes;
    const int64_t first = index * unit;
    const int width = as_rows ? (int)unit : npt_panel_vectors(ops, first, job->count) * ops->lanes;
    int64_t at = job->first + first;
    const npt_native_operand *src = npt_native_resident(job, &at);
    (void)worker;
    if (ops->checked) job->panels[index] = npt_matmul_survey_panel(job, index);
    for (int64_t k0 = 0; k0 < job->desc->k; k0 += ops->depth) {
        const npt_native_packing packing = {.src = src,
                                            .first = at,
                                            .count = width,
                                            .k0 = k0,
                                            .depth = npt_min64(ops->depth, job->desc->k - k0),
                                            .block = ops->depth,
                                            .dst = as_rows ? resident_rows(job, index, k0)
                                                           : resident_lanes(job, first, k0)};
        pack_units(ops, &packing, as_rows, 0, units_of(ops, &packing, as_rows));
    }
}

/* What goes to C from (row, column) on, but for the sums. */
static npt_native_store piece_at(const npt_native_job *job, void *c, int64_t row, int64_t column)
{
    const npt_matmul_desc *desc = job->desc;
    return (npt_native_store){
        .c = (char *)c + (size_t)(row * desc->n + column) * npt_dtype_bytes(desc->c),
        .stride = desc->n,
        .dtype = desc->c,
        .bias = desc->bias && job->args->bias != NULL ? job->args->bias + column : NULL,
        .accumulate = desc->accumulate,
    };
}

/* What is in an area of the first A, or of the second: as many rows of C from `skip` on. Some rows
 * at a time, over all lane panels, so that C is written in long stretches. */
static void store_part(const npt_native_job *job, const npt_native_area *area, void *c,
                       int64_t skip, int64_t count)
{
    const npt_native_ops *ops = &job->shape.ops;
    for (int64_t row = 0; row < count; row += STORE_ROWS)
        for (int64_t lane = 0; lane < area->lanes; lane += 2 * ops->lanes) {
            npt_native_store piece =
                piece_at(job, c, area->row_first + row, area->lane_first + lane);
            piece.width = npt_panel_vectors(ops, lane, area->lanes) * ops->lanes;
            piece.sums = area->sums + lane * area->panel_rows + (skip + row) * piece.width;
            piece.rows = npt_min64(STORE_ROWS, count - row);
            piece.lanes = npt_min64(2 * ops->lanes, area->lanes - lane);
            ops->store(&piece);
        }
}

/* The same where lanes become the rows of C. */
static void store_part_turned(const npt_native_job *job, const npt_native_area *area, void *c,
                              int64_t skip, int64_t count)
{
    const npt_native_ops *ops = &job->shape.ops;
    for (int64_t lane = skip; lane < skip + count; lane += 2 * ops->lanes) {
        npt_native_store piece = piece_at(job, c, area->lane_first + lane - skip, area->row_first);
        piece.width = npt_panel_vectors(ops, lane, area->lanes) * ops->lanes;
        piece.sums = area->sums + lane * area->panel_rows;
        piece.rows = area->rows;
        piece.lanes = npt_min64(2 * ops->lanes, skip + count - lane);
        ops->store_transposed(&piece);
    }
}

static void store_area(const npt_native_job *job, const npt_native_area *area)
{
    const int64_t second = job->shape.second, rows = job->shape.lanes_w ? area->rows : area->lanes;
    const int64_t first = second > 0 ? job->desc->m : rows;
    if (job->shape.lanes_w) {
        store_part(job, area, job->args[0].c, 0, first);
        if (second > 0) store_part(job, area, job->args[1].c, second, job->desc->m);
    } else {
        store_part_turned(job, area, job->args[0].c, 0, first);
        if (second > 0) store_part_turned(job, area, job->args[1].c, second, job->desc->m);
    }
}

/* What is packed next, as the lines of memory it will be read from. */
typedef struct npt_native_ahead {
    const char *lines[MAX_AHEAD];
    int64_t count;
} npt_native_ahead;

static void list_lines(const npt_native_operand *src, int64_t first, int64_t width, int64_t k0,
                       int64_t most, npt_native_ahead *ahead)
{
    const int64_t bits = npt_dtype_bits(src->dtype);
    const int64_t depth = npt_min64(most, src->depth - k0);
    const int64_t vectors = npt_min64(width, src->count - first);
    const int64_t outer = src->k_inside ? vectors : depth;
    const int64_t inner = src->k_inside ? depth : vectors;
    const int64_t stride = src->k_inside ? src->depth : src->count;
    int64_t index = src->k_inside ? first * stride + k0 : k0 * stride + first;
    for (int64_t i = 0; i < outer; i++, index += stride) {
        /* tensors of a file begin anywhere: one line more than they would fill */
        const char *line = (const char *)src->data + index * bits / 8;
        const char *const end = line + inner * bits / 8;
        for (line -= (uintptr_t)line % LINE; line < end && ahead->count < MAX_AHEAD; line += LINE)
            ahead->lines[ahead->count++] = line;
    }
}

/* Whether the tiles can read the streamed rows where they lie. */
static bool in_place(const npt_native_job *job, int64_t first, int64_t width, int64_t depth)
{
    const npt_native_ops *ops = &job->shape.ops;
    return ops->rows_in_place && job->stream.k_inside && first + width <= job->shape.streamed &&
           depth % ops->depth_unit == 0;
}

/* A streamed panel, or a chunk of lane panels, at one k block. */
typedef struct npt_native_step {
    npt_native_packing packing;
    bool in_place;
    int64_t units;          /* of the packing */
    npt_native_ahead ahead; /* lines of a later one */
    npt_native_aside aside; /* what its tiles do for later ones */
} npt_native_step;

static bool stream_rows(const npt_native_job *job)
{
    return job->shape.stream_w != job->shape.lanes_w;
}

/* Quotas for a step of so many tiles. */
static void share_out(const npt_native_ops *ops, npt_native_step *step, int64_t tiles)
{
    npt_native_aside *a = &step->aside;
    a->slots = tiles * npt_parts(step->packing.depth, ops->depth_unit) * ops->products;
    const int64_t tile_steps = step->packing.depth / NPT_NATIVE_TILE_STEPS;
    a->tile_lines = npt_min64(npt_parts(a->line_end - a->line, tiles), tile_steps);
    a->tile_every = a->tile_lines > 0 ? tile_steps / a->tile_lines * NPT_NATIVE_TILE_STEPS : 0;
    a->slot_lines = npt_parts(a->line_end - a->line, a->slots);
    a->units = a->unit_end;
    a->due = 0;
}

static void run_tile(const npt_native_job *job, npt_native_tile *tile, npt_native_step *step)
{
    tile->depth = npt_round_up(step->packing.depth, job->shape.ops.depth_unit);
    tile->add = step->packing.k0 > 0;
    tile->aside = &step->aside;
    job->shape.ops.tile(tile);
}

static void ask_for(const void *from, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i += LINE) __builtin_prefetch((const char *)from + i, 0, 2);
}

/* Where lanes stay: tile `index` of `count` that use the same `bytes` of the resident matrix asks
 * for its share of those that follow them, and for the sums of the next tile. */
static void ask_ahead(const npt_native_tile *tile, const npt_native_ops *ops, const void *same,
                      int64_t bytes, int64_t index, int64_t count)
{
    const int64_t share = npt_round_up(npt_parts(bytes, count), LINE);
    const int64_t sums = (int64_t)tile->rows * tile->vectors * ops->lanes;
    ask_for((const char *)same + bytes + index * share, share);
    ask_for(tile->sums + sums, sums * (int64_t)sizeof(float));
}

static void multiply_rows(const npt_native_job *job, npt_native_step *step,
                          const npt_native_area *area)
{
    const npt_native_ops *ops = &job->shape.ops;
    const npt_native_packing *packing = &step->packing;
    const int64_t panels = npt_parts(job->count, 2 * ops->lanes);
    const int rows = job->shape.stream_rows;
    const int64_t tiles = npt_parts(packing->count, rows);
    share_out(ops, step, panels * tiles);
    for (int64_t p = 0; p < panels; p++) {
        const int64_t lane = p * 2 * ops->lanes;
        if (ops->checked && job->panels[p].unfit) continue;
        const int vectors = npt_panel_vectors(ops, lane, job->count);
        const int width = vectors * ops->lanes;
        const void *lanes = resident_lanes(job, lane, packing->k0);
        float *sums = area->sums + lane * area->panel_rows;
        for (int64_t i = 0; i < tiles; i++) {
            npt_native_tile tile = {
                .rows = rows,
                .vectors = vectors,
                .row = (char *)packing->dst + i * rows * ops->depth * ops->row_bytes,
                .in_place = step->in_place,
                .row_stride = packing->src->depth,
                .lane = lanes,
                .sums = sums + (packing->first + i * rows - area->row_first) * width,
            };
            if (ops->lanes_stay)
                ask_ahead(&tile, ops, lanes, packing->depth * width * ops->lane_bytes, i, tiles);
            run_tile(job, &tile, step);
        }
    }
}

static void multiply_lanes(const npt_native_job *job, npt_native_step *step,
                           const npt_native_area *area)
{
    const npt_native_ops *ops = &job->shape.ops;
    const npt_native_packing *packing = &step->packing;
    const int rows = job->shape.resident_rows, wide = 2 * ops->lanes;
    const int64_t panels = npt_parts(job->count, rows);
    const int64_t group = ops->lanes_stay ? even_blocks(panels, STAY_PANELS, 1) : 1;
    const int64_t lane_panels = npt_parts(packing->count, wide);
    const int64_t panel_bytes = (int64_t)rows * ops->depth * ops->row_bytes;
    share_out(ops, step, panels * lane_panels);
    for (int64_t first = 0; first < panels; first += group) {
        const int64_t end = npt_min64(first + group, panels), tiles = (end - first) * lane_panels;
        const void *group_rows = resident_rows(job, first, packing->k0);
        int64_t done = 0;
        for (int64_t lane = 0; lane < packing->count; lane += wide) {
            const int vectors = npt_panel_vectors(ops, lane, packing->count);
            float *sums = area->sums + lane * area->panel_rows;
            for (int64_t p = first; p < end; p++, done++) {
                if (ops->checked && job->panels[p].unfit) continue;
                npt_native_tile tile = {
                    .rows = rows,
                    .vectors = vectors,
                    .row = resident_rows(job, p, packing->k0),
                    .lane = (const char *)packing->dst + lane * ops->lane_step * ops->lane_bytes,
                    .sums = sums + p * rows * vectors * ops->lanes,
                };
                if (ops->lanes_stay)
                    ask_ahead(&tile, ops, group_rows, (end - first) * panel_bytes, done, tiles);
                run_tile(job, &tile, step);
            }
        }
    }
}

static npt_native_area area_of(const npt_native_job *job, int64_t first, int64_t count, float *sums)
{
    const npt_native_shape *shape = &job->shape;
    if (shape->stream_w == shape->lanes_w)
        return (npt_native_area){
            job->first, job->count, first, count, npt_round_up(job->count, shape->resident_rows),
            sums};
    return (npt_native_area){
        first, count, job->first, job->count, npt_round_up(count, shape->stream_rows), sums};
}

/* The steps of a task, in order: all panels (or the one chunk of lanes) of a k block, then the next
 * block. */
typedef struct npt_native_walk {
    int64_t first, end, unit, panels, steps;
    char *buffer[2]; /* packed forms, in turn */
} npt_native_walk;

static void start_step(const npt_native_job *job, const npt_native_walk *walk, int64_t index,
                       npt_native_step *step)
{
    const npt_native_ops *ops = &job->shape.ops;
    const npt_native_operand *src = &job->stream;
    npt_native_packing *packing = &step->packing;
    *packing = (npt_native_packing){.src = src,
                                    .first = walk->first + index % walk->panels * walk->unit,
                                    .count = walk->unit,
                                    .k0 = index / walk->panels * ops->depth,
                                    .block = ops->depth,
                                    .dst = walk->buffer[index % 2]};
    packing->depth = npt_min64(ops->depth, job->desc->k - packing->k0);
    step->in_place = stream_rows(job) && in_place(job, packing->first, walk->unit, packing->depth);
    step->units = units_of(ops, packing, stream_rows(job));
    if (!step->in_place) return;
    step->units = 0;
    packing->dst = (char *)(uintptr_t)src->data + (packing->first * src->depth + packing->k0) *
                                                      (int64_t)npt_dtype_bytes(src->dtype);
}

/* Where tiles pack ahead, those of step `index` pack the panel of the next, and ask for the lines
 * of the one after that; else a panel is packed at its own start, and asked for one step before. */
static void plan_aside(const npt_native_job *job, const npt_native_walk *walk, int64_t index,
                       npt_native_step *step, const npt_native_step *next)
{
    const npt_native_ops *ops = &job->shape.ops;
    const int64_t asked = index + (ops->packs_ahead ? 2 : 1);
    npt_native_aside *aside = &step->aside;
    step->ahead.count = 0;
    if (asked < walk->steps)
        list_lines(&job->stream, walk->first + asked % walk->panels * walk->unit, walk->unit,
                   asked / walk->panels * ops->depth, ops->depth, &step->ahead);
    aside->line = step->ahead.lines;
    aside->line_end = step->ahead.lines + step->ahead.count;
    aside->next = &next->packing;
    aside->pack = stream_rows(job) ? ops->pack_rows : ops->pack_lanes;
    aside->unit = 0;
    aside->unit_end = ops->packs_ahead && index + 1 < walk->steps ? next->units : 0;
}

/* What the last tile made. */
static void add_late(npt_native_aside *aside)
{
    while (aside->late < aside->late_end) *aside->late_sums++ += *aside->late++;
}

static void run_steps(const npt_native_job *job, const npt_native_walk *walk,
                      const npt_native_area *area)
{
    const npt_native_ops *ops = &job->shape.ops;
    const bool as_rows = stream_rows(job);
    _Alignas(64) float places[2 * NPT_NATIVE_PLACE];
    npt_native_step steps[2];
    steps[0].aside = (npt_native_aside){.place = {places, places + NPT_NATIVE_PLACE}};
    start_step(job, walk, 0, &steps[0]);
    for (int64_t i = 0; i < walk->steps; i++) {
        npt_native_step *step = &steps[i % 2], *next = &steps[(i + 1) % 2];
        npt_native_aside *aside = &step->aside;
        if (i == 0 || !ops->packs_ahead) pack_units(ops, &step->packing, as_rows, 0, step->units);
        if (i + 1 < walk->steps) start_step(job, walk, i + 1, next);
        plan_aside(job, walk, i, step, next);
        (as_rows ? multiply_rows : multiply_lanes)(job, step, area);
        pack_units(ops, &next->packing, as_rows, aside->unit, aside->unit_end);
        next->aside = *aside;
    }
    add_late(&steps[walk->steps % 2].aside);
}

static void chunk_task(void *context, int64_t index, int worker)
{
    npt_native_job *job = context;
    const npt_native_shape *shape = &job->shape;
    const npt_native_ops *ops = &shape->ops;
    const int64_t first = index * shape->chunk;
    const int64_t end = npt_min64(first + shape->chunk, shape->streamed);
    const int64_t rows = stream_rows(job) ? shape->stream_rows : ops->lanes;
    int64_t unit = npt_round_up(end - first, rows);
    if (stream_rows(job)) unit = npt_min64(unit, shape->step_rows);
    float *sums = (void *)(job->scratch->worker + (size_t)worker * job->scratch->worker_stride);
    char *const buffers = (char *)(sums + shape->sums_floats);
    const npt_native_area area = area_of(job, first, end - first, sums);
    npt_native_walk walk = {.first = first,
                            .end = end,
                            .unit = unit,
                            .panels = npt_parts(end - first, unit),
                            .buffer = {buffers, buffers + shape->panel_bytes}};
    if (!ops->packs_ahead) walk.buffer[1] = buffers;
    walk.steps = walk.panels * shape->depth_blocks;
    if (ops->begin != NULL) ops->begin();
    run_steps(job, &walk, &area);
    if (ops->end != NULL) ops->end();
    if (ops->checked) npt_matmul_patch(job, &area, buffers + 2 * shape->panel_bytes);
    store_area(job, &area);
}

/* ---- Entry ---------------------------------------------------------------------------------- */

npt_native_operand npt_native_operand_a(const npt_matmul_desc *desc, const npt_matmul_args *args)
{
    return (npt_native_operand){.data = args->a,
                                .dtype = desc->a,
                                .count = desc->m,
                                .depth = desc->k,
                                .k_inside = !desc->trans_a};
}

npt_native_operand npt_native_operand_w(const npt_matmul_desc *desc, const npt_matmul_args *args)
{
    return (npt_native_operand){.data = args->w,
                                .dtype = desc->w,
                                .absmax = args->absmax,
                                .levels = args->levels,
                                .count = desc->n,
                                .depth = desc->k,
                                .k_inside = desc->trans_w};
}

/* Bytes that a resident element takes once packed. */
static int resident_bytes(const npt_native_shape *shape)
{
    return shape->stream_w == shape->lanes_w ? shape->ops.row_bytes : shape->ops.lane_bytes;
}

bool npt_matmul_blocked_takes_two(const npt_matmul_desc *desc, const npt_native_ops *ops)
{
    const npt_native_shape shape = shape_of(desc, ops, true, 1);
    return shape.stream_w && shape.resident <= NPT_RESIDENT_MAX;
}

void npt_matmul_blocked_plan(const npt_matmul_desc *desc, const npt_native_ops *ops, bool two,
                             int workers, size_t *worker_bytes, size_t *shared_bytes)
{
    const npt_native_shape shape = shape_of(desc, ops, two, workers);
    const int64_t k = npt_round_up(desc->k, ops->depth);
    const int64_t vectors = shape.block + 2 * NPT_NATIVE_MAX_LANES; /* panels may stick out */
    *worker_bytes = shape.sums_floats * sizeof(float) + shape.panel_bytes;
    if (ops->packs_ahead) *worker_bytes += shape.panel_bytes;
    if (ops->checked) *worker_bytes += npt_matmul_patch_bytes();
    *shared_bytes = (size_t)(vectors * k * resident_bytes(&shape));
}

void npt_matmul_blocked_run(const npt_matmul_desc *desc, const npt_matmul_args *args, bool two,
                            const npt_matmul_scratch *scratch, const npt_native_ops *ops)
{
    npt_native_job job = {.desc = desc, .args = args, .scratch = scratch};
    const npt_native_operand a = npt_native_operand_a(desc, args);
    const npt_native_operand w = npt_native_operand_w(desc, args);
    job.shape = shape_of(desc, ops, two, npt_threads_count(scratch->threads));
    const bool as_lanes = job.shape.stream_w == job.shape.lanes_w;
    const int64_t unit = as_lanes ? job.shape.resident_rows : 2 * ops->lanes;
    job.stream = job.shape.stream_w ? w : a;
    job.rest[0] = job.shape.stream_w ? a : w;
    if (two) job.rest[1] = npt_native_operand_a(desc, &args[1]);
    job.packed = scratch->shared;
    if (ops->checked) npt_matmul_native_ops(scratch->cpu, &job.fma);
    for (; job.first < job.shape.resident; job.first += job.shape.block) {
        job.count = npt_min64(job.shape.block, job.shape.resident - job.first);
        npt_threads_run(scratch->threads, pack_resident_task, &job, npt_parts(job.count, unit));
        npt_threads_run(scratch->threads, chunk_task, &job,
                        npt_parts(job.shape.streamed, job.shape.chunk));
    }
}
