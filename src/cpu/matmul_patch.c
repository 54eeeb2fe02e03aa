/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "cpu/matmul_blocked.h"

/* Where a product of pieces would not be what F32 gives, FMA makes it again, a panel of A against a
 * panel of W at a time.
 *
 * The tiles flush what is below 2^-126. For F32 activations x, with K terms to a sum:
 *   a piece of some x is lost only where 0 < |x| < 2^-103: such a panel goes to FMA at once;
 *   a piece of some w lost, or a product, or a sum on its way, costs at most
 *   K·(max|x| + 8)·2^-125 in all, which is below 2^-25 of every sum that is not below `least`.
 * Smaller sums go to FMA, zeros too, unless all of their x is zero: those are 0 or NaN. What is
 * infinite or NaN, or becomes infinite by rounding to bf16 (from 0x7f7f8000 on), makes all sums it
 * enters infinite or NaN: so do those, whatever the dtypes. So W needs no survey. F16 in pieces
 * loses nothing. Every sum is one chain of FMA in k order, however it is cut: the bits are those of
 * the FMA route.
 */

enum { PATCH_ROWS = NPT_NATIVE_AVX512_ROWS, PATCH_LANES = 2 * NPT_NATIVE_AVX512_LANES };

typedef struct npt_patch_buffers {
    float rows[PATCH_ROWS * NPT_NATIVE_DEPTH];
    float lanes[PATCH_LANES * NPT_NATIVE_DEPTH];
} npt_patch_buffers;

/* A part of an area, counted from its corner; the area's own limits end it. */
typedef struct npt_native_part {
    int64_t row, rows, lane, lanes;
} npt_native_part;

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

static int64_t panel_width(const npt_native_job *job)
{
    return job->shape.lanes_w ? job->shape.resident_rows : 2 * job->shape.ops.lanes;
}

npt_native_panel npt_matmul_survey_panel(const npt_native_job *job, int64_t index)
{
    const uint32_t piece_lost = (127u - 103u) << 23; /* bits of 2^-103 */
    const uint32_t rounds_up = 0x7f7f8000u;          /* to infinity, as bf16 */
    const int64_t width = panel_width(job);
    int64_t first = job->first + index * width;
    const npt_native_operand *src = npt_native_resident(job, &first);
    npt_native_panel panel = {0};
    if (src->dtype != NPT_F32) return panel;
    for (int64_t i = 0; i < width && first + i < src->count; i++) {
        const npt_native_range range = job->shape.ops.range(src, first + i);
        const float least = (float)job->desc->k * 0x1p-100f * (float_of(range.largest) + 8);
        if (range.smallest < piece_lost || range.largest >= rounds_up) panel.unfit = true;
        if (range.largest > 0) panel.least[i] = least > 0x1p-86f ? least : 0x1p-86f;
    }
    return panel;
}

/* ---- Again, by FMA -------------------------------------------------------------------------- */

size_t npt_matmul_patch_bytes(void)
{
    return sizeof(npt_patch_buffers);
}

/* One lane panel's share of a part, over all of k. */
static void patch_lanes(const npt_native_job *job, const npt_native_area *area,
                        const npt_native_part *part, int64_t lane, npt_patch_buffers *buffers)
{
    const npt_native_ops *fma = &job->fma;
    int64_t row_first = area->row_first + part->row, lane_first = area->lane_first + lane;
    const npt_native_operand *rows =
        job->shape.lanes_w ? npt_native_resident(job, &row_first) : &job->stream;
    const npt_native_operand *lanes =
        job->shape.lanes_w ? &job->stream : npt_native_resident(job, &lane_first);
    const int vectors = npt_panel_vectors(fma, lane, area->lanes), width = vectors * fma->lanes;
    float *sums = area->sums + lane * area->panel_rows;
    for (int64_t k0 = 0; k0 < job->desc->k; k0 += NPT_NATIVE_DEPTH) {
        const int64_t depth = npt_min64(NPT_NATIVE_DEPTH, job->desc->k - k0);
        const npt_native_packing lane_packing = {.src = lanes,
                                                 .first = lane_first,
                                                 .count = width,
                                                 .k0 = k0,
                                                 .depth = depth,
                                                 .dst = buffers->lanes};
        fma->pack_lanes(&lane_packing, 0, 0);
        for (int64_t r = part->row; r < part->row + part->rows; r += PATCH_ROWS) {
            const int some = (int)npt_min64(PATCH_ROWS, part->row + part->rows - r);
            const npt_native_tile tile = {.rows = some + some % 2,
                                          .vectors = vectors,
                                          .depth = depth,
                                          .row = buffers->rows,
                                          .lane = buffers->lanes,
                                          .sums = sums + r * width,
                                          .add = k0 > 0};
            npt_native_packing row_packing = lane_packing;
            row_packing.src = rows;
            row_packing.first = row_first + r - part->row;
            row_packing.count = tile.rows;
            row_packing.dst = buffers->rows;
            fma->pack_rows(&row_packing, 0, 0);
            fma->tile(&tile);
        }
    }
}

