/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "doctor/explain.h"

/* Rules: descriptions in plain words and lines of logs, the most specific first. Data only.
 *
 * A blank stands for a blank or a line break; quotation marks are '; case is ignored. A description
 * needs several things said close together, because a wrong claim is worse than none. */

/* ---- Words of people ---- */

#define FP16                                                                                       \
    "(?:(?<!b)fp-?16|(?<!b)float-?16|\\bf16\\b|torch\\.half|\\.half\\(\\)|half[- ]precision|"      \
    "16-bit float|(?<![a-z])half(?= |\\b)(?! (?:of|the|an?|way|hour)\\b))"
#define BF16 "(?:bf-?16|bfloat-?16)"
#define LOW  "(?:" FP16 "|" BF16 ")"
#define FP32 "(?:fp-?32|float-?32|\\bf32\\b|full precision|single precision)"
#define NANS                                                                                       \
    "(?:\\bnan'?s?\\b|non-?finite|\\binfs?\\b|\\binfinit\\w+|overflow\\w*|not a number|not "       \
    "finite)"
/* What fp16 cannot hold, said in numbers or in words. */
#define TOO_LARGE                                                                                  \
    "(?:65,?50[0-9]|65\\.5 ?k|(?:exceed\\w*|beyond|past|(?:larger|bigger|greater|more|higher) "    \
    "than|above|outside|out of)[^\\n]{0,40}?(?:range|max(?:imum)?\\b|limit|represent\\w*|"         \
    "fp-?16|float-?16|half))"
#define GARBAGE                                                                                    \
    "(?:garbage|gibberish|nonsense|rubbish|\\bjunk\\b|incoherent|word salad|"                      \
    "random (?:characters|words|tokens|text)|(?:meaningless|scrambled|unreadable|garbled))"
#define WORSE                                                                                      \
    "(?:worse|degrad\\w*|diverg\\w*|drops?\\b|drift\\w*|inaccura\\w*|less accurate|unstable|"      \
    "los(?:es?|t|ing|s of) (?:precision|accuracy|quality)|poor\\w*|bad(?:ly)?\\b|collaps\\w*|"     \
    "quality (?:falls|drops|gets|goes|loss|suffers|decays|declines)|declin\\w*|"                   \
    "falls? (?:off|apart)|deteriorat\\w*)"
#define ERRORS_GROW "(?:(?:larger|bigger|growing) (?:the )?errors?|errors? (?:grows?|increases?))"
#define SIZE                                                                                       \
    "(?:\\b(?:bsz?|n?_?u?batch(?:[ _-]?size)?s?|seq(?:[ _-]?len(?:gth)?)?s?|sequence lengths?|"    \
    "prompt[ _-]?len(?:gth)?|length|rows|tokens)(?![a-z_]))"
/* Signs of attention: what it computes, and what a model says whose logits are NaN. */
#define SCORES  "(?:!{4,}|\\bq ?[@x*.]? ?k(?:\\b|\\^|_?t\\b)|(?:attention|qk|attn)[ _]scores?\\b)"
#define ADAPTER "(?:\\badapters?\\b|\\blora\\w*|\\bdora\\b|\\bpeft\\b|qlora)"
#define QUANTIZED                                                                                  \
    "(?:4-?bits?\\b|\\bnf4\\b|\\bfp4\\b|quanti[sz]ed|\\bbnb\\b|bitsandbytes|qlora|Params4bit)"

/* The dump of transformers' DebugUnderflowOverflow: NAME stands in the first frame that is not
 * finite, and no number before it is too large for fp16. */
#define BAD_NUMBERS       "(?:[\\d.e+-]+|nan|inf) +(?:inf|nan)\\b"
#define TOO_LARGE_NUMBERS "[\\d.e+-]+ +(?:\\d\\.\\d+e\\+(?:0[5-9]|[1-9]\\d)|[7-9]\\.\\d+e\\+04)"
#define DUMP(NAME)                                                                                 \
    "abs min +abs max +metadata\\n(?:(?!abs min|" BAD_NUMBERS "|" TOO_LARGE_NUMBERS                \
    ")[^\\n]*\\n)*?(?=[a-z_])[^\\n]*(?:" NAME ")[^\\n]*\\n(?:(?=[\\d.])(?!" BAD_NUMBERS            \
    "|" TOO_LARGE_NUMBERS ")[^\\n]*\\n){0,4}" BAD_NUMBERS

