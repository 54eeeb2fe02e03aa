#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# A run under --memory_limit is, bit for bit, the run without: metrics, adapters and checkpoints, in
# every precision. A limit that cannot be kept is refused before anything is read.
. "${NPT_SRCDIR:-.}/tests/train/lib.sh"

model=$work/model
run make-model --hidden 256 --inter 688 --layers 6 --heads 8 --kv_heads 2 --vocab 512 --dtype bf16 \
    --seed 5 "$model"
passes 'a model of 8 MB'
# One that takes more, even in NF4, than reading it through a buffer does.
run make-model --hidden 256 --inter 688 --layers 16 --heads 8 --kv_heads 2 --vocab 512 \
    --dtype bf16 "$work/deep"
passes 'a deeper one'
rows="--model_name $model --distill layerwise --max_length 24 --batch_size 2
    --gradient_accumulation_steps 3 --num_samples 13 --log_steps 1 --warmup_steps 2
    --learning_rate 1e-2 --adapter_rank 4 --backend native --loss normalized
    --regularization_lambda 1e-3"
endless=$(echo "$rows --max_steps 3000" | sed "s,--model_name $model,--model_name $work/deep,")
rows="$rows --max_steps 4"

# smallest FLAG...: the limit that the refusal of a smaller one names, as $smallest.
smallest() {
    run pretrain --output_dir "$work/refused" --memory_limit 1MB "$@"
    smallest=$(sed -n 's/.*needs --memory_limit \([0-9]*\)MB .*/\1/p' "$work/err")
}

# limited MEGABYTES ARGUMENT...: a run under that limit. What the program itself takes is measured
# when it starts, in steps of 1 MiB: where it has just passed one, the limit it names then is taken
# (where a run cannot be tried first, its limit leaves 6 MB for that).
limited() {
    limit_mb=$1
    shift
    for limit_try in 1 2 3 4; do
        run "$@" --memory_limit "${limit_mb}MB"
        named=$(sed -n 's/.*needs --memory_limit \([0-9]*\)MB .*/\1/p' "$work/err")
        if [ "$code" != 2 ] || [ -z "$named" ]; then break; fi
        limit_mb=$named
    done
}

# exact NAME FLAG...: with the smallest limit, and with one that gives the reader more room.
exact() {
    name=$1
    shift
    # shellcheck disable=SC2086
    {
        run pretrain --output_dir "$work/whole" $rows "$@"
        [ "$code" = 0 ] || not_ok "$name" "the run without a limit ended in $code"
        smallest $rows "$@"
        for more in 0 1; do
            limited "$((smallest + more))" pretrain --output_dir "$work/limited" $rows "$@"
            if [ "$code" != 0 ]; then
                not_ok "$name, $more MB more" "the run under a limit ended in $code"
            elif ! grep -q 'streamed: .* read at' "$work/err"; then
                not_ok "$name, $more MB more" 'nothing was streamed'
            else
                same "$name, $more MB more" "$work/whole" "$work/limited"
            fi
            rm -rf "$work/limited"
        done
    }
    rm -rf "$work/whole"
}

# deeper COMMAND...: on the deeper model.
deeper() {
    shallow=$rows
    rows=$(echo "$rows" | sed "s,--model_name $model,--model_name $work/deep,")
    "$@"
    rows=$shallow
}

exact 'the same bits in F32'
exact 'the same bits in F16, converted as it passes' --use_fp16
exact 'the same bits in BF16, as the file has it' --use_bf16
deeper exact 'the same bits in NF4, quantized as it passes' --use_quantization
exact 'the same bits with operands in F16' --mixed_precision fp16
exact 'the same bits with adapters in some layers, additive' --layers upper_half --safe_mode
exact 'the same bits with vitals and clipping' --probe_every 2 --max_grad_norm 0.1
for threads in 1 3; do
    exact "the same bits with $threads threads" --use_fp16 --threads $threads
done

ends=$rows
rows=$(echo "$rows" | sed 's/--distill layerwise//')
exact 'the same bits end-to-end'
exact 'the same bits end-to-end in F16' --use_fp16
deeper exact 'the same bits end-to-end in NF4, with heads of layers 2 to 4' --use_quantization \
    --layers 2-4
