"""Every fenced block of the documentation parses against what it names.

A shell command is parsed by the very program it starts (our CLI, Prefect's, `make`, compose);
nothing is executed.
"""

import ast
import contextlib
import importlib
import json
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import groupby, pairwise
from pathlib import Path
from uuid import UUID

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
PAGES = sorted({*ROOT.glob("*.md"), *(p for d in ROOT.glob("[a-z]*") for p in d.rglob("*.md"))})
ELSEWHERE = {
    "cd",
    "cp",
    "curl",
    "export",
    "git",
    "kubectl",
    "mkdir",
    "nvidia-smi",
    "openssl",
    "printf",
    "sudo",
    "umask",
}
"""Programs that are not ours to check: of their lines only the shell's grammar is."""


@dataclass(frozen=True)
class Block:
    place: str
    language: str
    text: str


def blocks_of(page: Path) -> Iterator[Block]:
    lines = page.read_text(encoding="utf-8").splitlines()
    opened = None
    for number, line in enumerate(lines):
        fence = re.match(r"\s*```\s*(\w*)", line)
        if not fence:
            continue
        if opened is None:
            opened, language = number, fence[1]
            continue
        yield Block(
            place=f"{page.relative_to(ROOT)}:{opened + 1}",
            language=language,
            text="\n".join(lines[opened + 1 : number]) + "\n",
        )
        opened = None
    assert opened is None, f"{page}:{opened}: the block is never closed"


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


# --- shell ------------------------------------------------------------------------------------


