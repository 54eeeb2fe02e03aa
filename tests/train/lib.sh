# SPDX-License-Identifier: BSD-2-Clause
# What the tests of training share, on top of those of the program: runs on the bundled model that
# take a fraction of a second, and what makes two of them equal.
. "${NPT_SRCDIR:-.}/tests/cli/lib.sh"
if [ ! -f "$NPT_DATADIR/tiny-llama/model.safetensors" ]; then
    echo "1..0 # SKIP the bundled model is not at $NPT_DATADIR/tiny-llama"
    exit 0
fi

# passes NAME: the last run ended well.
passes() { if [ "$code" = 0 ]; then ok "$1"; else not_ok "$1" "exit code $code"; fi; }
# ends NAME CODE
ends() { if [ "$code" = "$2" ]; then ok "$1"; else not_ok "$1" "exit code $code, not $2"; fi; }
# says NAME FILE PATTERN: FILE is out, err, or one in $work.
says() { if grep -Eq -e "$3" "$work/$2"; then ok "$1"; else not_ok "$1" "no $3 in $2"; fi; }
# says_not NAME FILE PATTERN
says_not() { if grep -Eq -e "$3" "$work/$2"; then not_ok "$1" "$3 is in $2"; else ok "$1"; fi; }
# is_true NAME COMMAND...
is_true() {
    is_true_name=$1
    shift
    if "$@"; then ok "$is_true_name"; else not_ok "$is_true_name" "fails: $*"; fi
}

# What of metrics.jsonl two equal runs have in common: all but the time that went by, and of the
# first object the command, which names the directory, and the number of threads.
metrics_of() {
    sed -e 's/"tokens_per_second":[^,}]*//' -e 's/"command":"\([^"\\]\|\\.\)*"//' \
        -e 's/"threads":[0-9]*//' "$1/metrics.jsonl"
}

# different A B: prints the first thing of run A that run B has otherwise; nothing where all is
# equal: every file of every checkpoint of A, and the metrics.
different() {
    for directory in "$1"/checkpoint-*; do
        for file in "$directory"/*; do
            other=$2/${directory##*/}/${file##*/}
            cmp -s "$file" "$other" || {
                echo "$file and $other"
                return
            }
        done
    done
    metrics_of "$1" >"$work/metrics.1"
    metrics_of "$2" >"$work/metrics.2"
    cmp -s "$work/metrics.1" "$work/metrics.2" || echo "$1/metrics.jsonl and $2/metrics.jsonl"
}

# same NAME A B
same() {
    difference=$(different "$2" "$3")
    if [ -z "$difference" ]; then ok "$1"; else not_ok "$1" "these differ: $difference"; fi
}

# start ARGUMENT...: npt in the background, as $pid; its output is in $work/out and $work/err.
start() {
    : >"$work/err"
    "$npt" "$@" >"$work/out" 2>"$work/err" </dev/null &
    pid=$!
}

# until_true COMMAND...: polls while process $pid lives, for a minute at most. No sleep: what is
# waited for may be over within a few milliseconds.
until_true() {
    give_up=$(($(date +%s) + 60))
    polls=0
    while ! "$@"; do
        kill -0 "$pid" 2>/dev/null || return 1
        polls=$((polls + 1))
        if [ $((polls % 1000)) = 0 ] && [ "$(date +%s)" -gt "$give_up" ]; then return 1; fi
    done
}

# ended: waits for process $pid, leaves its exit code in $code.
ended() {
    wait "$pid" 2>/dev/null
    code=$?
}

# left_over DIR: names that only a run that is being written has.
left_over() { find "$1" -name '*.tmp-*' -o -name '*.old-*' 2>/dev/null; }

# number KEY FILE: the last value of KEY in a file of JSON.
number() { sed -n "s|.*\"$1\": *\\([^,}]*\\).*|\\1|p" "$2" | tail -n 1; }
