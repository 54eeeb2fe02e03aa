/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "doctor/explain.h"

/* Rules: the literal texts of errors and warnings. Data only.
 *
 * In patterns a blank stands for a blank or a line break, or, where the rule looks into the dense
 * text, for nothing; quotation marks are ' in clean and absent in dense; case is ignored. The words
 * are those of PyTorch, old and new, and of the libraries around it. */

/* ---- Words of PyTorch ---- */

#define SPELLED "(?:struct )?(?:c10::|torch\\.|at::)?"
#define HALVES  "bfloat16|float16|half|float32|float(?!8|64|16|32)"
#define DTYPE_A SPELLED "(?<a>" HALVES ")"
#define DTYPE_B SPELLED "(?<b>" HALVES ")"
/* What packed weights are stored in. */
#define BYTE_B  SPELLED "(?<b>unsigned char|signed char|uint8|int8|byte|char)"
#define BYTE_A  SPELLED "(?<a>unsigned char|signed char|uint8|int8|byte|char)"
#define BETWEEN "(?: and |!=|,| vs\\.? )"
#define MATS    "(?:mat1 and mat2|m1 and m2|a and b)"
#define SAME    "(?:to have|must have|should have|must be of) (?:the )?same d?type"
#define GOT     ",?(?: but)? got:? "

#define FRAMES_4BIT                                                                                \
    "matmul_4bit|MatMul4Bit|dequantize_4bit|dequantize_nf4|dequantize_fp4|fast_dequantize|"        \
    "Linear4bit|bitsandbytes/autograd|bitsandbytes\\W+autograd"

#define BIG_SHAPE "(?:1x\\d{7,}|\\d{7,}x1)"

#define KIND(name) NPT_EXPLAIN_##name
#define NO_MORE                                                                                    \
    {                                                                                              \
        NULL                                                                                       \
    }

