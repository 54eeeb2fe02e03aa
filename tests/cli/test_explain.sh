#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# npt doctor explain: where the text comes from, in which form the answer is, and the exit codes.
. "${NPT_SRCDIR:-.}/tests/cli/lib.sh"
error="RuntimeError: expected mat1 and mat2 to have the same dtype, but got: c10::Half != float"

# answered NAME CODE PATTERN: of the last run.
answered() {
    if [ "$code" = "$2" ] && [ ! -s "$work/err" ] && grep -q -e "$3" "$work/out"; then
        ok "$1"
    else
        not_ok "$1" "exit code $code, expected $2 and $3"
    fi
}

run doctor explain "$error"
answered 'a text as one word is recognised' 0 '^Kind  *linear-dtype-mismatch$'
# shellcheck disable=SC2086
run doctor explain $error
answered 'a text without quotation marks is recognised' 0 '^Kind  *linear-dtype-mismatch$'
run doctor explain --json "$error"
answered 'JSON names its schema' 0 '"schema": "npt-doctor-explain/1"'
run doctor explain "ImportError: No module named 'torch'"
answered 'an unknown error is exit code 1' 1 '^Kind  *unknown$'
run doctor explain ''
answered 'an empty text is unknown' 1 '^Kind  *unknown$'
run doctor explain
answered 'empty input is unknown' 1 '^Kind  *unknown$'

# from_input NAME CODE PATTERN ARGUMENT...: standard input is $work/in.
from_input() {
    input_name=$1 input_code=$2 input_pattern=$3
    shift 3
    $limit "$npt" doctor explain "$@" <"$work/in" >"$work/out" 2>"$work/err"
    code=$?
    answered "$input_name" "$input_code" "$input_pattern"
}
printf 'Traceback (most recent call last):\n  File "a.py", line 1\n%s\n' "$error" >"$work/in"
from_input 'without a text standard input is read' 0 '^Kind  *linear-dtype-mismatch$'
from_input '- is standard input' 0 '"kind": "linear-dtype-mismatch"' --json -
{ head -c 9000000 /dev/zero | tr '\0' 'x'; printf '\n%s\n' "$error"; } >"$work/in"
from_input 'of long input the end counts' 0 '^Kind  *linear-dtype-mismatch$'
{ printf '%s\n' "$error"; head -c 9000000 /dev/zero | tr '\0' 'x'; } >"$work/in"
from_input 'of long input the beginning counts' 0 '^Kind  *linear-dtype-mismatch$'
# patterns that try every place of a long word would take minutes, and be ended
{ head -c 120000 /dev/zero | tr '\0' 'x'; printf '\n%s\n' "$error"; } >"$work/in"
from_input 'a long word is passed over' 0 '^Kind  *linear-dtype-mismatch$'

for form in 'doctor --help' 'doctor -h' 'help doctor'; do
    # shellcheck disable=SC2086
    run $form
    answered "npt $form lists explain" 0 '^  explain '
done
run doctor explain --help
answered 'npt doctor explain --help is a page' 0 '^usage: npt doctor explain'
wide=$(awk 'length > 100' "$work/out")
if [ -z "$wide" ]; then
    ok 'the page fits 100 columns'
else
    not_ok 'the page fits 100 columns' "$wide"
fi
run doctor
if [ "$code" = 2 ] && grep -q '^usage: npt doctor' "$work/err"; then
    ok 'npt doctor alone is the overview on standard error, exit code 2'
else
    not_ok 'npt doctor alone is the overview on standard error, exit code 2' "exit code $code"
fi
refused 'an unknown subcommand is refused with the nearest' 2 'explian.*explain' doctor explian
refused 'an unknown flag is refused' 2 'nearest is --json' doctor explain --jsno text
finish
