/* SPDX-License-Identifier: BSD-2-Clause */
/* tokenizer.json (Hugging Face tokenizers), model BPE: byte-level and byte-fallback.
 * What is supported: formats.md, "tokenizer.json"; anything else is refused by name. */
#ifndef NPT_TEXT_TOKENIZER_H
#define NPT_TEXT_TOKENIZER_H

#include "base/status.h"

typedef struct npt_tokenizer npt_tokenizer;

/* A growing list of token ids. Zero-initialise; free with npt_ids_fini(). */
typedef struct npt_ids {
    int32_t *data;
    size_t count, capacity;
} npt_ids;
npt_status npt_ids_push(npt_ids *ids, int32_t id);
void npt_ids_fini(npt_ids *ids);

/* `path`: a tokenizer.json, or a model directory that holds one. NPT_E_IO, NPT_E_FORMAT,
 * NPT_E_UNSUPPORTED (the step is named), NPT_E_NOMEM. */
npt_status npt_tokenizer_open(npt_tokenizer **tokenizer, const char *path);
void npt_tokenizer_close(npt_tokenizer *tokenizer);

/* Appends the ids of `length` bytes of UTF-8 to `ids`; `special_tokens`: apply the post-processor's
 * template (BOS/EOS). NPT_E_DATA where the bytes are not UTF-8. One thread at a time. */
npt_status npt_tokenizer_encode(npt_tokenizer *tokenizer, const char *text, size_t length,
                                bool special_tokens, npt_ids *ids);
/* The text of `count` ids in a new NUL-terminated string (freed with npt_free; `length`, if not
 * NULL, gets its bytes). Unknown ids: NPT_E_DATA. skip_special drops special added tokens. */
npt_status npt_tokenizer_decode(npt_tokenizer *tokenizer, const int32_t *ids, size_t count,
                                bool skip_special, char **text, size_t *length);
/* Number of ids: the largest id + 1, added tokens included. */
int32_t npt_tokenizer_size(const npt_tokenizer *tokenizer);

#endif