const npt_explain_rule npt_explain_texts[] = {
    /* ---- Matmuls ---- */
    {KIND(QUANTIZED_DTYPE_INFERRED), NPT_EXPLAIN_ERROR, 0,
     "(?:" MATS "|self and mat2) " SAME GOT DTYPE_A BETWEEN BYTE_B, NO_MORE, NO_MORE,
     "{a} activations met a {b} tensor: the packed storage of a quantized weight was used as if it "
     "were the weight itself."},
    {KIND(QUANTIZED_DTYPE_INFERRED), NPT_EXPLAIN_ERROR, 0,
     "(?:" MATS "|self and mat2) " SAME GOT BYTE_A BETWEEN DTYPE_B, NO_MORE, NO_MORE,
     "A {a} tensor met a {b} one in a matmul: the packed storage of a quantized weight was used as "
     "if it were the weight itself."},
    {KIND(DEQUANT_DTYPE_MISMATCH),
     NPT_EXPLAIN_ERROR,
     1200,
     MATS " " SAME GOT DTYPE_A BETWEEN DTYPE_B,
     {FRAMES_4BIT},
     NO_MORE,
     "In a 4-bit matmul {a} and {b} met: the weight was not dequantized to the dtype of the "
     "activations."},
    {KIND(LINEAR_DTYPE_MISMATCH),
     NPT_EXPLAIN_ERROR,
     900,
     MATS " " SAME GOT DTYPE_A BETWEEN DTYPE_B,
     {"in backward\\b|_engine_run_backward|run_backward|Backward0"},
     NO_MORE,
     "In the backward of a linear layer a {a} operand met a {b} one."},
    {KIND(LINEAR_DTYPE_MISMATCH), NPT_EXPLAIN_ERROR, 0, MATS " " SAME GOT DTYPE_A BETWEEN DTYPE_B,
     NO_MORE, NO_MORE, "In a linear layer {a} activations met a {b} weight."},
    {KIND(DEQUANT_DTYPE_MISMATCH), NPT_EXPLAIN_ERROR, 0,
     "self and mat2 " SAME GOT DTYPE_A BETWEEN DTYPE_B, NO_MORE, NO_MORE,
     "{a} activations (or gradients) met a weight that was dequantized to {b}."},
    {KIND(DEQUANT_DTYPE_MISMATCH),
     NPT_EXPLAIN_ERROR,
     1200,
     MATS " " SAME "(?!,? (?:but )? got)",
     {FRAMES_4BIT},
     NO_MORE,
     NULL},
    {KIND(LINEAR_DTYPE_MISMATCH), NPT_EXPLAIN_ERROR, 0, MATS " " SAME "(?!,? (?:but )? got)",
     NO_MORE, NO_MORE, NULL},
    {KIND(DEQUANT_DTYPE_MISMATCH), NPT_EXPLAIN_ERROR, 0,
     "self and mat2 " SAME "(?!,? (?:but )? got)", NO_MORE, NO_MORE, NULL},
    {KIND(NEAR_MISS), NPT_EXPLAIN_ERROR, 0,
     "(?:" MATS "|self and mat2) " SAME GOT
     "[a-z0-9_:]{0,40}(?:double|float64|long|int|bool|complex|float8)",
     NO_MORE, NO_MORE,
     "A matmul got two dtypes, but one of them is no half or float of a model: Double comes from "
     "NumPy data, Long and Int are ids or labels. That is the input's dtype, not the precision "
     "policy's."},
    {KIND(DEQUANT_DTYPE_MISMATCH), NPT_EXPLAIN_ERROR, 0,
     "expected out tensor to have dtype " DTYPE_A ",?(?: but)? got " DTYPE_B "(?: instead)?",
     NO_MORE, NO_MORE,
     "A dequantized weight was to be written into a {b} buffer where {a} was expected."},
    {KIND(QUANTIZED_DTYPE_INFERRED), NPT_EXPLAIN_ERROR, 0,
     "mat1 and mat2 shapes cannot be multiplied \\((?|\\d+x\\d+ and (?<op>" BIG_SHAPE
     ")|(?<op>\\d{7,}x1) and \\d+x\\d+)\\)",
     NO_MORE, NO_MORE,
     "A packed 4-bit weight ({op}, two values a byte) was used as a dense one: its shape is that "
     "of the storage, not of the layer."},
    {KIND(QUANTIZED_DTYPE_INFERRED), NPT_EXPLAIN_ERROR, 0,
     "size mismatch,? (?:got )?(?:input[^,]{0,40},)?m1:? ?\\[[\\dx ]{3,40}\\],? m2:? ?\\[(?<op>1 "
     "?x ?\\d{7,}|\\d{7,} ?x ?1)\\]",
     NO_MORE, NO_MORE,
     "A packed 4-bit weight ({op}, two values a byte) was used as a dense one: its shape is that "
     "of the storage, not of the layer."},

    /* ---- Typed kernels ---- */
    {KIND(SCALAR_TYPE_MISMATCH), NPT_EXPLAIN_ERROR, 0,
     "expected (?:object of |tensor of )?scalar type " DTYPE_A
     ",? but (?:found|got) (?:scalar type )?" DTYPE_B,
     NO_MORE, NO_MORE, "A kernel expected {a} and was handed {b}."},
    {KIND(SCALAR_TYPE_MISMATCH), NPT_EXPLAIN_ERROR, 0,
     "expected object of (?:data )?type torch\\.(?:cuda\\.)?(?<a>half|bfloat16|float)tensor,? but "
     "(?:found|got) (?:data )?type torch\\.(?:cuda\\.)?(?!\\k<a>)(?<b>half|bfloat16|float)tensor",
     NO_MORE, NO_MORE, "A kernel expected {a} and was handed {b}."},
    {KIND(NEAR_MISS), NPT_EXPLAIN_ERROR, 0,
     "expected (?:object of |tensor of )?scalar type \\w{1,20}? but (?:found|got) (?:scalar type "
     ")?(?:double|long|int|bool|byte|char|complex)",
     NO_MORE, NO_MORE,
     "A kernel expected another scalar type, but one of the two is no half or float of a model: "
     "Double comes from NumPy data; Long, Int and Bool are ids, labels or masks. That is the "
     "input's dtype, not the precision policy's."},
    {KIND(NEAR_MISS), NPT_EXPLAIN_ERROR, 0,
     "expected (?:object of |tensor of )?scalar type (?:double|long|int|bool|byte|char)\\w{0,20}? "
     "but (?:found|got) ",
     NO_MORE, NO_MORE,
     "A kernel expected an integer (ids or labels, often those of an embedding or a loss) or "
     "Double and was handed something else. That is the input's dtype, not the precision "
     "policy's."},
    {KIND(NEAR_MISS), NPT_EXPLAIN_ERROR, 0,
     "expected query, key,? and value to have the same dtype|input type \\([^)]{3,40}\\) and "
     "(?:bias|weight) type \\([^)]{3,40}\\) should be the same|found dtype \\w{3,12}? but expected",
     NO_MORE, NO_MORE,
     "Two dtypes met where one was expected, outside a linear layer; npt's table has no kind for "
     "this one."},
    {KIND(QUANTIZED_DTYPE_INFERRED), NPT_EXPLAIN_ERROR, 0,
     "only tensors of floating point.{0,20}? dtype can require gradients", NO_MORE, NO_MORE,
     "A parameter that is to be trained was created with an integer dtype, that of the packed base "
     "weight."},
    {KIND(QUANTIZED_DTYPE_INFERRED), NPT_EXPLAIN_ERROR_OP, 0,
     "'?(?<op>[a-z0-9_]*(?:normal_|uniform)[a-z0-9_]*)'? not implemented for '?(?<b>byte|char)\\b",
     NO_MORE, NO_MORE,
     "An adapter was to be initialised ({op}) with dtype {b}, that of the packed base weight."},

    /* ---- Scalers ---- */
    {KIND(SCALER_BF16), NPT_EXPLAIN_ERROR, 0,
     "amp_foreach_non_finite_check_and_unscale\\w{0,12}? not implemented for bfloat16", NO_MORE,
     NO_MORE, NULL},
    {KIND(UNSCALE_FP16_GRADIENTS), NPT_EXPLAIN_ERROR, 0,
     "attempt(?:ing|ed) to unscale (?:fp16|float16|half) gradients", NO_MORE, NO_MORE, NULL},
    {KIND(DOUBLE_UNSCALE), NPT_EXPLAIN_ERROR, 0,
     "unscale_?\\(\\) has already been called on this optimizer", NO_MORE, NO_MORE, NULL},
    {KIND(NO_INF_CHECKS), NPT_EXPLAIN_ERROR, 0, "no inf checks were recorded for this optimizer",
     NO_MORE, NO_MORE, NULL},
    {KIND(SCALE_AT_MINIMUM), NPT_EXPLAIN_ERROR, 0,
     "current loss scale (?:is )?already at (?:the )?minimum|minimum loss scale reached", NO_MORE,
     NO_MORE, NULL},

    /* ---- What hardware or a library refuses ---- */
    {KIND(BF16_UNSUPPORTED), NPT_EXPLAIN_ERROR, 0,
     "your setup doesn.?t support bf16|bf(?:loat)?16 is (?:only supported on gpus with compute "
     "capability|not supported on (?:mps|this))|device does not support bf(?:loat)?16|bf16 mixed "
     "precision requires|bf16 requested,? but amp is not supported on this gpu|gpu does not "
     "support bf(?:loat)?16",
     NO_MORE, NO_MORE, NULL},
    {KIND(HALF_MATMUL_CPU), NPT_EXPLAIN_ERROR_OP, 0,
     "'?\\b(?<op>\\w*?(?:addmm|addmv|addbmm|baddbmm|bmm|gemm|gemv|matmul|\\bmm|\\bdot)(?!\\w*(?:"
     "cuda|mps))\\w*)'? not implemented for '?half\\b",
     NO_MORE, NO_MORE, "{op}, a matmul, has no half-precision kernel on this CPU build."},
    {KIND(HALF_MATMUL_CPU), NPT_EXPLAIN_ERROR, 0,
     "(?:addmm|addmv|addbmm|bmm|gemm|gemv|matmul)_?(?:impl)?(?:_with_gemm)?(?:_cpu)?_? not "
     "implemented for half",
     NO_MORE, NO_MORE, NULL},
    {KIND(HALF_LAYERNORM_CPU),
     NPT_EXPLAIN_ERROR_OP,
     0,
     "'?\\b(?<op>(?!\\w*(?:cuda|mps|xpu))[a-z_]\\w{2,60})'? not implemented for '?half\\b",
     NO_MORE,
     {"amp_foreach_non_finite"},
     "{op} has no half-precision kernel on this CPU build."},
    {KIND(HALF_LAYERNORM_CPU),
     NPT_EXPLAIN_ERROR,
     40,
     "(?:kernelimpl|kernel_impl|_cpu_?|kernel|out_frame) not implemented for half",
     NO_MORE,
     {"cuda"},
     NULL},
    {KIND(AMP_CPU_REFUSED), NPT_EXPLAIN_ERROR, 0,
     "mixed precision training with amp.{0,160}? can only be used on (?:cuda|gpu|npu|xpu|a "
     "gpu)|fp16 mixed precision requires a gpu|precision=?\\(?16.{0,60}? not supported on "
     "cpu|autocastcpu only supports? bfloat16",
     NO_MORE, NO_MORE, NULL},
    {KIND(FLASH_ATTENTION_DTYPE), NPT_EXPLAIN_ERROR, 0,
     "flash[-_]? ?attention(?: ?2(?:\\.0)?)? only supports? "
     "(?:torch\\.)?(?:fp16|float16|half)|expected q_dtype ?== "
     "?(?:torch|at)::(?:scalartype::)?k?(?:float16|half)",
     NO_MORE, NO_MORE, NULL},
    {KIND(KBIT_PREPARE_OOM),
     NPT_EXPLAIN_ERROR,
     3000,
     "out of memory|outofmemoryerror|not enough memory|can.?t allocate memory",
     {"prepare_model_for_(?:kbit|int8|k_bit)_training"},
     NO_MORE,
     NULL},

    /* A test that compares two devices. */
    {KIND(BACKEND_DIVERGENCE),
     NPT_EXPLAIN_ERROR,
     900,
     "(?:tensor-likes|scalars) are not (?:close|equal)!|not equal to tolerance "
     "rtol|(?:torch\\.|np\\.)?allclose(?:\\(|,? is )[^\\n]{0,80}?false",
     {"(?<![a-z])cpu(?![a-z])", "(?<![a-z])(?:gpu|cuda|mps|rocm|npu|xpu)(?![a-z])",
      "\\bb?fp-?16|\\bbf-?16|\\bb?float-?16|torch\\.half|\\.half\\(\\)|half[- ]precision"},
     NO_MORE,
     NULL},

    /* ---- Recomputation ---- */
    {KIND(RECOMPUTE_METADATA),
     NPT_EXPLAIN_ERROR,
     200000,
     "saved metadata: ?\\{[^{}]{0,300}?dtype: "
     "?torch\\.(?<a>\\w++)[^{}]{0,300}\\}[^{}]{0,60}recomputed metadata: ?\\{[^{}]{0,300}?dtype: "
     "?torch\\.(?!\\k<a>\\b)(?<b>\\w+)",
     {"recomputed values for the following tensors have different metadata"},
     NO_MORE,
     "Activation checkpointing saved a {a} tensor and recomputed a {b} one."},
    {KIND(NEAR_MISS),
     NPT_EXPLAIN_ERROR,
     200000,
     "recomputed values for the following tensors have different metadata",
     NO_MORE,
     {"'dtype': torch\\.(\\w++)[^{}]{0,300}\\}[^{}]{0,60}recomputed metadata: \\{[^{}]{0,300}?"
      "'dtype': torch\\.(?!\\1\\b)"},
     "Activation checkpointing recomputed tensors with other metadata, but no listed pair differs "
     "in dtype: where only shapes differ it is sharding (FSDP, ZeRO-3) or input that changes "
     "between the two passes."},
    {KIND(NEAR_MISS), NPT_EXPLAIN_ERROR, 0, "keyerror: (?:bf16|f8_e4m3\\w*|f8_e5m2)\\b", NO_MORE,
     NO_MORE,
     "The loader is too old for the dtype in the file: it has no entry for it. Upgrade the library "
     "that reads the checkpoint (safetensors or its caller)."},

    /* ---- Warnings ---- */
    {KIND(AMP_CPU_REFUSED), NPT_EXPLAIN_WARNING, 0,
     "in cpu autocast,? but the target dtype is not supported|cpu autocast only supports dtypes? "
     "of|device_type of cuda,? but cuda is not available\\.? disabling|gradscaler is enabled,? but "
     "cuda is not available",
     NO_MORE, NO_MORE, NULL},
    {KIND(FLASH_ATTENTION_DTYPE), NPT_EXPLAIN_WARNING, 0,
     "attempting to use flash attention 2(?:\\.0)? without specifying a torch dtype", NO_MORE,
     NO_MORE, NULL},
    {KIND(MERGE_DIFFERS), NPT_EXPLAIN_WARNING, 0,
     "merge \\w{2,8} module to [48]-bit linear may get different generations", NO_MORE, NO_MORE,
     NULL},
};

