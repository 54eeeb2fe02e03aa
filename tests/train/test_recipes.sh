#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# The three recipes of the reference program run as they are written, say why they hardly learn,
# and learn with the settings that npt proposes; conflicts are refused before a weight is read;
# the metrics hold what they promise; evaluate agrees with PyTorch on the bundled model.
. "${NPT_SRCDIR:-.}/tests/train/lib.sh"
model=$NPT_DATADIR/tiny-llama
head -n 4 "$NPT_DATADIR/eval.jsonl" >"$work/eval.jsonl"

# ---- the three recipes, as they are pasted; only the run is short ----
short="--max_steps 8 --max_length 24 --dataset_name $NPT_DATADIR/train.jsonl"
cd "$work" || exit 99
case $npt in /*) ;; *) npt=$OLDPWD/$npt ;; esac
# shellcheck disable=SC2086
{
    run pretrain-safe --model_name "$model" --adapter_rank 16 --use_fp16 --mixed_precision fp16 \
        --batch_size 2 --gradient_accumulation_steps 4 --learning_rate 5e-5 \
        --output_dir ./outputs/npt-fp16 $short
    passes 'the fp16 recipe runs as written'
    says 'its policy' err 'policy: base F16, act F16, adapter F16 \+ F32 master, .*dynamic \(R2'
    says 'a rate that moves nothing is warned of, with a better one' err \
        'warning: --learning_rate 5e-05: in 8 steps .*hardly learn; .*--learning_rate 0\.01'
    run pretrain-safe --model_name "$model" --adapter_rank 16 --use_quantization --batch_size 1 \
        --gradient_accumulation_steps 8 --learning_rate 5e-5 \
        --output_dir ./outputs/npt-quantized $short
    passes 'the quantized recipe runs as written'
    says 'its policy' err 'policy: base NF4, act F32, adapter F32, .*scale off \(R1'
    says 'the same warning' err 'warning: --learning_rate 5e-05'
    run pretrain-safe --model_name "$model" --adapter_rank 16 --use_quantization --safe_mode \
        --batch_size 1 --gradient_accumulation_steps 8 --learning_rate 5e-5 \
        --output_dir ./outputs/npt-safe $short
    passes 'the safe recipe runs as written'
    says 'safe_mode is additive' err 'adapters: rank 16, additive, in 5 of 5 layers'
    says 'a regularizer that outweighs the loss is warned of, with a better weight' err \
        'warning: --regularization_lambda 0\.01: .*use --regularization_lambda 0 '
    is_true 'each left a checkpoint-final' test -s outputs/npt-fp16/checkpoint-final/MANIFEST \
        -a -s outputs/npt-quantized/checkpoint-final/MANIFEST \
        -a -s outputs/npt-safe/checkpoint-final/MANIFEST
    is_true 'without the base model: files of less than two MiB' \
        test -z "$(find outputs -type f -size +2048k)"
    run pretrain-safe --model_name "$model" --learning_rate 1e-3 --max_steps 1 --max_length 4 \
        --output_dir outputs/capped
    says 'pretrain-safe caps the rate and says so' err \
        'warning: --learning_rate 0\.001 is capped at 5e-05'
    says 'and takes the cap' outputs/capped/metrics.jsonl '"learning_rate":5(\.0*)?e-5'
}

# near VALUE EXPECTED TOLERANCE
near() {
    awk -v a="$1" -v b="$2" -v t="$3" 'BEGIN { exit !(a - b < t && b - a < t && a > 0) }'
}

# ---- settings that learn, in the same three precisions ----
# learns NAME FLAG...: the loss on a fixed text falls from each evaluation to the next, by a tenth
# at least in all.
learns() {
    name=$1
    shift
    rm -rf "$work/learns"
    run pretrain --loss normalized --regularization_lambda 0 --learning_rate 5e-2 --max_steps 12 \
        --warmup_steps 0 --batch_size 4 --gradient_accumulation_steps 1 --max_length 16 \
        --save_steps 100 --eval_dataset "$work/eval.jsonl" --eval_steps 4 \
        --output_dir "$work/learns" "$@"
    sed -n 's/.*"eval\/loss":\([^,}]*\).*/\1/p' "$work/learns/metrics.jsonl" >"$work/losses"
    if [ "$code" = 0 ] && awk 'NR == 1 { first = $1 } NR > 1 && $1 >= last { bad = 1 } { last = $1 }
        END { exit bad || !(NR == 3 && last < 0.9 * first) }' "$work/losses"; then
        ok "$name"
    else
        not_ok "$name" "exit code $code; $(tr '\n' ' ' <"$work/losses")"
    fi
    says_not 'and nothing is warned of' err 'warning: --'
}
learns 'the loss on a fixed text falls: F16' --use_fp16 --adapter_rank 16
learns 'the loss on a fixed text falls: NF4' --use_quantization --adapter_rank 16
learns 'the loss on a fixed text falls: NF4, additive' --use_quantization --safe_mode \
    --adapter_rank 16

