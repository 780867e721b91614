"""Contributions by name: what is refused, what helps after a slip, and that no file of a contribution is needed by another."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from selbench import ConfigError, StrategyError, register_strategy
from selbench.registry import PLUGINS, load_plugin
from selbench.signals import signal_top_k
from selbench.strategy import STRATEGIES
from selbench.task import TASKS

ROOT = Path(__file__).parents[1]
FILES = sorted(path for path in (ROOT / "strategies").rglob("*.py") if path.name != "__init__.py")
PLUGIN = '''
from selbench import Signals, Tensor, register_strategy

@register_strategy("{name}", version=1, source="none")
def rule(s: Signals) -> Tensor:
    """score = -position."""
    return -s.position.float()
'''
Write = Callable[..., Path]


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a plugin file; afterwards the registry, the loaded modules and the environment are as they were."""
    len(list(STRATEGIES))  # discovery happens now, not between the copy and its use
    monkeypatch.setattr(STRATEGIES, "_entries", dict(STRATEGIES._entries))
    monkeypatch.setenv(PLUGINS, "")
    modules = set(sys.modules)

    def write(stem: str, text: str = PLUGIN, name: str = "latest_first") -> Path:
        file = tmp_path / f"{stem}.py"
        file.write_text(text.format(name=name))
        return file

    yield write
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def problem(action: Callable[[], object]) -> str:
    """The one sentence that a user reads."""
    with pytest.raises(ConfigError) as caught:
        action()
    assert len(caught.value.problems) == 1
    return str(caught.value)


def test_a_plugin_file_registers_and_is_passed_on_to_workers(plugin: Write) -> None:
    file = plugin("mine")
    assert load_plugin(file) == load_plugin(file) == file
    assert STRATEGIES.get("latest_first").label == "latest_first-v1"
    assert [strategy.name for strategy in STRATEGIES.from_file(file)] == ["latest_first"]
    assert os.environ[PLUGINS].split(os.pathsep) == [str(file)]


def test_two_files_cannot_share_a_name(plugin: Write) -> None:
    first, second = plugin("first"), plugin("second")
    load_plugin(first)
    message = problem(lambda: load_plugin(second))
    assert "'latest_first' is registered twice" in message
    assert str(first) in message
    assert str(second) in message
    assert STRATEGIES.get("latest_first").file == str(first)


def test_a_plugin_cannot_replace_a_strategy_of_the_tree(plugin: Write) -> None:
    taken = next(iter(STRATEGIES))
    assert taken.file in problem(lambda: load_plugin(plugin("mine", name=taken.name)))


@pytest.mark.parametrize(
    ("text", "says"),
    [("1 / 0", "ZeroDivisionError"), ("def broken(:", "SyntaxError"), ("import no_such_module_at_all", "no_such_module_at_all")],
)
def test_a_broken_plugin_is_a_plain_problem(plugin: Write, text: str, says: str) -> None:
    file = plugin("broken", text)
    message = problem(lambda: load_plugin(file))
    assert str(file) in message
    assert says in message
    assert os.environ[PLUGINS] == ""


def test_a_broken_plugin_is_broken_the_second_time_too(plugin: Write) -> None:
    file = plugin("broken", "1 / 0")
    for _ in range(2):
        problem(lambda: load_plugin(file))


def test_a_missing_plugin_is_a_plain_problem(tmp_path: Path) -> None:
    assert "no such file" in problem(lambda: load_plugin(tmp_path / "nowhere.py"))


def test_an_unknown_name_brings_the_nearest_known_ones() -> None:
    known = next(iter(STRATEGIES)).name
    message = problem(lambda: STRATEGIES.get(known[:-1] + "x"))
    assert f"unknown strategy '{known[:-1]}x'" in message
    assert "did you mean" in message
    assert known in message
    assert "selbench list strategies" in message
    everything = problem(lambda: STRATEGIES.get("zzzzzzzzz"))
    assert all(strategy.name in everything for strategy in STRATEGIES)


def rule(s: object) -> object:
    """score = nothing."""
    return s


def bare(s: object) -> object:
    return s


