/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "doctor/explain.h"

/* What is to be said about each kind of failure: what happened, why, which code does it, what npt
 * does instead, what to run. Data only; a person reads every word of it. */

const npt_explain_answer npt_explain_answers[NPT_EXPLAIN_KIND_COUNT] = {
    [NPT_EXPLAIN_UNKNOWN] =
        {"unknown",
         "This is none of the dtype and precision failures that npt knows.",
         "Not known. It may be about something else (memory, shapes, devices, files, versions), or "
         "the line that decides may be missing from what was pasted.",
         "Not known.",
         "Nothing can be promised for a failure that was not recognised.",
         "Paste the whole traceback, its last line included; or describe what is seen: the dtype "
         "flags, the step, the loss and grad_norm lines of the log. If it is about precision and "
         "npt runs the model, npt doctor probe shows the first site that goes wrong.",
         {NULL}},
    [NPT_EXPLAIN_NEAR_MISS] =
        {"unknown",
         "This resembles a dtype failure that npt knows, and is none of them.",
         "Outside the precision policy: the input, the libraries' versions, or how the work is "
         "split among devices.",
         "The code that prepares data, loads files or distributes the model.",
         "npt has no setting for this.",
         "Mend it where it comes from. If the last line of the traceback is another one than shown "
         "here, paste that as well.",
         {NULL}},
    [NPT_EXPLAIN_LINEAR_DTYPE_MISMATCH] =
        {"linear-dtype-mismatch",
         "The two operands of a linear layer's matmul had different dtypes.",
         "The adapter was left in another dtype than the activations that reach it, and no "
         "autocast "
         "was around the call to cast one of them.",
         "PyTorch's matmul refuses mixed dtypes. PEFT keeps adapters in float32 over a half model "
         "by default, or the model was cast after the adapters were made; code outside the "
         "trainer's autocast (generate, evaluate, a callback) then meets both.",
         "The site adapter_in casts the activations to the adapter's dtype, as the plan says; the "
         "adapter's dtype follows the model's.",
         "npt doctor plan --use_bf16 (or --use_fp16) lists the cast at adapter_in; with "
         "--adapter_dtype fp32 the cast is still planned. In PyTorch: keep the call under "
         "autocast, "
         "or cast the adapters to the model's dtype.",
         {"LlamaFactory #4432", "peft #1309", "adapters #766"}},
    [NPT_EXPLAIN_DEQUANT_DTYPE_MISMATCH] =
        {"dequant-dtype-mismatch",
         "A 4-bit weight was dequantized to another dtype than the activations it is multiplied "
         "with.",
         "4-bit weights come back in the dtype recorded when they were quantized, not in the "
         "compute dtype that the run asks for.",
         "bitsandbytes' quantization state carries that dtype; fused kernels such as unsloth's use "
         "it in the forward and again, by addmm_, in the backward.",
         "There is one dequantize, to the planned dtype, forward and backward; on a quantized base "
         "activations and adapters are F32.",
         "npt doctor plan --use_quantization shows the dtypes. In PyTorch: make "
         "bnb_4bit_compute_dtype, torch_dtype and the bf16/fp16 flag of the trainer agree.",
         {"unsloth #4891"}},
    [NPT_EXPLAIN_SCALAR_TYPE_MISMATCH] =
        {"scalar-type-mismatch",
         "A kernel was handed a tensor of another floating-point dtype than it expected.",
         "A norm, an embedding or lm_head that was upcast to float32 feeds a layer that is still "
         "in "
         "half precision, or the other way round.",
         "PyTorch's typed kernels (bmm, matmul, conv) check this when they take the data pointer. "
         "PEFT's prepare_model_for_kbit_training upcasts norms and embeddings; TRL's trainers meet "
         "it outside autocast.",
         "Norms compute in F32 and round to the activations' dtype at their own site, so nothing "
         "upcast leaks into the next layer.",
         "npt doctor plan --use_fp16 (or --use_bf16) lists the roundings of norm_in, norm_post and "
         "norm_final. In PyTorch: run under autocast, or cast the norm's output back.",
         {"peft #88", "trl #219"}},
    [NPT_EXPLAIN_UNSCALE_FP16_GRADIENTS] =
        {"unscale-fp16-gradients",
         "The gradient scaler found gradients that are stored in fp16, and it refuses to unscale "
         "those.",
         "The trainable parameters themselves are fp16, so their gradients are, too; dividing "
         "those "
         "by the scale would flush them to zero.",
         "torch.amp.GradScaler.unscale_() raises it at the first optimizer step or gradient clip: "
         "the model or the adapters were loaded with torch_dtype=float16 and trained with "
         "fp16=True.",
         "Gradients of adapters are always F32 and the optimizer works on an F32 master copy, also "
         "where the adapters are used in F16.",
         "npt pretrain --use_fp16 trains with F32 masters and a dynamic loss scale; npt doctor "
         "plan "
         "--use_fp16 shows both. In PyTorch: keep trainable parameters in float32, or use bf16 "
         "without a scaler.",
         {"diffusers #6442", "LLaVA #363"}},
    [NPT_EXPLAIN_SCALER_BF16] =
        {"scaler-bf16",
         "The fp16 gradient scaler was run over bf16 gradients, and it has no kernel for those.",
         "fp16 training was asked for while the parameters are bf16: often a bf16 checkpoint "
         "loaded "
         "as it is on a GPU without bf16.",
         "torch.amp.GradScaler calls _amp_foreach_non_finite_check_and_unscale, which PyTorch does "
         "not implement for BFloat16; it may come as RuntimeError or NotImplementedError.",
         "There is no loss scale under bf16: its exponent range is that of float32.",
         "npt pretrain --use_bf16 (no scaler) or --use_fp16 (the model is narrowed to F16, and "
         "values that do not fit are counted). In PyTorch: set bf16=True, fp16=False, or load the "
         "model in float32.",
         {"pytorch #127176"}},
    [NPT_EXPLAIN_LOSS_ZERO_NAN] =
        {"loss-zero-nan",
         "The loss is NaN; a loss of exactly 0.0 beside a NaN gradient norm is the same thing in "
         "disguise.",
         "Most often an fp16 or int8 overflow in the forward pass; under bf16 sometimes a bad "
         "gradient reduction. Some trainers replace a NaN loss by zero before they log it.",
         "Hugging Face's Trainer filters NaN out of the logged loss; the overflow itself is in the "
         "model's forward, not in the scaler.",
         "A run that stays non-finite stops with a checkpoint, and the first site that went bad is "
         "named; no NaN is logged as a number.",
         "npt doctor probe --use_fp16 names the first bad site; --use_bf16 trains without the fp16 "
         "range. Go on only from a checkpoint made before the first NaN.",
         {"alpaca-lora #170", "alpaca-lora #418"}},
    [NPT_EXPLAIN_MLP_PRODUCT_OVERFLOW] =
        {"mlp-product-overflow",
         "The product inside a gated MLP went beyond 65504, the largest fp16 number, and became "
         "inf.",
         "silu(gate) times up is formed in fp16: 255.9 × 261.8 is already 66975. A few channels of "
         "Llama-like models get there; NaN follows in the next norm or softmax.",
         "The MLP of the model's own code (act_fn(gate_proj(x)) * up_proj(x)) in half precision, "
         "on "
         "every device alike.",
         "The product is formed in F32 registers and rounded once at the site mlp_act, and the "
         "probe shows how many bits are left to 65504.",
         "npt doctor probe --use_fp16: look at L*.mlp_act; if its headroom is negative, "
         "--use_bf16.",
         {"transformers #27179"}},
    [NPT_EXPLAIN_ATTENTION_OVERFLOW] =
        {"attention-overflow",
         "The logits are NaN: a model made for bf16 ran in fp16 and overflowed in its first "
         "layers. Output of nothing but \"!\" (token 0) is what that looks like.",
         "Attention scores or MLP products of the model exceed 65504, which bf16 holds and fp16 "
         "does not; softmax turns the inf into NaN, and sampling from NaN gives token 0.",
         "The model run with float16 where its checkpoint is bfloat16 (vLLM's --dtype half, GPUs "
         "without bf16, GPTQ and AWQ kernels that compute in fp16).",
         "Scores, mask and softmax are F32; only the output of attention is rounded, and the probe "
         "shows which site is short of range.",
         "npt doctor probe --use_fp16 names the first overflowing site; npt doctor plan --use_fp16 "
         "counts weights that fp16 cannot hold; --use_bf16 avoids both.",
         {"Qwen3 #826", "vllm #14126"}},
    [NPT_EXPLAIN_RESIDUAL_OVERFLOW] =
        {"residual-overflow",
         "The residual stream (the hidden states between layers) went beyond 65504 in fp16.",
         "Models with large norm weights, Gemma above all, add up residuals far larger than fp16 "
         "can hold; they were trained in bf16.",
         "Any runtime that keeps hidden states in float16; no loss scale changes a forward value.",
         "The probe shows the headroom of every residual site and names the first layer that "
         "overflows.",
         "npt doctor probe --use_fp16 names the layer; use --use_bf16 for this model.",
         {"transformers #36822"}},
    [NPT_EXPLAIN_BATCH_SIZE_NAN] =
        {"batch-size-nan",
         "Values are NaN or wrong only from a certain batch size or sequence length on.",
         "Another kernel is chosen for the larger shape, and that one keeps or converts an F32 "
         "intermediate in fp16.",
         "Runtimes that pick kernels by shape (llama.cpp's matmul backends, cuBLAS heuristics).",
         "The casts are decided before a shape is known and are the same at every size and on "
         "every "
         "backend; a backend that would compute in another precision refuses.",
         "npt doctor probe at both batch sizes, then npt doctor diff A B: the first site that "
         "differs is the culprit. npt backends --tokens N shows which backend each size gets.",
         {"llama.cpp #27016"}},
    [NPT_EXPLAIN_DOUBLE_UNSCALE] =
        {"double-unscale",
         "The gradients of one optimizer step were unscaled twice.",
         "Clipping or unscaling ran once per micro-batch instead of once per optimizer step, while "
         "gradients were accumulated.",
         "torch.amp.GradScaler counts one unscale_() between two update() calls; a trainer and "
         "user "
         "code (or accelerate's clip_grad_norm_) each called it.",
         "Gradients are unscaled once an optimizer step, after the last micro-batch, with the "
         "reciprocal of the scale taken in double.",
         "npt pretrain --use_fp16 --gradient_accumulation_steps N needs nothing else. In PyTorch: "
         "clip only where gradients are synchronised.",
         {"transformers #23905", "accelerate #641"}},
    [NPT_EXPLAIN_NO_INF_CHECKS] =
        {"no-inf-checks",
         "The scaler stepped an optimizer none of whose parameters has a gradient.",
         "Nothing trainable was reached by backward: all parameters frozen, the optimizer made "
         "before the model was moved or wrapped, or the loss rebuilt as a new tensor.",
         "torch.amp.GradScaler.step() asserts that unscale_() saw at least one gradient.",
         "A run with nothing to train is refused before it starts.",
         "npt pretrain --dry_run (or npt doctor plan) lists what is trained. In PyTorch: print the "
         "parameters with requires_grad, and do not wrap the loss in torch.tensor().",
         {"transformers #24003", "alpaca-lora #299"}},
    [NPT_EXPLAIN_SCALE_AT_MINIMUM] =
        {"scale-at-minimum",
         "The loss scale was lowered until it could not be lowered any more.",
         "Every step was non-finite, because the forward pass itself is; a loss scale only moves "
         "gradients, so no scale can mend that.",
         "DeepSpeed's (or fairseq's) dynamic loss scaler gives up; the fault is in the model's "
         "activations.",
         "Below a scale of 1 the run stops, saves a checkpoint and names the first non-finite "
         "forward site.",
         "npt doctor probe --use_fp16 names that site; --use_bf16 needs no scale at all.",
         {"DeepSpeed #4021"}},
    [NPT_EXPLAIN_BF16_UNSUPPORTED] =
        {"bf16-unsupported",
         "bf16 was asked for on hardware whose software refuses it.",
         "The GPU is older than NVIDIA's Ampere (T4, V100, RTX 20), or the build of PyTorch or "
         "CUDA "
         "is too old.",
         "A check before training starts (Hugging Face's TrainingArguments, accelerate, vLLM).",
         "bf16 works on every CPU; where the instructions are missing it is emulated, with the "
         "same "
         "bits and more slowly.",
         "npt pretrain --use_bf16 runs anywhere; npt backends says what this machine has. In "
         "PyTorch on such a GPU: fp16=True with float32 parameters, not a bf16 model cast to fp16.",
         {"FastChat #399"}},
    [NPT_EXPLAIN_HALF_MATMUL_CPU] =
        {"half-matmul-cpu",
         "A half-precision matmul was asked of a CPU build that has none.",
         "Old PyTorch has no fp16 matmul on the CPU.",
         "PyTorch's addmm/bmm for CPUs before 2.1 or so; often a model loaded in float16 that was "
         "never moved to the GPU.",
         "fp16 works on every CPU: values are stored in 16 bits and multiplied in F32.",
         "npt pretrain --use_fp16 (or --use_bf16). In PyTorch: load with torch_dtype=float32 or "
         "bfloat16 on the CPU, or move the model to the GPU.",
         {"petals #432"}},
    [NPT_EXPLAIN_HALF_LAYERNORM_CPU] =
        {"half-layernorm-cpu",
         "An operator has no half-precision kernel on this CPU build.",
         "Old PyTorch lacks fp16 on the CPU for layer norm, softmax and dozens of other operators.",
         "PyTorch's CPU dispatch; often a float16 model that was never moved to the GPU.",
         "Norms, softmax and activations compute in F32 and round at their sites, on every CPU.",
         "npt pretrain --use_fp16 (or --use_bf16). In PyTorch: use float32 or bfloat16 on the CPU, "
         "or move the model to the GPU.",
         {"pytorch #52291"}},
    [NPT_EXPLAIN_AMP_CPU_REFUSED] =
        {"amp-cpu-refused",
         "Half-precision training was refused, or switched off with no more than a warning, "
         "because "
         "it runs on a CPU.",
         "Mixed precision by autocast or a gradient scaler is made for GPUs; on CPUs most versions "
         "take bfloat16 only.",
         "torch.autocast('cpu') and Hugging Face's TrainingArguments; also where PyTorch does not "
         "see the GPU that is there.",
         "The precision policy is the same on a CPU: --use_fp16, --use_bf16 and --mixed_precision "
         "do there what they say.",
         "npt doctor plan --mixed_precision fp16 (or bf16). If a GPU should have been found, check "
         "torch.cuda.is_available() first.",
         {"pytorch #111559"}},
    [NPT_EXPLAIN_BACKEND_DIVERGENCE] =
        {"backend-divergence",
         "The CPU and the GPU give different results in half precision.",
         "Each backend has its own list of operators that run in half, its own internal precision "
         "and its own order of sums; in 16 bits that is visible.",
         "PyTorch's autocast lists differ between CPU and CUDA, and kernels accumulate in half or "
         "in float32 as they please.",
         "Casts are the same at every site on every backend, sums are F32; what differs is bounded "
         "and tested.",
         "npt doctor probe --json on both, then npt doctor diff A B: the first site that differs. "
         "npt selftest compares the backends of this machine.",
         {"pytorch #109188", "pytorch #140222"}},
    [NPT_EXPLAIN_FLASH_ATTENTION_DTYPE] =
        {"flash-attention-dtype",
         "FlashAttention was handed float32 and takes only 16-bit types.",
         "Norms upcast to float32, or a model loaded in float32, made the residual stream float32 "
         "before it reached attention.",
         "The flash-attn package and the wrappers in transformers; PEFT's "
         "prepare_model_for_kbit_training upcasts the norms.",
         "Attention takes any planned dtype, and norms round back to it.",
         "npt doctor plan --use_bf16 lists the dtype at attn. In PyTorch: load with "
         "torch_dtype=bfloat16 and train under autocast, or choose the eager or SDPA attention.",
         {"flash-attention #398"}},
    [NPT_EXPLAIN_KBIT_PREPARE_OOM] =
        {"kbit-prepare-oom",
         "Memory ran out while a quantized model was being prepared for training.",
         "Every parameter that is not 4-bit (embeddings, lm_head, norms) is copied to float32 "
         "there; with a large vocabulary that is gigabytes.",
         "PEFT's prepare_model_for_kbit_training, at param.data.to(torch.float32).",
         "Weights stay mapped from the file in the file's dtype; nothing is upcast as a whole.",
         "npt pretrain --use_quantization --dry_run prints the memory beforehand. In PyTorch: skip "
         "that call and enable gradient checkpointing and input gradients by hand.",
         {"peft #816", "peft #1149"}},
    [NPT_EXPLAIN_ADAPTER_DTYPE_ON_LOAD] =
        {"adapter-dtype-on-load",
         "The adapter changed its dtype between saving and loading.",
         "The library forces one dtype when it loads or saves adapters, in either direction, "
         "whatever the file says.",
         "PEFT's autocast_adapter_dtype casts to float32 on load; load_adapter and merging paths "
         "of other versions cast to the base model's dtype.",
         "The dtype is recorded with the adapter and kept; the file has the dtype that was "
         "trained.",
         "npt doctor plan --init_adapter DIR shows it; --adapter_dtype states it. In PEFT: "
         "autocast_adapter_dtype=False.",
         {"peft #1090", "peft #2421"}},
    [NPT_EXPLAIN_QUANTIZED_DTYPE_INFERRED] =
        {"quantized-dtype-inferred",
         "The storage type of a quantized weight was taken for the model's dtype.",
         "A 4-bit weight is stored as packed uint8. Code that asks the first parameter for its "
         "dtype or its shape gets those of the packing, and makes adapters (or a matmul) of them.",
         "Adapter libraries that infer the adapter's dtype from base parameters; bitsandbytes' "
         "Params4bit reports uint8.",
         "Rule R7: quantization record, then float tensors, then the config; never an integer, "
         "never the first parameter. Over a quantized base adapters are F32.",
         "npt doctor plan --use_quantization shows the adapter's dtype and the rule. In PEFT: pass "
         "the dtype, or create adapters before quantizing the layer they sit on.",
         {"peft #2889"}},
    [NPT_EXPLAIN_MERGE_DIFFERS] =
        {"merge-differs",
         "The merged model answers differently from base plus adapter.",
         "W + delta is rounded to half or to 4 bits, and the small delta is lost in it; or the "
         "adapter was merged into another base (16-bit) than it was trained on (4-bit).",
         "PEFT's merge_and_unload, unsloth's merged_16bit and merged_4bit; PEFT warns of rounding "
         "errors.",
         "npt keeps adapters beside the model they were trained on, and never folds them into a "
         "quantized base.",
         "Keep the adapter beside the base it was trained on, or train without --use_quantization "
         "if it is to be merged; npt evaluate --adapter DIR measures what an adapter does.",
         {"peft #2321", "unsloth #3091"}},
    [NPT_EXPLAIN_ROPE_HALF] =
        {"rope-half",
         "Quality falls with the position in the sequence, in half precision only.",
         "Positions or inverse frequencies are kept in 16 bits: bf16 holds integers exactly only "
         "to "
         "256, so that neighbouring positions get the same angle.",
         "Rotary embeddings whose inv_freq buffer is cast with the model (model.half(), "
         "model.to(bfloat16), DeepSpeed's bf16 engine).",
         "Angles, cos and sin are F32 from integer positions; only cos and sin are rounded.",
         "npt doctor probe --use_bf16 shows the error at the rope site against the F32 shadow run. "
         "In PyTorch: recompute inv_freq in float32 after the cast.",
         {"transformers #29285", "gpt-neox #1003"}},
    [NPT_EXPLAIN_MASK_OVERFLOW_NAN] =
        {"mask-overflow-nan",
         "Attention rows are NaN where everything is masked, as with left padding.",
         "The lowest finite number plus a score, or two masks added, overflows to -inf; and a row "
         "that is masked everywhere is 0/0 in softmax, even with a boolean mask.",
         "Additive masks of torch.finfo(dtype).min in transformers models, and "
         "scaled_dot_product_attention on rows without a key.",
         "The mask is boolean, and a row without a key gives zeros.",
         "npt doctor probe --use_fp16 shows non-finite counts at attn. In PyTorch: pad on the "
         "right, or unmask one key in empty rows.",
         {"transformers #17306", "pytorch #103749"}},
    [NPT_EXPLAIN_REINTERPRETED_BITS] =
        {"reinterpreted-bits",
         "The bytes of one dtype were read as another: finite numbers, and no sense.",
         "fp16 read as bf16, bf16 as fp16, or 16-bit weights as float32 after a dtype flag was "
         "set; "
         "the bits are valid numbers, so nothing overflows and nothing complains.",
         "Loaders that reinterpret a buffer instead of converting it when a dtype is forced.",
         "The dtype is part of every tensor; a file whose sizes or config contradict it is "
         "refused.",
         "npt doctor plan audits the files (dtype in the file against the config). Load without "
         "the "
         "dtype flag and convert explicitly.",
         {"vllm #54338"}},
    [NPT_EXPLAIN_RECOMPUTE_METADATA] =
        {"recompute-metadata",
         "Activation checkpointing recomputed a tensor in another dtype than the forward pass had.",
         "Autocast was on in the forward and off (or with another dtype) when backward recomputed "
         "it.",
         "torch.utils.checkpoint compares shape, dtype and device of recomputed tensors with the "
         "saved ones.",
         "Recomputation replays the recorded plan of casts and checks that it is the same.",
         "npt doctor plan shows the casts that are replayed. In PyTorch: enter autocast inside the "
         "checkpointed function, or call backward under the same autocast state.",
         {"pytorch #141896"}},
    [NPT_EXPLAIN_BF16_UPDATE_LOST] =
        {"bf16-update-lost",
         "The weights do not move: the optimizer's steps are lost in rounding.",
         "Parameters are stored in bf16, whose steps are 1/256 of the value; an update smaller "
         "than "
         "half of that rounds back to the old weight. Weight decay vanishes in the same way.",
         "Pure bf16 training (torchtune's and torchao's bf16 recipes, model.to(bfloat16) with "
         "AdamW) without a float32 master or stochastic rounding.",
         "The optimizer works on an F32 master; adapters are rounded from it after each step.",
         "npt doctor probe --use_bf16: the UPDATE lines give the share of steps below half an ulp. "
         "npt pretrain --use_bf16 keeps masters in F32.",
         {"torchao #1124", "torchtune #2254"}},
    [NPT_EXPLAIN_ADAM_FP16_NAN] =
        {"adam-fp16-nan",
         "Parameters became NaN or inf with the first optimizer step.",
         "Adam ran in fp16: its epsilon 1e-8 and the square of a small gradient are both 0 there, "
         "so that the step is 0/0 or a number divided by 0.",
         "Optimizers that keep moments in the parameter's dtype, on fp16 parameters (pure "
         "model.half(), apex O3, optax in float16).",
         "Moments, epsilon and the update are F32, on an F32 master.",
         "npt pretrain --use_fp16 trains fp16 adapters safely. In PyTorch: keep parameters in "
         "float32 under autocast; a larger epsilon only hides it.",
         {"apex #240", "optax #1754"}},
    [NPT_EXPLAIN_HALF_ACCUMULATION] =
        {"half-accumulation",
         "Results get worse when gradients are accumulated in half precision.",
         "The sum over micro-batches is kept in fp16 or bf16: each addition rounds, and small "
         "gradients vanish beside the growing sum.",
         "Engines that accumulate into half gradients (DeepSpeed ZeRO with bf16, Megatron without "
         "accumulate-allreduce-grads-in-fp32).",
         "Gradients of adapters accumulate in F32 over the whole accumulated batch.",
         "npt pretrain --use_bf16 --gradient_accumulation_steps N. In DeepSpeed: "
         "\"data_types\": {\"grad_accum_dtype\": \"fp32\"}.",
         {"DeepSpeed #2352", "Megatron #372"}},
};