#define KIND(name) NPT_EXPLAIN_##name
#define NO_MORE                                                                                    \
    {                                                                                              \
        NULL                                                                                       \
    }

const npt_explain_rule npt_explain_symptoms[] = {
    {KIND(ATTENTION_OVERFLOW), NPT_EXPLAIN_SYMPTOM, 0,
     DUMP("self_attn|attention\\b|\\battn|softmax|[qkvo]_proj"), NO_MORE, NO_MORE, NULL},
    {KIND(MLP_PRODUCT_OVERFLOW), NPT_EXPLAIN_SYMPTOM, 0,
     DUMP("\\bmlp\\b|feed_?forward|\\bffn|DenseReluDense|DenseGated\\w+|(?:gate|up|down)_proj|"
          "act_fn|\\bw[io]_?\\d?\\b"),
     NO_MORE, NO_MORE, NULL},
    {KIND(RESIDUAL_OVERFLOW), NPT_EXPLAIN_SYMPTOM, 0,
     DUMP("layer_?norm|\\bnorm|rmsnorm|DecoderLayer|\\bBlock\\b"), NO_MORE, NO_MORE, NULL},
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
    {KIND(SCALE_AT_MINIMUM),
     NPT_EXPLAIN_SYMPTOM,
     160,
     "(?:loss[ _-]?scale[rd]?|grad(?:ient)?[ "
     "_-]?scale\\w*)[^\\n]{0,30}?\\d{3,}[^\\n]{0,60}?(?<![\\d.])"
     "[01](?:\\.0)?(?![\\d.])",
     {"overflow\\w*|exception|exits?\\b|stops?\\b|dies\\b|\\bfails?|minimum"},
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
     "mask(?:s|ed|ing)? (?:out )?(?:every|all|each|any) (?:the |of the "
     ")?(?:key|token|position|column|entr)|left[- ]?pad\\w*|pad\\w* (?:on|to|at|from) the "
     "left|padding_side ?[=:]? ?'?left|(?:fully|all|"
     "completely|entirely)[- ]mask\\w*|masked (?:everywhere|(?:out "
     ")?(?:completely|entirely|fully))|"
     "(?:every|each|all) (?:of (?:the|its) )?(?:key|position|token|column|entr(?:y|ie))s? "
     "(?:is|are|"
     "being|gets?)? ?masked|attends? to (?:nothing|no (?:key|token|position)s?|zero "
     "(?:key|token|position)s?)|finfo\\([^)]{0,40}\\)\\.min|(?:two|both) (?:attention "
     ")?masks|masks? "
     "(?:is|are|being|get|was|were)? ?added|(?:all|only|entirely)[- ]pad\\w*|mask\\w*[^\\n]{0,20}? "
     "(?:is |are |being )?(?:all|entirely|completely|only) "
     "(?:true|false|ones|zeros?|0|1|-?inf|pad\\w*)\\b|mask\\w*[^\\n]{0,40}?(?:entire|whole|full|"
     "complete|all) rows?|(?:entire|whole|complete|full) (?:row|sequence|sample)s?[^\\n]{0,20}?"
     "(?:mask\\w*|-inf|pad\\w*)|mask\\w*[^\\n]{0,60}?0/0|(?:empty|no valid|zero valid) "
     "(?:rows?|keys?|tokens?|sequences?|samples?)[^\\n]{0,60}?mask|mask\\w*[^\\n]{0,60}?(?:empty|"
     "no "
     "valid|zero valid) (?:rows?|keys?|tokens?|sequences?|samples?)",
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
     {NANS "|" TOO_LARGE, FP16 "|65504|6[5-9],?\\d{3}\\b"},
     NO_MORE,
     NULL},
    {KIND(RESIDUAL_OVERFLOW),
     NPT_EXPLAIN_SYMPTOM,
     260,
     "residuals?(?: (?:stream|connection|add|branch))?\\b|hidden[ _]states?|activation (?:norm|"
     "magnitude|scale)s?|\\b(?:rms)?norm(?:alization)? weights?|post_(?:attention|feedforward)_"
     "layernorm",
     {NANS "|" TOO_LARGE, FP16, TOO_LARGE "|(?:residual|hidden[ _]states?)[^\\n]{0,60}?" NANS},
     {"\\b(?:main_)?grad(?:ient)?s?[^\\n]{0,20}?residual", SCORES},
     NULL},
    {KIND(RESIDUAL_OVERFLOW),
     NPT_EXPLAIN_SYMPTOM,
     260,
     "\\bgemma|residual(?:s|[ _](?:stream|connection|add|branch))|hidden[ "
     "_]states?|\\b(?:rms)?norm(?:alization)? weights?|post_(?:attention|feedforward)_layernorm",
     {NANS, FP16 "|65504"},
     {"(?<!b)loss\\b", SCORES},
     NULL},
    {KIND(ATTENTION_OVERFLOW),
     NPT_EXPLAIN_SYMPTOM,
     300,
     "(?<=[ \\n'\":>(=])!{4,}(?![a-z])|(?<=^)!{4,}",
     {"output|generat|respon|repl(?:y|ies)|answer|complet|token|text|produc|return|prints?\\b|says|"
      "\\bgets?\\b|\\bgot\\b|dtype|" FP16 "|"
      "exclamation|model|infer"},
     NO_MORE,
     NULL},
    {KIND(ATTENTION_OVERFLOW),
     NPT_EXPLAIN_SYMPTOM,
     250,
     "exclamation (?:mark|point)s?",
     {"output|generat|respon|repl(?:y|ies)|answer|complet|token|produc|return|model",
      "nothing (?:but|except)|\\bonly\\b|\\bjust\\b|repeat\\w*|endless\\w*|\\bfull of|series of|"
      "(?:strings?|lines?|rows?|streams?) of|consist\\w*|\\ball\\b|infinite\\w*|entirely|forever"},
     NO_MORE,
     NULL},
    {KIND(BATCH_SIZE_NAN),
     NPT_EXPLAIN_SYMPTOM,
     160,
     SIZE
     "(?: ?[=:] ?| of | )\\d[\\d., /]*[^\\n]{0,20}?\\b(?:fine|ok(?:ay)?|correct|right|works?|good|"
     "finite)\\b",
     {SIZE "(?: ?[=:>]+ ?| of | )\\d[^\\n]{0,40}?" NANS},
     {"learning[ _]rate"},
     NULL},
    {KIND(BATCH_SIZE_NAN),
     NPT_EXPLAIN_SYMPTOM,
     200,
     "(?:only|from|above|beyond|over|than|at|once|as soon "
     "as|starting|exceed\\w*|when|for|if|with|until)[^\\n]"
     "{0,30}?(?<![_\\w])(?:batch(?:[ _-]?size)?s?|sequence[ _-]?lengths?|seq_?len|prompt[ "
     "_-]?(?:length|size)|n?_?u?batch|context[ "
     "_-]?length|tokens)[^\\n]{0,25}?(?:\\d|larger|bigger|longer)|(?<![_\\w])(?:batch[ "
     "_-]?sizes?|batches|sequence[ _-]?lengths?|seq_?len|prompt[ "
     "_-]?length|prompts|sequences|n?_?u?batch|-ub)[^\\n]{0,25}?(?:larger|bigger|longer|greater|"
     "more|above|exceed\\w*|over|beyond|of|>=?) ?(?:than|of)? ?(?:about )?\\d+",
     {NANS "|wrong (?:values|results?|outputs?|numbers|answers?|logits)|" GARBAGE,
      "\\bonly\\b|\\bfine\\b|\\bok(?:ay)?\\b|correct|\\bworks?\\b|but not|\\bbelow\\b|smaller|up "
      "to|shorter|no problem|as soon as|from \\d|\\bclean\\b|never|normal|(?:are|is|all|re) "
      "right\\b|or (?:less|fewer|below|smaller)"},
     {"out of memory|\\boom\\b", "learning[ _]rate"},
     NULL},
    {KIND(ATTENTION_OVERFLOW),
     NPT_EXPLAIN_SYMPTOM,
     240,
     "\\battn\\b|\\battention\\b|\\bqk\\b|q_proj|k_proj|self_attn|pre-softmax|scores before (?:the "
     ")?softmax|attn_weights",
     {NANS, FP16},
     NO_MORE,
     NULL},
    {KIND(LOSS_ZERO_NAN),
     NPT_EXPLAIN_SYMPTOM,
     220,
     "(?:\\b|train_|training_)loss'?\\W{0,6}(?:is |was |are |logs? |shows? |reads? |drops? to "
     "|goes to |went to |becomes? |became |stays? (?:at )?|stuck at |of |at |exactly |a flat "
     "|constant |always |just |suddenly )*'?0(?:\\.0+)?(?![.\\d])",
     {"grad\\w*[_ ]?(?:norm)?\\W{0,5}(?:is |was |becomes? |= ?)?'?\\bnan\\b|\\bnan\\b|grad[_ "
      "]norm\\W{0,5}inf"},
     NO_MORE,
     NULL},
    {KIND(HALF_ACCUMULATION),
     NPT_EXPLAIN_SYMPTOM,
     260,
     /* the sum itself in half, not a run in half that accumulates */
     "(?:accum\\w*|\\bsumm(?:ed|ing)\\b|\\bsums?\\b|add(?:ed|ing|s)? "
     "up|\\bmain_grads?)[^\\n.\\d]{0,"
     "50}? ?(?:in|with|using|is|are|as|to|=|:) (?:pure )?(?:torch\\.)?" LOW "|" LOW
     "[- ](?:grad\\w* )?(?:accum\\w*|summ\\w*)|accumulate[-_]allreduce[-_]grads[-_]in[-_]fp32|"
     "(?:grad_)?accum\\w*_d?type|grad_reduce_in_fp32",
     {LOW, "grad\\w*|micro[- ]?batch\\w*",
      WORSE "|" ERRORS_GROW "|differ\\w*|mismatch|does ?n.t match|not (?:match|equal|equivalent)|"
            "(?:quality|accuracy)[^\\n]{0,20}? lower|vanish\\w*|los[ts]\\b|suffers?|hurts?"},
     {"\\bnan\\b|scaler|unscale"},
     NULL},
    {KIND(HALF_ACCUMULATION),
     NPT_EXPLAIN_SYMPTOM,
     260,
     "(?:gradient|grad)s?[ _-]?accum\\w*|accumulat\\w+ (?:the |of |over |\\d+ "
     ")*(?:micro\\w*|grad\\w*)",
     {LOW, FP32 "|same (?:effective )?(?:global )?batch|at once|micro[- ]?batch\\w*",
      WORSE "|differ\\w*|mismatch|does ?n.t match|not (?:match|equal|equivalent)"},
     {"\\bnan\\b|scaler|unscale", "tokens? count|averag\\w*|normali[sz]\\w*|num_items"},
     NULL},
    {KIND(ATTENTION_OVERFLOW),
     NPT_EXPLAIN_SYMPTOM,
     260,
     BF16 "[- ](?:native |trained "
          ")?(?:model|checkpoint|weights|native)|(?:trained|released|published|stored|saved|"
          "shipped|distributed|native\\w*)[^\\n]{0,20}? " BF16
          "|(?:weights|checkpoint|model|params|parameters) (?:is|are|was|were|in) (?:in |stored in "
          "|natively )?" BF16,
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
    {KIND(LOSS_ZERO_NAN),
     NPT_EXPLAIN_SYMPTOM,
     260,
     "\\bloss(?:es)?'?\\b[^\\n]{0,40}?(?:\\bnans?\\b|not a number|not "
     "finite|non-finite)|(?:\\bnan\\b|non-"
     "finite)[^\\n]{0,12}?\\bloss",
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
    {KIND(ROPE_HALF),
     NPT_EXPLAIN_SYMPTOM,
     260,
     "\\brope\\b|rotary|inv_freq|inverse frequenc\\w+|position(?:al)?[ "
     "_]?(?:ids?|embeddings?|encodings?|ind(?:ex|ices))|(?:cos|sin)(?:[ _](?:and|/) "
     "?|/)(?:sin|cos)\\b|(?:cos|sin)_cached",
     {LOW, WORSE
      "|precision|round\\w*|collid\\w*|alias\\w*|los[et]s?\\b|wrong|differ\\w*|"
      "identical|same (?:angle|rotation)|quality|told apart|distinguish\\w*|indistinct\\w*|"
      "repeat\\w*|perplexity[^\\n]{0,30}?(?:up|ris\\w+|increas\\w*|grow\\w*|high\\w*)|" GARBAGE},
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
      "becom\\w+|became|gets?\\b|got\\b|creat\\w+|turn\\w*|come out|came out|end\\w* "
      "up|are|is|ha(?:ve|s)|infer\\w*|report\\w*|return\\w*|wrong|instead"},
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
      "longer|forg[eo]t\\w*|broken|" GARBAGE "|does ?n.t match|los(?:t|es|s of) "
      "|\\bdiff\\b|discrepan\\w*|inconsisten\\w*|abnormal|unexpected|as if|\\d%? "
      "(?:vs\\.?|versus|against|compared (?:to|with)) \\d|not (?:at all )?(?:what|as)\\b|like the "
      "(?:plain |original )?base|never (?:been "
      ")?(?:fine-?tuned|trained)|\xe4\xb8\x8d\xe4\xb8\x80\xe8\x87\xb4"},
     {"\\bgit\\b|overwritten|conflict|\\bbranch|pull request|dataset"},
     NULL},
    {KIND(ADAPTER_DTYPE_ON_LOAD),
     NPT_EXPLAIN_SYMPTOM,
     200,
     "(?:sav|train|stor|writ|finetun|fine-tun)\\w*[^\\n]{0,40}?" LOW
     "[^\\n]{0,80}?(?:load|read|hold|contain|has|get|file|checkpoint|was|were|memory)\\w*[^\\n]{0,"
     "40}?" FP32 "|(?:sav|train|stor|writ|finetun|fine-tun)\\w*[^\\n]{0,40}?" FP32
     "[^\\n]{0,80}?(?:load|read|hold|contain|has|get|file|checkpoint|was|were|memory)\\w*[^\\n]{0,"
     "40}?" LOW,
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
      "becom\\w+|became|turn\\w*|chang\\w+|bigger|larger|cast\\b|casts|converted|upcast\\w*|twice|"
      "doubl\\w*|"
      "halv\\w*|half the size|com(?:es?|ing) back|came back|end\\w* up|instead "
      "of|autocast_adapter_dtype|\\bagain\\b|different dtype|even "
      "though|although|silently|(?:is|are) (?:suddenly|now|again|all) (?:in "
      ")?(?:torch\\.)?(?:float|fp|bf)"},
     {"merg(?:e|ed|ing)\\b", "\\bloss\\b|" NANS},
     NULL},
    {KIND(REINTERPRETED_BITS),
     NPT_EXPLAIN_SYMPTOM,
     240,
     "\\b(?:re-?)?interpret\\w*|(?:bytes|bits|weights?|tensors?|file|buffer|array|values?)[^\\n]{"
     "0,30}? (?:read|treated|taken|viewed|loaded|parsed|decoded)(?: back)? as |(?:\\bread|"
     "treat|view|pars|decod|mistak)(?:s|ed|es|ing|en)?(?: back)? (?:it |them |the \\w+ "
     ")?(?:as|for) "
     "(?:if (?:it|they) (?:was|were) )?(?:an? )?(?:torch\\.|np\\.)?(?:" LOW "|" FP32 ")",
     {LOW, GARBAGE "|wrong|nonsens\\w*|bytes|bits|instead"},
     {"merg(?:e|ed|ing)\\b"},
     NULL},
    {KIND(REINTERPRETED_BITS),
     NPT_EXPLAIN_SYMPTOM,
     260,
     GARBAGE,
     {LOW "|" FP32, "dtype|\\bflag\\b|memcpy|frombuffer|fromfile|\\.view\\(|raw "
                    "(?:bytes|copy)|(?:set|setting|chang\\w+|switch\\w*|forc\\w+|cast\\w*|"
                    "convert\\w*|load\\w*)[^\\n]{0,30}?(?:" LOW "|" FP32 ")"},
     {NANS, "batch[ _-]?size|merg(?:e|ed|ing)\\b"},
     NULL},
    {KIND(BACKEND_DIVERGENCE),
     NPT_EXPLAIN_SYMPTOM,
     260,
     "(?<![a-z])cpu(?![a-z])",
     {"(?<![a-z])(?:gpu|cuda|mps|rocm|npu|xpu|tpu|metal|directml)(?![a-z])", LOW,
      "differ(?:s|ent|ently|ing)?\\b|not (?:get |give |produce |return )?(?:the "
      ")?same|mismatch|diverg\\w*|disagree\\w*|inconsisten\\w*|does ?n.t match|do ?n.t match|not "
      "match|deviat\\w*|discrepan\\w*|allclose|not "
      "(?:agree|equal|identical)|unequal|(?:abs\\w*|max\\w*|numerical|relative|large|big) "
      "(?:abs\\w* )?(?:errors?|diff\\w*)",
      "results?|outputs?|values?|logits|answers?|numbers|\\bnorms?\\b|errors?\\b|\\bruns?\\b|"
      "matmul|implementations?|discrepan\\w*|inconsisten\\w*|tensors?|layers?"},
     {"same device|at least two devices|out of "
      "memory|throughput|utili[sz]\\w*|\\bidl\\w+|num_workers"},
     NULL},
    {KIND(BF16_UNSUPPORTED),
     NPT_EXPLAIN_SYMPTOM,
     160,
     "(?:\\bt4\\b|v100|turing|volta|pascal|p100|rtx "
     "?20\\d\\d|gtx|1080|2080|\\bgpu|\\bcard|hardware|device)[^\\n]{0,60}?(?:\\bnot\\b|n't|"
     "\\bno\\b|without|lacks?)[^\\n]{0,30}?" BF16 "|" BF16 " (?:is )?(?:not supported|unsupported)",
     {"\\bsa(?:ys?|id)\\b|error|fail\\w*|\\brais\\w+|refus\\w*|complain\\w*|crash\\w*|abort\\w*|"
      "stops?\\b|"
      "\\bmessage|\\bgives\\b|how (?:can|do|to)|what (?:can|should|do|now)|workaround"},
     {NANS},
     NULL},
    {KIND(BF16_UPDATE_LOST),
     NPT_EXPLAIN_SYMPTOM,
     260,
     BF16,
     {"loss[^\\n]{0,30}?(?:flat|horizontal|constant|stuck|stagnat\\w*|plateau\\w*|barely|hardly|"
      "not (?:going "
      "down|decreas\\w*|improv\\w*|mov\\w*)|n't "
      "(?:go|decreas\\w*|improv\\w*|mov\\w*)|slow\\w*)|(?:converg\\w*|fall\\w*|decreas\\w*)[^\\n]{"
      "0,30}?(?:slow\\w*|bad\\w*|poor\\w*)|(?:slow\\w*|bad|poor|worse) "
      "converg\\w*|(?:weights?|param\\w*|tensors?|hash\\w*)[^\\n]{0,60}?(?:(?:\\bnot|n't|never) "
      "(?:\\w+ "
      "){0,2}?(?:mov|chang|updat|differ|train|learn|budg)\\w*|identical|unchanged|"
      "(?:stay|remain|\\bare|\\bis|were|was|keep)\\w*[^\\n]{0,12}? the same|frozen|stuck|bit for "
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
     {FP16 " grad"},
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
     "layer ?norm\\w*|softmax|conv(?:olution\\w*|_?[123]d|s?\\b)",
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

const size_t npt_explain_symptom_count =
    sizeof(npt_explain_symptoms) / sizeof(npt_explain_symptoms[0]);
