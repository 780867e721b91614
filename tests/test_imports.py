"""Who may import what: the direction of imports is part of the design."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STANDARD = set(sys.stdlib_module_names)
PUBLIC = {"selbench"}
HEAVY = {"torch", "transformers", "vllm", "lm_eval", "datasets", "accelerate", "pandas", "scipy", "matplotlib", "sympy", "math_verify"}


def imports(path: Path, *, top_only: bool = False) -> set[str]:
    """Modules that a file imports: everywhere, or only when it is imported itself (TYPE_CHECKING blocks left out)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree)) if not top_only else [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:  # a file's neighbours are its own business
            found.add(node.module)
    return found


def foreign(found: set[str]) -> set[str]:
    return {name for name in found if name.split(".")[0] not in STANDARD}


@pytest.mark.parametrize("path", sorted((ROOT / "strategies").glob("*.py")), ids=lambda p: p.stem)
def test_strategies_use_public_names_and_torch(path: Path) -> None:
    assert foreign(imports(path)) <= PUBLIC | {"torch"}


@pytest.mark.parametrize("path", sorted((ROOT / "tasks").rglob("*.py")), ids=lambda p: p.stem)
def test_tasks_use_their_contract(path: Path) -> None:
    contract = {"selbench.environment", "selbench.errors", "selbench.grading", "selbench.seeding", "selbench.task", "datasets", "rank_bm25"}
    assert foreign(imports(path)) <= PUBLIC | contract


FORBIDDEN = {  # module: what it may never import, directly
    "loop": {"selbench.evaluate", "selbench.task", "selbench.lm", "selbench.grading", "selbench.sweep"},
    "step": {"selbench.evaluate", "selbench.task", "selbench.lm", "selbench.grading", "selbench.sweep", "selbench.loop"},
    "ledger": {"torch", "transformers", "selbench.loop", "selbench.evaluate"},
    "costs": {"torch", "transformers", "selbench.loop", "selbench.evaluate"},
    "leaderboard": {"torch", "transformers", "selbench.loop", "selbench.evaluate"},
    "report/figures": {"torch", "transformers", "selbench.loop", "selbench.evaluate"},
    "report/html": {"torch", "transformers", "selbench.loop", "selbench.evaluate"},
    "report/bars": {"torch", "transformers", "selbench.loop", "selbench.evaluate"},
    "report/sections": {"torch", "transformers", "selbench.loop", "selbench.evaluate"},
    "report/viewer": {"torch", "transformers", "selbench.loop", "selbench.evaluate"},
    "evaluate": {"selbench.loop", "selbench.sweep"},
}
OWN = {  # module: all of selbench that it may import
    "registry": {"selbench.errors"},
    "seeding": set(),
    "signals": {"selbench.errors", "selbench.seeding"},
    "strategy": {"selbench.errors", "selbench.registry", "selbench.signals"},
    "environment": {"selbench.errors"},
    "task": {"selbench.environment", "selbench.errors", "selbench.registry", "selbench.grading", "selbench.templates"},
    "divergences": set(),
    "losses": {"selbench.divergences"},
    "grading": set(),
    "stats": {"selbench.seeding"},
    "verdicts": {"selbench.stats"},
    "provenance": set(),
    "records": {"selbench.errors"},
    "scoring": {"selbench.divergences", "selbench.losses", "selbench.rollout", "selbench.signals"},
}


@pytest.mark.parametrize("module", FORBIDDEN)
def test_forbidden_directions(module: str) -> None:
    assert not imports(ROOT / "selbench" / f"{module}.py") & FORBIDDEN[module]


@pytest.mark.parametrize("module", OWN)
def test_leaves_import_leaves(module: str) -> None:
    place = ROOT / "selbench" / module
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    own = {name for path in files for name in imports(path) if name.startswith("selbench")}
    package = {name for name in own if place.is_dir() and name.startswith(f"selbench.{module}")}
    assert own - package <= OWN[module]


def test_grading_is_a_leaf_of_few_libraries() -> None:
    files = sorted((ROOT / "selbench" / "grading").glob("*.py"))
    assert {name.split(".")[0] for path in files for name in foreign(imports(path))} <= {
        "selbench", "sympy", "math_verify", "latex2sympy2_extended", "lm_eval"
    }  # fmt: skip
    for path in files:  # what runs in the caller's process is light; sympy comes with the worker
        if path.stem in ("__init__", "extract", "graders", "workers"):
            assert not {name.split(".")[0] for name in imports(path, top_only=True)} & HEAVY


@pytest.mark.parametrize(
    "module",
    ["__init__", "cli", "cli_answers", "errors", "registry", "seeding", "signals", "strategy", "task", "models", "config", "catalogue"],
)
def test_light_modules_stay_light(module: str) -> None:
    found = {name.split(".")[0] for name in imports(ROOT / "selbench" / f"{module}.py", top_only=True)}
    assert not found & HEAVY
