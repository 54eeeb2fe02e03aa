/* SPDX-License-Identifier: BSD-2-Clause */
/* What the same precision choice does elsewhere: in PyTorch eager and autocast, under a gradient
 * scaler, in AdamW on half weights, in bitsandbytes and PEFT. Facts seen there, not predictions:
 * each is an entry of tests/golden/would.json, which tests/golden/make_would.py makes by doing it.
 */
#ifndef NPT_DOCTOR_WOULD_H
#define NPT_DOCTOR_WOULD_H

#include "tensor/policy.h"
#include "tensor/sites.h"

typedef struct npt_would {
    const char *id;        /* of the entry: "scaler.unscale.f16" */
    const char *where;     /* the tool, and what about the choice: "PyTorch GradScaler, …" */
    const char *exception; /* its type; "" where nothing is raised */
    const char *text;      /* the literal text; where nothing is raised, what was seen */
    const char *seen;      /* "PyTorch 2.15.0 (CPU)": other devices may say it otherwise */
    const char *instead;   /* what npt does, one clause */
    npt_site_id site;      /* npt's name of the place; NPT_SITE_COUNT: none */
    npt_verdict severity_there;
} npt_would;

/* The rows that apply to this policy and these options, in the order in which a run meets them.
 * At most `room` are written; returns how many there are. Cannot fail, takes any threads. */
size_t npt_would_list(const npt_policy *policy, const npt_train_options *options,
                      const npt_would **rows, size_t room);

/* Every row, for tests and for a list of all: NULL beyond the last. */
const npt_would *npt_would_at(size_t index);

#endif
