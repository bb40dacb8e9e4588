#!/bin/sh
# Speed beside llama.cpp and transformers, on the same weights: installs the peers, makes the models, prints ratios.
#
#   sh benches/peers.sh target/release/moepress [FOLDER] [options of benches/peers/compare.py]
#
# Needs python3 with venv and a C++ compiler. llama.cpp is built here from the source distribution of
# llama-cpp-python, for this processor. FOLDER (out/peers) keeps the environment and the models: about 3 GB.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
binary=$1
folder=${2:-out/peers}
[ $# -lt 2 ] && shift 1 || shift 2
mkdir -p "$folder"
python=$folder/venv/bin/python3
if [ ! -x "$python" ]; then
    python3 -m venv "$folder/venv"
    "$python" -m pip install --quiet --disable-pip-version-check numpy gguf torch transformers safetensors cmake ninja
    PATH="$(cd "$folder/venv/bin" && pwd):$PATH" \
        "$python" -m pip install --quiet --disable-pip-version-check --no-binary llama-cpp-python llama-cpp-python
fi
model=$folder/model
[ -d "$model" ] || "$python" "$here/baseline/make_model.py" "$model" --tokenizer "$here/../tests/fixtures/demo-qwen3-moe"
for pair in ternary:128:true int4:32:true int8:32:true; do
    format=${pair%%:*}
    rest=${pair#*:}
    [ -d "$folder/compact-$format" ] && continue
    symmetric=""
    [ "$format" = ternary ] || symmetric=", symmetric: ${rest#*:}"
    cat > "$folder/$format.yaml" <<YAML
version: 1
model: $(cd "$model" && pwd)
stages:
  - quantize: {format: $format, group: ${rest%%:*}$symmetric, classes: [experts, attention, embeddings]}
YAML
    "$binary" run "$folder/$format.yaml" --out "$folder/compact-$format"
done
for kind in TQ1_0 TQ2_0 Q4_0 Q8_0 BF16; do
    [ -e "$folder/$kind.gguf" ] || "$python" "$here/peers/gguf_model.py" "$model" "$folder/$kind.gguf" "$kind"
done
"$python" "$here/peers/compare.py" "$binary" "$folder" "$@"
