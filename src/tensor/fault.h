/* SPDX-License-Identifier: BSD-2-Clause */
/* Faults injected on purpose, so that tests can prove that the doctor finds them and --strict stops
 * at them. A run takes one from the environment, NPT_DEBUG_FAULT, and says so. */
#ifndef NPT_TENSOR_FAULT_H
#define NPT_TENSOR_FAULT_H

#include "tensor/sites.h"

typedef enum npt_fault_kind {
    NPT_FAULT_NONE,
    NPT_FAULT_OVERFLOW,  /* a result × a power of two, so that its largest value overflows */
    NPT_FAULT_UNDERFLOW, /* a result × a power of two, so that all of it is flushed to zero */
    NPT_FAULT_NAN,       /* one NaN in a result */
    NPT_FAULT_CAST,      /* a value arrives at a site in another dtype than planned */
    NPT_FAULT_NO_MASTER  /* updates are made on the rounded adapter, as without a master */
} npt_fault_kind;

typedef struct npt_fault {
    npt_fault_kind kind;
    npt_site_id site;
    int layer; /* -1: of no block */
    npt_direction direction;
    bool teacher;    /* the teacher's result; else the student's, or one that both share */
    npt_dtype dtype; /* CAST: what arrives */
    int64_t step;    /* counted from 1; 0: every step */
} npt_fault;

/* "overflow:L02.gate_mod", "underflow:L00.z.backward@3", "nan:teacher.embed", "cast:L01.q=F16",
 * "no_master", "nan-batch@2" (a NaN in the embedded batch). NPT_E_USAGE. */
npt_status npt_fault_parse(const char *text, npt_fault *fault);
/* NPT_DEBUG_FAULT, which is announced as a warning; kind NONE where it is not set. */
npt_status npt_fault_from_environment(npt_fault *fault);

#endif
