/* SPDX-License-Identifier: BSD-2-Clause */
/* npt doctor explain: what a pasted text is about. Three parts: the text made comparable
 * (explain_text.c, explain_denied.c), rules that recognise kinds of failure in it
 * (explain_errors.c, explain_symptoms.c), and what is to be said about each kind
 * (explain_table.c). explain.c puts them together. */
#ifndef NPT_DOCTOR_EXPLAIN_H
#define NPT_DOCTOR_EXPLAIN_H

#include "base/status.h"

/* ---- The text ---- */

enum { NPT_EXPLAIN_HEAD_BYTES = 64 * 1024, NPT_EXPLAIN_TAIL_BYTES = 1024 * 1024 };

/* Stands in `asserted` for every byte of a failure that the text denies; in no other form. */
enum { NPT_EXPLAIN_STRUCK = 1 };

/* People describe before or after a log, not in it: descriptions are looked for in these. */
enum { NPT_EXPLAIN_PROSE_HEAD = 32 * 1024, NPT_EXPLAIN_PROSE_TAIL = 128 * 1024 };

/* The same text in four forms. `shown`: lines without colours, frames, log prefixes, empty lines
 * and repeated blanks. `clean`: the same bytes with every quotation mark as '. `dense`: clean
 * without white space, quotation marks, backslashes and asterisks, so that a sentence broken
 * anywhere by a terminal is whole again; origin[i] is where its byte i stands in clean. `asserted`:
 * clean with the failures struck out that are denied ("no NaN"), feared or asked about. */
typedef struct npt_explain_text {
    char *shown, *clean, *dense, *asserted;
    size_t length, dense_length;
    uint32_t *origin;
} npt_explain_text;

/* Of a longer text the first NPT_EXPLAIN_HEAD_BYTES and the last NPT_EXPLAIN_TAIL_BYTES count. Any
 * bytes are fine. NPT_E_NOMEM. Freed with npt_explain_text_fini(). */
npt_status npt_explain_text_init(npt_explain_text *text, const char *bytes, size_t count);
void npt_explain_text_fini(npt_explain_text *text);

/* Strikes out what `text`, in the clean form, denies in its prose. NPT_E_NOMEM. */
npt_status npt_explain_strike_denied(char *text, size_t length);

/* ---- Patterns ---- */

typedef struct npt_explain_pattern npt_explain_pattern;

/* How a blank in a pattern is read. */
typedef enum npt_explain_blanks {
    NPT_EXPLAIN_BLANK_IS_SPACE,  /* one blank or line break, for clean and shown */
    NPT_EXPLAIN_BLANK_IS_NOTHING /* for dense */
} npt_explain_blanks;

/* Where a pattern matched; [a], [b], [op] are its named groups, begin == end where unset. */
enum { NPT_EXPLAIN_A, NPT_EXPLAIN_B, NPT_EXPLAIN_OP, NPT_EXPLAIN_GROUPS };
typedef struct npt_explain_match {
    size_t begin, end;
    struct {
        size_t begin, end;
    } group[NPT_EXPLAIN_GROUPS];
} npt_explain_match;

/* PCRE2 without JIT, bytes, `.` matches line breaks. NPT_E_NOMEM; a pattern that does not compile
 * is NPT_E_INTERNAL. */
npt_status npt_explain_pattern_open(npt_explain_pattern **pattern, const char *source,
                                    npt_explain_blanks blanks, bool caseless);
void npt_explain_pattern_close(npt_explain_pattern *pattern);
/* The first match at or after `from`. A pattern that takes too many steps does not match. */
bool npt_explain_pattern_find(npt_explain_pattern *pattern, const char *text, size_t length,
                              size_t from, npt_explain_match *match);

/* ---- Kinds ---- */