static bool is_fit(const npt_native_job *job, const npt_native_area *area,
                   const npt_native_part *part, const npt_native_panel *panel)
{
    const int wide = 2 * job->shape.ops.lanes;
    for (int64_t lane = part->lane; lane < part->lane + part->lanes; lane += wide) {
        const int64_t left = part->lane + part->lanes - lane;
        const int width =
            npt_panel_vectors(&job->shape.ops, lane, area->lanes) * job->shape.ops.lanes;
        const float *sums = area->sums + lane * area->panel_rows;
        const npt_native_check check = {.sums = sums + part->row * width,
                                        .width = width,
                                        .rows = part->rows,
                                        .lanes = left >= 32 ? UINT32_MAX : (1u << left) - 1,
                                        .least = panel->least,
                                        .by_lane = !job->shape.lanes_w};
        if (!job->shape.ops.fit(&check)) return false;
    }
    return true;
}

/* The panel of A at `at`, `some` wide: its products with one panel of W after the other. */
static int64_t patch_panel(const npt_native_job *job, const npt_native_area *area, int64_t at,
                           const npt_native_panel *panel, npt_patch_buffers *buffers)
{
    const npt_native_shape *shape = &job->shape;
    const bool rows_a = shape->lanes_w;
    const int wide = 2 * job->fma.lanes;
    int64_t first = job->first + at;
    const npt_native_operand *a = npt_native_resident(job, &first);
    const int64_t some = npt_min64(panel_width(job), npt_min64(job->count - at, a->count - first));
    const int64_t size = rows_a ? wide : shape->stream_rows,
                  end = rows_a ? area->lanes : area->rows;
    int64_t again = 0;
    for (int64_t w = 0; w < end; w += size) {
        const int64_t left = npt_min64(size, end - w);
        const npt_native_part part =
            rows_a ? (npt_native_part){at, some, w, left} : (npt_native_part){w, left, at, some};
        if (!panel->unfit && is_fit(job, area, &part, panel)) continue;
        again++;
        for (int64_t lane = part.lane; lane < part.lane + part.lanes; lane += wide)
            patch_lanes(job, area, &part, lane, buffers);
    }
    return again;
}

void npt_matmul_patch(const npt_native_job *job, const npt_native_area *area, void *buffers)
{
    const npt_native_shape *shape = &job->shape;
    const int64_t ends = shape->lanes_w ? area->lanes : area->rows,
                  size = shape->lanes_w ? 2 * job->fma.lanes : shape->stream_rows;
    int64_t panels = 0, again = 0;
    for (int64_t at = 0; at < job->count; at += panel_width(job), panels++)
        again += patch_panel(job, area, at, &job->panels[panels], buffers);
    if (job->scratch->counts == NULL) return;
    panels *= npt_parts(ends, size);
    __atomic_fetch_add(&job->scratch->counts->panels, panels, __ATOMIC_RELAXED);
    __atomic_fetch_add(&job->scratch->counts->by_fma, again, __ATOMIC_RELAXED);
}