@pytest.mark.parametrize(
    ("options", "function", "says"),
    [
        ({"needs": ("reverse_kll",)}, rule, "unknown signal 'reverse_kll'"),
        ({"needs": ("compatibility_mass_K",)}, rule, "unknown signal 'compatibility_mass_K'"),
        ({"needs": ("overlap_0",)}, rule, "unknown signal 'overlap_0'"),
        ({"needs": ("reverse_kl_16",)}, rule, "unknown signal 'reverse_kl_16'"),
        ({"budget": 0.0}, rule, "budget 0.0 is not in (0, 1]"),
        ({"budget": 1.5}, rule, "budget 1.5 is not in (0, 1]"),
        ({"budget": -0.1}, rule, "budget -0.1 is not in (0, 1]"),
        ({"budget": float("nan")}, rule, "budget nan is not in (0, 1]"),
        ({}, bare, "no docstring"),
    ],
)
def test_what_register_strategy_refuses(options: dict[str, object], function: Callable[..., object], says: str) -> None:
    assert says in problem(lambda: register_strategy("refused", version=1, source="none", **options)(function))  # type: ignore[arg-type]
    assert "refused" not in STRATEGIES


def test_signal_names_carry_their_list_length() -> None:
    assert signal_top_k("reverse_kl") == ("reverse_kl", 0)
    assert signal_top_k("compatibility_mass_16") == ("compatibility_mass_K", 16)


def test_a_score_must_be_one_finite_value_per_token_and_signals_must_be_declared(plugin: Write) -> None:
    import torch

    from selbench.signals import Signals

    seen = Signals({}, position=torch.arange(3), sample=torch.zeros(3, dtype=torch.int64))
    bodies = {
        "wrong shape": "s.position[:2].float()",
        "NaN or infinity": "s.position / 0",
        "used but not declared": "s.reverse_kl",
        "read-only": "setattr(s, 'position', 1)",
    }
    for i, (says, body) in enumerate(bodies.items()):
        load_plugin(plugin(f"breaks_{i}", PLUGIN.replace("-s.position.float()", body), name=f"breaks_{i}"))
        with pytest.raises(StrategyError, match=says):
            STRATEGIES.get(f"breaks_{i}").score(seen)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.name))
def test_a_strategy_file_fits_on_two_screens(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 80
    assert STRATEGIES.from_file(file), "registers nothing"


def test_no_code_knows_a_contribution_by_name() -> None:
    """Only a contribution's own file may hold its name as a string (docstrings and comments may say it)."""
    names = {strategy.name for strategy in STRATEGIES} | {task.name for task in TASKS}
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.value!r}"
        for path in sorted((ROOT / "selbench").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in names
    ]
    assert not found


def test_every_strategy_file_can_be_deleted(tmp_path: Path) -> None:
    """One process lists the registry of a copy of the tree once whole and once without each file; none of it imports torch."""
    for folder in ("selbench", "strategies"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    script = """
import json, sys
from pathlib import Path

def listed():
    for name in [name for name in sys.modules if name.split(".")[0] == "selbench"]:
        del sys.modules[name]
    from selbench.strategy import STRATEGIES
    return [[strategy.name, Path(strategy.file).name] for strategy in STRATEGIES]

out = {"": listed()}
for file in sorted(Path("strategies").glob("[!_]*.py")):
    text = file.read_text()
    file.unlink()
    out[file.name] = listed()
    file.write_text(text)
print(json.dumps([out, "torch" in sys.modules]))
"""
    environment = {key: value for key, value in os.environ.items() if key != PLUGINS} | {"PYTHONPATH": str(tmp_path)}
    run = [sys.executable, "-B", "-c", script]
    result = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    out, torch_imported = json.loads(result.stdout)
    whole = out.pop("")
    assert sorted(out) == [file.name for file in FILES]
    assert sorted(name for name, _ in whole) == [strategy.name for strategy in STRATEGIES]
    for deleted, rest in out.items():
        assert rest == [entry for entry in whole if entry[1] != deleted]
    assert not torch_imported


def test_a_strategy_of_another_distribution_is_found(tmp_path: Path) -> None:
    """An installed package that declares the entry point needs no edit here."""
    (tmp_path / "theirs.py").write_text(
        "from selbench import register_strategy\n"
        "@register_strategy('theirs', version=1, source='none')\ndef theirs(s):\n    'score = position.'\n    return s.position.float()\n"
    )
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[selbench.strategies]\ntheirs = theirs\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    done = subprocess.run([sys.executable, "-m", "selbench", "list"], env=environment, capture_output=True, text=True, check=True)
    assert "theirs\t1" in done.stdout
