#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# npt doctor probe and --strict at the command line, on the bundled model: exit codes, one screen,
# faults injected through the environment, runs that end and the command they name.
. "${NPT_SRCDIR:-.}/tests/train/lib.sh"
short='--max_length 24 --batch_size 1 --gradient_accumulation_steps 1 --backend native'

# fault FAULT ARGUMENT...: a run damaged on purpose.
fault() {
    NPT_DEBUG_FAULT=$1
    export NPT_DEBUG_FAULT
    shift
    run "$@"
    unset NPT_DEBUG_FAULT
}
narrow() { ! grep -qE '.{101}' "$work/out"; }

# shellcheck disable=SC2086
{
    # ---- health ----
    for flags in --use_fp16 --use_bf16 '--mixed_precision fp16' '--mixed_precision bf16' \
        --use_quantization ''; do
        run doctor probe $short $flags
        passes "a healthy run has no finding (${flags:-no precision flag})"
        says 'which is said' out '^FINE '
        is_true 'in at most 100 columns' narrow
    done
    run doctor probe $short --use_fp16
    is_true 'on one screen' test "$(wc -l <"$work/out")" -le 40
    says 'with a bar of bits for a layer' out '^  L04  #+\.* +[0-9.]+ bits +#+\.* +[0-9.]+ bits$'
    says 'and what the updates are' out 'A_proj +[0-9.]+ % of steps below half an ulp of F16'
    says 'and the digest' out '^DIGEST [0-9a-f]{16} \([0-9]+ casts\)$'
    run doctor probe $short --use_fp16 --show_layers 3
    says_not 'only the layers that were asked for' out ' L0[0124]'
    run doctor probe $short --use_fp16 --all
    is_true 'every site with --all' test "$(grep -c '^  .* F16 ' "$work/out")" -gt 200
    run doctor probe $short --use_fp16 --top 3
    is_true 'three with --top 3' test "$(grep -c '^  .* F16 ' "$work/out")" -eq 3
    run doctor probe $short --use_fp16 --memory_limit 1GB
    says 'a limit is not kept, and that is said' err 'memory_limit is not kept'
    run doctor probe $short --recipe pretrain-safe --learning_rate 5e-5
    passes 'the other recipe'

    # ---- faults ----
    fault overflow:L02.gate_mod doctor probe $short --use_fp16
    ends 'an overflow: exit 3' 3
    says 'its site is the culprit' out '^  (teacher )?L02\.gate_mod .*CULPRIT overflow$'
    says 'those after it follow' out '^  L02\.mlp_act .*follows overflow$'
    says 'with advice' out '^ADVICE (teacher )?L02\.gate_mod has [0-9]+ infinite values'
    says 'and the flag that helps' out '--use_bf16'
    fault underflow:L01.up.backward doctor probe $short --use_fp16
    ends 'an underflow: exit 3' 3
    says 'named' out '^ADVICE L01\.up\.backward: 100 % of the gradient is flushed'
    fault nan-batch doctor probe $short --use_bf16
    ends 'a NaN in the batch: exit 3' 3
    says 'named at embed' out '^  teacher embed .*CULPRIT nan$'
    fault no_master doctor probe $short --use_bf16 --learning_rate 1e-5
    ends 'updates that are lost: exit 3' 3
    says 'named' out '^ADVICE update: most steps are below half an ulp'
    fault cast:L02.z=F16 doctor probe $short --use_fp16
    ends 'a cast that is not planned: exit 2' 2
    says 'named with the sentence of PyTorch' out \
        '^ADVICE expected mat1 and mat2 to have the same dtype, but got: c10::Half != float; '
    says 'and its site' out ' L02\.z: F16 arrived'
    run doctor probe $short --use_fp16 --loss plain --initial_loss_scale 4294967296
    ends 'a loss scale that is too high: exit 1' 1
    says 'and the one where it settles' out 'settles at [0-9.^]+: --initial_loss_scale [0-9]+ saves'

    # ---- bad requests ----
    refused 'flags that exclude each other' 2 'use one or the other' \
        doctor probe --use_fp16 --use_quantization
    refused 'an unknown flag' 2 'nearest' doctor probe --use_fp61
    refused 'no such model' 1 'no/such' doctor probe --model_name no/such
    refused 'no such checkpoint' 1 'there is no such checkpoint' doctor probe --resume no/such
    refused 'no such layer' 2 'show|layers' doctor probe $short --show_layers 9
    for bad in bla overflow overflow:L9 overflow:L02.nothing 'cast:L02.z' 'nan:L01.q@0' \
        'nan:L01.q@x' no_master:L01.q 'overflow:L02.z=F16'; do
        NPT_DEBUG_FAULT=$bad
        export NPT_DEBUG_FAULT
        refused "a fault that is none: $bad" 2 'the fault' doctor probe $short
        unset NPT_DEBUG_FAULT
    done
    NPT_DEBUG_FAULT=nan:L99.q
    export NPT_DEBUG_FAULT
    refused 'a fault in a layer that is not there' 2 'layer 99; the model has 5' doctor probe $short
    unset NPT_DEBUG_FAULT

    (
        ulimit -v 300000 2>/dev/null && "$npt" version >/dev/null 2>&1 || exit 0 # ASan
        NPT_DEBUG_FAULT=
        run doctor probe --use_fp16 --threads 1 --batch_size 64 --backend native
        echo "$code" >"$work/code"
    )
    if [ -s "$work/code" ]; then
        code=$(cat "$work/code")
        ends 'a batch that does not fit' 1
        says 'is refused with what it needs and what there is' err \
            'probe of [0-9]+ tokens needs about [0-9.]+ GiB .* [0-9.]+ GiB are there; take fewer'
    else
        skip 'a batch that does not fit' 'memory cannot be limited here'
    fi

    # ---- --strict ----
    steps="$short --max_steps 4 --log_steps 1"
    fault cast:L02.adapter_in=F32@2 pretrain $steps --use_fp16 --strict --output_dir "$work/strict"
    ends 'with --strict a cast that is not planned ends the run' 1
    says 'with the sentence of PyTorch, site, dtypes and rule' err \
        'float != c10::Half; unplanned cast at L02\.adapter_in: F32 arrived, .*\(R2: .* F16 '
    is_true 'at the step where it was made' test "$(grep -c '"step":1,' \
        "$work/strict/metrics.jsonl")" = 1
    fault cast:L02.adapter_in=F32@2 pretrain $steps --use_fp16 --output_dir "$work/loose"
    passes 'without --strict the run goes on'
    is_true 'and says so, once' test "$(grep -c 'strict stops there' "$work/err")" = 1
    run pretrain $steps --use_fp16 --output_dir "$work/plain"
    is_true 'with the same numbers' test "$(number loss/total "$work/loose/metrics.jsonl")" = \
        "$(number loss/total "$work/plain/metrics.jsonl")"
    fault cast:weight=U8 pretrain $steps --use_fp16 --strict --output_dir "$work/weight"
    ends 'a wrongly declared dtype of the weights ends it, too' 1
    says 'before the first step' err 'unsigned char != c10::Half; unplanned cast at weight: U8'
    fault cast:L01.gate_mod=BF16 evaluate --num_samples 1 --max_length 24 --use_fp16 --strict
    ends 'npt evaluate has --strict, too' 1
    says 'arithmetic has another sentence' err 'expected scalar type Float but found BFloat16'

    # ---- from a run that ended to the probe ----
    fault overflow:L01.z@2 pretrain $steps --use_fp16 --output_dir "$work/ended"
    ends 'a forward overflow ends a run' 1
    says 'which names the site and the range' err \
        'L01\.z \(F16\) has [0-9]+ infinite values beside finite ones from -[0-9.e+]+ to [0-9.e+]+'
    command=$(sed -n 's/^npt: to see every site: [^ ]* //p' "$work/err")
    is_true 'and the command that shows more' test -n "$command"
    NPT_DEBUG_FAULT=overflow:L01.z
    export NPT_DEBUG_FAULT
    eval "run $command"
    unset NPT_DEBUG_FAULT
    ends 'which works as it is printed' 3
    says 'and finds the site' out 'L01\.z .*CULPRIT overflow'

    # ---- --probe_every ----
    run pretrain $steps --use_fp16 --probe_every 2 --output_dir "$work/vitals"
    passes '--probe_every'
    is_true 'writes a row at its steps' test "$(grep -c '"probe/sites"' \
        "$work/vitals/metrics.jsonl")" = 2
    says 'of sites with their bits of headroom' vitals/metrics.jsonl \
        '"step":2,"probe/results":[0-9]+,"probe/nonfinite":0,.*"headroom_bits":[0-9.]+'
}
finish
