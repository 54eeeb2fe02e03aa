#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# SIGINT and SIGTERM save, say how to go on and end in 130 or 143; what goes on from there ends in
# the bits of a run that nobody stopped. A second signal leaves at once and tears nothing.
. "${NPT_SRCDIR:-.}/tests/train/lib.sh"
head -n 30 "$NPT_DATADIR/eval.jsonl" >"$work/eval.jsonl"
rows='--num_samples 13 --batch_size 2 --gradient_accumulation_steps 2 --max_steps 20
    --log_steps 1 --warmup_steps 3 --learning_rate 1e-2 --adapter_rank 4 --max_length 24
    --save_steps 9 --backend native'
evaluated="$rows --eval_dataset $work/eval.jsonl --eval_steps 6"

# stopped SIGNAL PATTERN DIR FLAG...: starts, and sends SIGNAL once PATTERN was said.
stopped() {
    signal=$1 pattern=$2 directory=$3
    shift 3
    start pretrain --output_dir "$directory" "$@"
    until_true grep -q "$pattern" "$work/err"
    kill -s "$signal" "$pid" 2>/dev/null
    ended
}

# writes DIR: a checkpoint is being written there. No process: it takes a millisecond or two.
writes() {
    set -- "$1"/checkpoint-*.tmp-*
    [ -d "$1" ]
}

# shellcheck disable=SC2086
{
    run pretrain --output_dir "$work/whole" $rows
    stopped INT '^step 4/' "$work/int" $rows
    ends 'SIGINT ends in 130' 130
    at=$(sed -n 's/.*stopped by signal 2 at step \([0-9]*\) of 20; saved as .*/\1/p' "$work/err")
    is_true 'says at which step, and where it is saved' test -d "$work/int/checkpoint-${at:-none}"
    says 'and how to go on' err 'npt: to go on from there: .* --resume auto$'
    command=$(sed -n 's/^npt: to go on from there: //p' "$work/err")
    (
        unset LD_LIBRARY_PATH
        eval "$command"
    ) >"$work/out" 2>"$work/err" </dev/null
    code=$?
    passes 'the command it says goes on'
    says 'from there' err "resumed from .*/checkpoint-$at at step $at\$"
    rm -rf "$work/int/checkpoint-$at"
    [ -d "$work/whole/checkpoint-$at" ] && rm -rf "$work/whole/checkpoint-$at"
    # an interrupted run has one checkpoint more, and the others as they are
    same 'stopped by SIGINT and resumed: the bits of the whole run' "$work/int" "$work/whole"
    rm -rf "$work/whole" "$work/int"

    # in the middle of an evaluation, which is then done again
    run pretrain --output_dir "$work/whole" $evaluated
    stopped TERM '^step 6/' "$work/term" $evaluated
    ends 'SIGTERM ends in 143' 143
    grep -q 'step 6: eval loss' "$work/err" && echo '# the evaluation was over by then'
    stopped TERM 'resumed from' "$work/term" $evaluated --resume auto
    ends 'and again, of the resumed run' 143
    run pretrain --output_dir "$work/term" $evaluated --resume auto
    for checkpoint in final best; do
        cmp -s "$work/whole/checkpoint-$checkpoint/MANIFEST" \
            "$work/term/checkpoint-$checkpoint/MANIFEST" || code=checkpoint-$checkpoint
    done
    passes 'stopped twice: the final and the best checkpoint are those of the whole run'
    metrics_of "$work/whole" >"$work/metrics.1"
    metrics_of "$work/term" >"$work/metrics.2"
    is_true 'and so are the metrics' cmp -s "$work/metrics.1" "$work/metrics.2"
    rm -rf "$work/term" "$work/whole/checkpoint-best"

    # twice at once: the second cuts off what the first began to save
    kills=0 torn=0
    while [ $kills -lt 4 ]; do
        start pretrain --output_dir "$work/twice" $rows --resume auto
        until_true grep -q '^step' "$work/err"
        kill -s INT "$pid" 2>/dev/null
        if [ $kills != 0 ]; then until_true writes "$work/twice"; fi
        kill -s TERM "$pid" 2>/dev/null
        ended
        kills=$((kills + 1))
        case $code in 0 | 130 | 143) ;; *) not_ok 'a second signal' "exit code $code" ;; esac
        [ -z "$(left_over "$work/twice")" ] || torn=$((torn + 1))
    done
    echo "# $torn of $kills times it cut off the writing of a checkpoint"
    run pretrain --output_dir "$work/twice" $rows --resume auto
    cmp -s "$work/whole/checkpoint-final/adapter_model.safetensors" \
        "$work/twice/checkpoint-final/adapter_model.safetensors" || code=differs
    passes 'a second signal tears nothing: the run ends in the same weights'
    is_true 'and nothing is left over' test -z "$(left_over "$work/twice")"
}

# a weight file that becomes shorter under the run
# shellcheck disable=SC2086
{
    run make-model --hidden 64 --inter 96 --layers 2 --heads 4 --kv_heads 2 --vocab 300 \
        "$work/model"
    start pretrain --model_name "$work/model" --num_samples 13 --max_length 24 --log_steps 1 \
        --max_steps 100000 --output_dir "$work/short"
    until_true grep -q '^step 2/' "$work/err"
    : >"$work/model/model.safetensors"
    ended
    ends 'a weight file that shrinks ends the run' 1
    says 'with a sentence' err 'npt: a file that is in use .* became shorter'
}
finish
