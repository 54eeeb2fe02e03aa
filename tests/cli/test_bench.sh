#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# npt bench: everything runs in a second or two with --quick, the JSON is whole, tables fit; no
# figure is judged here.
. "${NPT_SRCDIR:-.}/tests/cli/lib.sh"
OMP_WAIT_POLICY=passive
export OMP_WAIT_POLICY
TMPDIR=$work/tmp
export TMPDIR
mkdir "$TMPDIR"
python=$(command -v python3 || true)

passes() { if [ "$code" = 0 ]; then ok "$1"; else not_ok "$1" "exit code $code"; fi; }
# holds NAME EXPRESSION: over d, the JSON in $work/out.
holds() {
    if [ -z "$python" ]; then
        skip "$1" 'no python3'
    elif "$python" -c "import json, sys
d = json.load(open(sys.argv[1]))
timing = lambda t: 0 < t['min'] <= t['median'] <= t['max'] and t['runs'] > 0
sys.exit(0 if ($2) else 1)" "$work/json" 2>"$work/err"; then
        ok "$1"
    else
        not_ok "$1" "$2"
    fi
}

run bench --quick --threads 1
passes 'all topics, as tables'
wide=$(awk 'length > 100' "$work/out")
if [ -z "$wide" ]; then ok 'the tables fit 100 columns'; else not_ok 'the tables fit 100 columns' \
    "$wide"; fi
for topic in matmul step start memory; do
    if grep -q "^$topic: " "$work/out"; then ok "there is a table of $topic"; else
        not_ok "there is a table of $topic" 'none'; fi
done

run bench --quick --threads 1 --json
passes 'all topics, as JSON'
cp "$work/out" "$work/json"
holds 'it names its format, npt and the machine' \
    "d['format'] == 'npt bench 1' and d['npt_version'] and d['machine']['threads'] == 1"
holds 'peaks and bandwidth are there, each with its spread' \
    "d['peaks'] and all(timing(p['gflops']) for p in d['peaks']) and
     timing(d['read']['gbytes_per_second'])"
holds 'every dtype, both directions, every number of tokens' \
    "{(m['recipe'], m['pass'], m['tokens']) for m in d['matmul']} == {(r, p, t)
     for r in ('f32', 'bf16', 'f16', 'nf4', 'f32xbf16', 'f32xf16') for p in ('y', 'dx')
     for t in (1, 16)}"
holds 'every row has its spread, its roof and the products it is made of' \
    "all(timing(m['gflops']) and m['roof_gflops'] > 0 and m['share'] > 0 and
     m['bound'] in ('memory', 'arithmetic') and len(m['products']) == 4 and
     all(timing(p['gflops']) for p in m['products']) for m in d['matmul'])"
holds 'the three recipes, end to end and layerwise' \
    "[(s['recipe'], s['distill']) for s in d['step']] == [(r, m)
     for m in ('end-to-end', 'layerwise')
     for r in ('recipe-fp16', 'recipe-quantized', 'recipe-safe')]"
holds 'a step has seconds, tokens a second, its peak, its products and their sum' \
    "all(timing(s['seconds']) and timing(s['tokens_per_second']) and s['peak_bytes'] > 1 << 20 and
     s['products'] and s['products_dropped'] == 0 and s['matmul_alone_s'] > 0 and
     s['step_over_matmul'] > 0 and 0 < s['matmul_share'] <= 1 for s in d['step'])"
holds 'tokens a second are rows, tokens and seconds' \
    "all(abs(s['rows_per_step'] * s['row_tokens'] / s['seconds']['median'] /
     s['tokens_per_second']['median'] - 1) < 1e-3 for s in d['step'])"
holds 'the start has its four parts' \
    "d['start'] and all(s[k]['runs'] == 3 for s in d['start']
     for k in ('plan_s', 'open_s', 'load_s', 'first_step_s'))"
holds 'memory is told by category' \
    "d['memory'] and all(m['peak_bytes'] >= m['bytes']['adapters'] > 0 and
     m['bytes']['weights'] > 0 and m['bytes']['activations'] > 0 for m in d['memory'])"
left=$(ls "$TMPDIR")
if [ -z "$left" ]; then ok 'nothing is left in $TMPDIR'; else
    not_ok 'nothing is left in $TMPDIR' "$left"; fi

run bench --quick --threads 1 --json step --recipes bf16,nf4 --distill layerwise \
    --shape 64x96x3 --tokens 8 --seconds 0.001
passes 'a step of a shape that is asked for'
cp "$work/out" "$work/json"
holds 'only that is in the JSON' \
    "[(s['recipe'], s['distill'], s['shape'], s['row_tokens'], s['rows_per_step'])
     for s in d['step']] == [('bf16', 'layerwise', '64x96x3', 8, 1),
     ('nf4', 'layerwise', '64x96x3', 8, 1)] and 'matmul' not in d and 'memory' not in d"

refused 'an unknown topic' 2 'matmul, step, start, memory' bench warmth
refused 'an unknown dtype' 2 'dtypes .*f8.*bf16' bench --dtypes bf16,f8
refused 'an unknown recipe' 2 'recipes .*cake' bench --recipes cake
refused 'a shape that is none' 2 'shape 12: .*1024x2816x8' bench --shape 12
refused 'a shape no head fits' 2 'multiple of 64' bench --shape 100x200
refused 'tokens that are none' 2 'tokens 1,0: ' bench --tokens 1,0
refused 'a plot of another kind' 2 'svg or .png' bench --plot plot.gif
TMPDIR=$work/nowhere
refused 'no room for the models' 1 'TMPDIR' bench --quick step
TMPDIR=$work/tmp

# A gnuplot that shows what it was given.
mkdir "$work/bin"
cat >"$work/bin/gnuplot" <<'END'
#!/bin/sh
cp "$1" "${0%/*}/script"
sed -n "s/^set output '\(.*\)'$/\1/p" "$1" | while IFS= read -r file; do echo drawn >"$file"; done
END
chmod +x "$work/bin/gnuplot"
PATH=$work/bin:$PATH
run bench --quick --threads 1 matmul --dtypes f32 --plot "$work/roof.svg"
passes 'a plot, where there is a gnuplot'
if [ "$(cat "$work/roof.svg" 2>/dev/null)" = drawn ] &&
    grep -q '^set terminal svg' "$work/bin/script" && grep -q '^plot ' "$work/bin/script" &&
    [ -z "$(ls "$work" | grep 'roof.svg.')" ]; then
    ok 'the plot is under its name, and nothing beside it'
else
    not_ok 'the plot is under its name, and nothing beside it' "$(ls "$work")"
fi
printf '#!/bin/sh\nexit 3\n' >"$work/bin/gnuplot"
refused 'a gnuplot that fails' 1 'gnuplot failed' bench --quick --threads 1 matmul --dtypes f32 \
    --plot "$work/other.png"
rm "$work/bin/gnuplot"
# shellcheck disable=SC2123
PATH=$work/bin
"$npt" bench --quick --threads 1 matmul --dtypes f32 --plot "$work/none.png" >"$work/out" \
    2>"$work/err"
code=$?
PATH=/usr/bin:/bin
if [ "$code" = 1 ] && grep -q 'gnuplot is not installed' "$work/err" &&
    grep -q '^matmul: ' "$work/out"; then
    ok 'without gnuplot: the tables, and a sentence'
else
    not_ok 'without gnuplot: the tables, and a sentence' "exit code $code"
fi
finish
