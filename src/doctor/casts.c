/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "doctor/casts.h"

#include <string.h>

#include "base/memory.h"

/* Twice the same idea: first cells of one direction that differ only in their layer become a row,
 * then rows of one site that differ only in who does it and in which direction. */

static bool is_same_cast(const npt_site_plan *a, const npt_site_plan *b)
{
    return a->from == b->from && a->to == b->to && a->per_token == b->per_token;
}

static npt_status add_row(npt_casts *casts, const npt_cast_row *row, npt_cast_row **added)
{
    npt_cast_row *rows = npt_realloc(casts->rows, casts->count + 1, sizeof *rows);
    if (rows == NULL) return NPT_E_NOMEM;
    casts->rows = rows;
    bool *layers = npt_alloc((size_t)casts->layers, sizeof *layers);
    if (layers == NULL) return NPT_E_NOMEM;
    *added = &rows[casts->count++];
    **added = *row;
    (*added)->layers = layers;
    return NPT_OK;
}

/* A cell joins the row of its like among those from `first` on. */
static npt_status add_cell(npt_casts *casts, size_t first, const npt_cast_row *cell, int layer)
{
    npt_cast_row *row = NULL;
    for (size_t i = first; i < casts->count && row == NULL; i++) {
        npt_cast_row *r = &casts->rows[i];
        if (r->from == cell->from && r->to == cell->to && r->per_token == cell->per_token &&
            r->teacher == cell->teacher && r->student == cell->student && r->model == (layer < 0))
            row = r;
    }
    if (row == NULL) NPT_TRY(add_row(casts, cell, &row));
    if (layer >= 0) row->layers[layer] = true;
    return NPT_OK;
}

static npt_status add_plan(npt_casts *casts, size_t first, npt_cast_row cell, npt_site_plan plan,
                           int layer)
{
    if (plan.to == NPT_DTYPE_NONE) return NPT_OK;
    cell.from = plan.from;
    cell.to = plan.to;
    cell.per_token = plan.per_token;
    cell.model = layer < 0;
    return add_cell(casts, first, &cell, layer);
}

static npt_status fold_direction(npt_casts *casts, const npt_sites *teacher,
                                 const npt_sites *student, npt_site_id site,
                                 npt_direction direction)
{
    const size_t first = casts->count;
    const unsigned bit = 1u << direction;
    for (int layer = -1; layer < casts->layers; layer++) {
        npt_site_plan t = {NPT_DTYPE_NONE, NPT_DTYPE_NONE, 0},
                      s = npt_sites_planned(student, site, layer, direction);
        if (direction == NPT_FORWARD) t = npt_sites_planned(teacher, site, layer, direction);
        if (is_same_cast(&t, &s)) {
            const npt_cast_row both = {.site = site, .teacher = bit, .student = bit};
            NPT_TRY(add_plan(casts, first, both, s, layer));
        } else {
            const npt_cast_row ts = {.site = site, .teacher = bit},
                               ss = {.site = site, .student = bit};
            NPT_TRY(add_plan(casts, first, ts, t, layer));
            NPT_TRY(add_plan(casts, first, ss, s, layer));
        }
    }
    return NPT_OK;
}

/* Rows from `first` on are of one site. */
static void merge_rows(npt_casts *casts, size_t first)
{
    for (size_t i = first; i < casts->count; i++)
        for (size_t k = i + 1; k < casts->count;) {
            npt_cast_row *a = &casts->rows[i], *b = &casts->rows[k];
            if (a->from != b->from || a->to != b->to || a->per_token != b->per_token ||
                a->model != b->model ||
                memcmp(a->layers, b->layers, (size_t)casts->layers * sizeof *a->layers) != 0) {
                k++;
                continue;
            }
            a->teacher |= b->teacher;
            a->student |= b->student;
            npt_free(b->layers);
            memmove(b, b + 1, (casts->count - k - 1) * sizeof *b);
            casts->count--;
        }
}

npt_status npt_casts_fold(npt_casts *casts, const npt_sites *teacher, const npt_sites *student,
                          int layers)
{
    *casts = (npt_casts){.layers = layers};
    npt_status status = NPT_OK;
    for (int site = 0; site < NPT_SITE_COUNT && status == NPT_OK; site++) {
        const size_t first = casts->count;
        for (int d = 0; d < NPT_DIRECTION_COUNT && status == NPT_OK; d++)
            status = fold_direction(casts, teacher, student, (npt_site_id)site, (npt_direction)d);
        merge_rows(casts, first);
    }
    if (status != NPT_OK) npt_casts_fini(casts);
    return status;
}

void npt_casts_fini(npt_casts *casts)
{
    for (size_t i = 0; i < casts->count; i++) npt_free(casts->rows[i].layers);
    npt_free(casts->rows);
    *casts = (npt_casts){0};
}
