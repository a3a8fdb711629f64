#!/usr/bin/env bash
# TRL's training template for DeepSeek-V3 still cuts the thought out of the last reply.
#
# Guess from memory: a reasoning template drops the thoughts of earlier turns only; and TRL's *training* version of it, made so that
# every reply is trained as it was written, keeps all of them.
# Seen: the template of DeepSeek-V3 and of the R1 distills renders of a reply what follows </think>, in the last turn too. The
# training version of deepseekv3 does the same, inside its {% generation %} block, so that supervised training on rows with
# <think>...</think> never sees a thought, without an error. That of the R1 distills keeps it.
#     deepseekv3: absent             deepseekv3_training: absent
#     deepseek_r1_distill: absent    deepseek_r1_distill_training: present
# Source: trl/chat_templates/deepseekv3.jinja, deepseek_r1_distill.jinja and *_training.jinja of TRL 1.16.0.
# Exits 1 if that changes. Downloads the wheel of TRL alone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check jinja2==3.1.6
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps trl==1.16.0

"$folder/venv/bin/python" - "$folder/venv" <<'PY'
import sys
from pathlib import Path

from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(Extension):
    """The tag that marks what is trained; here it only passes its content on."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


MESSAGES = [
    {"role": "user", "content": "Two and two?"},
    {"role": "assistant", "content": "<think>\nI add them.\n</think>\n\nFour."},
]
folder = next(Path(sys.argv[1]).glob("lib/python*/site-packages/trl/chat_templates"))
environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation])
seen = {}
for name in ("deepseekv3", "deepseekv3_training", "deepseek_r1_distill", "deepseek_r1_distill_training"):
    template = environment.from_string((folder / f"{name}.jinja").read_text())
    text = template.render(messages=MESSAGES, bos_token="<s>", eos_token="</s>")
    seen[name] = "I add them." in text
    print(f"{name}: thought {'present' if seen[name] else 'absent'}: {text!r}")
assert [name for name in seen if seen[name]] == ["deepseek_r1_distill_training"], "changed"
PY
