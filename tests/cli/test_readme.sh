#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# The transcripts of npt doctor in README.md and doc/precision.md are what the program prints. Only
# what is the same on every machine is compared: the plan, and the explanation.
. "${NPT_SRCDIR:-.}/tests/train/lib.sh"
cd "$srcdir" || exit 99
NPT_DATADIR=data
export NPT_DATADIR
case $npt in /*) ;; *) npt=$OLDPWD/$npt ;; esac

# shown FILE COMMAND: the lines of FILE under "    $ COMMAND", up to one that does not belong.
shown() {
    awk -v command="    \$ $2" '
        $0 == command { on = 1; next }
        on && (!/^    / || /^    \$ / || /^    …/) { exit }
        on { print substr($0, 5) }' "$1"
}

for file in README.md doc/precision.md; do
    run doctor plan --use_fp16
    shown "$file" 'npt doctor plan --use_fp16' >"$work/shown"
    lines=$(wc -l <"$work/shown")
    is_true "$file shows a plan" test "$lines" -gt 20
    head -n "$lines" "$work/out" >"$work/printed"
    is_true "which is what npt prints" cmp -s "$work/shown" "$work/printed"
done
text='RuntimeError: expected mat1 and mat2 to have the same dtype, but got: c10::Half != float'
run doctor explain "$text"
shown doc/precision.md "npt doctor explain \"$text\"" >"$work/shown"
is_true 'doc/precision.md shows an explanation' test -s "$work/shown"
is_true 'which is what npt prints' cmp -s "$work/shown" "$work/out"
finish
