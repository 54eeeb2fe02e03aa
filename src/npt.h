/* SPDX-License-Identifier: BSD-2-Clause */
/* npt: trains NPT adapters on Llama-family checkpoints.
 *
 * The one installed header. Every function returns npt_status unless it cannot fail; outputs are
 * written only on NPT_OK; npt_error_message() then holds one sentence for the calling thread.
 * The library never exits, never aborts on bad input and installs no signal handler. Strings
 * passed in are borrowed for the call unless a comment says otherwise. */
#ifndef NPT_H
#define NPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#if defined(NPT_BUILDING) && defined(__GNUC__)
#define NPT_API __attribute__((visibility("default")))
#else
#define NPT_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Status -------------------------------------------------------------------------------- */

typedef enum npt_status {
    NPT_OK = 0,
    NPT_E_USAGE,       /* the request itself is wrong: a flag, a value, two that conflict */
    NPT_E_NOMEM,       /* memory is short, or a size overflows */
    NPT_E_IO,          /* the system refused: open, read, write, rename */
    NPT_E_FORMAT,      /* a file is not what it claims to be */
    NPT_E_UNSUPPORTED, /* legal, but not something npt does */
    NPT_E_DATA,        /* a dataset cannot be used */
    NPT_E_NUMERIC,     /* non-finite values that no loss scale mends */
    NPT_E_INTERRUPTED, /* asked to stop; what was done is saved */
    NPT_E_INTERNAL     /* a bug of ours */
} npt_status;

/* "usage", "io", … */
NPT_API const char *npt_status_name(npt_status status);
/* The sentence of the last failure in this thread; "" where there was none. Valid until the next
 * failure in this thread. */
NPT_API const char *npt_error_message(void);
/* "0.1.0" */
NPT_API const char *npt_version(void);

typedef enum npt_log_level { NPT_LOG_VERBOSE, NPT_LOG_NOTE, NPT_LOG_WARNING } npt_log_level;
/* Lines meant for a person, one per call, without newline. Called from the thread that runs the
 * library call. NULL restores the default, standard error. Not thread-safe against running calls.
 */
typedef void npt_log_sink(void *context, npt_log_level level, const char *line);
NPT_API void npt_log_set(npt_log_sink *sink, void *context);

/* ---- Dtypes -------------------------------------------------------------------------------- */

typedef enum npt_dtype {
    NPT_DTYPE_NONE = 0, /* "not said" */
    NPT_F32,
    NPT_F16,
    NPT_BF16,
    NPT_NF4, /* 4-bit NormalFloat, blocks of 64, F32 absmax; frozen weights only */
    /* found in files; never computed with */
    NPT_F64,
    NPT_C64,
    NPT_U64,
    NPT_I64,
    NPT_U32,
    NPT_I32,
    NPT_U16,
    NPT_I16,
    NPT_U8,
    NPT_I8,
    NPT_F8_E4M3,
    NPT_F8_E5M2,
    NPT_BOOL,
    NPT_DTYPE_COUNT
} npt_dtype;

/* "F32", "BF16", … as safetensors spells them; "NF4"; "none". */
NPT_API const char *npt_dtype_name(npt_dtype dtype);

/* ---- Choices every command shares ---------------------------------------------------------- */

/* Where the bundled model and text are: "tiny-llama", "train.jsonl", "eval.jsonl" → a path in a new
 * string (npt_string_free), looked for in $NPT_DATADIR, beside an uninstalled program, and in the
 * directory given at configure time. NPT_E_IO where it is in none. */
NPT_API npt_status npt_data_path(const char *name, char **path);
NPT_API void npt_string_free(char *text);

typedef struct npt_precision_options {
    bool use_fp16, use_bf16, use_quantization, no_double_quantization;
    npt_dtype mixed_precision; /* NPT_DTYPE_NONE, NPT_F16, NPT_BF16 */
    npt_dtype adapter_dtype;   /* NPT_DTYPE_NONE: inferred */
    bool strict;               /* the first cast that is not in the plan ends the run */
} npt_precision_options;

typedef enum npt_matmul_precision {
    NPT_MATMUL_AUTO,  /* F32 activations in bf16 pieces where that is fast and as exact as F32 */
    NPT_MATMUL_FMA,   /* never in pieces */
    NPT_MATMUL_PIECES /* in pieces where AMX can, fast or not: for tests */
} npt_matmul_precision;

