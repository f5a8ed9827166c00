"""Imports point down only, and the library leaves torch, pickle and the terminal alone."""

from __future__ import annotations

import ast
import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

# A module may import its own row and the rows above it. `flux_tiny` is apart: see `SIDE`.
LAYERS = (
    ("ea_jax.runtime", "ea_jax.settings", "convert"),
    ("ea_jax.flux",),
    ("ea_jax.lora", "ea_jax.edits", "ea_jax.edit_origins", "ea_jax.merged"),
    ("ea_jax.concepts",),
    ("ea_jax.painter",),
    ("ea_jax.methods",),
    ("ea_jax.evaluate",),
    ("ea_jax.attacks", "ea_jax.detectors"),
    (
        "ea_jax.__main__",
        "ea_jax.aot",
        "ea_jax.app",
        "ea_jax.arguments",
        "ea_jax.combine",
        "ea_jax.costs",
        "ea_jax.erase",
        "ea_jax.erase_command",
        "ea_jax.evaluate_run",
        "ea_jax.evaluate_attacks",
        "ea_jax.exam",
        "ea_jax.merge",
        "ea_jax.profile",
        "ea_jax.sample",
        "ea_jax.table",
    ),
)
# Beside the tower: what it may import. Only the top row and programs may import it. From `evaluate`
# the tiny world takes the forms of a probe and a detector, which its own fill.
SIDE = {
    "ea_jax.flux_tiny": {
        "ea_jax.concepts",
        "ea_jax.evaluate",
        "ea_jax.flux",
        "ea_jax.runtime",
        "ea_jax.settings",
        "convert",
    }
}
# These stand alone, but for what they are given here.
ALONE = {"ea_jax.runtime": {"convert"}, "convert": set()}

LEVEL = {name: level for level, row in enumerate(LAYERS) for name in row}
TOP = len(LAYERS) - 1

# At import time these start a backend, touch the disk or draw state that belongs to a run.
WORK_AT_IMPORT = (
    "jax.devices",
    "jax.local_devices",
    "jax.device_count",
    "jax.default_backend",
    "jax.random",
    "jnp",
    "open",
    "logging.basicConfig",
    "jax.config.update",
)


# Set to anything, it silences the one advice of transformers: to install torch.
ADVICE = "TRANSFORMERS_NO_ADVISORY_WARNINGS"


def sources(*packages: str) -> list[Path]:
    return sorted(
        path
        for package in packages
        for path in (ROOT / package).rglob("*.py")
        if "__pycache__" not in path.parts
    )


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def unit_of(module: str) -> str:
    """The name by which the tables above know a module: `ea_jax.x` or a top-level package."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "ea_jax" and len(parts) > 1 else parts[0]


def imports_of(path: Path) -> set[str]:
    """Absolute names of everything a file imports, wherever in the file."""
    found: set[str] = set()
    package = module_of(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            prefix = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*prefix, *([node.module] if node.module else [])])
            # `from ea_jax import lora` imports ea_jax.lora.
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def our_units(path: Path) -> set[str]:
    return {
        unit_of(name)
        for name in imports_of(path)
        if name.split(".")[0] in ("ea_jax", "convert", "configs", "tests", "train")
    }


def violations(path: Path) -> list[str]:
    here = unit_of(module_of(path))
    if here == "ea_jax":
        return []
    wrong = []
    for unit in our_units(path) - {here, "ea_jax"}:
        if here in SIDE:
            allowed = unit in SIDE[here]
        elif unit in SIDE:
            allowed = LEVEL[here] == TOP
        else:
            allowed = (
                unit in LEVEL and LEVEL[unit] <= LEVEL[here] and unit in ALONE.get(here, LEVEL)
            )
        if not allowed:
            wrong.append(f"{path.relative_to(ROOT)} imports {unit}")
    return wrong


def test_every_module_has_a_place_in_the_table() -> None:
    units = {unit_of(module_of(path)) for path in sources("ea_jax", "convert")} - {"ea_jax"}
    unplaced = units - set(LEVEL) - set(SIDE)
    assert not unplaced, f"add {sorted(unplaced)} to LAYERS, at the height its imports need"


def test_imports_point_down() -> None:
    wrong = [line for path in sources("ea_jax", "convert") for line in violations(path)]
    assert not wrong, "\n".join(wrong)


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Modules that import each other, directly or through others; one sorted list a circle."""

    def reached(start: str) -> set[str]:
        found, ahead = set(), [start]
        while ahead:
            new = imports[ahead.pop()] - found
            found |= new
            ahead += new
        return found

    behind = {module: reached(module) for module in imports}
    found = {
        tuple(sorted({module} | {other for other in others if module in behind[other]}))
        for module, others in behind.items()
        if module in others
    }
    return [list(circle) for circle in sorted(found)]


