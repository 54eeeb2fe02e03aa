/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "doctor/explain.h"

/* Rules: which words mean which kind. Data only.
 *
 * First the literal texts of errors and warnings, then descriptions. In patterns a blank stands for
 * a blank or a line break, or, where the rule looks into the dense text, for nothing; quotation
 * marks are ' in clean and absent in dense; case is ignored. A description needs several things
 * said close together, because a wrong claim is worse than none. */

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

/* ---- Words of people ---- */

#define FP16                                                                                       \
    "(?:(?<!b)fp-?16|(?<!b)float-?16|\\bf16\\b|torch\\.half|\\.half\\(\\)|half[- ]precision|"      \
    "16-bit float|(?<![a-z])half(?= |\\b)(?! (?:of|the|an?|way|hour)\\b))"
#define BF16 "(?:bf-?16|bfloat-?16)"
#define LOW  "(?:" FP16 "|" BF16 ")"
#define FP32 "(?:fp-?32|float-?32|\\bf32\\b|full precision|single precision)"
#define NANS "(?:\\bnan'?s?\\b|non-?finite|\\binfs?\\b|\\binfinit\\w+|overflow\\w*|not a number)"
#define GARBAGE                                                                                    \
    "(?:garbage|gibberish|nonsense|rubbish|\\bjunk\\b|incoherent|word salad|"                      \
    "random (?:characters|words|tokens|text)|(?:meaningless|scrambled|unreadable|garbled))"
#define WORSE                                                                                      \
    "(?:worse|degrad\\w*|diverg\\w*|drops?\\b|drift\\w*|inaccura\\w*|less accurate|unstable|"      \
    "los(?:es?|t|ing|s of) (?:precision|accuracy|quality)|poor\\w*|bad(?:ly)?\\b|collaps\\w*|"     \
    "quality (?:falls|drops|gets|goes|loss|suffers|decays|declines)|declin\\w*|"                   \
    "falls? (?:off|apart)|deteriorat\\w*)"
#define ADAPTER "(?:\\badapters?\\b|\\blora\\w*|\\bdora\\b|\\bpeft\\b|qlora)"
#define QUANTIZED                                                                                  \
    "(?:4-?bits?\\b|\\bnf4\\b|\\bfp4\\b|quanti[sz]ed|\\bbnb\\b|bitsandbytes|qlora|Params4bit)"
#define BIG_SHAPE "(?:1x\\d{7,}|\\d{7,}x1)"

#define KIND(name) NPT_EXPLAIN_##name
#define NO_MORE                                                                                    \
    {                                                                                              \
        NULL                                                                                       \
    }

