/* SPDX-License-Identifier: BSD-2-Clause */
/* The plans of teacher and student as one short table: equal casts of several layers are a row. */
#ifndef NPT_DOCTOR_CASTS_H
#define NPT_DOCTOR_CASTS_H

#include "tensor/sites.h"

typedef struct npt_cast_row {
    npt_site_id site;
    npt_dtype from, to;
    int64_t per_token;         /* roundings, in one direction */
    unsigned teacher, student; /* who does it: one bit (1 << npt_direction) a direction */
    bool model;                /* outside the blocks; then no layer is set */
    bool *layers;              /* [layers] */
} npt_cast_row;

typedef struct npt_casts {
    npt_cast_row *rows;
    size_t count;
    int layers;
} npt_casts;

/* The teacher goes forward only. Rows are in the order of the sites. NPT_E_NOMEM. */
npt_status npt_casts_fold(npt_casts *casts, const npt_sites *teacher, const npt_sites *student,
                          int layers);
void npt_casts_fini(npt_casts *casts);

#endif