def modules_imported_by(path: Path, known: set[str]) -> set[str]:
    """Modules of `known` that a file imports, also inside functions."""
    found = set()
    for name in imports_of(path):
        # `from a.b import c` is of the module a.b.c, if there is one, and else of a.b.
        parts = name.split(".")
        prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
        found |= {next((prefix for prefix in prefixes if prefix in known), "")}
    return found - {"", module_of(path)}


def test_a_circle_of_imports_is_seen() -> None:
    imports = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"a"}}
    assert circles(imports) == [["a", "b", "c"]]


def test_an_import_inside_a_function_counts() -> None:
    path = ROOT / "ea_jax" / "flux" / "attention.py"
    known = {module_of(path) for path in sources("ea_jax")}
    assert "ea_jax.flux.splash" in modules_imported_by(path, known)


def test_no_modules_import_each_other_in_a_circle() -> None:
    files = sources("ea_jax", "convert", "configs")
    known = {module_of(path) for path in files}
    found = circles({module_of(path): modules_imported_by(path, known) for path in files})
    assert not found, f"import each other: {found}; what they share wants a module of its own"


def test_configs_import_only_ml_collections_and_each_other() -> None:
    allowed = {"ml_collections", "configs", "__future__", "typing", "collections", "copy"}
    wrong = [
        f"{path.name} imports {name}"
        for path in sources("configs")
        for name in imports_of(path)
        if name.split(".")[0] not in allowed
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", ["torch", "torchvision", "pickle", "peft", "tensorflow"])
def test_the_library_does_not_import(module: str) -> None:
    files = [*sources("ea_jax", "convert", "configs"), *ROOT.glob("train.py")]
    wrong = [
        str(path.relative_to(ROOT))
        for path in files
        if any(name.split(".")[0] == module for name in imports_of(path))
    ]
    assert not wrong, f"{module} is imported by {wrong}"


def test_the_library_does_not_guard_its_imports() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources("ea_jax", "convert", "configs")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Try)
        and any(isinstance(inner, ast.Import | ast.ImportFrom) for inner in node.body)
    ]
    assert not wrong, f"try: import at {wrong}"


def test_the_library_does_not_print() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources("ea_jax", "convert", "configs")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("print", "eval", "exec")
    ]
    assert not wrong, f"print, eval or exec at {wrong}"


def test_importing_does_no_work() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{call.lineno} {ast.unparse(call.func)}"
        for path in sources("ea_jax", "convert", "configs")
        for node in tree_of(path).body
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.Expr) and node.value
        if not isinstance(node.value, ast.Lambda)
        for call in ast.walk(node.value)
        if isinstance(call, ast.Call)
        and any(f"{ast.unparse(call.func)}.".startswith(f"{w}.") for w in WORK_AT_IMPORT)
    ]
    assert not wrong, "\n".join(wrong)


def test_files_stay_short() -> None:
    files = [*sources("ea_jax", "convert", "configs", "tests"), *ROOT.glob("train.py")]
    lines = {path: len(path.read_text().splitlines()) for path in files}
    long = [f"{path.relative_to(ROOT)}: {n} lines" for path, n in lines.items() if n > 350]
    assert not long, "\n".join(long)


# In a fresh interpreter: hides torch, which the tests need and a user need not have.
WITHOUT_TORCH = """
import importlib.util, sys
asked = []
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            asked.append(name)
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NoTorch())
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else find_spec(name, *rest)
"""


def test_every_module_imports_without_torch_and_starts_no_backend() -> None:
    modules = [
        module_of(path)
        for path in sources("ea_jax", "convert", "configs")
        if path.stem != "__main__"
    ]
    # The world's art packages are an extra; everything else is there after a plain install.
    modules = [m for m in modules if m not in ("ea_jax.flux_tiny.training.render",)]
    program = f"""
import importlib
{WITHOUT_TORCH}
from jax._src import xla_bridge
for name in {modules!r}:
    importlib.import_module(name)
assert not xla_bridge.backends_are_initialized(), "a backend was started"
assert not asked, "where torch is there, seconds go to its import"
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def started_without_torch(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    program = WITHOUT_TORCH + program
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k != ADVICE} | environment,
    )


@pytest.mark.parametrize(
    "module",
    [
        "ea_jax.flux.tokens",
        pytest.param("ea_jax.flux_tiny.training.tokenizers", marks=pytest.mark.slow),
    ],
)
def test_a_start_without_torch_says_nothing_of_torch(module: str) -> None:
    done = started_without_torch(f"import {module}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_transformers_warns_of_is_still_said() -> None:
    program = """
import ea_jax.flux.tokens
from transformers.utils import logging
logging.get_logger("transformers").warning("this is real")
"""
    assert "this is real" in started_without_torch(program).stderr


def test_a_user_who_sets_the_advice_s_variable_is_heard() -> None:
    """Empty, it asks for the advice."""
    done = started_without_torch("import ea_jax.flux.tokens", **{ADVICE: ""})
    assert "PyTorch was not found" in done.stderr