typedef struct npt_compute_options {
    const char *backend; /* names separated by commas; NULL: all, in the built-in order */
    int threads;         /* 0: as many as this process may use */
    bool no_calibration; /* the built-in order, whatever was measured; implied by `backend` */
    npt_matmul_precision matmul_precision;
} npt_compute_options;

typedef enum npt_modulation {
    NPT_MODULATION_BOTH,
    NPT_MODULATION_ADDITIVE,
    NPT_MODULATION_MULTIPLICATIVE
} npt_modulation;

typedef struct npt_data_options {
    const char *dataset_name;  /* file, directory or glob; NULL: the bundled text */
    const char *dataset_split; /* of a directory: only files whose name begins with it; NULL: all */
    int64_t num_samples;       /* 0: all rows */
    int64_t max_length;        /* ids a row */
    bool strict_data;          /* a bad row ends the run */
} npt_data_options;

/* ---- Training: phase 1, equivalence pre-training ------------------------------------------- */

typedef enum npt_recipe { NPT_RECIPE_PRETRAIN, NPT_RECIPE_PRETRAIN_SAFE } npt_recipe;
typedef enum npt_distill {
    NPT_DISTILL_END_TO_END,
    NPT_DISTILL_LAYERWISE,
    NPT_DISTILL_MIXED
} npt_distill;
typedef enum npt_loss { NPT_LOSS_NORMALIZED, NPT_LOSS_PLAIN } npt_loss;
typedef enum npt_optimizer { NPT_OPTIMIZER_ADAMW, NPT_OPTIMIZER_ADAM } npt_optimizer;
typedef enum npt_scheduler {
    NPT_SCHEDULER_LINEAR,
    NPT_SCHEDULER_COSINE,
    NPT_SCHEDULER_CONSTANT,
    NPT_SCHEDULER_CONSTANT_WITH_WARMUP
} npt_scheduler;

/* One optimizer step, as it is logged. Losses are means over the accumulated batch. */
typedef struct npt_step_info {
    int64_t step, total_steps;
    double epoch;
    double loss, mse, regularization; /* total, unweighted distance, unweighted regularizer */
    double learning_rate, grad_norm, loss_scale;
    int64_t tokens;           /* since the start of the run, resumed parts included */
    double tokens_per_second; /* of this process */
    double seconds_left;
    size_t peak_bytes; /* resident */
    bool logged;       /* this step is in metrics.jsonl */
} npt_step_info;

typedef void npt_step_callback(void *context, const npt_step_info *info);

typedef struct npt_train_options {
    npt_recipe recipe;
    const char *model_name; /* directory or Hub name in the local cache; NULL: the bundled model */
    const char *output_dir; /* required */
    npt_precision_options precision;
    npt_compute_options compute;
    npt_data_options data;
    bool streaming; /* rows are not counted first: total steps = max_steps, else 10000 */
    /* adapter */
    int adapter_rank;
    npt_modulation modulation;
    double modulation_scale;
    const char *layers;       /* "16-31", "0,2,5-7", "upper_half", "all"; NULL: all */
    const char *init_adapter; /* adapter directory or .safetensors; NULL: random */
    uint64_t seed;
    /* objective */
    npt_distill distill;
    double teacher_forcing; /* mixed: probability that a block reads the teacher's input */
    npt_loss loss;
    double regularization_lambda;
    /* optimization */
    int64_t batch_size, gradient_accumulation_steps, num_epochs;
    int64_t max_steps;                                 /* -1: by epochs */
    double learning_rate, weight_decay, max_grad_norm; /* max_grad_norm 0: no clipping */
    npt_optimizer optimizer;
    npt_scheduler scheduler;
    int64_t warmup_steps;
    double initial_loss_scale; /* dynamic loss scale starts here; 65536 */
    /* saving and logging */
    int64_t log_steps, save_steps, save_total_limit; /* save_total_limit 0: all are kept */
    const char *eval_dataset;                        /* NULL: none, and no checkpoint-best */
    int64_t eval_steps;                              /* 0: as save_steps */
    const char *resume;                              /* "auto" or a checkpoint; NULL: a new run */
    const char *run_name;                            /* recorded */
    const char *log_file;     /* every line of the log, appended; NULL: none */
    const char *command_line; /* recorded in metrics.jsonl; may be NULL */
    uint64_t memory_limit;    /* bytes; where the weights do not fit they are streamed; 0: none */
    bool dry_run;             /* say what would be done; read no weight, write nothing */
    int64_t probe_every; /* steps between two rows of what sites hold in metrics.jsonl; 0: none */
    npt_step_callback *on_step;
    void *on_step_context;
} npt_train_options;

