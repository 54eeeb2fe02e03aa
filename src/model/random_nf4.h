/* SPDX-License-Identifier: BSD-2-Clause */
/* Random linears as bitsandbytes stores them: NF4 with double quantization. Private to model/. */
#ifndef NPT_MODEL_RANDOM_NF4_H
#define NPT_MODEL_RANDOM_NF4_H

#include "base/threads.h"
#include "files/safetensors.h"
#include "model/random_weights.h"

/* Where one linear after the other is made; as large as the largest that was asked for. */
typedef struct npt_nf4_maker {
    npt_threads *threads;
    uint8_t *packed, *codes;
    float *absmax;
    size_t size;                     /* elements there is room for */
    const npt_random_weights *holds; /* whose values; NULL: nobody's */
    float map[256];                  /* of the codes */
} npt_nf4_maker;

/* One linear, through the six tensors that it becomes. */
typedef struct npt_random_nf4 {
    npt_nf4_maker *maker;
    const npt_random_weights *values; /* borrowed; their dtype is what is quantized */
    size_t count;
    float *nested; /* absmax of the blocks' absmax (npt_free) */
    char record[256];
} npt_random_nf4;

void npt_nf4_maker_init(npt_nf4_maker *maker, npt_threads *threads);
void npt_nf4_maker_fini(npt_nf4_maker *maker);

/* Makes the values [rows, cols] once for what the header must say, and declares the tensors under
 * `name`; the writer has the rest made again. `linear` must stay until the writer is gone. */
npt_status npt_random_nf4_add(npt_random_nf4 *linear, npt_nf4_maker *maker,
                              const npt_random_weights *values, const char *name,
                              const int64_t shape[2], npt_st_writer *writer);

#endif
