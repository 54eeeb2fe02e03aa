/* SPDX-License-Identifier: BSD-2-Clause */
/* One batch under observation: what every site held, how far it was from an F32 shadow of the same
 * batch, and which site began what went wrong. */
#ifndef NPT_DOCTOR_PROBE_H
#define NPT_DOCTOR_PROBE_H

#include "train/trainer.h"

/* What is wrong at a site. */
typedef enum npt_finding {
    NPT_FINDING_NONE,
    NPT_FINDING_OVERFLOW,  /* infinite values */
    NPT_FINDING_NAN,       /* values that are not numbers, and none infinite */
    NPT_FINDING_UNDERFLOW, /* most of it is lost to zero */
    NPT_FINDING_PRECISION  /* the greater part of it is error */
} npt_finding;

/* One result of the run; rows are in the order of execution. A number that does not exist is NAN.
 */
typedef struct npt_probe_row {
    npt_site_id site;
    int layer;
    npt_direction direction;
    bool student;
    int part; /* the n-th result of that site in that layer, from 0: rope has q, then k */
    npt_dtype dtype;
    int64_t elements;
    npt_survey survey;
    double largest;  /* magnitude */
    double rms;      /* of the finite values */
    double headroom; /* bits from the largest magnitude up to the largest the dtype has */
    double footroom; /* bits from the rms down to the smallest normal number of the dtype */
    double flushed;  /* share that is zero here and is not in the shadow (or before the cast) */
    double error;    /* distance from the shadow, relative, L2, over a sample */
    double growth;   /* error / largest error of what the site read; 1 or less: only passed on */
    double shadow_largest;
    float sample[8]; /* evenly spaced elements, for npt doctor diff */
    npt_finding finding;
    bool harmless; /* whatever it is, nothing that counts is worse for it */
    bool culprit;  /* the site itself, not what it read, is the cause */
} npt_probe_row;

/* Of all parameters of a name: shares of the weights that an update would move. */
typedef struct npt_probe_update {
    const char *parameter;
    int64_t moved; /* weights whose update is not zero */
    double lost_without_master, lost_with_master;
} npt_probe_update;

/* How the backward pass fares at a loss scale, from what the shadow held. */
typedef struct npt_probe_scale {
    double scale;
    double flushed;  /* share of the values of all half-precision gradients that are lost to zero */
    double headroom; /* bits, the least of all sites; negative: overflow */
} npt_probe_scale;

enum { NPT_PROBE_SCALES = 3 };

typedef struct npt_probe {
    const npt_trainer *trainer;
    int64_t tokens, sequences;
    double loss_scale;
    double loss; /* of the batch; not finite where the forward is not */
    npt_probe_row *rows;
    size_t count, capacity;
    npt_probe_update updates[NPT_ADAPTER_MAX_PARAMETERS];
    int update_count;
    double update_rate;                       /* learning rate the updates were made with */
    npt_probe_scale scales[NPT_PROBE_SCALES]; /* this one, a fourth, a sixteenth */
    int scale_count;                          /* 0: no half-precision gradient */
    double settles_at; /* the largest power of two that does not overflow; NAN: no scale, or none */
    const npt_probe_row *first; /* the first culprit; NULL */
    char breach[512];           /* the first unplanned cast, in words; "" where there was none */
    npt_verdict verdict;
    uint64_t digest;
} npt_probe;

/* ---- observe.c: rows from two runs ---- */

/* Samples of every result of the shadow, by site. */
typedef struct npt_shadow npt_shadow;

npt_shadow *npt_shadow_create(int layers);
void npt_shadow_destroy(npt_shadow *shadow);
/* The observer that fills the shadow; valid as long as it. */
npt_observer *npt_shadow_observer(npt_shadow *shadow);
/* Appends a row for every result it sees, compared with `shadow`. */
typedef struct npt_row_observer {
    npt_observer observer;
    npt_probe *probe;
    npt_shadow *shadow;
    int *parts; /* results seen so far, by site */
    int layers;
} npt_row_observer;
npt_status npt_row_observer_init(npt_row_observer *observer, npt_probe *probe, npt_shadow *shadow);
void npt_row_observer_fini(npt_row_observer *observer);
/* Share of the non-zero values of the half-precision gradients that × factor would lose to zero. */
double npt_shadow_flushed(const npt_shadow *shadow, const npt_probe *probe, double factor);

/* ---- findings.c: from rows to causes ---- */

/* Sets growth, finding and culprit of every row, then first and verdict. */
void npt_probe_judge(npt_probe *probe);
const char *npt_finding_name(npt_finding finding);
/* "L03.rope", "teacher L03.q", "L03.operand.backward#2"; returns `text`. */
char *npt_probe_label(const npt_probe_row *row, char *text, size_t bytes);
/* Where what went wrong began: a site's label, "update" where updates are lost, "" where nothing
 * did; returns `text`. */
char *npt_probe_culprit(const npt_probe *probe, char *text, size_t bytes);
/* A loss scale as people write it: 65536, 2^24. */
const char *npt_scale_text(double scale, char text[16]);
/* One sentence: what a person should do about the probe; "" where nothing is to be done. */
void npt_probe_advice(const npt_probe *probe, char *text, size_t bytes);

/* ---- probe_text.c, probe_json.c ---- */

/* `shown`: [layers], rows of which blocks; NULL: all. */
void npt_probe_print(const npt_probe *probe, const npt_doctor_options *options, const bool *shown,
                     FILE *out);
/* One object, schema in doc/precision.md. */
npt_status npt_probe_print_json(const npt_probe *probe, FILE *out);

#endif
