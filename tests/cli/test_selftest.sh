#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# npt selftest: well-formed TAP, every check on the backends asked for, nothing left behind; and it
# does fail where a run is damaged (NPT_DEBUG_FAULT).
# It is run from another directory, too.
NPT_BUILDDIR=$(cd "${NPT_BUILDDIR:-.}" && pwd)
. "${NPT_SRCDIR:-.}/tests/cli/lib.sh"
mkdir "$work/tmp"
TMPDIR=$work/tmp
export TMPDIR

# tidy NAME: nothing is left in the directory for temporary files.
tidy() {
    if [ -z "$(ls -A "$work/tmp")" ]; then ok "$1"; else not_ok "$1" "left: $(ls "$work/tmp")"; fi
}

# well_formed: a version, a plan and as many numbered lines as that says, in order.
well_formed() {
    awk 'NR == 1 && $0 != "TAP version 13" { bad = 1 }
         NR == 2 { if (!match($0, /^1\.\.[0-9]+$/)) bad = 1; plan = substr($0, 4) }
         /^ok / { if ($2 != ++n || $3 != "-") bad = 1; next }
         /^not ok / { if ($3 != ++n || $4 != "-") bad = 1; next }
         NR > 2 && !/^# / { bad = 1 }
         END { exit bad || n != plan }' "$work/out"
}

# ---- All backends ----
run selftest
if [ "$code" = 0 ] && ! grep -q '^not ok' "$work/out" && [ ! -s "$work/err" ]; then
    ok 'every case passes, and standard error is empty'
else
    grep -A 8 '^not ok' "$work/out" >"$work/failures"
    mv "$work/failures" "$work/out"
    not_ok 'every case passes, and standard error is empty' "exit code $code"
fi
if well_formed; then ok 'the output is TAP'; else not_ok 'the output is TAP' 'it is not'; fi
tidy 'no temporary file is left'
missing=
for backend in reference native openblas onednn; do
    grep -q "backend $backend" "$work/out" || missing="$missing $backend"
done
if [ -z "$missing" ]; then
    ok 'every known backend runs or is skipped'
else
    not_ok 'every known backend runs or is skipped' "missing:$missing"
fi

# ---- One backend ----
run selftest --backend reference --threads 3
missing=
for sentence in 'fp16 model with fp16 adapters' 'fp32 model with fp32 adapters' \
    'mixed: fp16 activations into fp32 adapters' 'mixed: fp32 activations into fp16 adapters' \
    'modulation, both terms, in every precision' '4-bit model with fp32 adapters' \
    'casts planned and executed as on the reference' 'one thread and 3'; do
    grep -q "^ok .* $sentence.*(backend reference)" "$work/out" || missing="$missing; $sentence"
done
if [ "$code" = 0 ] && [ -z "$missing" ] && well_formed; then
    ok 'each check is a case'
else
    not_ok 'each check is a case' "exit code $code, missing$missing"
fi
if grep -Eq 'backend (native|openblas|onednn)' "$work/out"; then
    not_ok '--backend narrows' 'another backend takes part'
else
    ok '--backend narrows'
fi

NPT_CPU_MAX=reference
export NPT_CPU_MAX
run selftest --backend reference
unset NPT_CPU_MAX
if [ "$code" = 0 ] && [ "$(grep -c 'kernels avx.*# SKIP' "$work/out")" = 2 ] && well_formed; then
    ok 'kernels of levels that are not there are skipped'
else
    not_ok 'kernels of levels that are not there are skipped' "exit code $code"
fi

# ---- Damaged runs ----
# finds FAULT CASE PATTERN: the case fails with a line that matches.
finds() {
    NPT_DEBUG_FAULT=$1
    export NPT_DEBUG_FAULT
    run selftest --backend reference
    unset NPT_DEBUG_FAULT
    if [ "$code" = 1 ] && well_formed &&
        grep -A 8 "^not ok .* $2" "$work/out" | grep -Eq "^# .*$3"; then
        ok "the fault $1 is found"
    else
        grep -A 2 '^not ok' "$work/out" >"$work/failures"
        mv "$work/failures" "$work/out"
        not_ok "the fault $1 is found" "exit code $code"
    fi
}
finds cast:L01.adapter_in=F64 'fp16 model with fp16' 'L01.adapter_in: F64 arrived'
finds overflow:L00.gate_mod 'fp16 model with fp16' 'not finite'
finds underflow:L01.z.backward 'mixed: fp16 activations' 'gradient of L01 A_proj: expected'
finds underflow:L00.u 'modulation, both terms' 'L00.u\[0,0\]: expected'
tidy 'no temporary file is left by runs that fail'

# ---- Where it runs ----
case $npt in /*) absolute=$npt ;; *) absolute=$PWD/$npt ;; esac
mkdir "$work/here"
chmod 555 "$work/here"
if (cd "$work/here" && NPT_DATADIR=/nonexistent HOME=/nonexistent \
    $limit "$absolute" selftest --backend reference >"$work/out" 2>"$work/err"); then
    ok 'without data, from a directory that cannot be written to'
else
    not_ok 'without data, from a directory that cannot be written to' 'it fails'
fi
chmod 755 "$work/here"

# ---- Refusals ----
TMPDIR=$work/tmp/none
refused 'no directory for temporary files' 1 'TMPDIR' selftest
: >"$work/file"
TMPDIR=$work/file
refused 'a file in its place' 1 'TMPDIR' selftest
mkdir "$work/read_only" && chmod 555 "$work/read_only"
if [ "$(id -u)" = 0 ]; then
    skip 'one that cannot be written to' 'root may write everywhere'
else
    TMPDIR=$work/read_only
    refused 'one that cannot be written to' 1 'TMPDIR' selftest
fi
TMPDIR=$work/tmp
refused 'an unknown backend' 2 'no matmul backend "abacus"' selftest --backend abacus
refused 'an unknown flag' 2 'sead' selftest --sead 3
refused 'a word too much' 2 'all' selftest all
tidy 'no temporary file is left by refusals'
if [ -w /dev/full ]; then
    $limit "$npt" selftest --backend reference >/dev/full 2>"$work/err"
    code=$?
    : >"$work/out"
    if [ "$code" = 1 ] && grep -q 'write' "$work/err"; then
        ok 'output that cannot be written is a failure'
    else
        not_ok 'output that cannot be written is a failure' "exit code $code"
    fi
fi
tidy 'nor by that'

# ---- Signals ----
"$npt" selftest >"$work/out" 2>"$work/err" &
child=$!
for _ in 0 1 2 3 4 5 6 7 8 9; do
    if [ -s "$work/out" ]; then break; fi
    sleep 0.1
done
kill -TERM "$child" 2>/dev/null
wait "$child"
code=$?
# It may have been done by then.
if [ "$code" = 143 ] || { [ "$code" = 0 ] && well_formed; }; then
    ok 'a signal stops it'
else
    not_ok 'a signal stops it' "exit code $code"
fi
tidy 'no temporary file is left by a signal'
finish
