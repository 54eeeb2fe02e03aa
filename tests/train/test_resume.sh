#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Twenty steps in one run are, bit for bit, twenty steps of a run that was killed and resumed; and
# they do not depend on the number of threads.
. "${NPT_SRCDIR:-.}/tests/train/lib.sh"

# 13 rows make an epoch of four steps, the last a shorter one: twenty steps are five epochs, and a
# checkpoint at step 7 lies within one.
head -n 6 "$NPT_DATADIR/eval.jsonl" >"$work/eval.jsonl"
rows='--num_samples 13 --batch_size 2 --gradient_accumulation_steps 2 --max_steps 20
    --log_steps 1 --warmup_steps 3 --learning_rate 1e-2 --adapter_rank 4'

# killed DIR FLAG...: starts, and kills as soon as there is a checkpoint-7. A machine that is busy
# may let the run end first; then once more.
killed() {
    directory=$1
    shift
    for attempt in 1 2 3 4 5; do
        rm -rf "$directory"
        start pretrain --output_dir "$directory" --save_steps 7 "$@"
        until_true test -d "$directory/checkpoint-7"
        kill -s KILL "$pid"
        ended
        [ -d "$directory/checkpoint-7" ] && [ ! -d "$directory/checkpoint-final" ] && return
    done
    echo "# five runs ended before they could be killed, the last after attempt $attempt"
    rm -rf "$directory/checkpoint-final" "$directory/checkpoint-14"
}

# exact NAME FLAG...
exact() {
    name=$1
    shift
    run pretrain --output_dir "$work/whole" --save_steps 7 "$@"
    [ "$code" = 0 ] || {
        not_ok "$name" "the whole run ended in $code"
        return
    }
    killed "$work/parts" "$@"
    run pretrain --output_dir "$work/parts" --resume auto --save_steps 7 "$@"
    if [ "$code" != 0 ]; then
        not_ok "$name" "the resumed run ended in $code"
    elif ! grep -Eq 'resumed from .*/checkpoint-(7|14) at step (7|14)$' "$work/err"; then
        not_ok "$name" 'it does not say where it went on'
    elif [ -n "$(left_over "$work/parts")" ]; then
        not_ok "$name" "left over: $(left_over "$work/parts")"
    else
        same "$name" "$work/whole" "$work/parts"
    fi
    rm -rf "$work/whole" "$work/parts"
}

# shellcheck disable=SC2086
{
    exact 'killed and resumed: F32' $rows --max_length 8 --backend native
    exact 'killed and resumed: F16 with a loss scale' $rows --max_length 8 --backend native \
        --use_fp16
    exact 'killed and resumed: BF16' $rows --max_length 8 --backend native --use_bf16
    exact 'killed and resumed: NF4' $rows --max_length 8 --backend native --use_quantization
    exact 'killed and resumed: mixed distillation, by draws' $rows --max_length 8 \
        --backend native --distill mixed --teacher_forcing 0.4 --loss normalized --seed 3
    exact 'killed and resumed: layerwise, Adam, an evaluation every third step' $rows \
        --max_length 8 --backend native --distill layerwise --optimizer_type adam \
        --eval_dataset "$work/eval.jsonl" --eval_steps 3
    exact 'killed and resumed: backend reference' $rows --max_length 4 --backend reference
}

# ---- killed again and again ----
# A checkpoint a step, so that most of the time goes into writing them; killed at no chosen moment.
# shellcheck disable=SC2086
run pretrain $rows --max_length 8 --backend native --save_steps 1 --save_total_limit 2 \
    --output_dir "$work/whole"
kills=0 torn=0 code=1
while [ "$code" != 0 ] && [ "$kills" -lt 6 ]; do
    # shellcheck disable=SC2086
    start pretrain $rows --max_length 8 --backend native --save_steps 1 --save_total_limit 2 \
        --output_dir "$work/parts" --resume auto
    until_true grep -q '^step ' "$work/err"
    sleep "0.0$((kills % 5 + 1))"
    kill -s KILL "$pid" 2>/dev/null
    ended
    kills=$((kills + 1))
    [ -z "$(left_over "$work/parts")" ] || torn=$((torn + 1))
done
echo "# killed $kills times, $torn times while a checkpoint was being written"
# shellcheck disable=SC2086
[ "$code" = 0 ] || run pretrain $rows --max_length 8 --backend native --save_steps 1 \
    --save_total_limit 2 --output_dir "$work/parts" --resume auto
same 'killed again and again, and resumed, it is the same run' "$work/whole" "$work/parts"
is_true 'and nothing is left over' test -z "$(left_over "$work/parts")"

# ---- threads ----
# shellcheck disable=SC2086
for backend in native reference; do
    length=8
    [ $backend = reference ] && length=4
    for threads in 1 2 3; do
        run pretrain $rows --save_steps 7 --max_length $length --backend $backend --use_fp16 \
            --threads $threads --output_dir "$work/$backend-$threads"
        [ $threads = 1 ] || same "$threads threads compute the bits of one: $backend" \
            "$work/$backend-1" "$work/$backend-$threads"
    done
done
finish
