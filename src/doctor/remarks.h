/* SPDX-License-Identifier: BSD-2-Clause */
/* What a plan warns of, in the order in which it was found. */
#ifndef NPT_DOCTOR_REMARKS_H
#define NPT_DOCTOR_REMARKS_H

#include "tensor/sites.h"

typedef struct npt_remark {
    npt_verdict verdict;
    const char *kind; /* "config-dtype": one word, stable */
    npt_site_id site;
    const char *group;  /* of tensors; "" where it is about none */
    const char *tensor; /* the first, or the worst; "" */
    char *text;         /* a sentence without its full stop */
} npt_remark;

typedef struct npt_remarks {
    npt_remark *list;
    size_t count;
} npt_remarks;

/* Takes over `text` (a heap string; NULL: memory was short). Every other string is borrowed. */
npt_status npt_remarks_add(npt_remarks *remarks, npt_remark remark);
void npt_remarks_fini(npt_remarks *remarks);
/* The gravest. */
npt_verdict npt_remarks_verdict(const npt_remarks *remarks);

#endif
