"""Data that outlives a process is only written, moved or removed by `alignment/store/durable.py`.

Its functions hit a named failpoint before and after each change. Direct file system calls elsewhere
would never be tested with injected faults.
"""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

POINTS = {
    "failpoint_span": ("",),
    "write": ("",),
    "flush": ("",),
    "flush_tree": ("",),
    "rename": ("", ".flush"),
    "remove": ("",),
    "staged": ("",),
    "create": (".write", ".flush", ".link", ".folder", ".remove"),
}
"""Functions of `durable.py`, and the changes that each makes, as suffixes of its name argument."""

VERBS = {
    "copy",
    "copyfileobj",
    "copytree",
    "fsync",
    "link",
    "removedirs",
    "rename",
    "rmdir",
    "rmtree",
    "save",
    "save_file",
    "save_pretrained",
    "symlink_to",
    "truncate",
    "unlink",
    "write_bytes",
    "write_text",
}
"""Functions of the file system, and of the libraries that write weights."""

NOT_DURABLE = {
    "alignment/store/progress.py": "only for display; nothing resumes from it",
    "alignment/execution/run_step.py": "the log of the processes of a step",
    "alignment/answers/vllm_program.py": "a pipe to the step, which writes what it reads",
    "alignment/store/locks.py": "who holds a lock, for those who wait",
    "alignment/config/pipeline.py": "`make schema`",
    "alignment/config/reference.py": "`make schema`",
    "alignment/data/formats/table.py": "`make schema`",
    "alignment/evaluate/evidence.py": "`make schema`",
}

WRITTEN_BY_CALLERS = {
    "_copy": "export.model, batch.copy",
    "_concatenate": "export.model",
    "_copy_tokenizer": "export.model",
    "_add_tokenizer": "export.model",
    "_with_settings": "export.model",
    "_link_weights": "export.model",
    "write_concatenated": "export.model, answers.adapter",
    "name_base": "adapter.save, adapter.copy, export.model",
    "convert_gguf": "base.convert",
    "_extract_gguf": "a temporary folder of the process",
    "write_shards": "merge.save",
    "_write_settings": "merge.save",
}
"""Functions that write where their caller says, and the change in which the caller wraps them."""


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted((ROOT / "alignment").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name not in NOT_DURABLE and name not in ("alignment/store/durable.py",):
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def called(node: ast.AST) -> str | None:
    """The last part of the called function's name."""
    if not isinstance(node, ast.Call):
        return None
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)


def writes(node: ast.AST) -> bool:
    """Whether it is a call in VERBS, `path.replace(other)`, or opens a file to write."""
    name = called(node)
    if name is None:
        return False
    assert isinstance(node, ast.Call)
    if name == "replace":  # str.replace takes two arguments
        return len(node.args) == 1 and isinstance(node.func, ast.Attribute)
    if name == "open":
        modes = [a.value for a in node.args if isinstance(a, ast.Constant)]
        return any(isinstance(mode, str) and mode[:1] in ("w", "a", "x") for mode in modes)
    if name == "rename":  # the one in durable.py is called by its bare name
        return isinstance(node.func, ast.Attribute)
    if name in ("copy", "link", "save"):  # not those of a model or a list
        return ast.unparse(node.func) in ("shutil.copy", "os.link", "np.save")
    return name in VERBS


def uncovered(tree: ast.AST, *, covered: bool = False) -> Iterator[ast.AST]:
    """Calls that write outside a `with failpoint_span(...)` or `with staged(...)`."""
    if isinstance(tree, ast.With):
        covered = covered or any(
            called(item.context_expr) in ("failpoint_span", "staged") for item in tree.items
        )
    if isinstance(tree, ast.FunctionDef) and tree.name in WRITTEN_BY_CALLERS:
        covered = True
    if writes(tree) and not covered:
        yield tree
    for child in ast.iter_child_nodes(tree):
        yield from uncovered(child, covered=covered)


def points() -> Iterator[str]:
    """The name of every durable change in the source."""
    for module, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                for suffix in POINTS.get(node.func.id, ()) if is_ours(tree, node.func.id) else ():
                    name = node.args[0]
                    assert isinstance(name, ast.Constant), f"{module}: the name must be a literal"
                    assert isinstance(name.value, str)
                    yield f"{name.value}{suffix}"


def is_ours(tree: ast.Module, name: str) -> bool:
    """Whether a module imports this function from `durable.py`."""
    return any(
        isinstance(node, ast.ImportFrom)
        and node.module == "alignment.store.durable"
        and any(alias.name == name for alias in node.names)
        for node in tree.body
    )


def test_every_write_is_between_two_failpoints():
    wrong = [
        f"{module}:{node.lineno} {ast.unparse(node)}"
        for module, tree in modules()
        for node in uncovered(tree)
        if isinstance(node, ast.Call)
    ]
    assert not wrong, "use alignment.store.durable:\n" + "\n".join(wrong)


def test_every_change_has_a_unique_name():
    twice = [name for name, count in Counter(points()).items() if count > 1]
    assert not twice


def test_there_are_at_least_sixty_failpoints():
    assert 2 * len(list(points())) >= 60


def test_exceptions_still_exist():
    found = {
        node.name
        for _, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }
    assert set(WRITTEN_BY_CALLERS) <= found
    assert all((ROOT / name).is_file() for name in NOT_DURABLE)


def test_a_write_without_failpoints_is_detected():
    source = (
        "def save(path):\n    path.write_text('x')\n    path.replace(other)\n    open(path, 'w')\n"
    )
    assert len(list(uncovered(ast.parse(source)))) == 3
