/* SPDX-License-Identifier: BSD-2-Clause */
/* A frozen checkpoint: its configuration, and its weights as the policy wants them.
 *
 * Weights stay where the file maps them wherever their bytes can be used as they are: the dtype is
 * the planned one, or the planned one is F32 (widening is exact). Otherwise one copy is made on
 * load, in the model arena. Teacher and student share everything.
 *
 * A model that is larger than the memory it may have is streamed: npt_model_stream() instead of
 * npt_model_load(), then the blocks are taken one after the other. */
#ifndef NPT_MODEL_MODEL_H
#define NPT_MODEL_MODEL_H

#include "base/memory.h"
#include "files/feed.h"
#include "model/config.h"
#include "tensor/exec.h"
#include "tensor/sites.h"

/* A frozen linear, [rows, cols] = [outputs, inputs], row-major. */
typedef struct npt_weight {
    int64_t rows, cols;
    npt_dtype dtype; /* F32, F16, BF16 or NF4 */
    const void *data;
    const float *absmax; /* NF4: one per 64 elements */
    const float *levels; /* NF4: 16 */
    const float *bias;   /* [rows], or NULL */
} npt_weight;

typedef struct npt_block_weights {
    npt_weight q, k, v, o, gate, up, down;
    npt_in norm_in, norm_post, q_norm, k_norm; /* the last two only with config.qk_norm */
} npt_block_weights;

typedef struct npt_model {
    npt_config config;
    char *directory;
    npt_st *st;
    npt_arena *arena;
    npt_dtype file_dtype; /* of the linears in the file; NF4 for a quantized checkpoint */
    npt_in embed;         /* [vocab, hidden], as in the file */
    npt_in norm_final;
    npt_weight lm_head;              /* data NULL until npt_model_load_head() */
    npt_block_weights *blocks;       /* [layers] */
    float *inverse_frequencies;      /* [head_dim / 2] */
    npt_cast_stats narrowing;        /* what conversions on load lost */
    int64_t narrowed;                /* elements converted */
    bool double_quantization;        /* of weights quantized on load */
    struct npt_model_stream *stream; /* NULL: the blocks are loaded for good */
} npt_model;

/* Configuration and headers only: enough to decide the policy. `name`: a directory, or a Hub name
 * in the local cache. */
npt_status npt_model_open(npt_model **model, const char *name);
/* The same for those who look at what cannot be loaded, too: opens where the headers can be read,
 * and npt_model_check() says what npt_model_open() would: NPT_E_UNSUPPORTED or NPT_E_FORMAT. */
npt_status npt_model_examine(npt_model **model, const char *name);
npt_status npt_model_check(const npt_model *model);
/* Maps, converts or quantizes the blocks' weights as `policy` says; conversions are announced to
 * `sites` (NPT_SITE_WEIGHT). NPT_E_FORMAT where a tensor is missing or has another shape. */
npt_status npt_model_load(npt_model *model, npt_exec *exec, const npt_policy *policy,
                          npt_sites *sites);
/* A large embedding is read so many rows at a time, and then its memory given back. */
enum { NPT_EMBEDDED_AT_ONCE = 64 };
void npt_model_release_embedding(const npt_model *model);
/* By the headers: what is mapped of it at most; and of a row. 0: there is none. */
uint64_t npt_model_embedding_bytes(const npt_model *model);
uint64_t npt_model_embedding_row(const npt_model *model);

/* ---- Blocks one at a time ---- */

/* What streaming takes, by the headers alone. */
typedef struct npt_stream_needs {
    size_t least,
        most;      /* bytes of buffer: for the largest block, and for reading ahead all of it */
    size_t copies; /* of a block's weights that cannot be used as they are in the file */
    size_t pass;   /* bytes read in a pass */
    /* of all blocks, where they are loaded for good */
    size_t in_place, all_copies;
} npt_stream_needs;
/* `back_to`: as of npt_model_stream(). */
npt_status npt_model_stream_needs(npt_model *model, const npt_policy *policy, int back_to,
                                  npt_stream_needs *needs);

typedef struct npt_stream_options {
    size_t buffer; /* bytes, least … most */
    int back_to; /* a pass takes blocks 0 … layers-1, then layers-2 … back_to; layers: not back */
} npt_stream_options;
/* Instead of npt_model_load(): begins to read block 0. What is passed stays borrowed until the
 * model is closed. */
npt_status npt_model_stream(npt_model *model, npt_exec *exec, const npt_policy *policy,
                            npt_sites *sites, const npt_stream_options *options);
/* Blocks are taken and released in the order of a pass, over and over; after a take
 * model->blocks[layer] is as npt_model_load() would have left it. NPT_E_IO. */
npt_status npt_model_take_block(npt_model *model, int layer);
void npt_model_release_block(npt_model *model);
/* The next block is 0, wherever the last pass ended. NPT_E_IO where a file became shorter. */
npt_status npt_model_rewind_blocks(npt_model *model);
/* The rows of the embedding of some tokens, [count, hidden] in its dtype, from the file. */
npt_status npt_model_read_embedding(npt_model *model, const int32_t *ids, int64_t count,
                                    void *rows);
npt_dtype npt_model_embedding_dtype(const npt_model *model);
/* What has been read so far. */
npt_feed_figures npt_model_streamed(const npt_model *model);

/* The output head as well (evaluation). */
npt_status npt_model_load_head(npt_model *model, npt_exec *exec, const npt_policy *policy,
                               npt_sites *sites);
void npt_model_close(npt_model *model);

/* Window of a layer; 0 = none. */
int64_t npt_model_window(const npt_model *model, int layer);

#endif