const size_t npt_explain_text_count = sizeof(npt_explain_texts) / sizeof(npt_explain_texts[0]);

/* ---- Errors of others ---- */

const char npt_explain_other_error[] =
    "(?<![\\w.])(?<!except )(?<!raise )(?<!class )(?<!import "
    ")(?:[A-Za-z_]\\w*\\.)*[A-Z]\\w*(?:Error|Exception|Timeout|Failure)\\b(?:\\([A-Z]\\w+\\))?(?=:["
    " \\n])|"
    /* alone on its line; pytest repeats the name behind a line number */
    "(?<![\\w.:])(?<!: )(?:[A-Za-z_]\\w*\\.)*[A-Z]\\w*(?:Error|Exception)(?=\\n|\\z)|CUDA out of "
    "memory|CUDA error:|[Ss]egmentation fault|core dumped|collective operation "
    "timeout|CUBLAS_STATUS_\\w+|CUDNN_STATUS_\\w+|device-side assert|No matching "
    "distribution|command not found|No such file or directory|ModuleNotFound|No module named";

const char npt_explain_wrapper[] =
    "\\A(?:[A-Za-z_]\\w*\\.)*(?:CalledProcessError|ChildFailedError|ProcessRaisedException|"
    "ProcessExitedException|RayTaskError|DistBackendError|DistStoreError|DistNetworkError|"
    "WorkerCrashedError|RemoteError)\\b";

const char npt_explain_nan_error[] = "\\bnan\\b|\\binf\\b|non-?finite|FloatingPointError";
