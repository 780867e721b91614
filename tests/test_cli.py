"""The command line as a user meets it: bad input is one line a problem and exit code 2, before any model loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def selbench(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    full = {**{k: v for k, v in os.environ.items() if k != "SELBENCH_DATA"}, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, "-m", "selbench", *arguments], cwd=cwd, env=full, capture_output=True, text=True, check=False, timeout=400
    )


def problems(*arguments: str, cwd: Path | None = None) -> list[str]:
    """The lines of a refused command; asserts that it was refused as it should be."""
    done = selbench(*arguments, cwd=cwd)
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert all(line.startswith("selbench: ") for line in lines), lines
    return [line.removeprefix("selbench: ") for line in lines]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--strategies", "tip_sofor"], "unknown strategy 'tip_sofor': did you mean tip_softor"),
        (["--strategies", "full,tip_q3@medain"], "unknown strategy 'tip_q3@medain'"),
        (["--strategies", "tip_softor@0"], "budget 0 is not in (0, 1]"),
        (["--strategies", "tip_softor@1.5"], "budget 1.5 is not in (0, 1]"),
        (["--budget", "0"], "budget = 0"),
        (["--strategies", "entropy,entropy@0.1"], "asked for twice"),
        (["--tasks", "arithmetics"], "unknown task 'arithmetics': did you mean arithmetic?"),
        (["--seeds", "0,1,0"], "0 is given more than once"),
        (["--seeds", "a"], "is not a number or a range"),
        (["--pair", "tinny"], "unknown pair 'tinny': did you mean tiny or tiny-agent?"),
        (["tinier"], "unknown protocol 'tinier'"),
        (["training.stepz=3"], "unknown key 'training.stepz': did you mean steps"),
        (["training.steps=0"], "training.steps = 0"),
        (["--prompts", "nowhere.jsonl"], "no such file"),
        (["--teacher", "/nowhere"], "--teacher and --student go together"),
        (["--plugin", "nowhere.py"], "no such file"),
        (["--executor", "cloud"], "local, inline or ray"),
        (["--tasks", "gsm8k"], "SELBENCH_DATA"),
    ],
)
def test_one_line_each(arguments: list[str], expected: str, tmp_path: Path) -> None:
    (line,) = problems("run", *arguments, cwd=tmp_path)
    assert expected in line
    assert list(tmp_path.iterdir()) == []


def test_three_problems_at_once(tmp_path: Path) -> None:
    protocol = tmp_path / "mine.yaml"
    protocol.write_text(
        "name: mine\npairs: [tiny]\nprompts: selbench:tiny/prompts.jsonl\n"
        "tasks: [arithmetik]\nstrategies: [entropi]\ncolour: red\nbudget: 2\n"
    )
    lines = problems("run", str(protocol), cwd=tmp_path)
    assert len(lines) == 4
    for expected in ("unknown key 'colour'", "budget = 2", "unknown strategy 'entropi'", "unknown task 'arithmetik'"):
        assert any(expected in line for line in lines), expected


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (line,) = problems("run", "--output", str(tmp_path / "file" / "runs"))
    assert "choose another --output" in line


def test_pair_whose_tokenizers_differ(tmp_path: Path) -> None:
    import shutil

    from selbench.models import PAIRS

    other = tmp_path / "teacher"
    shutil.copytree(PAIRS.get("tiny").teacher, other)
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace('"+": ', '"@@": ', 1))
    student = PAIRS.get("tiny").student
    prompts = ["--prompts", "selbench:tiny/prompts.jsonl", "--tasks", "arithmetic"]
    (line,) = problems("run", "--teacher", str(other), "--student", student, *prompts, cwd=tmp_path)
    assert "the tokenizers differ in 2 tokens" in line


def test_list_show_doctor_and_dry_run(tmp_path: Path) -> None:
    assert "tip_softor" in selbench("list").stdout
    for what in ("tasks", "pairs", "protocols", "signals"):
        assert selbench("list", what).returncode == 0
    shown = selbench("show", "tip_q3@median").stdout
    assert "arXiv:2604.14084" in shown
    assert "candidates" in shown
    assert "selbench" in selbench("doctor").stdout
    plan = selbench("run", "--dry-run", cwd=tmp_path)
    assert plan.returncode == 0
    assert "24 (8 strategies x 3 seeds x 1 pairs)" in plan.stdout
    assert list(tmp_path.iterdir()) == []
    (line,) = problems("show", "entropi")
    assert "did you mean entropy" in line


def test_listing_imports_no_torch() -> None:
    code = "import sys; from selbench.strategy import STRATEGIES; list(STRATEGIES); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


PLUGIN = '''"""Where the teacher is sure."""
from selbench import Signals, Tensor, min_max, register_strategy

@register_strategy("teacher_sure", version=1, needs=("teacher_entropy",), budget=0.1, source="none")
def teacher_sure(s: Signals) -> Tensor:
    """score = 1 - ĥ_T."""
    return 1 - min_max(s.teacher_entropy)
'''
SHORT = ["training.steps=2", "evaluation.problems=4", "evaluation.samples=2", "--seeds", "0", "--jobs", "2"]


@pytest.mark.slow
def test_plugin_from_an_empty_folder_and_corrupt_records(tmp_path: Path) -> None:
    """A contributor's file runs with no other edit; afterwards a torn record is named and the other cells are kept."""
    (tmp_path / "mine.py").write_text(PLUGIN)
    done = selbench("run", *SHORT, "--plugin", "mine.py", "--strategies", "teacher_sure,random", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {row["strategy"]: row for row in json.loads(done.stdout)["rows"]}
    assert rows["teacher_sure-v1@0.1"]["accuracy_percent"] is not None
    (root,) = (tmp_path / "runs").iterdir()

    again = selbench("run", *SHORT, "--plugin", "mine.py", "--strategies", "teacher_sure,random", "--json", cwd=tmp_path)
    assert json.loads(again.stdout) == json.loads(done.stdout)  # nothing was run again: even the seconds are the same

    before = (root / "leaderboard.md").read_bytes()
    assert selbench("table", str(root)).returncode == 0
    assert (root / "leaderboard.md").read_bytes() == before

    torn = root / "tiny" / "random-v1@0.1" / "seed0" / "eval" / "arithmetic" / "samples.parquet"
    torn.write_bytes(torn.read_bytes()[:100])
    table = selbench("table", str(root))
    assert table.returncode == 2
    assert "samples.parquet" in table.stderr
    assert "Traceback" not in table.stderr
    assert "teacher_sure-v1@0.1" in table.stdout
    (line,) = problems("run", *SHORT, "--plugin", "mine.py", "--strategies", "teacher_sure,random", cwd=tmp_path)
    assert str(torn.relative_to(tmp_path)) in line


@pytest.mark.slow
def test_a_new_file_in_strategies_needs_no_other_edit(tmp_path: Path) -> None:
    import shutil

    for folder in ("selbench", "strategies", "tasks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "strategies" / "teacher_sure.py").write_text(PLUGIN)
    done = selbench("run", *SHORT, "--strategies", "teacher_sure", "--json", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert any(row["strategy"] == "teacher_sure-v1@0.1" for row in json.loads(done.stdout)["rows"])