const npt_explain_rule npt_explain_rules[] = {
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

    /* ---- Recomputation ---- */
    {KIND(RECOMPUTE_METADATA),
     NPT_EXPLAIN_ERROR,
     2000000,
     "saved metadata: ?\\{[^{}]{0,300}?dtype: "
     "?torch\\.(?<a>\\w++)[^{}]{0,300}\\}[^{}]{0,60}recomputed metadata: ?\\{[^{}]{0,300}?dtype: "
     "?torch\\.(?!\\k<a>\\b)(?<b>\\w+)",
     {"recomputed values for the following tensors have different metadata"},
     NO_MORE,
     "Activation checkpointing saved a {a} tensor and recomputed a {b} one."},
    {KIND(NEAR_MISS), NPT_EXPLAIN_ERROR, 0,
     "recomputed values for the following tensors have different metadata", NO_MORE, NO_MORE,
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

    /* ---- Descriptions, the most specific first ---- */
    {KIND(SCALE_AT_MINIMUM), NPT_EXPLAIN_SYMPTOM, 200,
     "attempted loss scale: 1(?:\\.0)?, (?:but hysteresis|reducing to [01])\\b", NO_MORE, NO_MORE,
     NULL},
    {KIND(SCALE_AT_MINIMUM),
     NPT_EXPLAIN_SYMPTOM,
     160,
     "(?:loss[ _-]?scale[rd]?|grad(?:ient)?[ _-]?scale\\w*)",
     {"\\b(?:minimum|halv\\w*|fall\\w*|drop\\w*|shrink\\w*|shrunk|decreas\\w*|reduc\\w*|goes down)",
      "(?:minimum|(?:to|at|reach\\w*|until) (?:it is )?(?:1(?:\\.0)?|0(?:\\.0)?|zero|one)\\b|every "
      "step|forever|keeps?)"},
     NO_MORE,
     NULL},
    {KIND(KBIT_PREPARE_OOM),
     NPT_EXPLAIN_SYMPTOM,
     250,
     "prepare_model_for_(?:kbit|int8|k_bit)_training",
     {"\\boom\\w*|out[- ]of[- ]memory|runs? out of|memory|\\bv?ram\\b|killed"},
     NO_MORE,
     NULL},
    {KIND(MASK_OVERFLOW_NAN),
     NPT_EXPLAIN_SYMPTOM,
     260,
     "left[- ]?pad\\w*|pad\\w* (?:on|to|at|from) the left|padding_side ?[=:]? "
     "?'?left|(?:fully|all|completely|entirely)[- ]mask\\w*|masked (?:everywhere|out "
     "(?:completely|entirely))|(?:every|each|all) (?:key|position|token|column)s? "
     "(?:is|are|being)? ?masked|attends? to (?:nothing|no "
     "(?:key|token|position)s?)|finfo\\([^)]{0,40}\\)\\.min|(?:two|both) (?:attention "
     ")?masks|masks? (?:is|are|being|get|was|were)? ?added|(?:all|only|entirely)[- ]pad\\w*",
     {NANS},
     NO_MORE,
     NULL},
    {KIND(ADAM_FP16_NAN),
     NPT_EXPLAIN_SYMPTOM,
     260,
     "adam\\w*|optimi[sz]er|\\beps(?:ilon)?\\b",
     {NANS, FP16,
      "(?:first|1st|one|single|very first|initial) (?:optimi[sz]er |training |adam\\w* "
      ")?(?:step|update|iteration)|optimi[sz]er\\.step|opt\\.step|updates? once|after (?:an? |the "
      "|its )?(?:first )?(?:update|step)|zero[- ]gradient|\\beps(?:ilon)?\\b|1e-0?8"},
     {"gradscaler|loss scale"},
     NULL},
    {KIND(ADAM_FP16_NAN),
     NPT_EXPLAIN_SYMPTOM,
     200,
     "\\beps(?:ilon)?\\b|1e-0?8",
     {"adam\\w*", FP16,
      "too small|underflow\\w*|(?:is|becomes|rounds to|to) (?:0|zero)\\b|flush\\w*|vanish\\w*"},
     NO_MORE,
     NULL},
    {KIND(MLP_PRODUCT_OVERFLOW),
     NPT_EXPLAIN_SYMPTOM,
     260,
     "\\bmlps?\\b|(?<!_)feed[- "
     "]?forward|\\bffn\\b|gate_proj|up_proj|down_proj|swiglu|\\bsilu|geglu|gated "
     "(?:unit|activation|product)|act_fn",
     {NANS, FP16 "|65504|6[5-9],?\\d{3}\\b"},
     NO_MORE,
     NULL},
    {KIND(RESIDUAL_OVERFLOW),
     NPT_EXPLAIN_SYMPTOM,
     260,
     "\\bgemma|residual(?:s|[ _](?:stream|connection|add|branch))|hidden[ "
     "_]states?|\\b(?:rms)?norm(?:alization)? weights?|post_(?:attention|feedforward)_layernorm",
     {NANS, FP16 "|65504"},
     {"(?<!b)loss\\b"},
     NULL},
    {KIND(ATTENTION_OVERFLOW),
     NPT_EXPLAIN_SYMPTOM,
     300,
     "(?<=[ \\n'\":>(=])!{4,}(?![a-z])|(?<=^)!{4,}",
     {"output|generat|respon|repl(?:y|ies)|answer|complet|token|text|produc|return|prints?\\b|says|"
      "exclamation|model|infer"},
     NO_MORE,
     NULL},
    {KIND(ATTENTION_OVERFLOW),
     NPT_EXPLAIN_SYMPTOM,
     250,
     "exclamation (?:mark|point)s?",
     {"output|generat|respon|repl(?:y|ies)|answer|complet|token|produc|return|model"},
     NO_MORE,
     NULL},
    {KIND(ATTENTION_OVERFLOW),
     NPT_EXPLAIN_SYMPTOM,
     240,
     "\\battn\\b|\\battention\\b|\\bqk\\b|q_proj|k_proj|self_attn|pre-softmax|scores before (?:the "
     ")?softmax|attn_weights",
     {NANS, FP16},
     NO_MORE,
     NULL},
    {KIND(BATCH_SIZE_NAN),
     NPT_EXPLAIN_SYMPTOM,
     200,
     "(?:only|from|above|beyond|over|than|at|once|starting|exceed\\w*|when|for|if|with|until)[^\\n]"
     "{0,30}?(?<![_\\w])(?:batch(?:[ _-]?size)?s?|sequence[ _-]?lengths?|seq_?len|prompt[ "
     "_-]?(?:length|size)|n_?u?batch|context[ "
     "_-]?length|tokens)[^\\n]{0,25}?(?:\\d|larger|bigger|longer)|(?<![_\\w])(?:batch[ "
     "_-]?sizes?|batches|sequence[ _-]?lengths?|seq_?len|prompt[ "
     "_-]?length|prompts|sequences|n_?u?batch|-ub)[^\\n]{0,25}?(?:larger|bigger|longer|greater|"
     "more|above|exceed\\w*|over|beyond|of|>=?) ?(?:than|of)? ?(?:about )?\\d+",
     {NANS "|wrong (?:values|results?|outputs?|numbers|answers?|logits)|" GARBAGE,
      "\\bonly\\b|\\bfine\\b|\\bok(?:ay)?\\b|correct|\\bworks?\\b|but not|\\bbelow\\b|smaller|up "
      "to|shorter|no problem|as soon as|from \\d|\\bclean\\b|never|normal"},
     {"out of memory|\\boom\\b", "learning[ _]rate"},
     NULL},
    {KIND(LOSS_ZERO_NAN),
     NPT_EXPLAIN_SYMPTOM,
     220,
     "\\bloss'?\\W{0,6}(?:is |was |are |logs? |shows? |reads? |drops? to |goes to |went to "
     "|becomes? |became |stays? (?:at )?|stuck at |of |at |exactly |a flat |constant |always |just "
     "|suddenly )*'?0(?:\\.0+)?(?![.\\d])",
     {"grad\\w*[_ ]?(?:norm)?\\W{0,5}(?:is |was |becomes? |= ?)?'?\\bnan\\b|\\bnan\\b|grad[_ "
      "]norm\\W{0,5}inf"},
     NO_MORE,
     NULL},
    {KIND(HALF_ACCUMULATION),
     NPT_EXPLAIN_SYMPTOM,
     260,
     "(?:gradient|grad)s?[ _-]?accum\\w*|accumulat\\w+ (?:the |of )?(?:micro\\w* "
     ")?grad\\w*|grad\\w*[^\\n]{0,30}?(?:summed|accumulated|added up)|(?:sum\\w*|add\\w*) (?:up "
     ")?(?:the )?grad\\w*|accumulation (?:is |was )?(?:also )?(?:done|happens|performed|kept|runs) "
     "in",
     {LOW, WORSE "|differ\\w*|mismatch|lower\\b|does ?n.t match|not "
                 "(?:match|equal|equivalent)|quality|vanish\\w*|los[ts]\\b|suffers?|hurts?"},
     {"\\bnan\\b|scaler|unscale"},
     NULL},
    {KIND(LOSS_ZERO_NAN),
     NPT_EXPLAIN_SYMPTOM,
     260,
     "\\bloss'?\\b[^\\n]{0,40}?\\bnan\\b|\\bnan\\b[^\\n]{0,12}?\\bloss",
     {LOW "|\\bint8\\b|8-?bit"},
     {"learning[ _]rate (?:is|was) too|lr (?:is|was) too"},
     NULL},
    {KIND(LOSS_ZERO_NAN),
     NPT_EXPLAIN_SYMPTOM,
     220,
     "\\bloss\\b[^\\n]{0,30}?(?:drop\\w*|goes|went|falls?|fell|becom\\w+|became|stuck|stays?|"
     "always|is|turns?)[^\\n]{0,25}?(?<![\\d.])0(?:\\.0+)?(?![.\\d])",
     {FP16 "|\\bint8\\b|8-?bit"},
     NO_MORE,
     NULL},
    {KIND(ATTENTION_OVERFLOW),
     NPT_EXPLAIN_SYMPTOM,
     260,
     BF16 "[- ](?:native "
          ")?(?:model|checkpoint|weights|native)|(?:trained|released|published|stored|saved|"
          "shipped|distributed|native\\w*)[^\\n]{0,20}? " BF16,
     {NANS, FP16},
     {"\\bloss\\b"},
     NULL},
    {KIND(ATTENTION_OVERFLOW),
     NPT_EXPLAIN_SYMPTOM,
     220,
     "\\blogits\\b|first (?:few )?layers?|layer 0\\b|inference|forward pass|generat\\w+",
     {NANS, FP16,
      BF16 "[^\\n]{0,40}?(?:fine|works?|ok\\b|good|correct|no (?:such "
           ")?problem)|(?:fine|works?|ok\\b|good|correct)[^\\n]{0,30}?" BF16},
     {"\\bloss\\b"},
     NULL},
    {KIND(ROPE_HALF),
     NPT_EXPLAIN_SYMPTOM,
     260,
     "\\brope\\b|rotary|inv_freq|inverse frequenc\\w+|position(?:al)?[ "
     "_]?(?:ids?|embeddings?|encodings?|ind(?:ex|ices))|(?:cos|sin)[ _](?:and|/) ?(?:sin|cos)",
     {LOW, WORSE "|precision|round\\w*|collid\\w*|alias\\w*|los[et]s?\\b|wrong|differ\\w*|"
                 "identical|same angle|quality"},
     {NANS},
     NULL},
    {KIND(ROPE_HALF),
     NPT_EXPLAIN_SYMPTOM,
     260,
     "long(?:er)?[- ](?:context|prompt|sequence|input|document)s?|lat(?:e|er|ter) "
     "(?:tokens|positions)|(?:distant|far|high|large) positions?|position "
     "\\d{3,}|(?:after|beyond|past) (?:about |roughly |around )?\\d[\\d,.]*k? "
     "?(?:tokens|positions)|with (?:the )?position",
     {LOW, WORSE "|worse", FP32},
     {NANS},
     NULL},
    {KIND(QUANTIZED_DTYPE_INFERRED),
     NPT_EXPLAIN_SYMPTOM,
     260,
     "\\b(?:torch\\.)?u?int8\\b|\\bbytes?\\b dtype",
     {ADAPTER "|dtype", QUANTIZED,
      "becom\\w+|became|creat\\w+|turn\\w*|come out|came out|end\\w* "
      "up|are|is|infer\\w*|report\\w*|return\\w*|wrong|instead"},
     {"load_in_8bit"},
     NULL},
    {KIND(MERGE_DIFFERS),
     NPT_EXPLAIN_SYMPTOM,
     260,
     "\\bmerg(?:e|ed|es|ing)\\b|merge_and_unload|merge_adapter|merged_(?:16|4)bit|save_pretrained_"
     "merged",
     {ADAPTER "|" QUANTIZED "|unload",
      "differ\\w*|not (?:be )?(?:the "
      ")?(?:same|identical|match)|worse\\w*|chang\\w+|degrad\\w*|mismatch|drop\\w*|diverg\\w*|no "
      "longer|forg[eo]t\\w*|broken|" GARBAGE
      "|does ?n.t match|los(?:t|es|s of) "
      "|\\bdiff\\b|discrepan\\w*|inconsisten\\w*|abnormal|unexpected|as if|never (?:been "
      ")?(?:fine-?tuned|trained)|\xe4\xb8\x8d\xe4\xb8\x80\xe8\x87\xb4"},
     {"\\bgit\\b|overwritten|conflict|\\bbranch|pull request|dataset"},
     NULL},
    {KIND(ADAPTER_DTYPE_ON_LOAD),
     NPT_EXPLAIN_SYMPTOM,
     200,
     "(?:sav|train|stor|writ|finetun|fine-tun)\\w*[^\\n]{0,40}?" LOW
     "[^\\n]{0,80}?(?:load|read|hold|contain|has|get|file|checkpoint)\\w*[^\\n]{0,40}?" FP32
     "|(?:sav|train|stor|writ|finetun|fine-tun)\\w*[^\\n]{0,40}?" FP32
     "[^\\n]{0,80}?(?:load|read|hold|contain|has|get|file|checkpoint)\\w*[^\\n]{0,40}?" LOW,
     {ADAPTER},
     {"merg(?:e|ed|ing)\\b", "\\bloss\\b|" NANS},
     NULL},
    {KIND(ADAPTER_DTYPE_ON_LOAD),
     NPT_EXPLAIN_SYMPTOM,
     260,
     ADAPTER,
     {"sav(?:e|ed|es|ing)\\b|re-?load\\w*|\\bload(?:ed|ing|s)?\\b|save_pretrained|from_pretrained|"
      "load_adapter|on disk|file size|safetensors|written",
      FP32 "|" LOW "|autocast_adapter_dtype|\\bdtype",
      "becom\\w+|became|turn\\w*|chang\\w+|cast\\b|casts|converted|upcast\\w*|twice|doubl\\w*|"
      "halv\\w*|half the size|com(?:es?|ing) back|came back|end\\w* up|instead "
      "of|autocast_adapter_dtype|\\bagain\\b|different dtype|even "
      "though|although|silently|(?:is|are) (?:suddenly |now |again )?(?:in )?(?:float|fp|bf)"},
     {"merg(?:e|ed|ing)\\b", "\\bloss\\b|" NANS},
     NULL},
    {KIND(REINTERPRETED_BITS),
     NPT_EXPLAIN_SYMPTOM,
     200,
     "reinterpret\\w*|(?:bytes|bits|weights?|tensors?|file|buffer)[^\\n]{0,30}? "
     "(?:read|interpreted|treated|taken|viewed|loaded|parsed) as ",
     {LOW, GARBAGE "|wrong|nonsens\\w*|bytes|bits|instead"},
     NO_MORE,
     NULL},
    {KIND(REINTERPRETED_BITS),
     NPT_EXPLAIN_SYMPTOM,
     260,
     GARBAGE,
     {LOW "|" FP32, "dtype|\\bflag\\b|memcpy|frombuffer|\\.view\\(|raw "
                    "(?:bytes|copy)|(?:set|setting|chang\\w+|switch\\w*|forc\\w+|cast\\w*|"
                    "convert\\w*|load\\w*)[^\\n]{0,30}?(?:" LOW "|" FP32 ")"},
     {"(?<!no )(?<!or )(?<!any )(?<!without )(?<!zero )(?<!not )\\bnans?\\b|overflow",
      "batch[ _-]?size|merg(?:e|ed|ing)\\b"},
     NULL},
    {KIND(BACKEND_DIVERGENCE),
     NPT_EXPLAIN_SYMPTOM,
     260,
     "\\bcpu\\b",
     {"\\b(?:gpu|cuda|mps|rocm|npu|xpu|tpu|metal|directml)\\b", LOW,
      "differ(?:s|ent|ently|ing)?\\b|not (?:get |give |produce |return )?(?:the "
      ")?same|mismatch|diverg\\w*|disagree\\w*|inconsisten\\w*|does ?n.t match|do ?n.t match|not "
      "match|deviat\\w*|discrepan\\w*|allclose|not "
      "(?:agree|equal|identical)|unequal|(?:abs\\w*|max\\w*|numerical|relative|large|big) "
      "(?:abs\\w* )?(?:errors?|diff\\w*)",
      "results?|outputs?|values?|logits|answers?|numbers|\\bnorms?\\b|errors?\\b|\\bruns?\\b|"
      "matmul|implementations?|discrepan\\w*|inconsisten\\w*|tensors?|layers?"},
     {"same device|two devices|out of memory"},
     NULL},
    {KIND(BF16_UNSUPPORTED),
     NPT_EXPLAIN_SYMPTOM,
     160,
     "(?:\\bt4\\b|v100|turing|volta|pascal|p100|rtx "
     "?20\\d\\d|gtx|1080|2080|\\bgpu|\\bcard|hardware|device)[^\\n]{0,60}?(?:\\bnot\\b|n't|"
     "\\bno\\b|without|lacks?)[^\\n]{0,30}?" BF16 "|" BF16 " (?:is )?(?:not supported|unsupported)",
     NO_MORE,
     {NANS},
     NULL},
    {KIND(BF16_UPDATE_LOST),
     NPT_EXPLAIN_SYMPTOM,
     260,
     BF16,
     {"loss[^\\n]{0,30}?(?:flat|constant|stuck|stagnat\\w*|plateau\\w*|barely|hardly|not (?:going "
      "down|decreas\\w*|improv\\w*|mov\\w*)|n't "
      "(?:go|decreas\\w*|improv\\w*|mov\\w*)|slow\\w*)|(?:converg\\w*|fall\\w*|decreas\\w*)[^\\n]{"
      "0,30}?(?:slow\\w*|bad\\w*|poor\\w*)|(?:slow\\w*|bad|poor|worse) "
      "converg\\w*|(?:weights?|param\\w*)[^\\n]{0,60}?(?:\\bnot\\b|n't|never|identical|unchanged|"
      "the same|frozen|stuck|bit for "
      "bit|hardly|barely)|updates?[^\\n]{0,40}?(?:lost|vanish\\w*|disappear\\w*|too "
      "small|round\\w*|zero|swallowed)|(?:vanishing|lost|missing|tiny) (?:weight )?updates?|\\b0 "
      "(?:of|/|out of) (?:the )?\\d+|none of the (?:weights|param\\w*)|\\bno weight decay|weight[ "
      "_]decay[^\\n]{0,40}?(?:no effect|ineffective|without|does ?n.t|does not|nothing|not "
      "appl\\w*)|stochastic rounding"},
     {NANS},
     NULL},
    {KIND(RECOMPUTE_METADATA),
     NPT_EXPLAIN_SYMPTOM,
     220,
     "recomput\\w*",
     {"dtype|" FP32 "|" LOW, "autocast|checkpoint\\w*",
      "differ\\w*|mismatch\\w*|not (?:the )?same|another"},
     {"different metadata"},
     NULL},
    {KIND(FLASH_ATTENTION_DTYPE),
     NPT_EXPLAIN_SYMPTOM,
     200,
     "flash[-_ ]?att\\w*",
     {FP32, "\\bonly\\b|support\\w*|refus\\w*|\\berrors?\\b|fails?|reject\\w*|complain\\w*|"
            "accept\\w*|want\\w*"},
     {NANS},
     NULL},
    {KIND(DOUBLE_UNSCALE),
     NPT_EXPLAIN_SYMPTOM,
     160,
     "unscal\\w*",
     {"\\btwice\\b|already|second time|double[ds]?\\b|two times"},
     NO_MORE,
     NULL},
    {KIND(SCALER_BF16),
     NPT_EXPLAIN_SYMPTOM,
     200,
     "grad(?:ient)?[ _]?scaler",
     {BF16 " (?:grad\\w*|param\\w*|model|weights)",
      "not implemented|fails?|error|crash\\w*|refus\\w*|complain\\w*"},
     {"fp16 grad"},
     NULL},
    {KIND(UNSCALE_FP16_GRADIENTS),
     NPT_EXPLAIN_SYMPTOM,
     200,
     "unscal\\w*|grad(?:ient)?[ _]?scaler",
     {FP16 " (?:grad\\w*|param\\w*)",
      "refus\\w*|complain\\w*|\\berror|fails?|can ?not|can't|reject\\w*|crash\\w*"},
     NO_MORE,
     NULL},
    {KIND(AMP_CPU_REFUSED),
     NPT_EXPLAIN_SYMPTOM,
     200,
     "autocast|mixed[- ]precision|\\bamp\\b",
     {"\\bcpu\\b", LOW,
      "disabl\\w*|refus\\w*|not supported|unsupported|ignor\\w*|only (?:works?|support\\w*|be "
      "used)|no effect"},
     NO_MORE,
     NULL},
    {KIND(HALF_LAYERNORM_CPU),
     NPT_EXPLAIN_SYMPTOM,
     160,
     "layer ?norm\\w*|softmax|conv\\w*",
     {FP16, "\\bcpu\\b", "not (?:supported|implemented)|unsupported|no kernel|missing"},
     NO_MORE,
     NULL},
    {KIND(HALF_MATMUL_CPU),
     NPT_EXPLAIN_SYMPTOM,
     160,
     "matmul|mat(?:rix)? mul\\w*|linear layer|addmm",
     {FP16, "\\bcpu\\b", "not (?:supported|implemented)|unsupported|no kernel|missing"},
     NO_MORE,
     NULL},
};

const size_t npt_explain_rule_count = sizeof(npt_explain_rules) / sizeof(npt_explain_rules[0]);

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
