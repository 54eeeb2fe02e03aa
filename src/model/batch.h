/* SPDX-License-Identifier: BSD-2-Clause */
/* A micro-batch: sequences one after the other, without padding. */
#ifndef NPT_MODEL_BATCH_H
#define NPT_MODEL_BATCH_H

#include <stdint.h>

typedef struct npt_batch {
    int64_t sequences, tokens, longest;
    const int64_t *offsets;   /* [sequences + 1] */
    const int32_t *ids;       /* [tokens] */
    const int32_t *positions; /* [tokens], from 0 in each sequence */
} npt_batch;

#endif
