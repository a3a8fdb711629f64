"""What may import what, read from the source with `ast`.

alignment  <-  tasks  <-  flows  <-  deployments; within `alignment`, see LAYERS.
"""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

HOUSE = ["alignment", "tasks", "flows", "deployments"]
"""Left to right: a package imports itself and those to its left."""

LAYERS = [
    {"urls"},  # how they may be shown
    {"errors", "processes", "records"},
    {"extras"},  # optional packages
    {"store"},  # artifacts on disk
    {"trackers"},  # who watches a run
    {"models"},  # weights, adapters, chat templates
    {"scoring"},  # log-probs under a model
    {"answers"},  # what a model writes
    {"data"},  # raw rows to prepared sets
    {"train", "compose", "evaluate", "candidates"},
    {"config"},  # the settings of all of the above, composed
    {"pipeline"},  # steps and their order
    {"execution", "rounds", "report"},
    {"doctor"},
    {"api"},  # all of it, for notebooks
]
"""Packages of `alignment`: each imports from the rows above its own, never from its own row."""

HEAVY = {
    "accelerate",
    "bitsandbytes",
    "datasets",
    "matplotlib",
    "pandas",
    "peft",
    "pyarrow",
    "scipy",
    "torch",
    "transformers",
    "trl",
}
"""Each takes up to seven seconds and half a gigabyte to import. Implementations import them at the
top. Light modules, which every command loads, do not, and import an implementation where they
call it."""

MOST_LATE_IMPORTS = 53
"""Imports inside functions, in all packages together; the command line is not counted."""
COMMAND_LINE = ("flows/arguments.py", "flows/cli/")
"""Import what they call where they call it, so that `--help` and mistakes respond immediately."""

ELSEWHERE = Path("alignment/answers/vllm_program.py")
"""Run by another interpreter, in an environment that has nothing of ours; nothing imports it."""

NEVER_IN_ALIGNMENT = {"prefect", "tasks", "flows", "deployments"}


