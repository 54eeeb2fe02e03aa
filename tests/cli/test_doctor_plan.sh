#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# npt doctor plan at the command line: a verdict as exit code, text that fits, JSON, the flags of
# npt pretrain as they were typed, and the digest that a run logs.
. "${NPT_SRCDIR:-.}/tests/train/lib.sh"

# copy_model NAME SED_SCRIPT: the bundled model with another config.json, as $work/NAME.
copy_model() {
    mkdir "$work/$1"
    cp "$NPT_DATADIR/tiny-llama/model.safetensors" "$work/$1/"
    sed "$2" "$NPT_DATADIR/tiny-llama/config.json" >"$work/$1/config.json"
}

# fits NAME: no line of the output is over 100 columns; what is not ASCII here is one column wide.
fits() {
    wide=$(sed 's/→/>/g; s/·/./g; s/×/x/g; s/ε/e/g; s/…/./g' "$work/out" | awk 'length > 100')
    if [ -z "$wide" ]; then ok "$1"; else not_ok "$1" "$wide"; fi
}

# ---- Verdicts ----
run doctor plan --use_fp16
ends 'all is well: exit code 0' 0
says 'it says so' out '^FINE'
says 'the policy and its rule' out '^PLAN +base F16.*\(R2: --use_fp16\)'
says 'a role, its dtype, its rule' out '^ +master +F32 .*R2: --use_fp16$'
says 'casts of equal layers are one row' out '^ +L00-L04\.gate_mod +F32 → F16 +down +288 +576 '
says 'the digest' out '^DIGEST [0-9a-f]{16} \([0-9]+ casts\)'
says 'the files' out '^ +gate/up/down +15 +552960 +BF16 +BF16 +- +F16 +converted copy$'
says 'the memory' out '^MEMORY mapped [0-9.]+ MiB'
says 'what others do, literally' out 'ValueError "Attempting to unscale FP16 gradients\."'
says 'with the version it was seen in' out 'seen in PyTorch [0-9.]+ \(CPU\)'
fits 'the text fits 100 columns'
digest=$(sed -n 's/^DIGEST \([0-9a-f]*\).*/\1/p' "$work/out")
head -n 24 "$work/out" >"$work/screen"
missing=
for word in FINE MODEL PLAN DIGEST FILES; do
    grep -q "^$word" "$work/screen" || missing="$missing $word"
done
is_true 'the first screen has what matters' [ -z "$missing" ]
run doctor plan --use_fp16 --all
says 'with --all every layer has its row' out '^ +L03\.gate_mod +F32 → F16'
fits 'which fits 100 columns, too'
for flags in --use_bf16 --use_quantization '--mixed_precision fp16' '--layers 0,2,4 --use_fp16' \
    '--mixed_precision bf16 --adapter_dtype fp16' '--scan --use_fp16' --safe_mode; do
    # shellcheck disable=SC2086
    run doctor plan $flags
    fits "with $flags, too"
done
run doctor plan --use_fp16 --memory_limit 1GB
says 'memory is counted without a limit, which is said' out 'without --memory_limit'

run doctor plan --use_quantization --mixed_precision fp16
ends 'something to know: exit code 1' 1
says 'which is told' out '^WARN .*--mixed_precision is switched off'
copy_model mismatch 's/"bfloat16"/"float16"/'
run doctor plan --model_name "$work/mismatch"
ends 'config.json says another dtype: exit code 1' 1
says 'which the table marks' out 'gate/up/down .* BF16 +F16 .*MISMATCH'
fits 'and that fits'
copy_model gptq 's/"torch_dtype"/"quantization_config": {"quant_method": "gptq"}, &/'
run doctor plan --model_name "$work/gptq"
ends 'npt pretrain would refuse it: exit code 2' 2
says 'which has a reason' out '^FAIL .*gptq'
run pretrain --model_name "$work/gptq" --dry_run
ends 'and it does' 1
run doctor plan --use_fp16 --use_bf16
ends 'flags that exclude each other: exit code 2' 2
is_true 'without output' [ ! -s "$work/out" ]
refused 'and one sentence' 2 'use_fp16 and --use_bf16 exclude' doctor plan --use_fp16 --use_bf16
refused 'a model that is not there' 1 'config\.json' doctor plan --model_name "$work"
refused 'a flag that is not there' 2 'nearest is --use_fp16' doctor plan --use_fp61
# 65536 in BF16 is 0x4780. The embedding comes first in the file, after 8 bytes and the header.
copy_model huge ''
header=$(od -An -tu4 -N4 "$work/huge/model.safetensors" | tr -d ' ')
printf '\200\107' | dd of="$work/huge/model.safetensors" bs=1 seek=$((header + 8)) conv=notrunc \
    2>"$work/dd"
run doctor plan --model_name "$work/huge" --use_fp16
ends 'without --scan no value is read' 0
run doctor plan --model_name "$work/huge" --use_fp16 --scan
ends 'a value that F16 does not hold: exit code 3' 3
says 'which is counted and named' out '^LOST +embed: 1 of [0-9]+ values become infinite in F16'
fits 'and that fits, too'
run doctor plan --model_name "$work/huge" --use_bf16 --scan
ends 'BF16 holds it' 0

# ---- JSON, and a run beside it ----
run doctor plan --use_fp16 --json
ends '--json ends with the verdict, too' 0
says 'the schema has a name' out '"schema": "npt-doctor-plan/1"'
if command -v python3 >/dev/null 2>&1; then
    is_true 'the JSON is well-formed' python3 -m json.tool "$work/out" "$work/again.json"
else
    skip 'the JSON is well-formed' 'no python3'
fi
says 'the digest is that of the text' out "\"digest\": \"$digest\""
short='--max_steps 1 --gradient_accumulation_steps 1 --max_length 16 --warmup_steps 0'
# shellcheck disable=SC2086
run pretrain $short --use_fp16 --output_dir "$work/run"
passes 'a run with these flags'
says 'logs that digest' err "cast digest $digest"
is_true 'and records it' [ "$(number cast_digest "$work/run/metrics.jsonl")" = "\"$digest\"" ]
run pretrain --dry_run --use_fp16
cp "$work/err" "$work/notes"
run doctor plan --use_fp16
sed -n '/^MEMORY/,/^WOULD/p' "$work/out" | tr '\n' ' ' | tr -s ' ' >"$work/memory"
different=
for name in adapters masters moments gradients 'activations at most'; do
    mib=$(sed -n "s/^npt: memory: $name \([0-9.]*\) MiB.*/\1/p" "$work/notes")
    grep -q " $name ${mib}[, ]" "$work/memory" || different="$different $name"
done
is_true 'a dry run speaks of the same memory' [ -z "$different" ]
# shellcheck disable=SC2086
run doctor plan $short --use_fp16 --output_dir "$work/none" --batch_size 2 --distill layerwise \
    --learning_rate 1e-3 --log_steps 5 --dataset_name "$NPT_DATADIR/train.jsonl" --seed 3
ends 'the flags of npt pretrain are taken as they are' 0
is_true 'and nothing is written' [ ! -e "$work/none" ]

run doctor plan --help
passes 'there is a page of help'
says 'with the own flags' out '^  --scan'
says 'and those of npt pretrain' out '^  --adapter_rank'
finish
