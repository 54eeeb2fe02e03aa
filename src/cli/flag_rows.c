/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "cli/flags.h"

#include <math.h>

/* Rows and choices that more than one command has. Columns of a row: name, kind, target, lowest,
 * highest, choices, name of the value, default in words, help. */

/* Enumerations are read and written through int. */
_Static_assert(sizeof(npt_dtype) == sizeof(int), "choices are stored as int");
_Static_assert(sizeof(npt_modulation) == sizeof(int), "choices are stored as int");

static const npt_flag_choice mixed_precision_choices[] = {
    {"no", NPT_DTYPE_NONE}, {"fp16", NPT_F16}, {"bf16", NPT_BF16}, {NULL, 0}};

static const npt_flag_choice adapter_dtype_choices[] = {
    {"auto", NPT_DTYPE_NONE}, {"fp32", NPT_F32}, {"f32", NPT_F32},     {"float32", NPT_F32},
    {"fp16", NPT_F16},        {"f16", NPT_F16},  {"float16", NPT_F16}, {"bf16", NPT_BF16},
    {"bfloat16", NPT_BF16},   {NULL, 0}};

const npt_flag_choice npt_file_dtype_choices[] = {
    {"f32", NPT_F32},   {"fp32", NPT_F32},      {"float32", NPT_F32},
    {"f16", NPT_F16},   {"fp16", NPT_F16},      {"float16", NPT_F16},
    {"bf16", NPT_BF16}, {"bfloat16", NPT_BF16}, {NULL, 0}};

const npt_flag_choice npt_modulation_choices[] = {{"both", NPT_MODULATION_BOTH},
                                                  {"additive", NPT_MODULATION_ADDITIVE},
                                                  {"multiplicative", NPT_MODULATION_MULTIPLICATIVE},
                                                  {NULL, 0}};

const npt_flag_choice npt_loss_choices[] = {
    {"normalized", NPT_LOSS_NORMALIZED}, {"plain", NPT_LOSS_PLAIN}, {NULL, 0}};

#define AT(field) offsetof(npt_precision_options, field)
const npt_flag npt_precision_flags[] = {
    {"use_quantization", NPT_FLAG_BOOL, AT(use_quantization), 0, 0, NULL, NULL, NULL,
     "hold the frozen weights in 4 bits (NF4); activations and adapters are F32 then"},
    {"no_double_quantization", NPT_FLAG_BOOL, AT(no_double_quantization), 0, 0, NULL, NULL, NULL,
     "with --use_quantization: keep the scales of the 4-bit blocks in F32 instead of 8 bits"},
    {"use_fp16", NPT_FLAG_BOOL, AT(use_fp16), 0, 0, NULL, NULL, NULL,
     "model, activations and adapters in F16, F32 master weights, dynamic loss scale"},
    {"use_bf16", NPT_FLAG_BOOL, AT(use_bf16), 0, 0, NULL, NULL, NULL,
     "model, activations and adapters in BF16, F32 master weights"},
    {"mixed_precision", NPT_FLAG_CHOICE, AT(mixed_precision), 0, 0, mixed_precision_choices, NULL,
     NULL, "F32 model whose matmul operands are cast to this"},
    {"adapter_dtype", NPT_FLAG_CHOICE, AT(adapter_dtype), 0, 0, adapter_dtype_choices, NULL, NULL,
     "dtype of the adapters as used and saved; auto: the one that fits the model"},
    {"strict", NPT_FLAG_BOOL, AT(strict), 0, 0, NULL, NULL, NULL,
     "a cast that is not in the plan ends the run, with what PyTorch would say of it"},
    {NULL, NPT_FLAG_BOOL, 0, 0, 0, NULL, NULL, NULL, NULL}};
#undef AT

static const npt_flag_choice matmul_precision_choices[] = {
    {"auto", NPT_MATMUL_AUTO}, {"fma", NPT_MATMUL_FMA}, {NULL, 0}};

#define AT(field) offsetof(npt_compute_options, field)
const npt_flag npt_compute_flags[] = {
    {"backend", NPT_FLAG_TEXT, AT(backend), 0, 0, NULL, "NAME[,NAME...]",
     "all, in the built-in order",
     "matmul backends to use, the most wanted first; npt backends lists them"},
    {"threads", NPT_FLAG_INT, AT(threads), 0, 4096, NULL, NULL, NULL,
     "threads; 0: as many as this process may use"},
    {"matmul_precision", NPT_FLAG_CHOICE, AT(matmul_precision), 0, 0, matmul_precision_choices,
     NULL, NULL,
     "auto: F32 activations on AMX as sums of bf16 pieces, as exact as F32; fma: F32 arithmetic "
     "only"},
    {NULL, NPT_FLAG_BOOL, 0, 0, 0, NULL, NULL, NULL, NULL}};
#undef AT

#define AT(field) offsetof(npt_data_options, field)
const npt_flag npt_data_flags[] = {
    {"dataset_name", NPT_FLAG_TEXT, AT(dataset_name), 0, 0, NULL, "PATH", "the bundled text",
     "file, directory or glob pattern: .jsonl with \"text\" or \"input_ids\", else plain text; "
     "also "
     ".gz and .zst"},
    {"dataset_split", NPT_FLAG_TEXT, AT(dataset_split), 0, 0, NULL, "NAME", "all files",
     "of a directory: only the files whose names begin with this"},
    {"num_samples", NPT_FLAG_INT64, AT(num_samples), 0, INFINITY, NULL, NULL, NULL,
     "use only this many rows; 0: all"},
    {"max_length", NPT_FLAG_INT64, AT(max_length), 1, 16777216, NULL, NULL, NULL,
     "token ids a row; longer rows are cut"},
    {"strict_data", NPT_FLAG_BOOL, AT(strict_data), 0, 0, NULL, NULL, NULL,
     "a bad row ends the run instead of being skipped and counted"},
    {NULL, NPT_FLAG_BOOL, 0, 0, 0, NULL, NULL, NULL, NULL}};
#undef AT
