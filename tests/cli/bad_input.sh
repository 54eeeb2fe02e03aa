#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Bad input: whatever is wrong with a request, a model, a dataset or a place to write to, the
# program ends with exit code 1 or 2 and one sentence that names the file (or the flag) and the
# cause, and leaves nothing behind in the output directory. Models are small ones from
# `npt make-model`, damaged with sed, head, printf and dd.
. "${NPT_SRCDIR:-.}/tests/cli/lib.sh"
HF_HUB_CACHE=$work/hub
export HF_HUB_CACHE
batch='--batch_size 1'
common='--max_steps 2 --gradient_accumulation_steps 1 --warmup_steps 0
    --max_length 16 --adapter_rank 2 --log_steps 1'
out=$work/outputs

# ---- The harness ----

# left_behind: what is in the output directory, and temporary files beside it.
left_behind() {
    ls -A "$out" 2>/dev/null
    ls -d "$out".* 2>/dev/null
}

# bad NAME CODES PATTERN ARGUMENT...: training is refused. CODES: "1", "2" or "1 2". PATTERN: two
# extended regular expressions with "&&" between, both matched by the sentence, case aside.
bad() {
    bad_name=$1 bad_codes=$2 bad_where=${3%%&&*} bad_why=${3##*&&}
    shift 3
    rm -rf "$out" "$out".*
    # shellcheck disable=SC2086
    run pretrain $common $batch --dataset_name "$rows" --output_dir "$out" "$@"
    judge
}

# judge: of the last run, by $bad_name, $bad_codes, $bad_where, $bad_why.
judge() {
    sentence=$(sentences)
    case " $bad_codes " in
    *" $code "*) ;;
    *)
        not_ok "$bad_name" "exit code $code, expected one of: $bad_codes"
        return
        ;;
    esac
    if [ "$(sentences | grep -c .)" != 1 ]; then
        not_ok "$bad_name" 'expected exactly one sentence on standard error'
    elif ! echo "$sentence" | grep -q '^npt [a-z-]*: '; then
        not_ok "$bad_name" 'the sentence does not begin with the command'
    elif ! echo "$sentence" | grep -Eiq -e "$bad_where"; then
        not_ok "$bad_name" "the sentence does not say where: $bad_where"
    elif ! echo "$sentence" | grep -Eiq -e "$bad_why"; then
        not_ok "$bad_name" "the sentence does not say why: $bad_why"
    elif [ -n "$(left_behind)" ]; then
        not_ok "$bad_name" "left behind: $(left_behind | tr '\n' ' ')"
    else
        ok "$bad_name"
    fi
}

# ---- Models and how they are damaged ----

# model: a fresh copy of the good one, in $model.
number=0
model() {
    number=$((number + 1))
    model=$work/model-$number
    cp -r "$work/good" "$model"
}

# config KEY VALUE: sets a key at the top of config.json. A value that spans lines is not replaced.
config() {
    if grep -q "\"$1\":" "$model/config.json"; then
        sed "s|\"$1\": *[^,]*|\"$1\": $2|" "$model/config.json" >"$work/edited"
    else
        sed "1s|{|{\"$1\": $2,|" "$model/config.json" >"$work/edited"
    fi
    cp "$work/edited" "$model/config.json"
}

# bad_config NAME KEY VALUE PATTERN
bad_config() {
    model
    config "$2" "$3"
    bad "$1" '1 2' "$4" --model_name "$model"
}

# header OLD NEW: in the header of model.safetensors; both of one length.
header() {
    sed "s|$1|$2|" "$model/model.safetensors" >"$work/edited"
    cp "$work/edited" "$model/model.safetensors"
}

# bytes OFFSET TEXT: written over model.safetensors; TEXT as printf takes it.
bytes() {
    # shellcheck disable=SC2059
    printf "$2" | dd of="$model/model.safetensors" bs=1 seek="$1" conv=notrunc 2>/dev/null
}