exact 'the same bits end-to-end with operands in BF16' --mixed_precision bf16 --threads 3
exact 'the same bits by draws' --use_bf16 --distill mixed --teacher_forcing 0.5
exact 'the same bits by draws, with an adapter here and there' --distill mixed --layers 1,3 \
    --eval_dataset "$NPT_DATADIR/eval.jsonl" --eval_steps 3 --num_samples=13
rows=$ends

# A dataset for evaluation that is longer than a step.
head -n 17 "$NPT_DATADIR/eval.jsonl" >"$work/eval.jsonl"
exact 'the same evaluations' --eval_dataset "$work/eval.jsonl" --eval_steps 2

# ---- Stopping and going on ----

# shellcheck disable=SC2086
{
    smallest $rows
    run pretrain --output_dir "$work/whole" --save_steps 2 $rows
    limited "$smallest" pretrain --output_dir "$work/limited" --save_steps 2 $rows
    rm -rf "$work/limited/checkpoint-final"
    limited "$smallest" pretrain --output_dir "$work/limited" --save_steps 2 $rows --resume auto
    says 'goes on in the middle' err 'resumed from .*checkpoint-2 at step 2'
    same 'a resumed run is the same run' "$work/whole" "$work/limited"
    rm -rf "$work/limited/checkpoint-final" "$work/whole"
    run pretrain --output_dir "$work/limited" --save_steps 2 $rows --resume auto
    passes 'a run can go on without its limit'
    rm -rf "$work/limited"

    smallest $endless
    start pretrain --output_dir "$work/limited" $endless \
        --memory_limit "$((smallest + 6))MB" --save_steps 5
    until_true test -d "$work/limited/checkpoint-5"
    kill -s TERM "$pid"
    ended
    ends 'a signal stops it' 143
    is_true 'and it is saved' [ -z "$(left_over "$work/limited")" ]
    rm -rf "$work/limited"
}

# ---- What is not finite ----

# shellcheck disable=SC2086
{
    NPT_DEBUG_FAULT=overflow:L03.mlp_act@2
    export NPT_DEBUG_FAULT
    smallest $rows --use_fp16
    limited "$smallest" pretrain --output_dir "$work/limited" $rows --use_fp16
    unset NPT_DEBUG_FAULT
    says 'names the site that overflows' err 'step 2 skipped: .*L03\.mlp_act \(F16\)'
    rm -rf "$work/limited"
}

# ---- Refusals ----

# refused NAME PATTERN FLAG...
refused() {
    name=$1 pattern=$2
    shift 2
    run pretrain --output_dir "$work/refused" --model_name "$model" "$@"
    ends "$name: a usage error" 2
    says "$name: says why" err "$pattern"
    is_true "$name: writes nothing" [ ! -e "$work/refused" ]
}
refused 'a limit that is too small' 'needs --memory_limit [0-9]+MB .*lower --max_length' \
    --distill layerwise --memory_limit 2MB
refused 'end-to-end' 'take --distill layerwise' --memory_limit 20MB
refused 'no size' 'must be a size, as 1.2GB' --memory_limit lots
refused 'no number' 'must be a size' --memory_limit MB
refused 'two points' 'must be a size' --memory_limit 1.2.3GB
refused 'nothing' 'must be a size' --memory_limit 0

for size in 1GB 1.0gb 1000MB 1000000000 1000000KB 1000000000B; do
    run pretrain --dry_run --model_name "$model" --distill layerwise --max_length 8 \
        --memory_limit "$size"
    says "$size is a limit that needs no streaming" err 'kept without streaming'
done
# shellcheck disable=SC2086
{
    smallest $rows
    limited "$smallest" pretrain --dry_run $rows
    says 'a dry run says where the memory goes' err 'memory: weights, a buffer of one to two blocks'
    says 'and what is streamed' err 'every step streams [0-9.]+ MB'
    run pretrain --dry_run $rows --memory_limit 1MB
    ends 'a dry run refuses, too' 2
    says 'after the table' err 'memory: states between blocks'
}

# ---- A file that is cut while it is read ----

# The deeper model has more to stream than the program may grow by.
# shellcheck disable=SC2086
{
    smallest $endless
    start pretrain --output_dir "$work/limited" $endless \
        --memory_limit "$((smallest + 6))MB" --save_steps 5
    until_true test -d "$work/limited/checkpoint-5"
    truncate -s 4000000 "$work/deep/model.safetensors"
    ended
    ends 'a file that becomes shorter ends the run' 1
    says 'with the reason' err 'model.safetensors.* changed while it was in use'
}
finish
