"""Nothing that outlives a process is written, moved or removed past `alignment/store/durable.py`.

Its functions pass a named failpoint before and after each effect; a call of the disk's own verbs
elsewhere would be one that no fault was ever tried on.
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
"""Functions of `durable.py` and the effects that each makes, as endings of the name it is given."""

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
"""Of the disk, and of the libraries that write weights."""

NOT_DURABLE = {
    "alignment/store/progress.py": "for whoever watches; nobody resumes from it",
    "alignment/execution/run_step.py": "the error that a child hooks its parent",
    "alignment/config/pipeline.py": "`make schema`",
}

WRITTEN_BY_CALLERS = {
    "_copy": "export.model, batch.copy",
    "_concatenate": "export.model",
    "write_concatenated": "export.model",
    "convert_gguf": "base.convert",
    "_extract_gguf": "a folder that is gone with the process",
    "write_shards": "merge.save",
    "_write_settings": "merge.save",
}
"""Functions that write where their caller says, and the effect that the caller wraps them in."""


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted((ROOT / "alignment").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name not in NOT_DURABLE and name not in ("alignment/store/durable.py",):
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def called(node: ast.AST) -> str | None:
    """The last part of the name of what a call calls."""
    if not isinstance(node, ast.Call):
        return None
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)


def writes(node: ast.AST) -> bool:
    """A verb of the disk, `path.replace(other)`, or opening a file to write."""
    name = called(node)
    if name is None:
        return False
    assert isinstance(node, ast.Call)
    if name == "replace":  # that of a text takes two
        return len(node.args) == 1 and isinstance(node.func, ast.Attribute)
    if name == "open":
        modes = [a.value for a in node.args if isinstance(a, ast.Constant)]
        return any(isinstance(mode, str) and mode[:1] in ("w", "a", "x") for mode in modes)
    if name == "rename":  # ours is called by its bare name
        return isinstance(node.func, ast.Attribute)
    if name in ("copy", "link", "save"):  # of shutil and numpy, and not of a model or a list
        return ast.unparse(node.func) in ("shutil.copy", "os.link", "np.save")
    return name in VERBS


def uncovered(tree: ast.AST, *, covered: bool = False) -> Iterator[ast.AST]:
    """Calls that write and stand in no `with failpoint_span(...)` or `with staged(...)`."""
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
    """The name of every effect in the source."""
    for module, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                for ending in POINTS.get(node.func.id, ()) if is_ours(tree, node.func.id) else ():
                    name = node.args[0]
                    assert isinstance(name, ast.Constant), f"{module}: a name that is no literal"
                    assert isinstance(name.value, str)
                    yield f"{name.value}{ending}"


def is_ours(tree: ast.Module, name: str) -> bool:
    """Whether a module has this function from `durable.py`."""
    return any(
        isinstance(node, ast.ImportFrom)
        and node.module == "alignment.store.durable"
        and any(alias.name == name for alias in node.names)
        for node in tree.body
    )


def test_every_write_stands_between_two_failpoints():
    wrong = [
        f"{module}:{node.lineno} {ast.unparse(node)}"
        for module, tree in modules()
        for node in uncovered(tree)
        if isinstance(node, ast.Call)
    ]
    assert not wrong, "use alignment.store.durable:\n" + "\n".join(wrong)


def test_every_effect_has_a_name_of_its_own():
    twice = [name for name, count in Counter(points()).items() if count > 1]
    assert not twice


def test_there_are_sixty_failpoints_at_least():
    assert 2 * len(list(points())) >= 60


def test_exceptions_are_still_there():
    found = {
        node.name
        for _, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }
    assert set(WRITTEN_BY_CALLERS) <= found
    assert all((ROOT / name).is_file() for name in NOT_DURABLE)


def test_a_write_past_the_failpoints_would_be_seen():
    source = (
        "def save(path):\n    path.write_text('x')\n    path.replace(other)\n    open(path, 'w')\n"
    )
    assert len(list(uncovered(ast.parse(source)))) == 3
