#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# What a run leaves behind, and what it makes of what it finds: torn checkpoints, checkpoints of
# other runs, a full disk, another npt at work.
. "${NPT_SRCDIR:-.}/tests/train/lib.sh"
head -n 5 "$NPT_DATADIR/eval.jsonl" >"$work/eval.jsonl"
steps='--batch_size 1 --gradient_accumulation_steps 1 --log_steps 1 --warmup_steps 0
    --max_length 8 --backend native --num_samples 9'
base="$steps --adapter_rank 2 --learning_rate 1e-2"
d=$work/run
fresh() { rm -rf "$d" && cp -R "$work/first" "$d"; }
all_of() { (cd "$1" && ls -d checkpoint-* | tr '\n' ' '); }

# shellcheck disable=SC2086
{
    # ---- rotation, best, final ----
    run pretrain $base --output_dir "$work/first" --max_steps 10 --save_steps 2 \
        --save_total_limit 2 --eval_dataset "$work/eval.jsonl" --eval_steps 5
    passes 'a run with an evaluation'
    is_true 'two checkpoints are kept beside the best and the final one' \
        test "$(all_of "$work/first")" = 'checkpoint-6 checkpoint-8 checkpoint-best checkpoint-final '
    best=$(number best_metric "$work/first/checkpoint-best/trainer_state.json")
    lowest=$(sed -n 's/.*"eval\/loss":\([^,}]*\).*/\1/p' "$work/first/metrics.jsonl" | sort -g |
        head -n 1)
    is_true 'the best metric is the lowest evaluation' \
        awk -v a="$best" -v b="${lowest:-none}" 'BEGIN { exit !(a > 0 && a / b - 1 < 1e-8 && 1 - a / b < 1e-8) }'
    says 'trainer_state.json names the best checkpoint' first/checkpoint-final/trainer_state.json \
        '"best_model_checkpoint": "checkpoint-best"'
    run pretrain $base --output_dir "$work/first" --max_steps 10
    ends 'a second run into the same directory is refused' 2
    says 'with what to do' err 'already holds a run; .*--resume auto'

    # ---- a complete run ----
    fresh
    cksum "$d"/*/* "$d/metrics.jsonl" >"$work/before"
    run pretrain $base --output_dir "$d" --max_steps 10 --resume auto --eval_dataset \
        "$work/eval.jsonl" --eval_steps 5
    passes 'resuming a complete run ends well'
    says 'there is nothing to do' err 'the run is complete, at step 10 of 10'
    cksum "$d"/*/* "$d/metrics.jsonl" | cmp -s - "$work/before"
    code=$?
    passes 'and nothing is done'
    run pretrain $base --output_dir "$d" --max_steps 12 --resume auto
    passes 'a complete run goes on with more steps'
    says 'from its end' err 'resumed from .*/checkpoint-final at step 10'
    says 'and says that the schedule is another' err 'warning: --max_steps was 10 .* and is 12 now'

    # ---- torn ----
    tears='shorter unsealed emptied'
    # Without xxhash a manifest has sizes only.
    if grep -q 'define HAVE_XXHASH' "$NPT_BUILDDIR/config.h"; then tears="$tears changed"; fi
    for how in $tears; do
        fresh
        victim=$d/checkpoint-final
        case $how in
        shorter)
            head -c 1000 "$victim/adapter_model.safetensors" >"$work/torn"
            cp "$work/torn" "$victim/adapter_model.safetensors"
            ;;
        changed)
            printf X | dd of="$victim/training_state.safetensors" bs=1 seek=5000 \
                conv=notrunc 2>/dev/null
            ;;
        unsealed) rm "$victim/MANIFEST" ;;
        emptied) rm "$victim"/* ;;
        esac
        run pretrain $base --output_dir "$d" --max_steps 10 --resume auto --eval_dataset \
            "$work/eval.jsonl" --eval_steps 5
        if [ "$code" = 0 ] && grep -q 'warning: .*checkpoint-final is incomplete' "$work/err" &&
            grep -q 'resumed from .*checkpoint-8 at step 8' "$work/err"; then
            same "a torn checkpoint ($how) is named and passed over" "$d" "$work/first"
        else
            not_ok "a torn checkpoint ($how) is named and passed over" "exit code $code"
        fi
    done
    rm -rf "$d" && mkdir "$d" && cp -R "$work/first/checkpoint-8" "$d/checkpoint-8"
    rm "$d/checkpoint-8/trainer_state.json"
    refused 'a torn checkpoint that is named is refused' 1 'trainer_state\.json.* is missing' \
        pretrain $base --output_dir "$work/other" --max_steps 10 --resume "$d/checkpoint-8"
    is_true 'and nothing was written' test ! -e "$work/other"

    # ---- of another run ----
    fresh
    while read -r flag value name; do
        case $flag in
        --learning_rate) continue ;;
        --adapter_rank) changed="$steps --learning_rate 1e-2 --adapter_rank $value" ;;
        *) changed="$base $flag $value" ;;
        esac
        refused "resuming with another $flag is refused by name" 2 "^npt pretrain: .*${name:-$flag}" \
            pretrain $changed --output_dir "$d" --max_steps 20 --resume auto
    done <<END
--adapter_rank 3
--seed 7
--modulation additive
--modulation_scale 0.5
--layers 1-3
--optimizer_type adam
--use_fp16 true --use_fp16
--use_quantization true --use_quantization
--adapter_dtype bf16 --adapter_dtype
END
    cksum "$d"/*/* "$d/metrics.jsonl" | cmp -s - "$work/before"
    code=$?
    passes 'the refusals left the run as it was'
    run pretrain $steps --adapter_rank 2 --learning_rate 3e-3 --output_dir "$d" --max_steps 12 \
        --resume auto
    passes 'with another learning rate it goes on'
    says 'with a warning' err 'warning: --learning_rate was 0\.01 .* and is 0\.003 now'

    # ---- branches ----
    fresh
    refused 'an older checkpoint of the run is not gone on from in place' 2 'not the newest' \
        pretrain $base --output_dir "$d" --max_steps 10 --resume "$d/checkpoint-6"
    run pretrain $base --output_dir "$work/branch" --max_steps 10 --resume "$d/checkpoint-6"
    passes 'but it is in another directory'
    cmp -s "$work/branch/checkpoint-final/adapter_model.safetensors" \
        "$work/first/checkpoint-final/adapter_model.safetensors"
    code=$?
    passes 'with the same end'
    is_true 'and metrics that begin with the run' \
        grep -q npt_version "$work/branch/metrics.jsonl"

    # ---- adapters to begin with ----
    run pretrain $base --max_steps 1 --output_dir "$work/from-dir" \
        --init_adapter "$work/first/checkpoint-final"
    passes '--init_adapter takes a directory'
    run pretrain $base --max_steps 1 --output_dir "$work/from-file" \
        --init_adapter "$work/first/checkpoint-final/adapter_model.safetensors"
    passes '--init_adapter takes a file'
    same 'which come to the same' "$work/from-dir" "$work/from-file"
    run pretrain $base --max_steps 1 --output_dir "$work/from-nothing"
    trained=$(number loss/total "$work/from-dir/metrics.jsonl")
    random=$(number loss/total "$work/from-nothing/metrics.jsonl")
    is_true 'and begin with a smaller loss than random ones' \
        awk -v a="$trained" -v b="$random" 'BEGIN { exit !(a > 0 && a < b) }'
    refused 'an adapter of another rank is refused' 1 'A_proj' pretrain $steps --adapter_rank 3 \
        --max_steps 1 --output_dir "$work/no" --init_adapter "$work/first/checkpoint-final"
    refused 'so is one that is not there' 1 'no/such' pretrain $base --max_steps 1 \
        --output_dir "$work/no" --init_adapter "$work/no/such"
    is_true 'and nothing was written for them' test ! -e "$work/no"

    # ---- two at once ----
    start pretrain $base --output_dir "$work/two" --max_steps 100000 --save_steps 100000
    until_true grep -q '^step' "$work/err"
    mv "$work/err" "$work/err.first"
    refused 'a second npt in the same directory is refused' 2 'another npt' \
        pretrain $base --output_dir "$work/two" --max_steps 5 --resume auto
    kill -s KILL "$pid"
    ended

    # ---- bytes that are no UTF-8 ----
    name=$(printf 'r\377')
    run pretrain $base --output_dir "$work/$name" --max_steps 1 --run_name "$name"
    passes 'names that are not UTF-8 stop nothing'

    # ---- a full disk ----
    mkdir "$work/small"
    if unshare -m true 2>/dev/null &&
        unshare -m mount -t tmpfs -o size=64k none "$work/small" 2>/dev/null; then
        # shellcheck disable=SC2016
        unshare -m sh -c '
            npt=$1 work=$2
            shift 2
            mount -t tmpfs -o size=300k none "$work/small" || exit 99
            "$npt" pretrain --output_dir "$work/small/run" --max_steps 400 --save_steps 2 "$@" \
                >"$work/out" 2>"$work/err"
            echo $? >"$work/code"
            cp -R "$work/small/run" "$work/full"
        ' sh "$npt" "$work" $base
        code=$(cat "$work/code")
        ends 'a full disk ends the run' 1
        is_true 'with one sentence' test "$(sentences | grep -vc '^step ')" = 1
        says 'that names it' err 'No space left on device'
        is_true 'what could not be written is not there' test -z "$(left_over "$work/full")"
        run pretrain $base --output_dir "$work/full" --max_steps 12 --resume auto
        passes 'and the last checkpoint that fitted is one to go on from'
        says_not 'none is torn' err incomplete
    else
        skip 'a full disk ends the run' 'no right to mount a small one'
    fi
}
finish