def commands_of(text: str) -> Iterator[list[str]]:
    """Each simple command as words, without assignments before it and redirections."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for is_operator, words in groupby(lexer, key=lambda word: set(word) <= set("();|&")):
            command = list(words)
            while command and re.match(r"[A-Z_]+=", command[0]):
                command.pop(0)
            redirected = next((i for i, w in enumerate(command) if set(w) <= set("<>")), None)
            if command[:redirected] and not is_operator:
                yield command[:redirected]


def check_command(words: list[str]) -> None:
    program, args = words[0].removeprefix(".venv/bin/"), words[1:]
    if program in CHECKS:
        CHECKS[program](args)
    elif "/" in program:
        assert os.access(ROOT / program, os.X_OK), f"{program} is not a program of this project"
    else:
        assert program in ELSEWHERE, f"no rule for {program!r}: add one, or the name to ELSEWHERE"


def check_sft_dpo(args: list[str]) -> None:
    import typer

    from flows.cli import app

    for name in (word for word in args if word.endswith(".yaml")):
        assert (ROOT / name).is_file(), f"{name} does not exist"
    group = typer.main.get_group(app)
    command = group.commands.get(args[0]) if args else group
    assert command, f"sft-dpo has no command {args[0]!r}"
    with contextlib.suppress(typer.Exit):  # `--help`
        command.make_context(args[0], args[1:])


def check_make(args: list[str]) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    unknown = [word for word in args if "=" not in word and word not in targets]
    assert not unknown, f"the Makefile has no target {unknown}"


def check_python(args: list[str]) -> None:
    if args[0] == "-m":
        assert find_spec(args[1]), f"there is no module {args[1]}"
    elif args[0] == "-c":
        compile(args[1], "documentation", "exec")
    else:
        assert (ROOT / args[0]).is_file(), f"{args[0]} does not exist"


def check_prefect(args: list[str]) -> None:
    from prefect.cli._app import _app as app

    stand_in = str(UUID(int=0))  # a shell variable in the text stands for some run's id
    words = [re.sub(r"\$\w+", stand_in, word) for word in args if word != "--no-prompt"]
    app.parse_args(words, exit_on_error=False, print_error=False)
    if args[:2] == ["deployment", "run"]:
        assert args[2] in deployments(), f"{args[2]} is none of {deployments()}"


def check_docker(args: list[str]) -> None:
    files = [after for word, after in pairwise(args) if word in {"-f", "--file"}]
    for name in files:
        assert (ROOT / name).is_file(), f"{name} does not exist"
    if args[0] == "compose":
        services = YAML(typ="safe").load(ROOT / files[0])["services"]
        verb = next(i for i, word in enumerate(args[1:], 1) if word in COMPOSE_VERBS)
        named = [word for word in args[verb + 1 :] if not word.startswith("-")]
        named = [word.partition(":")[0] for word in named]  # `cp SERVICE:PATH`
        assert not named or named[0] in services, f"{named[0]} is none of {list(services)}"


COMPOSE_VERBS = {
    "build",
    "config",
    "cp",
    "down",
    "exec",
    "logs",
    "ps",
    "restart",
    "run",
    "stop",
    "up",
}
CHECKS: dict[str, Callable[[list[str]], None]] = {
    "docker": check_docker,
    "make": check_make,
    "prefect": check_prefect,
    "python": check_python,
    "python3": check_python,
    "sft-dpo": check_sft_dpo,
}


def deployments() -> set[str]:
    """`flow name/deployment name` of everything in deployments/prefect.yaml."""
    described = YAML(typ="safe").load(ROOT / "deployments" / "prefect.yaml")["deployments"]
    return {f"{flow_name(entry['entrypoint'])}/{entry['name']}" for entry in described}


def flow_name(entrypoint: str) -> str:
    """`sft_dpo.served.fn` -> the name that `@flow(name=...)` gives to `fn` in flows/fn.py."""
    function = entrypoint.rpartition(".")[2]
    file = ROOT / "flows" / f"{function}.py"
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name == function:
            named = (k.value for d in node.decorator_list if isinstance(d, ast.Call)
                     for k in d.keywords if k.arg == "name")  # fmt: skip
            return next((ast.literal_eval(value) for value in named), function.replace("_", "-"))
    raise AssertionError(f"{entrypoint} of deployments/prefect.yaml does not exist")


# --- languages --------------------------------------------------------------------------------


def check_bash(text: str) -> None:
    done = subprocess.run(["bash", "-n", "-c", text], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for words in commands_of(text):
        check_command(words)


def check_console(text: str) -> None:
    """A session: what follows `$ ` is typed, the rest is what came back."""
    check_bash("\n".join(line[2:] for line in text.splitlines() if line.startswith("$ ")))


def check_python_code(text: str) -> None:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
            assert not missing, f"{node.module} has no {missing}"


LANGUAGES: dict[str, Callable[[str], object]] = {
    "bash": check_bash,
    "console": check_console,
    "json": json.loads,
    "mermaid": str.strip,
    "python": check_python_code,
    "text": str.strip,
    "toml": tomllib.loads,
    "yaml": lambda text: YAML(typ="safe").load(text),
}


@pytest.fixture
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.usefixtures("at_root")
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_block_parses_against_what_it_names(block):
    assert block.language in LANGUAGES, f"name the language, one of {sorted(LANGUAGES)}"
    LANGUAGES[block.language](block.text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not broken


@pytest.mark.usefixtures("at_root")
@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("make dmeo", "no target ['dmeo']"),
        ("make test && make dmeo > log", "no target ['dmeo']"),
        ("python no/such/file.py", "no/such/file.py does not exist"),
        ("python -m alignment.nothing", "no module alignment.nothing"),
        ("sft-dpo no-such-command", "no command 'no-such-command'"),
        ("sft-dpo run deployments/configs/no-such.yaml", "no-such.yaml does not exist"),
        ("sft-dpo plan deployments/configs/practice.yaml --jsno", "--jsno"),
        ("prefect deployment run sft-dpo/no-such", "sft-dpo/no-such is none of"),
        ("prefect server start --no-such-option", "--no-such-option"),
        ("docker compose -f docker/compose.yaml up no-such", "no-such is none of"),
        ("docker/no-such.sh", "docker/no-such.sh is not a program"),
        ("unheard-of --option", "no rule for 'unheard-of'"),
        ("for x in", "syntax error"),
    ],
)
def test_stale_command_is_refused(line, complaint):
    with pytest.raises(Exception, match=re.escape(complaint)):
        check_bash(line)
