#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# The program at work on the bundled model: tokenize there and back, evaluate, train, stop, go on.
. "${NPT_SRCDIR:-.}/tests/cli/lib.sh"
if [ ! -f "$NPT_DATADIR/tiny-llama/model.safetensors" ]; then
    echo "1..0 # SKIP the bundled model is not at $NPT_DATADIR/tiny-llama"
    exit 0
fi
short='--max_steps 3 --batch_size 1 --gradient_accumulation_steps 1 --warmup_steps 0 --max_length 16
    --log_steps 1 --adapter_rank 2'

# passes NAME: the last run ended well.
passes() { if [ "$code" = 0 ]; then ok "$1"; else not_ok "$1" "exit code $code"; fi; }
# says NAME FILE PATTERN
says() { if grep -Eq -e "$3" "$work/$2"; then ok "$1"; else not_ok "$1" "no $3"; fi; }

# ---- tokens ----
printf '{"text": "Once there was a fox."}\n{"text": "It had a red hat."}\n' >"$work/text.jsonl"
run tokenize --dataset_name "$work/text.jsonl"
passes 'tokenize ends well'
if [ "$(grep -Ec '^\{"input_ids": ?\[[0-9, ]+\]\}$' "$work/out")" = 2 ]; then
    ok 'tokenize prints a line of ids a row'
else
    not_ok 'tokenize prints a line of ids a row' 'other lines'
fi
cp "$work/out" "$work/ids.jsonl"
run detokenize --input "$work/ids.jsonl"
passes 'detokenize ends well'
says 'the first row comes back' out 'Once there was a fox\.'
says 'the second row comes back' out 'It had a red hat\.'
"$npt" detokenize <"$work/ids.jsonl" >"$work/again" 2>"$work/err"
if cmp -s "$work/out" "$work/again"; then
    ok 'standard input is as good as a file'
else
    not_ok 'standard input is as good as a file' 'the texts differ'
fi
run tokenize --dataset_name "$work/text.jsonl" --num_samples 1 --max_length 2
if [ "$(wc -l <"$work/out")" -eq 1 ] && grep -Eq '\[[0-9]+, ?[0-9]+\]' "$work/out"; then
    ok 'rows and ids are cut as asked'
else
    not_ok 'rows and ids are cut as asked' 'other lines'
fi
refused 'detokenize of a file that is not there' 1 'none\.jsonl.*No such file' \
    detokenize --input "$work/none.jsonl"
# More than a pipe holds, so that the reader is gone before the end.
{
    "$npt" tokenize 2>"$work/err"
    echo $? >"$work/code"
} | head -n 1 >"$work/out"
if [ "$(wc -c <"$NPT_DATADIR/train.jsonl")" -lt 131072 ]; then
    skip 'a closed pipe is a failure with a sentence' 'the bundled text fits a pipe'
elif [ "$(cat "$work/code")" = 1 ] && [ -s "$work/err" ]; then
    ok 'a closed pipe is a failure with a sentence'
else
    not_ok 'a closed pipe is a failure with a sentence' "exit code $(cat "$work/code")"
fi

# ---- backends, evaluate ----
run backends
passes 'backends ends well'
says 'backends names the reference' out reference
run backends --model_name "$NPT_DATADIR/tiny-llama" --tokens 32 --json
passes 'backends with a model, as JSON'
says 'which is an object or a list' out '^[[{]'
run evaluate --num_samples 2 --max_length 16 --adapter_rank 2 --json
passes 'evaluate ends well'
missing=
for key in rows tokens teacher_perplexity student_perplexity kl top1_agreement layer_loss model \
    policy; do
    grep -q "\"$key\": " "$work/out" || missing="$missing $key"
done
if [ -z "$missing" ] && [ "$(wc -l <"$work/out")" -eq 1 ]; then
    ok 'evaluate --json has every key on one line'
else
    not_ok 'evaluate --json has every key on one line' "missing:$missing"
fi
run evaluate --num_samples 2 --max_length 16 --adapter_rank 2
says 'evaluate prints a table' out '^student perplexity +[0-9]'

# ---- a run ----
# shellcheck disable=SC2086
run pretrain $short --output_dir "$work/dry" --dry_run
passes 'a dry run ends well'
if [ ! -e "$work/dry" ]; then
    ok 'and writes nothing'
else
    not_ok 'and writes nothing' "$work/dry"
