"""What the repository publishes is what its records say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selbench.bench import calibration_report, loop, rollout_report, select, step_report
from selbench.bench.grading import markdown
from selbench.eval_model import summary
from selbench.leaderboard import FORMATS, collect, render

ROOT = Path(__file__).parents[1]
PUBLISHED = sorted(path.parent for path in (ROOT / "results").glob("*/plan.json"))
MODELS = ROOT / "results" / "models"
MEASURED = [
    ("step", "step-152k", step_report.markdown), ("rivals", "step-152k-rivals", step_report.markdown),
    ("real", "step-real", step_report.markdown), ("select", "select", select.markdown), ("loop", "loop", loop.markdown),
    ("calibration", "calibration", calibration_report.markdown), ("rollout", "rollout-tiny", rollout_report.rates),
]  # fmt: skip


def shown(name: str) -> list[str]:
    """The lines of the README between the marks of that name."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return readme.split(f"<!-- {name} -->", 1)[1].split(f"<!-- /{name} -->", 1)[0].strip().splitlines()


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
@pytest.mark.parametrize("form", list(FORMATS))
def test_tables_are_regenerated_byte_for_byte(folder: Path, form: str) -> None:
    board = collect(folder)
    assert board.problems == []
    assert (folder / f"leaderboard.{FORMATS[form]}").read_text(encoding="utf-8") == render(board, form)


@pytest.mark.parametrize(("name", "folder"), [("leaderboard", "tiny"), ("agent", "tiny-agent")])
def test_the_readme_shows_the_published_leaderboards(name: str, folder: str) -> None:
    published = (ROOT / "results" / folder / "leaderboard.md").read_text(encoding="utf-8")
    assert shown(name) == [line for line in published.split("Cost in seconds")[0].splitlines() if line.startswith("|")]


def test_the_models_table_is_that_of_its_records() -> None:
    text = summary(MODELS)[1]
    assert (MODELS / "eval.md").read_text(encoding="utf-8") == text
    assert shown("models") == [line for line in text.splitlines() if line.startswith("|")]


def test_the_readme_shows_the_measured_graders() -> None:
    found = json.loads((ROOT / "results" / "bench" / "grading.json").read_text(encoding="utf-8"))
    assert shown("grading") == markdown(found).splitlines()


@pytest.mark.parametrize(("name", "file", "table"), MEASURED)
def test_the_readme_shows_what_was_measured(name: str, file: str, table: Callable[[dict[str, Any]], str]) -> None:
    found = json.loads((ROOT / "results" / "bench" / f"{file}.json").read_text(encoding="utf-8"))
    assert shown(name) == table(found).splitlines()


def test_published_records_come_from_clean_code() -> None:
    for folder in (*PUBLISHED, MODELS):
        for path in folder.rglob("passport.json"):
            code = json.loads(path.read_text(encoding="utf-8"))["code"]
            assert code["commit"], path
            assert code["dirty"] is False, path
