/* SPDX-License-Identifier: BSD-2-Clause */
/* What a site reads: the sequence of block.c and adapter_lowrank.c as data, for those who ask
 * whether what is seen at a site comes from what went in. */
#ifndef NPT_DOCTOR_FLOW_H
#define NPT_DOCTOR_FLOW_H

#include "tensor/sites.h"

enum { NPT_FLOW_MAX = 8 };

typedef struct npt_flow_source {
    npt_site_id site;
    int layer; /* -1: of no block */
    npt_direction direction;
    bool may_be_shared; /* a student that has no such result read the teacher's */
} npt_flow_source;

/* Fills `sources` with the results that a site of this layer read, of the same model; returns how
 * many. A source may not exist in a run: that depends on modulation, distillation and family. */
int npt_flow_sources(npt_site_id site, int layer, npt_direction direction,
                     npt_flow_source sources[NPT_FLOW_MAX]);

#endif