typedef struct npt_train_report {
    int64_t steps, skipped_steps, skipped_batches, tokens;
    double first_loss, last_loss, seconds;
    char last_checkpoint[4096]; /* "" where none was written */
    int signal;                 /* that stopped the run; 0 */
} npt_train_report;

/* Every option with its default for the recipe (method.md §2, §6). */
NPT_API void npt_train_options_init(npt_train_options *options, npt_recipe recipe);
/* Trains. NPT_E_USAGE before anything is read or written where options contradict each other;
 * NPT_E_INTERRUPTED after npt_request_stop(), with a checkpoint saved; NPT_E_NUMERIC where values
 * stay non-finite, with a checkpoint saved. `report` is filled also on those two. */
NPT_API npt_status npt_pretrain(const npt_train_options *options, npt_train_report *report);
/* Asks running training to stop after the current micro-batch. Async-signal-safe. */
NPT_API void npt_request_stop(int signal);

/* ---- Evaluation ---------------------------------------------------------------------------- */

typedef struct npt_evaluate_options {
    const char *model_name;
    const char *adapter; /* adapter directory or checkpoint; NULL: an untrained one, by seed */
    npt_precision_options precision;
    npt_compute_options compute;
    npt_data_options data;
    int adapter_rank; /* used where adapter is NULL, as are the next four */
    npt_modulation modulation;
    double modulation_scale;
    const char *layers;
    uint64_t seed;
    npt_loss loss;
    int64_t batch_size;
} npt_evaluate_options;

typedef struct npt_evaluate_report {
    int64_t rows, tokens; /* tokens: predicted ones */
    double teacher_perplexity, student_perplexity;
    double kl;             /* mean KL(teacher‖student) per predicted token, nats */
    double top1_agreement; /* share of tokens where the most likely next token is the same */
    int layers;
    double *layer_loss; /* [layers] D_i of the student's own run */
    char model[1024], policy[256];
} npt_evaluate_report;

NPT_API void npt_evaluate_options_init(npt_evaluate_options *options);
NPT_API npt_status npt_evaluate(const npt_evaluate_options *options, npt_evaluate_report *report);
NPT_API void npt_evaluate_report_fini(npt_evaluate_report *report);

/* ---- Doctor -------------------------------------------------------------------------------- */

/* What the doctor found; the exit code of the command. */
typedef enum npt_verdict {
    NPT_VERDICT_FINE = 0,
    NPT_VERDICT_WARNING = 1,
    NPT_VERDICT_WOULD_FAIL = 2,
    NPT_VERDICT_NUMERIC = 3 /* values that are not finite, or lost */
} npt_verdict;

typedef struct npt_doctor_options {
    bool json; /* one object, schema in doc/precision.md; else text for a person */
    bool scan; /* plan: reads every weight for values the planned dtype cannot hold */
    bool all;  /* probe, diff: every site, not the worst `top`; plan: casts of every layer */
    int top;   /* 0: ten */
    const char *layers; /* probe: rows of these blocks only; NULL: of those with an adapter */
} npt_doctor_options;

/* What a run with these options would do, from headers only: policy, casts, files, memory. Nothing
 * is written but `out`. */
NPT_API npt_status npt_doctor_plan(const npt_train_options *options,
                                   const npt_doctor_options *doctor, FILE *out,
                                   npt_verdict *verdict);
/* One batch forward and backward, every site observed beside an F32 shadow. `resume` may name a
 * checkpoint whose adapters, moments and loss scale are taken; nothing is written but `out`. */
NPT_API npt_status npt_doctor_probe(const npt_train_options *options,
                                    const npt_doctor_options *doctor, FILE *out,
                                    npt_verdict *verdict);
