"""What the repository publishes is what its records say."""

from __future__ import annotations

from pathlib import Path

import pytest

from selbench.leaderboard import FORMATS, collect, render

ROOT = Path(__file__).parents[1]
PUBLISHED = sorted(path.parent for path in (ROOT / "results").glob("*/plan.json"))


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
@pytest.mark.parametrize("form", list(FORMATS))
def test_tables_are_regenerated_byte_for_byte(folder: Path, form: str) -> None:
    board = collect(folder)
    assert board.problems == []
    assert (folder / f"leaderboard.{FORMATS[form]}").read_text(encoding="utf-8") == render(board, form)


def test_the_readme_shows_the_published_leaderboard() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = readme.split("<!-- leaderboard -->", 1)[1].split("<!-- /leaderboard -->", 1)[0].strip()
    published = (ROOT / "results" / "tiny" / "leaderboard.md").read_text(encoding="utf-8")
    table = [line for line in published.split("Cost in seconds")[0].splitlines() if line.startswith("|")]
    assert shown.splitlines() == table


def test_published_records_come_from_clean_code() -> None:
    import json

    for folder in PUBLISHED:
        for path in folder.rglob("passport.json"):
            code = json.loads(path.read_text(encoding="utf-8"))["code"]
            assert code["commit"], path
            assert code["dirty"] is False, path