def sources(*packages: str) -> Iterator[tuple[Path, ast.Module]]:
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            if path != ROOT / ELSEWHERE:
                yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    """Every import in `tree` with the dotted name it imports; `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: use an absolute import"
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


def at_import(tree: ast.Module) -> Iterator[tuple[ast.stmt, str]]:
    """The imports that run when the module is imported: not in a function, not for types only."""
    late = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"))
        for inner in ast.walk(node)
    }
    yield from ((node, name) for node, name in imported(tree) if id(node) not in late)


def layer(dotted: str) -> int | None:
    """The row of `alignment.<room>...` in LAYERS; None for the package itself and for others."""
    parts = dotted.split(".")
    if parts[0] != "alignment" or len(parts) == 1:
        return None
    rows = [row for row, rooms in enumerate(LAYERS) if parts[1] in rooms]
    assert rows, f"alignment.{parts[1]} has no row in LAYERS: decide what it may import"
    return rows[0]


def module_of(name: str, modules: set[str]) -> str:
    """The module of an imported name: the name itself, or the module it is imported from."""
    return name if name in modules else name.rpartition(".")[0]


def dotted_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


def test_packages_import_only_to_their_left():
    wrong = [
        f"{path}:{node.lineno} imports {name}"
        for path, tree in sources(*HOUSE)
        for node, name in imported(tree)
        if (top := name.split(".")[0]) in HOUSE and HOUSE.index(top) > HOUSE.index(path.parts[0])
    ]
    assert not wrong, "\n".join(wrong)


def test_alignment_knows_neither_prefect_nor_its_callers():
    wrong = [
        f"{path}:{node.lineno} imports {name}"
        for path, tree in sources("alignment")
        for node, name in imported(tree)
        if name.split(".")[0] in NEVER_IN_ALIGNMENT
    ]
    assert not wrong, "\n".join(wrong)


def test_packages_of_alignment_import_only_from_rows_above_their_own():
    wrong = [
        f"{path}:{node.lineno} imports {name}"
        for path, tree in sources("alignment")
        if (here := layer(dotted_name(path))) is not None
        for node, name in imported(tree)
        if (there := layer(name)) is not None
        if there >= here and name.split(".")[1] != path.parts[1].removesuffix(".py")
    ]
    assert not wrong, "\n".join(wrong)


def test_no_two_modules_of_alignment_import_each_other():
    """No circle of any length, imports inside functions included."""
    modules = {dotted_name(path) for path, _ in sources("alignment")}
    graph = {
        dotted_name(path): {module_of(name, modules) for _, name in imported(tree)} & modules
        for path, tree in sources("alignment")
    }
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_no_class_name_of_alignment_is_defined_twice():
    places: dict[str, list[str]] = {}
    for path, tree in sources("alignment"):
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(path))
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert not twice, twice


def test_alignment_reads_no_environment():
    wrong = [
        f"{path}:{node.lineno}"
        for path, tree in sources("alignment")
        # one passes the whole environment on to children, one sets what accelerate reads
        if path.name not in {"forkserver.py", "rank.py"}
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.getenv"}
    ]
    assert not wrong, "pass configuration as an argument:\n" + "\n".join(wrong)


COMMANDS = {
    "help": "--help",
    "plan": "plan deployments/configs/a100.yaml",
    "plan practice": "plan deployments/configs/practice.yaml --json",
    "show": "show --store docs",
    "a mistake in a config": "doctor deployments/configs/a100.yaml --set typo=1",
    "no such model": "chat merge-dpo-9 --store docs",
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_commands_that_compute_nothing_load_no_heavy_library(words):
    done = run_python(
        "import atexit, sys\n"
        f"atexit.register(lambda: print(sorted(set(sys.modules) & {HEAVY})))\n"
        "from flows.cli import main\n"
        f"sys.argv[1:] = {words.split()}\n"
        "main()"
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_commands_that_look_at_a_store_load_no_settings():
    """Building the classes of all settings takes as long as the rest of such a command."""
    done = run_python(
        "import sys, flows.commands.runs, flows.commands.show, flows.commands.status\n"
        "print([name for name in sys.modules if name.startswith('alignment.config')])"
    )
    assert done.stdout == "[]\n", done.stderr


def test_the_process_that_conducts_a_run_imports_no_heavy_library():
    """Its children train; what it holds beside them is memory that they lack."""
    modules = [dotted_name(path) for path, _ in sources("tasks", "flows")]
    done = run_python(
        f"import sys, importlib; [importlib.import_module(name) for name in {modules}]\n"
        f"print(sorted(set(sys.modules) & {HEAVY}))"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_program_that_runs_vllm_imports_vllm_alone_and_after_its_environment_is_set():
    tree = ast.parse((ROOT / ELSEWHERE).read_text(encoding="utf-8"))
    tops = [
        {name.split(".")[0] for _, name in found} for found in (imported(tree), at_import(tree))
    ]
    assert [names - sys.stdlib_module_names for names in tops] == [{"vllm"}, set()]


def test_imports_inside_functions_are_few():
    late = [
        f"{path}:{node.lineno}"
        for path, tree in sources(*HOUSE)
        if not path.as_posix().startswith(COMMAND_LINE)
        for node in inside(tree)
    ]
    assert len(late) < MOST_LATE_IMPORTS, f"{len(late)}:\n" + "\n".join(late)


def test_only_light_modules_import_inside_functions():
    """In a module that loads a heavy library anyway it would save nothing."""
    trees = {dotted_name(path): tree for path, tree in sources(*HOUSE)}
    wrong = [
        f"{module}, line {node.lineno}"
        for module in sorted(heavy_modules(trees))
        for node in inside(trees[module])
    ]
    assert not wrong, "\n".join(wrong)


def heavy_modules(trees: Mapping[str, ast.Module]) -> set[str]:
    """The modules that load a heavy library when they are imported, directly or not."""
    imports = {module: {name for _, name in at_import(tree)} for module, tree in trees.items()}
    own = {module: {module_of(name, set(trees)) for name in imports[module]} for module in trees}
    heavy = {m for m, names in imports.items() if HEAVY & {name.split(".")[0] for name in names}}
    while more := {module for module in trees if own[module] & heavy} - heavy:
        heavy |= more
    return heavy


def inside(tree: ast.Module) -> set[ast.Import | ast.ImportFrom]:
    """The imports that run when a function is called."""
    return {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }


def test_alignment_can_be_imported_without_prefect():
    modules = [dotted_name(path) for path, _ in sources("alignment")]
    done = run_python(
        "import sys, importlib\n"
        "sys.modules['prefect'] = None  # from here on `import prefect` raises\n"
        f"[importlib.import_module(name) for name in {modules}]"
    )
    assert done.returncode == 0, done.stderr


def test_a_wheel_has_one_name_and_in_it_every_package():
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {name for name in wheel["only-include"] if "/" not in name} == {*HOUSE, "sft_dpo"}
    assert {place.split("/")[0] for place in wheel["sources"].values()} == {"sft_dpo"}
    assert set(wheel["sources"]) >= set(HOUSE)


def test_every_library_that_is_imported_is_a_declared_dependency():
    project = PROJECT["project"]
    lines = (*project["dependencies"], *project["optional-dependencies"]["train"])
    declared = set(map(canonical, lines))
    providers = packages_distributions()
    wrong = [
        f"{path}:{node.lineno} imports {name}"
        for path, tree in sources(*HOUSE)
        for node, name in imported(tree)
        if (top := name.split(".")[0]) not in {*HOUSE, *sys.stdlib_module_names}
        and not declared & set(map(canonical, providers.get(top, [])))
    ]
    assert not wrong, "\n".join(wrong)


def canonical(requirement: str) -> str:
    """`ruamel.yaml>=0.19` -> `ruamel-yaml`: the normalised name of the distribution."""
    end = next((i for i, c in enumerate(requirement) if c in "<>=!~[; "), len(requirement))
    return requirement[:end].lower().replace("_", "-").replace(".", "-")
