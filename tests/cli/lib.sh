# SPDX-License-Identifier: BSD-2-Clause
# What the tests of the program share: where it is, TAP, and one way to run and to look.
# NPT_PROGRAM may name another program, an installed one say.
build=${NPT_BUILDDIR:-.}
npt=${NPT_PROGRAM:-$build/npt}
# The script that libtool puts in front of a program takes longer than most of these runs.
if [ -z "${NPT_PROGRAM:-}" ] && [ -x "$build/.libs/npt" ]; then
    npt=$build/.libs/npt
    LD_LIBRARY_PATH=$build/.libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    export LD_LIBRARY_PATH
fi
srcdir=${NPT_SRCDIR:-.}
NPT_DATADIR=$srcdir/data
export NPT_DATADIR
LC_ALL=C
export LC_ALL
unset NPT_BACKEND NPT_CPU_MAX NPT_VERBOSE
NPT_CALIBRATION=off
export NPT_CALIBRATION
tap_count=0
tap_failed=0

if [ ! -x "$npt" ]; then
    echo "1..0 # SKIP $npt is not built"
    exit 0
fi
work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT
trap 'exit 99' HUP INT TERM
# A hang is a failure too; a sanitizer on a slow machine is not one.
limit=
if command -v timeout >/dev/null 2>&1; then limit='timeout -k 5 600'; fi

ok() {
    tap_count=$((tap_count + 1))
    echo "ok $tap_count - $1"
}

# not_ok NAME REASON: with what the last run said.
not_ok() {
    tap_count=$((tap_count + 1))
    tap_failed=$((tap_failed + 1))
    echo "not ok $tap_count - $1"
    echo "# $2"
    for file in "$work/out" "$work/err"; do
        if [ -s "$file" ]; then head -n 8 "$file" | cut -c 1-300 | sed 's/^/#   /'; fi
    done
}

skip() {
    tap_count=$((tap_count + 1))
    echo "ok $tap_count - $1 # SKIP $2"
}

finish() {
    echo "1..$tap_count"
    [ "$tap_failed" = 0 ]
    exit
}

# run ARGUMENT...: the program; leaves its exit code in $code, its output in $work/out and
# $work/err.
run() {
    $limit "$npt" "$@" >"$work/out" 2>"$work/err" </dev/null
    code=$?
}

# The sentences on standard error: notes and warnings ("npt: ...") do not count.
sentences() { grep -v '^npt: ' "$work/err" || grep '^npt: there is no command' "$work/err"; }

# refused NAME CODE PATTERN ARGUMENT...: the program ends with CODE and one sentence that
# matches the extended regular expression, case aside.
refused() {
    refused_name=$1 refused_code=$2 refused_pattern=$3
    shift 3
    run "$@"
    if [ "$code" != "$refused_code" ]; then
        not_ok "$refused_name" "exit code $code, expected $refused_code"
    elif [ "$(sentences | grep -c .)" != 1 ]; then
        not_ok "$refused_name" "expected one sentence on standard error"
    elif ! sentences | grep -Eiq -e "$refused_pattern"; then
        not_ok "$refused_name" "the sentence does not match: $refused_pattern"
    else
        ok "$refused_name"
    fi
}
