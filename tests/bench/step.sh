#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# Seconds and memory of one end-to-end training step, npt beside PyTorch, in alternating runs.
#
#   tests/bench/step.sh NPT [RIVAL.py]        TORCH_PYTHON=python with torch, else npt alone
#
# SHAPE="hidden inter layers heads kv_heads", TOKENS, ROUNDS, PRECISIONS (fp32 bf16 fp16 nf4), MODE
# (end-to-end or layerwise), BATCH (rows of TOKENS), ACCUMULATE (batches a step), THREADS, STEPS and
# RIVAL_STEPS change what is measured. For npt: the median over STEPS steps, of the best round,
# after six in which it weighs the regularizer besides; for PyTorch: the median its script prints,
# of the best round, times ACCUMULATE, which it cannot do.
set -euo pipefail
npt=$1
rival=${2:-}
read -r hidden inter layers heads kv <<<"${SHAPE:-1024 2816 8 16 4}"
tokens=${TOKENS:-512}
rounds=${ROUNDS:-3}
mode=${MODE:-end-to-end}
batch=${BATCH:-1}
accumulate=${ACCUMULATE:-1}
threads=${THREADS:-2}
steps=${STEPS:-10}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

declare -A npt_flags=([fp32]="" [bf16]=--use_bf16 [fp16]=--use_fp16 [nf4]=--use_quantization)
declare -A file_dtype=([fp32]=f32 [bf16]=bf16 [fp16]=f16 [nf4]=bf16)
declare -A torch_flags=([fp32]="--dtype float32" [bf16]="--dtype bfloat16" [fp16]="--dtype float16"
    [nf4]="--dtype float32 --nf4")

# Rows of pseudo-random ids, of the rival's length.
awk -v n="$tokens" -v rows=$((batch * accumulate)) 'BEGIN { srand(1); while (rows-- > 0) {
    printf "{\"input_ids\":["
    for (i = 0; i < n; i++) printf "%s%d", i ? "," : "", int(rand() * 32000)
    print "]}" } }' >"$work/row.jsonl"

model() {
    local path=$work/model-$1
    [ -d "$path" ] || "$npt" make-model --hidden "$hidden" --inter "$inter" --layers "$layers" \
        --heads "$heads" --kv_heads "$kv" --vocab 32000 --dtype "$1" "$path" >/dev/null
    echo "$path"
}

# failed WHO LOG: with the end of what it said, instead of a row.
failed() {
    echo "step.sh: $1 failed; its last words:" >&2
    tail -n 5 "$2" >&2
    exit 1
}

# Prints "seconds-a-step peak-MiB".
run_npt() {
    local out=$work/out model
    model=$(model "${file_dtype[$1]}")
    rm -rf "$out"
    # shellcheck disable=SC2086
    "$npt" pretrain ${npt_flags[$1]} --model_name "$model" --dataset_name "$work/row.jsonl" \
        --max_length "$tokens" --batch_size "$batch" --gradient_accumulation_steps "$accumulate" \
        --max_steps $((steps + 6)) --loss normalized --warmup_steps 0 --distill "$mode" \
        --threads "$threads" --log_steps 1 --output_dir "$out" >"$work/log" 2>&1 ||
        failed npt "$work/log"
    local peak
    peak=$(grep -o 'peak [0-9.]* [MG]iB' "$work/log" | tail -n 1 |
        awk '{ print $3 == "GiB" ? $2 * 1024 : $2 }')
    # seconds of step n: from the cumulative rate of two neighbours
    grep -o '"tokens":[0-9]*,"tokens_per_second":[0-9.e+]*' "$out/metrics.jsonl" | tr ':,' '  ' |
        awk -v peak="$peak" '{ t = $2 / $4; if (NR > 6) print t - before; before = t }' | sort -n |
        awk -v peak="$peak" '{ s[NR] = $1 } END { print s[int((NR + 1) / 2)], peak }'
}

run_torch() {
    local extra=
    [ "$mode" = layerwise ] && extra=--layerwise
    # shellcheck disable=SC2086
    "$TORCH_PYTHON" "$rival" ${torch_flags[$1]} $extra --hidden "$hidden" --inter "$inter" \
        --layers "$layers" --heads "$heads" --kv "$kv" --seq "$tokens" --threads "$threads" \
        --batch "$batch" --steps "${RIVAL_STEPS:-7}" >"$work/answer" 2>"$work/log" ||
        failed PyTorch "$work/log"
    sed 's/.*"median_s": \([0-9.e-]*\),.*"peak_bytes": \([0-9]*\),.*/\1 \2/' "$work/answer" |
        awk -v times="$accumulate" '{ print $1 * times, $2 / 1048576 }'
}

best() { sort -n | head -n 1; }

echo "# one $mode step, hidden $hidden, inter $inter, $layers layers, $heads/$kv heads," \
    "$tokens tokens, $batch rows, $accumulate times, $threads threads"
printf '%-6s %12s %10s %10s' precision 'npt s/step' tokens/s 'peak MiB'
if [ -n "$rival" ]; then
    printf ' %14s %10s %10s %10s' 'PyTorch s/step' tokens/s 'peak MiB' speed-up
fi
echo
for precision in ${PRECISIONS:-fp32 bf16 fp16 nf4}; do
    : >"$work/ours"
    : >"$work/theirs"
    for _ in $(seq "$rounds"); do
        run_npt "$precision" >>"$work/ours"
        if [ -n "$rival" ]; then run_torch "$precision" >>"$work/theirs"; fi
    done
    read -r seconds peak < <(best <"$work/ours")
    awk -v p="$precision" -v s="$seconds" -v m="$peak" -v t="$((tokens * batch * accumulate))" \
        'BEGIN { printf "%-6s %15.4f %10.1f %10.1f", p, s, t / s, m }'
    if [ -n "$rival" ]; then
        read -r their_seconds their_peak < <(best <"$work/theirs")
        awk -v s="$seconds" -v o="$their_seconds" -v m="$their_peak" \
            -v t="$((tokens * batch * accumulate))" \
            'BEGIN { printf " %14.4f %10.1f %10.1f %9.2fx", o, t / o, m, o / s }'
    fi
    echo
done