/* Two probes in JSON: the first site that differs beyond its tolerance, then what follows it. Of
 * `doctor` json and all count. NPT_E_USAGE where they are not of the same batch and model. */
NPT_API npt_status npt_doctor_diff(const char *path_a, const char *path_b,
                                   const npt_doctor_options *doctor, FILE *out,
                                   npt_verdict *verdict);
/* An error text somebody pasted (`bytes` of any bytes): cause and remedy. NPT_VERDICT_FINE where it
 * is known, NPT_VERDICT_WARNING where it is not, which is said. */
NPT_API npt_status npt_doctor_explain(const char *text, size_t bytes, bool json, FILE *out,
                                      npt_verdict *verdict);
/* Precision checks on a small random model, on every backend present; TAP on `out`. `failed`: cases
 * that failed. The model is in a new directory in $TMPDIR (else /tmp), which is removed again;
 * NPT_E_IO where there can be none. npt_request_stop() ends it, too: NPT_E_INTERRUPTED. */
NPT_API npt_status npt_selftest(const npt_compute_options *compute, FILE *out, int *failed);

/* ---- Smaller commands ---------------------------------------------------------------------- */

/* Writes what is compiled in, what this CPU has and, with a model, which backend each distinct
 * matmul of a step at `tokens` tokens goes to and why the ones before it refused. */
typedef struct npt_backends_options {
    const char *model_name; /* NULL: no routes */
    npt_precision_options precision;
    npt_compute_options compute;
    int64_t tokens;
    int adapter_rank;
    bool json;
    bool calibrate; /* first measures who is faster, for this model or for common shapes, and
                       keeps that in the user's cache for all later runs */
    double seconds; /* of measuring, about */
} npt_backends_options;
NPT_API npt_status npt_backends(const npt_backends_options *options, FILE *out);

/* Measures this build on this machine. Words in a list are separated by commas; NULL: the defaults.
 */
typedef struct npt_bench_options {
    const char *const *topics; /* matmul, step, start, memory */
    int topic_count;           /* 0: all */
    npt_compute_options compute;
    const char *shapes;  /* "4096x14336,1024x2816x8": hidden, MLP, layers */
    const char *tokens;  /* "1,16,128,512"; steps use the last */
    const char *dtypes;  /* of matmuls: f32, bf16, f16, nf4, f32xbf16, f32xf16 */
    const char *recipes; /* of steps: recipe-fp16, recipe-quantized, recipe-safe, fp32, … */
    const char *distill; /* of steps: end-to-end, layerwise */
    bool quick;          /* small shapes, little time */
    bool json;           /* one object, schema in doc/measurements.md */
    double seconds;      /* for one figure, about; 0: one second, less with `quick` */
    const char *plot;    /* also a roofline, .svg or .png, through gnuplot; NULL: none */
} npt_bench_options;
/* Forks, so the calling process must have no threads beside its own. Models are in a new directory
 * in $TMPDIR (else /tmp), which is removed again. NPT_E_INTERRUPTED after npt_request_stop(). */
NPT_API npt_status npt_bench(const npt_bench_options *options, FILE *out);

/* Rows of a dataset → {"input_ids":[…]} lines; and back, a text line a row. `model_name`: a model
 * directory or a tokenizer.json. */
NPT_API npt_status npt_tokenize(const char *model_name, const npt_data_options *data,
                                bool no_special_tokens, FILE *out);
NPT_API npt_status npt_detokenize(const char *model_name, FILE *in, FILE *out);

/* A random Hugging Face directory of any shape, written in a stream. */
typedef struct npt_make_model_options {
    const char *path;
    const char *family; /* llama, mistral, qwen2, qwen3 */
    int64_t hidden, inter, layers, heads, kv_heads, head_dim /* 0: hidden / heads */, vocab;
    npt_dtype dtype; /* F32, F16, BF16 */
    uint64_t seed;
    bool tie_embeddings;
    bool quantize; /* linears of blocks as bitsandbytes stores NF4, doubly quantized */
} npt_make_model_options;
NPT_API void npt_make_model_options_init(npt_make_model_options *options);
NPT_API npt_status npt_make_model(const npt_make_model_options *options);

#ifdef __cplusplus
}
#endif
#endif
