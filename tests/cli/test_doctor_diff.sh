#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# npt doctor diff: exit codes and what is said, and whatever can be wrong with a file of a probe.
. "${NPT_SRCDIR:-.}/tests/cli/lib.sh"

# probe FILE FLAG...
probe() {
    file=$1
    shift
    "$npt" doctor probe --json --batch_size 1 --threads 1 --backend reference \
        "$@" >"$file" 2>/dev/null
}
probe "$work/a.json" --max_length 32 --use_fp16
probe "$work/b.json" --max_length 32
probe "$work/other.json" --max_length 16
NPT_DEBUG_FAULT=overflow:L01.gate_mod
export NPT_DEBUG_FAULT
probe "$work/bad.json" --max_length 32 --use_fp16
unset NPT_DEBUG_FAULT

# says NAME CODE PATTERN ARGUMENT...
says() {
    name=$1 wanted=$2 pattern=$3
    shift 3
    run doctor diff "$@"
    if [ "$code" != "$wanted" ]; then
        not_ok "$name" "exit code $code, expected $wanted"
    elif ! grep -Eq -e "$pattern" "$work/out"; then
        not_ok "$name" "nothing matches: $pattern"
    elif [ -n "$(awk '!/^[AB] |^ *"/ && length > 100' "$work/out")" ] || [ -s "$work/err" ]; then
        not_ok "$name" 'too wide, or something on standard error'
    else
        ok "$name"
    fi
}
says 'a probe does not differ from itself' 0 '^FINE ' "$work/a.json" "$work/a.json"
says 'nor do two precisions' 0 '^FINE .*largest: 0' "$work/a.json" "$work/b.json"
says 'a fault is named with what follows' 3 '^FIRST  L01.gate_mod: ' "$work/a.json" "$work/bad.json"
says 'in either order' 3 '^THEN   [0-9]+ sites follow' "$work/bad.json" "$work/a.json"
says '--all shows every site' 0 '^  L00.z  *F16  F32 ' --all "$work/a.json" "$work/b.json"
says '--json names its schema' 3 '"npt-doctor-diff/1"' --json "$work/a.json" "$work/bad.json"
says '--json names the first' 3 '"site": "L01.gate_mod"' --json --all "$work/a.json" \
    "$work/bad.json"

# ---- What is no probe ----
refuse() { refused "$1" "$2" "$3" doctor diff "$work/a.json" "$work/$4"; }
edit() { sed "$2" "$work/a.json" >"$work/$1"; }

refused 'no file is refused' 2 'two files' doctor diff
refused 'one file is refused' 2 'two files' doctor diff "$work/a.json"
refused 'three files are refused' 2 'doctor diff' doctor diff a b c
refuse 'a missing file is named' 1 'gone.json' gone.json
mkdir "$work/directory"
refuse 'a directory is named' 1 'directory' directory
: >"$work/empty"
refuse 'an empty file is no JSON' 1 'empty.*not valid JSON' empty
head -c 5000 "$work/a.json" >"$work/cut"
refuse 'a truncated file is told with its line' 1 'cut, line [0-9]+: not valid JSON' cut
printf '[1,2]\n' >"$work/list"
refuse 'a list is no probe' 1 'list.*not an object' list
printf '{}\n' >"$work/none"
refuse 'an object without a schema is no probe' 1 'none is not a probe' none
edit later 's/probe\/1/probe\/2/;s/"npt_version": "[^"]*"/"npt_version": "9.8"/'
refuse 'a later schema says who wrote it' 1 'probe/2.*npt 9.8.*reads npt-doctor-probe/1' later
edit plan 's/npt-doctor-probe/npt-doctor-plan/'
refuse 'a plan is no probe' 1 'npt-doctor-plan/1.*not a probe' plan
edit key 's/"tokens"/"token"/'
refuse 'a missing key is named' 1 "key: there is no 'tokens'" key
edit type 's/"elements": [0-9]*/"elements": "many"/'
refuse 'a wrong type is named with its site' 1 "type, .*'elements' must be an integer" type
edit huge 's/"elements": [0-9]*/"elements": 99999999999999999999999/'
refuse 'a huge integer is refused' 1 'huge, line [0-9]+: not valid JSON' huge
edit real 's/"rms": [0-9][0-9.e-]*/"rms": 1e999/'
refuse 'a huge number is refused' 1 'real, line [0-9]+: not valid JSON' real
edit large 's/"rms": [0-9][0-9.e-]*/"rms": 1e300/'
refuse 'a number that no F32 is is refused' 1 "'rms' is 1e\+300, not between" large
edit null 's/"elements": [0-9]*/"elements": null/'
refuse 'null where a count must be is refused' 1 "'elements'" null
edit sample 's/"sample": \[/"sample": [1,/'
refuse 'a sample of nine is refused' 1 "'sample' has 9" sample
edit dtype 's/"dtype": "F16"/"dtype": "F64"/'
refuse 'a dtype that no row has is refused' 1 "'dtype' is 'F64'" dtype
edit twice 's/"tokens": \([0-9]*\)/"tokens": \1, "tokens": \1/'
refuse 'a key that is there twice is refused' 1 'twice, line [0-9]+.*duplicate' twice
edit site 's/L00.norm_in"/L00.norm_out"/'
refuse 'a site that is none is refused' 1 "'(teacher )?L00.norm_out' is no site" site
edit again 's/L01.norm_in"/L00.norm_in"/'
refuse 'a site that is there twice is refused' 1 'more than one (teacher )?L00.norm_in' again

# ---- What cannot be compared ----
refuse 'another batch is a wrong request' 2 'not probes of the same batch' other.json
edit family 's/"model": "llama"/"model": "qwen2"/'
refuse 'another family is a wrong request' 2 'family is llama, the other qwen2' family
finish
