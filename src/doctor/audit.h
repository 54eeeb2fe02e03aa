/* SPDX-License-Identifier: BSD-2-Clause */
/* A checkpoint's headers, group by group, against config.json, against its quantization record and
 * against the plan; on demand its values against the planned dtypes. */
#ifndef NPT_DOCTOR_AUDIT_H
#define NPT_DOCTOR_AUDIT_H

#include "doctor/remarks.h"
#include "model/model.h"
#include "model/tensors.h"

/* Why a tensor cannot be loaded. */
typedef enum npt_audit_fault {
    NPT_AUDIT_NONE,
    NPT_AUDIT_MISSING,
    NPT_AUDIT_INTEGER, /* and no quantization record says what it means */
    NPT_AUDIT_DTYPE,   /* nothing npt computes with */
    NPT_AUDIT_SHAPE,
    NPT_AUDIT_PIECES,    /* of a 4-bit linear: one is missing, or of another size */
    NPT_AUDIT_UNALIGNED, /* which quantizing on load needs */
    NPT_AUDIT_FAULT_COUNT
} npt_audit_fault;

/* What the values of a group would become (--scan). */
typedef struct npt_audit_scan {
    uint64_t values, overflowed, flushed;
    uint64_t nonfinite; /* in the file already */
    float largest;      /* magnitude */
    const char *worst;  /* tensor with most values that overflow or are not finite; "" */
    uint64_t worst_count;
} npt_audit_scan;

/* Tensors that are alike: part of the model, dtype in the file, and what loading does with them. */
typedef struct npt_audit_group {
    const char *name; /* "q/k/v/o" */
    char *first;      /* name of the first tensor */
    int64_t tensors, elements;
    uint64_t bytes;    /* in the files */
    uint64_t copied;   /* bytes that loading allocates */
    npt_dtype file;    /* NONE: not there */
    npt_dtype config;  /* by config.json; NONE: it does not say */
    npt_dtype record;  /* by the quantization record; NONE: none, or not its business */
    npt_dtype planned; /* as used; NONE: npt does not read it */
    npt_tensor_kind kind;
    npt_load_action action;
    npt_audit_fault fault;
    bool used;       /* npt reads it … */
    bool evaluation; /* … but training does not */
    bool mismatch;   /* the file does not have what config.json or the record says */
    npt_audit_scan scan;
} npt_audit_group;

typedef struct npt_audit {
    npt_audit_group *groups;
    size_t count;
    uint64_t mapped, copied; /* bytes: in the files; allocated by loading for training */
    size_t tensors;
    bool scanned;
} npt_audit;

/* `exec` NULL: headers only, no weight is touched; else every float weight that training reads is
 * scanned. What is wrong is added to `remarks`. NPT_E_NOMEM; NPT_E_IO where a file shrinks. */
npt_status npt_audit_run(npt_audit *audit, const npt_model *model, const npt_policy *policy,
                         npt_exec *exec, npt_remarks *remarks);
void npt_audit_fini(npt_audit *audit);

/* Adds what becoming `to` does to the values of a tensor (scan.c). */
npt_status npt_audit_scan_tensor(npt_exec *exec, const npt_st_tensor *tensor, npt_dtype to,
                                 npt_audit_scan *scan);

#endif