# own_header TEXT DATA_BYTES: a whole model.safetensors with this header.
own_header() {
    length=${#1}
    # shellcheck disable=SC2059
    printf "\\$(printf %03o $((length % 256)))\\$(printf %03o $((length / 256)))" \
        >"$model/model.safetensors"
    printf '\000\000\000\000\000\000%s' "$1" >>"$model/model.safetensors"
    head -c "$2" /dev/zero >>"$model/model.safetensors"
}

if ! $limit "$npt" make-model --family llama --hidden 32 --inter 64 --layers 2 --heads 4 \
    --kv_heads 2 --vocab 300 --dtype f32 "$work/good" >"$work/out" 2>"$work/err"; then
    not_ok 'make-model writes a small model' 'it does not'
    finish
fi
ok 'make-model writes a small model'
rows=$work/rows.jsonl
for i in 1 2 3 4; do echo "{\"input_ids\": [$i, 5, 6, 7, 8, 9, 10, 11]}"; done >"$rows"

# Without this, every refusal below would mean nothing.
# shellcheck disable=SC2086
run pretrain $common $batch --model_name "$work/good" --dataset_name "$rows" \
    --output_dir "$work/control"
if [ "$code" = 0 ] && [ -n "$(ls -A "$work/control" 2>/dev/null)" ]; then
    ok 'the undamaged model trains'
else
    not_ok 'the undamaged model trains' "exit code $code"
fi

# ---- Weights ----

model
size=$(wc -c <"$model/model.safetensors")
head -c $((size / 2)) "$work/good/model.safetensors" >"$model/model.safetensors"
bad 'safetensors cut in half' 1 'model\.safetensors&&end|short|cut|trunc|size|bytes' \
    --model_name "$model"
model
head -c 5 "$work/good/model.safetensors" >"$model/model.safetensors"
bad 'safetensors of five bytes' 1 'model\.safetensors&&short|bytes|small|trunc|header' \
    --model_name "$model"
model
: >"$model/model.safetensors"
bad 'safetensors of no bytes' 1 'model\.safetensors&&empty|short|bytes|small|trunc|header' \
    --model_name "$model"
model
bytes 0 '\377\377\377\377\377\377\377\177'
bad 'safetensors whose header claims 2^63 bytes' 1 'model\.safetensors&&header' \
    --model_name "$model"
model
bytes 0 '\377\377\377\003\000\000\000\000'
bad 'safetensors whose header is longer than the file' 1 'model\.safetensors&&header' \
    --model_name "$model"
model
bytes 8 'XXXX'
bad 'safetensors whose header is not JSON' 1 'model\.safetensors&&JSON|header|expected|token' \
    --model_name "$model"
model
printf 'more' >>"$model/model.safetensors"
bad 'safetensors with bytes after the last tensor' 1 \
    'model\.safetensors&&after|bytes|size|end|cover|trail' --model_name "$model"
model
header '"F32"' '"Q32"'
bad 'a dtype that does not exist' 1 'model\.safetensors&&Q32|dtype' --model_name "$model"
model
header '"data_offsets": *\[0,' '"data_offsets":[4,'
bad 'a tensor that does not begin where the data begin' 1 \
    'model\.safetensors&&hole|offset|size|bytes|gap|shape|begin|cover' --model_name "$model"
model
two='"dtype":"F32","shape":[2],"data_offsets"'
own_header "{\"a\":{$two:[0,8]},\"b\":{$two:[4,12]}}" 12
bad 'two tensors over each other' 1 'model\.safetensors&&overlap|offset|begin|hole' \
    --model_name "$model"
model
own_header '{"a":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,8]}}' 8
bad 'a shape whose size overflows' 1 'model\.safetensors&&overflow|large|shape|size|big' \
    --model_name "$model"
model
own_header "{\"a\":{$two:[0,8]},\"a\":{$two:[0,8]}}" 8
bad 'one tensor name twice' 1 'model\.safetensors&&twice|duplicate|name' --model_name "$model"
model
own_header '{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}' 8
bad 'a negative dimension' 1 'model\.safetensors&&negative|shape|dimension|-2|range|from' \
    --model_name "$model"
model
header 'layers\.1\.post_attention_layernorm' 'layers.1.post_attention_layern0rm'
bad 'a tensor that is missing' 1 'layers\.1\.post_attention_layernorm\.weight&&miss|not|no ' \
    --model_name "$model"
model
header 'model\.norm\.weight' 'model.n0rm.weight'
refused 'evaluate without the last norm' 1 'model\.norm\.weight' evaluate --model_name "$model" \
    --dataset_name "$rows"
model
config intermediate_size 96
bad 'a tensor of another shape than the configuration says' 1 \
    'mlp\.(gate|up|down)_proj\.weight|adapter&&shape|\[' --model_name "$model"
model
rm "$model/model.safetensors"
echo pickle >"$model/pytorch_model.bin"
bad 'pickles only' 1 'pytorch_model\.bin|\.bin|pickle&&safetensors' --model_name "$model"
model
rm "$model/model.safetensors"
bad 'no weights' 1 'model-[0-9]+&&safetensors' --model_name "$model"
model
mv "$model/model.safetensors" "$work/outside.safetensors"
echo '{"metadata": {}, "weight_map": {"model.norm.weight": "../outside.safetensors"}}' \
    >"$model/model.safetensors.index.json"
bad 'an index that points out of the directory' 1 'index\.json&&\.\./outside|bare|file name|path' \
    --model_name "$model"
model
rm "$model/model.safetensors"
echo '{"metadata": {}, "weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}' \
    >"$model/model.safetensors.index.json"
bad 'a shard that is missing' 1 'model-00001-of-00002\.safetensors&&no such|not|miss' \
    --model_name "$model"
model
mv "$model/model.safetensors" "$model/one.safetensors"
echo '{"metadata": {}, "weight_map": {"model.nothing.weight": "one.safetensors"}}' \
    >"$model/model.safetensors.index.json"
bad 'an index that lists what its shard has not' 1 'model\.nothing\.weight&&one\.safetensors|not' \
    --model_name "$model"

# ---- Configuration ----

model
rm "$model/config.json"
bad 'no config.json' 1 'config\.json&&no such|not|miss' --model_name "$model"
model
echo '{"model_type": "llama",' >"$model/config.json"
bad 'config.json cut short' 1 'config\.json&&JSON|expected|end|line' --model_name "$model"
bad_config 'an unknown architecture' model_type '"gpt2"' 'config\.json|model-[0-9]+&&gpt2'
bad_config 'an unknown kind of RoPE' rope_scaling '{"rope_type": "yarn", "factor": 4.0}' \
    'config\.json|rope&&yarn'
bad_config 'an activation that is not silu' hidden_act '"gelu"' 'hidden_act|config\.json&&gelu'
bad_config 'no layers' num_hidden_layers 0 'config\.json&&num_hidden_layers'
bad_config 'heads below zero' num_attention_heads -4 'config\.json&&num_attention_heads'
bad_config 'key heads that do not divide the heads' num_key_value_heads 3 \
    'config\.json|k_proj&&num_key_value_heads|shape'
bad_config 'a hidden size that the heads do not divide' hidden_size 33 \
    'config\.json|model\.safetensors|weight&&hidden_size|divi|shape'
bad_config 'a vocabulary beyond memory' vocab_size 1000000000000000000 \
    'config\.json|embed_tokens&&vocab_size|shape'
bad_config 'a billion layers' num_hidden_layers 1000000000 \
    'config\.json|layers&&num_hidden_layers|layers\.2|range|from'
bad_config 'a number beyond 64 bits' hidden_size 99999999999999999999 \
    'config\.json&&hidden_size|big|large|integer|range'
bad_config 'a word where a number belongs' hidden_size '"many"' 'config\.json&&hidden_size'
bad_config 'an epsilon below zero' rms_norm_eps -1.0 'config\.json&&rms_norm_eps'
bad 'a model that is nowhere' '1 2' 'no-such/model&&not|no such|cache|nowhere' \
    --model_name no-such/model

# ---- Data ----

set_rows() { bad_rows=$work/data-$1; printf '%b' "$2" >"$bad_rows"; }
# bad_data NAME PATTERN FLAG...: $bad_rows in place of the good ones.
bad_data() {
    bad_data_name=$1 bad_data_pattern=$2
    shift 2
    kept=$rows
    rows=$bad_rows
    # the bad row is one of the first step, so that no step was made
    batch='--batch_size 4'
    bad "$bad_data_name" '1 2' "$bad_data_pattern" --model_name "$work/good" "$@"
    rows=$kept
    batch='--batch_size 1'
}
set_rows cut.jsonl '{"input_ids": [1, 2, 3]}\n{"input_ids": [1, 2\n'
bad_data 'a line that is not JSON, where that counts' 'cut\.jsonl&&(line|:) ?2' --strict_data
set_rows range.jsonl '{"input_ids": [1, 2, 3]}\n{"input_ids": [1, 300]}\n'
bad_data 'an id beyond the vocabulary, where that counts' 'range\.jsonl&&300' --strict_data
set_rows negative.jsonl '{"input_ids": [-1]}\n'
bad_data 'an id below zero, where that counts' 'negative\.jsonl&&-1|not an id' --strict_data
set_rows keys.jsonl '{"title": "x"}\n'
bad_data 'a row without text or ids, where that counts' 'keys\.jsonl&&text|input_ids' --strict_data
set_rows empty.jsonl ''
bad_data 'an empty dataset' 'empty\.jsonl&&no |empty|row'
set_rows allbad.jsonl 'x\ny\nz\n'
bad_data 'a dataset of bad rows only' 'allbad\.jsonl&&no |row'
model
rm "$model/tokenizer.json"
set_rows plain.txt 'A row of text.\n'
kept=$rows
rows=$bad_rows
bad 'text for a model without a tokenizer' '1 2' 'tokenizer\.json|plain\.txt&&tokenizer' \
    --model_name "$model"
rows=$kept
bad_rows=$work/none.jsonl
bad_data 'a dataset that is not there' 'none\.jsonl&&no such|not|no data|nothing'
mkdir "$work/no-rows"
bad_rows=$work/no-rows
bad_data 'a directory without data' 'no-rows&&no |empty|not|nothing'
bad 'an evaluation dataset that is not there' '1 2' 'gone\.jsonl&&no such|not|no data|nothing' \
    --model_name "$work/good" --eval_dataset "$work/gone.jsonl"

# ---- Tokenizer ----

# bad_tokenizer NAME JSON PATTERN
bad_tokenizer() {
    model
    echo "$2" >"$model/tokenizer.json"
    set_rows plain.txt 'A row of text.\n'
    kept=$rows
    rows=$bad_rows
    bad "$1" 1 "$3" --model_name "$model"
    rows=$kept
}
bad_tokenizer 'a tokenizer that npt does not know' \
    '{"model": {"type": "Unigram", "vocab": [["a", 0.0]]}, "added_tokens": []}' \
    'tokenizer\.json&&Unigram'
bad_tokenizer 'a tokenizer.json cut short' '{"model": {"type": "BPE",' \
    'tokenizer\.json&&JSON|expected|end|line'
refused 'tokenize with a tokenizer that is not there' 1 'nowhere.*(not|no such|no )' \
    tokenize --model_name "$work/nowhere" --dataset_name "$rows"

# ---- Flags that contradict each other, or name what is not there ----

good="--model_name $work/good"
# shellcheck disable=SC2086
{
    bad '4-bit weights and fp16' 2 'quantization&&fp16' $good --use_quantization --use_fp16
    bad '4-bit weights and bf16' 2 'quantization&&bf16' $good --use_quantization --use_bf16
    bad 'fp16 and bf16' 2 'fp16&&bf16' $good --use_fp16 --use_bf16
    bad 'an fp16 model under bf16' 2 'fp16&&bf16' $good --use_fp16 --mixed_precision bf16
    bad 'an adapter dtype of integers' 2 'adapter_dtype&&int8' $good --adapter_dtype int8
    bad 'an unknown backend' 2 'backend&&abacus' $good --backend abacus
    bad 'layers that are not there' '1 2' 'layers&&7' $good --layers 0,7
    bad 'layers backwards' '1 2' 'layers&&1-0' $good --layers 1-0
    bad 'layers that are no numbers' '1 2' 'layers&&some' $good --layers some
    bad 'an unknown flag' 2 'frobnicate&&nearest' $good --frobnicate
    bad 'a value out of range' 2 'teacher_forcing&&0 to 1' $good --teacher_forcing 2
    bad 'a feature still to come' 2 'tensorboard&&this version' $good --use_tensorboard
    bad 'a size that is none' 2 'memory_limit&&1.2GB' $good --memory_limit 1.2.3GB
    bad 'a limit that is too small' 2 'memory_limit&&layerwise' $good --memory_limit 1MB
}
rm -rf "$out"
bad_name='an instruction set that does not exist' bad_codes='1 2' bad_where=NPT_CPU_MAX
bad_why=sse9
# shellcheck disable=SC2086
NPT_CPU_MAX=sse9 $limit "$npt" pretrain $common $batch $good --dataset_name "$rows" \
    --output_dir "$out" >"$work/out" 2>"$work/err" </dev/null
code=$?
judge

# ---- Adapters and going on ----

adapter=$work/control/checkpoint-final
if [ -d "$adapter" ]; then
    # shellcheck disable=SC2086
    run pretrain --max_steps 1 --batch_size 1 $good --dataset_name "$rows" --output_dir "$out" \
        --adapter_rank 4 --init_adapter "$adapter"
    bad_name='an adapter of another rank to start from' bad_codes='1 2'
    bad_where='checkpoint-final|adapter' bad_why='rank|shape'
    judge
    cp -r "$adapter" "$work/torn"
    head -c 100 "$adapter/adapter_model.safetensors" >"$work/torn/adapter_model.safetensors"
    # shellcheck disable=SC2086
    bad 'a torn checkpoint to go on from' 1 'torn&&' $good --resume "$work/torn"
else
    skip 'an adapter of another rank to start from' 'the control run left no checkpoint-final'
    skip 'a torn checkpoint to go on from' 'the control run left no checkpoint-final'
fi
# shellcheck disable=SC2086
{
    bad 'an adapter to start from that is not there' '1 2' 'no-adapter&&no such|not|no ' \
        $good --init_adapter "$work/no-adapter"
    bad 'a checkpoint to go on from that is not there' '1 2' 'no-checkpoint&&no such|not|no ' \
        $good --resume "$work/no-checkpoint"
}

# A wrong dataset must not cost the output directory.
echo 'no JSON' >"$work/wrong.jsonl"
# shellcheck disable=SC2086
run pretrain $common $batch $good --dataset_name "$work/wrong.jsonl" --output_dir "$work/second"
# shellcheck disable=SC2086
run pretrain $common $batch $good --dataset_name "$rows" --output_dir "$work/second"
if [ "$code" = 0 ]; then
    ok 'after a refusal the same output directory serves the corrected run'
else
    not_ok 'after a refusal the same output directory serves the corrected run' "exit code $code"
fi

# ---- Places to write to ----

if [ -n "$(ls -A "$work/control" 2>/dev/null)" ]; then
    find "$work/control" -type f -exec cksum {} + | sort >"$work/before"
    # shellcheck disable=SC2086
    run pretrain $common $batch $good --dataset_name "$rows" --output_dir "$work/control"
    find "$work/control" -type f -exec cksum {} + | sort >"$work/after"
    rm -rf "$out"
    bad_name='an output directory that holds another run' bad_codes='1 2'
    bad_where='control' bad_why='resume|run|empty|another'
    if cmp -s "$work/before" "$work/after"; then
        judge
    else
        not_ok "$bad_name" 'the other run was changed'
    fi
fi
# Root may write everywhere, but not below a file.
echo 'a file' >"$work/file"
# shellcheck disable=SC2086
run pretrain $common $batch $good --dataset_name "$rows" --output_dir "$work/file/below"
bad_name='an output directory that cannot be made' bad_codes='1 2'
bad_where='file(/below)?' bad_why='not a directory|cannot|could not'
judge
refused 'make-model where a file stands' 1 'file' make-model --hidden 32 --inter 64 --layers 1 \
    --heads 4 --kv_heads 2 --vocab 300 "$work/file/below"
refused 'make-model with heads that do not fit' '2' 'heads' make-model --hidden 32 --inter 64 \
    --layers 1 --heads 4 --kv_heads 3 --vocab 300 "$work/never"
if [ ! -e "$work/never" ]; then
    ok 'and nothing is written'
else
    not_ok 'and nothing is written' "$work/never"
fi

# A disk of four pages, in a mount namespace of its own.
mkdir "$work/disk"
# shellcheck disable=SC2086,SC2016
$limit unshare --mount sh -c '
    mount -t tmpfs -o size=16k tmpfs "$1" || exit 77
    disk=$1 npt=$2 err=$3
    shift 3
    "$npt" "$@" --output_dir "$disk/run" >/dev/null 2>"$err" </dev/null
    code=$?
    find "$disk" -name "*tmp*" >"$err.left"
    find "$disk" -type d -name "checkpoint-*" ! -exec test -e "{}/MANIFEST" ";" -print \
        >>"$err.left"
    exit $code' sh "$work/disk" "$npt" "$work/err" pretrain $common $batch \
    $good --dataset_name "$rows" >"$work/out" 2>"$work/mount"
code=$?
if [ $code = 77 ] || [ ! -f "$work/err.left" ]; then
    skip 'a full disk' 'no mount namespace here'
elif [ -s "$work/err.left" ]; then
    not_ok 'a full disk' "half-written: $(tr '\n' ' ' <"$work/err.left")"
else
    bad_name='a full disk' bad_codes=1 bad_where="$work/disk/run" bad_why='space'
    # The step lines of a run that got as far are no sentences.
    sed '/^step /d' "$work/err" >"$work/edited"
    cp "$work/edited" "$work/err"
    judge
fi
finish
