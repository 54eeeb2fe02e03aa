#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# Instructions that each hot kernel takes, counted by callgrind, against a baseline that is in the
# tree: what a clock on a shared machine cannot see. Levels without AVX-512 only, which valgrind has
# not. The counts are of one compiler and its flags; with others this says so and compares nothing.
#
#   instructions.sh PROGRAM BASELINE "COMPILER FLAGS..." [--update]
set -euo pipefail
program=$1 baseline=$2 compiler=$3 update=${4:-}
tolerance=3 # per cent
levels='avx2 reference'

skip() {
    echo "check-instructions: SKIP: $1"
    exit 0
}
command -v valgrind >/dev/null || skip 'valgrind is not installed'
command -v callgrind_annotate >/dev/null || skip 'callgrind_annotate is not installed'

# Without what changes no code: -g, warnings; in one order.
# shellcheck disable=SC2086
set -- $compiler
name=$("$1" --version | head -n 1)
shift
flags=$(printf '%s\n' "$@" | grep -v -E -e '^-(g[0-9]?|W.*|I.*|pipe)$' | sort -u | tr '\n' ' ')
built="$name; ${flags% }"

if [ -z "$update" ]; then
    [ -f "$baseline" ] || skip "there is no baseline at $baseline"
    of=$(sed -n 's/^# built: //p' "$baseline")
    [ "$of" = "$built" ] || skip "the baseline is of \"$of\", this build is of \"$built\""
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for level in $levels; do
    got=$(NPT_CPU_MAX=$level valgrind --quiet --tool=callgrind --callgrind-out-file="$work/$level" \
        "$program" 2>"$work/log") || {
        cat "$work/log" >&2
        exit 1
    }
    if [ "$got" != "$level" ]; then
        echo "check-instructions: level $level is left out: under valgrind this CPU is $got"
        continue
    fi
    # "1,234,567 (12.3%)  file:count_norm [object]"
    callgrind_annotate --inclusive=yes --threshold=100 "$work/$level" |
        sed -n 's/^ *\([0-9,]*\) .*:count_\([a-z0-9_]*\).*/\2 \1/p' | tr -d , |
        sort -u | sed "s/^/$level /" >>"$work/counts"
done
[ -s "$work/counts" ] || skip 'no level could be counted'

if [ -n "$update" ]; then
    {
        echo '# SPDX-License-Identifier: BSD-2-Clause'
        echo '# level, kernel, instructions of one call: make update-instructions'
        echo "# built: $built"
        cat "$work/counts"
    } >"$baseline"
    echo "check-instructions: $(wc -l <"$work/counts") counts written to $baseline"
    exit 0
fi

awk -v tolerance=$tolerance '
/^#/ { next }
NR == FNR { before[$1 " " $2] = $3; next }
{
    key = $1 " " $2
    if (!(key in before)) { printf "%-34s %12d  new: it has no baseline\n", key, $3; bad++; next }
    change = 100 * ($3 / before[key] - 1)
    verdict = change > tolerance ? "MORE" : change < -tolerance ? "less" : ""
    if (verdict == "MORE") bad++
    if (verdict == "less") better++
    if (verdict != "")
        printf "%-34s %12d, was %12d: %+.1f %% %s\n", key, $3, before[key], change, verdict
    counted++
}
END {
    printf "check-instructions: %d counts within %s %%, %d with more, %d with less\n",
        counted - bad - better, tolerance, bad, better
    if (better) print "make update-instructions keeps what was gained"
    if (bad) print "where it is worth it, make update-instructions takes the new counts"
    exit bad > 0
}' "$baseline" "$work/counts"