fi
# shellcheck disable=SC2086
run pretrain $short --output_dir "$work/a run"
passes 'a short run ends well'
says 'a line a logged step, off the terminal' err '^step 3/3  loss '
says 'the summary has the loss' out '^loss  *[0-9.e+-]+ -> [0-9.e+-]+$'
says 'the summary has the checkpoint' out '^checkpoint +.*/a run'
says 'the command that evaluates it is one that a shell takes' out "^evaluate .*'.*/a run"
evaluate=$(sed -n 's/^evaluate *//p' "$work/out")
(
    unset LD_LIBRARY_PATH
    sh -c "$evaluate --num_samples 2"
) >"$work/out" 2>"$work/err"
code=$?
passes 'and it evaluates'
if [ -s "$work/a run/metrics.jsonl" ]; then
    ok 'metrics.jsonl is there'
else
    not_ok 'metrics.jsonl is there' 'it is not, or is empty'
fi

# ---- stop and go on ----
# start ARGUMENT...: in the background, until the first step is logged; $pid.
start() {
    rm -f "$work/err"
    : >"$work/err"
    "$npt" pretrain --max_steps 1000000 --batch_size 1 --gradient_accumulation_steps 1 \
        --warmup_steps 0 --max_length 16 --log_steps 1 --adapter_rank 2 "$@" \
        >"$work/out" 2>"$work/err" </dev/null &
    pid=$!
    tries=0
    while ! grep -q '^step ' "$work/err" && kill -0 "$pid" 2>/dev/null && [ $tries -lt 300 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
}
# stop SIGNAL: and wait, not for ever; $code.
stop() {
    kill -s "$1" "$pid"
    tries=0
    while kill -0 "$pid" 2>/dev/null && [ $tries -lt 300 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
    kill -s KILL "$pid" 2>/dev/null
    wait "$pid"
    code=$?
}
last_step() { sed -n 's/^step \([0-9]*\).*/\1/p' "$work/err" | tail -n 1; }
first_step() { sed -n 's/^step \([0-9]*\).*/\1/p' "$work/err" | head -n 1; }

start --output_dir "$work/stopped"
stop TERM
if [ "$code" = 143 ]; then ok 'SIGTERM ends in 143'; else not_ok 'SIGTERM ends in 143' "$code"; fi
says 'and in the command that goes on' err 'to go on from there: .* --resume auto$'
before=$(last_step)
start --output_dir "$work/stopped" --resume auto
stop INT
if [ "$code" = 130 ]; then ok 'SIGINT ends in 130'; else not_ok 'SIGINT ends in 130' "$code"; fi
after=$(first_step)
if [ "${after:-0}" -gt "${before:-0}" ]; then
    ok 'the run went on where it was stopped'
else
    not_ok 'the run went on where it was stopped' "stopped after $before, went on with $after"
fi
if [ "$(grep -c -e '--resume auto$' "$work/err")" = 1 ] &&
    ! grep -q 'auto.*--resume' "$work/err"; then
    ok '--resume stands once in the command that goes on'
else
    not_ok '--resume stands once in the command that goes on' 'twice, or not at all'
fi

# shellcheck disable=SC2086
run pretrain $short --output_dir "$work/new" --resume auto
passes 'going on where there is nothing begins a run'
says 'and says so' err 'npt: .*no complete checkpoint'
# shellcheck disable=SC2086
run pretrain --resume $short --output_dir "$work/newer"
passes '--resume alone is --resume auto'
says 'which it says' err 'npt: --resume auto: .*no complete checkpoint'

# ---- a terminal ----
if script -qec true /dev/null >/dev/null 2>&1 </dev/null; then
    command="'$npt' pretrain $(echo "$short" | tr '\n' ' ') --output_dir '$work/tty'"
    TERM=xterm script -qec "stty cols 50; $command" /dev/null \
        >"$work/out" 2>"$work/err" </dev/null
    tr '\r' '\n' <"$work/out" >"$work/lines"
    if grep -q '^step 3/3 ' "$work/lines" &&
        [ -z "$(grep '^step ' "$work/lines" | awk 'length > 50')" ]; then
        ok 'the live line is cut to the terminal'
    else
        not_ok 'the live line is cut to the terminal' 'it is not'
    fi
    says 'the loss is drawn at the end, in ASCII in the C locale' out '^loss [][ _.:=+*#-]+ .* to '
else
    skip 'the live line is cut to the terminal' 'no script(1)'
    skip 'the loss is drawn at the end, in ASCII in the C locale' 'no script(1)'
fi
finish
