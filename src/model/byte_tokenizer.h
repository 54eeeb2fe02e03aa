/* SPDX-License-Identifier: BSD-2-Clause */
/* The tokenizer of random models: a token a byte. Private to model/. */
#ifndef NPT_MODEL_BYTE_TOKENIZER_H
#define NPT_MODEL_BYTE_TOKENIZER_H

#include "base/status.h"

enum {
    NPT_BYTE_TOKENIZER_BOS = 256,
    NPT_BYTE_TOKENIZER_EOS = 257,
    NPT_BYTE_TOKENIZER_SIZE = 258 /* ids; id = byte for the first 256 */
};

/* Writes tokenizer.json and tokenizer_config.json into `directory`: a byte-level BPE without
 * merges that puts "<s>" before a text. NPT_E_IO, NPT_E_NOMEM. */
npt_status npt_byte_tokenizer_save(const char *directory);

#endif
