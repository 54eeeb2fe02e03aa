/* SPDX-License-Identifier: BSD-2-Clause */
/* What npt doctor plan finds out, before it is printed in one of two forms. */
#ifndef NPT_DOCTOR_PLAN_H
#define NPT_DOCTOR_PLAN_H

#include "doctor/audit.h"
#include "doctor/casts.h"
#include "doctor/would.h"
#include "train/setup.h"

/* Bytes by category. */
typedef struct npt_plan_memory {
    uint64_t mapped; /* the weights in their files */
    uint64_t copies; /* of weights that cannot be used in place */
    uint64_t adapters, masters, moments, gradients;
    uint64_t activations; /* at most, of one micro-batch */
    uint64_t resident;    /* all but what is mapped */
} npt_plan_memory;

typedef struct npt_plan {
    npt_train_options options;
    npt_setup setup; /* policy and headers; no threads, no tokenizer */
    npt_arena *arena;
    npt_adapters adapters; /* without values */
    npt_sites *teacher, *student;
    npt_audit audit;
    npt_casts casts;
    npt_plan_memory memory;
    const npt_would **would;
    size_t would_count;
    npt_remarks remarks;
    npt_verdict verdict;
} npt_plan;

/* For a person: 100 columns; `all`: every layer. */
void npt_plan_print(const npt_plan *plan, bool all, FILE *out);
/* One JSON object, schema npt-doctor-plan/1 (doc/precision.md). NPT_E_NOMEM. */
npt_status npt_plan_dump(const npt_plan *plan, FILE *out);

/* Words that both forms use. */
const char *npt_plan_verdict_name(npt_verdict verdict);       /* "would_fail" */
const char *npt_plan_role_text(npt_role role);                /* "frozen linears, as held" */
const char *npt_plan_cast_text(npt_site_id site);             /* why there is a cast */
const char *npt_plan_direction(npt_dtype from, npt_dtype to); /* none, down, up, cross */
const char *npt_plan_action_name(const npt_audit_group *group);

#endif