if [ -n "${NPT_FULL:-}" ]; then
    # data/README.md: 3.98 in PyTorch, from 122, with other random adapters to begin with
    run pretrain --loss normalized --regularization_lambda 0 --learning_rate 1e-2 --max_steps 150 \
        --warmup_steps 0 --batch_size 8 --gradient_accumulation_steps 1 --max_grad_norm 0.5 \
        --output_dir "$work/long"
    run evaluate --adapter "$work/long" --json
    student=$(number student_perplexity "$work/out")
    is_true "150 steps come to the student perplexity of PyTorch, about 3.98: $student" \
        near "$student" 3.98 0.6
fi

# ---- conflicts, before a weight is read ----
mkdir "$work/unread"
cp "$model/config.json" "$work/unread"
echo 'these are no weights' >"$work/unread/model.safetensors"
refused 'the model of these cases cannot be read' 1 'model\.safetensors' \
    pretrain --model_name "$work/unread" --output_dir "$work/conflict"
while read -r pattern flags; do
    # shellcheck disable=SC2086
    refused "refused before a weight is read: $flags" 2 "$pattern" \
        pretrain --model_name "$work/unread" --output_dir "$work/conflict" $flags
done <<END
use_quantization.*use_fp16|use_fp16.*use_quantization --use_quantization --use_fp16
use_quantization.*use_bf16|use_bf16.*use_quantization --use_quantization --use_bf16
use_fp16.*use_bf16|use_bf16.*use_fp16 --use_fp16 --use_bf16
fp16.*bf16|bf16.*fp16 --use_fp16 --mixed_precision bf16
END
is_true 'and nothing was written' test ! -e "$work/conflict"

# ---- metrics ----
run pretrain --adapter_rank 4 --max_length 8 --batch_size 1 --gradient_accumulation_steps 2 \
    --max_steps 9 --log_steps 2 --warmup_steps 0 --seed 5 --run_name 'a "name"' \
    --learning_rate 1e-2 --output_dir "$work/measured"
passes 'a run for its metrics'
head -n 1 "$work/measured/metrics.jsonl" >"$work/first"
missing=
for key in npt_version recipe run_name command policy cast_digest seed backends cpu_level threads \
    total_steps flags; do
    grep -q "\"$key\":" "$work/first" || missing="$missing $key"
done
is_true "the first object has what the run was: missing:${missing:- nothing}" test -z "$missing"
says 'the seed' first '"seed":5[,}]'
says 'the name, quoted' first '"run_name":"a \\"name\\""'
says 'a dtype and the rule that decided it' first '"act":\{"dtype":"F32","rule":"R5'
sed 1d "$work/measured/metrics.jsonl" >"$work/rows"
missing=
for key in step epoch loss/total loss/mse loss/regularization learning_rate grad_norm loss_scale \
    tokens tokens_per_second share/mse share/regularization skipped_steps; do
    [ "$(grep -c "\"$key\":[0-9]" "$work/rows")" = 6 ] || missing="$missing $key"
done
is_true "every row has every value: missing:${missing:- nothing}" test -z "$missing"
is_true 'rows are of the steps 1, 2, 4, 6, 8 and the last' \
    test "$(sed 's/.*"step":\([0-9]*\).*/\1/' "$work/rows" | tr '\n' ' ')" = '1 2 4 6 8 9 '
measured=$(grep '"grad_norm/mse":[0-9].*"grad_norm/regularization":[0-9]' "$work/rows" |
    sed 's/.*"step":\([0-9]*\).*/\1/' | tr '\n' ' ')
is_true "the terms' own norms are there where they are measured" test "$measured" = '1 2 4 9 '
is_true 'total = mse + lambda * regularization' awk -F'[:,]' '{
    for (i = 1; i < NF; i++) { gsub(/[{"]/, "", $i); v[$i] = $(i + 1) }
    d = v["loss/total"] - v["loss/mse"] - 0.01 * v["loss/regularization"]
    if (d > 1e-7 * v["loss/total"] || -d > 1e-7 * v["loss/total"]) bad = 1
} END { exit bad || NR != 6 }' "$work/rows"
is_true 'tokens are counted' test "$(number tokens "$work/rows")" = 144

# ---- evaluate ----
for policy in '' --use_bf16; do
    # shellcheck disable=SC2086
    run evaluate --json $policy
    teacher=$(number teacher_perplexity "$work/out")
    is_true "the teacher's perplexity is the one of PyTorch ${policy:-in F32}: $teacher" \
        near "$teacher" 1.2994 0.001
    is_true 'over as many tokens' test "$(number tokens "$work/out")" = 11815
done

# ---- how long a start takes ----
: >"$work/err"
begun=$(date +%s%N)
start pretrain --output_dir "$work/begin"
until_true grep -q '^step' "$work/err"
reached=$(date +%s%N)
kill -s KILL "$pid" 2>/dev/null
ended
case $begun in
*N) ;;
*) echo "# with all defaults the first step was over after $(((reached - begun) / 1000000)) ms" ;;
esac
finish
