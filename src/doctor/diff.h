/* SPDX-License-Identifier: BSD-2-Clause */
/* Two probes of the same batch beside each other, and how much they may differ.
 *
 * A result may differ by what rounding explains. Its tolerance is relative (to the rms) and is
 *
 *     own²  = Σ over both probes: n·u² + (η / rms)² + product·(2·w² + k·u32²)
 *     chain = √(own² + in²)
 *     in = the largest chain of what it read; of a sum √Σ(chain·share)², shares by rms
 *     tolerance = max(chain, min(error_A + error_B, 4·chain))
 *
 * with u the unit roundoff of the dtype (F16 2^-11, BF16 2^-8, F32 2^-24), n the roundings of an
 * element at the site, η half of the smallest number of the dtype (what a gradient loses that
 * falls among the subnormals), w the unit roundoff of a matmul's operands (twice: activation and
 * weight), k the length of its sums. So the chain grows with the root of the number of roundings
 * along the longest path, as a random walk does. The gradient of the distance begins with s − t,
 * whose relative error is that of s and of t × κ = |s| / |s − t|; κ is measured on the samples:
 *
 *     own²(residual.backward) += κ²·(chain²(student's residual) + chain²(teacher's))
 *
 * The errors that both probes measured against their shadows explain more than that where a model
 * amplifies rounding, but no more than four times: a fault must not be excused by its own error.
 * Rms differ by at most the tolerance (they average over all elements), the extremes by four times
 * that and single elements by eight times (single values in the tail), each at most by a half. The
 * share flushed to zero may differ by eight times the tolerance (of values that near to the
 * threshold), where dtype and loss scale are the same. Counts of values that are not finite must be
 * equal. Gradients are compared without their loss scale. */
#ifndef NPT_DOCTOR_DIFF_H
#define NPT_DOCTOR_DIFF_H

#include <jansson.h>

#include "doctor/probe.h"

/* ---- diff_read.c: a probe from its file ---- */

typedef struct npt_diff_update {
    const char *parameter;
    double lost; /* share of the updates of the run that are lost */
} npt_diff_update;

/* Strings are borrowed from `root`. */
typedef struct npt_diff_side {
    const char *path;
    json_t *root;
    const char *version, *model, *policy, *digest, *cpu, *cpu_level;
    char backends[128]; /* "native, reference" */
    int threads, layers;
    int64_t tokens, sequences;
    double loss, loss_scale; /* loss: NAN where it is not finite */
    npt_probe_row *rows;     /* in the order of execution; what the file does not have is zero */
    size_t count;
    npt_diff_update updates[NPT_ADAPTER_MAX_PARAMETERS];
    int update_count;
    npt_dtype operand; /* what matmul operands are cast to; NONE: they are not */
    bool nf4;
} npt_diff_side;

/* NPT_E_FORMAT with file, place and key where it is not a probe of this schema. */
npt_status npt_diff_side_open(npt_diff_side *side, const char *path);
void npt_diff_side_close(npt_diff_side *side);

/* ---- diff.c: what differs ---- */

typedef enum npt_diff_measure {
    NPT_DIFF_NONFINITE,
    NPT_DIFF_RMS,
    NPT_DIFF_MIN,
    NPT_DIFF_MAX,
    NPT_DIFF_SAMPLE,
    NPT_DIFF_FLUSHED,
    NPT_DIFF_MEASURE_COUNT
} npt_diff_measure;

typedef enum npt_diff_kind {
    NPT_DIFF_SAME,    /* within its tolerance, or not compared */
    NPT_DIFF_FIRST,   /* the first that is not */
    NPT_DIFF_FOLLOWS, /* what it read differs, too */
    NPT_DIFF_ALSO     /* nothing that it read explains that */
} npt_diff_kind;

/* One result. `a` or `b` is NULL where one probe has none; then only its finiteness is judged. */
typedef struct npt_diff_row {
    const npt_probe_row *a, *b;
    double chain;             /* as above */
    npt_diff_measure measure; /* the one that is worst, measured in its limit */
    double distance, limit, ratio;
    int element; /* of the sample, where the measure is SAMPLE */
    npt_diff_kind kind;
} npt_diff_row;

typedef struct npt_diff {
    npt_diff_side side[2];
    npt_diff_row *rows; /* in the order of execution */
    size_t count, compared;
    const npt_diff_row *first;   /* NULL: no site differs */
    const npt_diff_row *largest; /* ratio, of the rows of both; NULL: there is none */
    int update[2];               /* index in `updates` of the first parameter whose updates one run
                                    loses and the other does not; -1 */
    bool one_is_not_finite;
    npt_verdict verdict;
} npt_diff;

/* Of the sides, which are open. NPT_E_USAGE where they are not of the same batch and model. */
npt_status npt_diff_run(npt_diff *diff);
void npt_diff_fini(npt_diff *diff);
/* The row of either side, A's where there are both. */
const npt_probe_row *npt_diff_either(const npt_diff_row *row);
/* "nonfinite", "rms", … */
const char *npt_diff_measure_name(npt_diff_measure measure);

/* ---- diff_text.c, diff_json.c ---- */

void npt_diff_print(const npt_diff *diff, bool all, FILE *out);
/* One object, schema in doc/precision.md. */
npt_status npt_diff_print_json(const npt_diff *diff, bool all, FILE *out);

#endif