typedef enum npt_explain_kind {
    NPT_EXPLAIN_UNKNOWN,   /* no rule holds */
    NPT_EXPLAIN_NEAR_MISS, /* a rule that says why it is none of ours; shown as unknown, too */
    NPT_EXPLAIN_LINEAR_DTYPE_MISMATCH,
    NPT_EXPLAIN_DEQUANT_DTYPE_MISMATCH,
    NPT_EXPLAIN_SCALAR_TYPE_MISMATCH,
    NPT_EXPLAIN_UNSCALE_FP16_GRADIENTS,
    NPT_EXPLAIN_SCALER_BF16,
    NPT_EXPLAIN_LOSS_ZERO_NAN,
    NPT_EXPLAIN_MLP_PRODUCT_OVERFLOW,
    NPT_EXPLAIN_ATTENTION_OVERFLOW,
    NPT_EXPLAIN_RESIDUAL_OVERFLOW,
    NPT_EXPLAIN_BATCH_SIZE_NAN,
    NPT_EXPLAIN_DOUBLE_UNSCALE,
    NPT_EXPLAIN_NO_INF_CHECKS,
    NPT_EXPLAIN_SCALE_AT_MINIMUM,
    NPT_EXPLAIN_BF16_UNSUPPORTED,
    NPT_EXPLAIN_HALF_MATMUL_CPU,
    NPT_EXPLAIN_HALF_LAYERNORM_CPU,
    NPT_EXPLAIN_AMP_CPU_REFUSED,
    NPT_EXPLAIN_BACKEND_DIVERGENCE,
    NPT_EXPLAIN_FLASH_ATTENTION_DTYPE,
    NPT_EXPLAIN_KBIT_PREPARE_OOM,
    NPT_EXPLAIN_ADAPTER_DTYPE_ON_LOAD,
    NPT_EXPLAIN_QUANTIZED_DTYPE_INFERRED,
    NPT_EXPLAIN_MERGE_DIFFERS,
    NPT_EXPLAIN_ROPE_HALF,
    NPT_EXPLAIN_MASK_OVERFLOW_NAN,
    NPT_EXPLAIN_REINTERPRETED_BITS,
    NPT_EXPLAIN_RECOMPUTE_METADATA,
    NPT_EXPLAIN_BF16_UPDATE_LOST,
    NPT_EXPLAIN_ADAM_FP16_NAN,
    NPT_EXPLAIN_HALF_ACCUMULATION,
    NPT_EXPLAIN_KIND_COUNT
} npt_explain_kind;

enum { NPT_EXPLAIN_SEEN_MAX = 3 };

/* What is said about a kind. Every sentence ends with a full stop. */
typedef struct npt_explain_answer {
    const char *slug;
    const char *what, *cause, *where, *npt, *todo;
    const char *seen[NPT_EXPLAIN_SEEN_MAX]; /* public threads; unused: NULL */
} npt_explain_answer;

extern const npt_explain_answer npt_explain_answers[NPT_EXPLAIN_KIND_COUNT];

/* ---- Rules ---- */

typedef enum npt_explain_level {
    NPT_EXPLAIN_ERROR,    /* the text of an error, matched in dense */
    NPT_EXPLAIN_ERROR_OP, /* the same, matched in clean: words must not run together */
    NPT_EXPLAIN_WARNING,  /* the text of a warning, in dense; an error outweighs it */
    NPT_EXPLAIN_SYMPTOM   /* a description in plain words or a line of a log, in asserted */
} npt_explain_level;

enum { NPT_EXPLAIN_NEAR_MAX = 4, NPT_EXPLAIN_ABSENT_MAX = 2 };

/* A place where `pattern` matches counts where every pattern of `near` matches and none of
 * `absent` does, in clean (asserted where it is a symptom), from `reach` bytes before it to `reach`
 * bytes behind it. */
typedef struct npt_explain_rule {
    npt_explain_kind kind;
    npt_explain_level level;
    size_t reach;
    const char *pattern;
    const char *near[NPT_EXPLAIN_NEAR_MAX], *absent[NPT_EXPLAIN_ABSENT_MAX];
    const char *what; /* with {a}, {b}, {op}; NULL, or where a group is unset: the answer's */
} npt_explain_rule;

/* Literal texts (explain_errors.c) and descriptions (explain_symptoms.c). In both the more specific
 * rule stands first. */
extern const npt_explain_rule npt_explain_texts[], npt_explain_symptoms[];
extern const size_t npt_explain_text_count, npt_explain_symptom_count;

/* An error of any kind that is not ours, in clean, with case: `other`, but not where `wrapper`
 * matches at the same place, as a launcher reports the failure of its child; nor where the line
 * is about NaN, which is a symptom. */
extern const char npt_explain_other_error[], npt_explain_wrapper[], npt_explain_nan_error[];

#endif
