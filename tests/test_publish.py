"""Publishing and verifying: a small real run, every kind of tampering found and named, nothing replaced by less than a whole folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from selbench import cli, leaderboard
from selbench.errors import ConfigError, RecordError
from selbench.publishing.layout import MANIFEST
from selbench.publishing.publish import publish
from selbench.publishing.verify import verify, verify_folder
from selbench.records import read_json, read_table, write_table
from selbench.report import figures
from tests.small_run import edit, rows_of, small_run
from tests.tampering import ANSWERS, CELL, TAMPERED, dirty_tree, forge, other_verdict_and_accuracy, summed


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two strategies, two seeds."""
    return small_run(tmp_path_factory.mktemp("runs"), ["full", "random"], [0, 1])


@pytest.fixture(scope="session")
def published(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(runs, tmp_path_factory.mktemp("results"), quiet=True).folder


@pytest.fixture
def copied(runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs, tmp_path / "runs" / runs.name))


@pytest.fixture
def results(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "results" / published.name))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publications without pictures, which are most of the time."""
    monkeypatch.setattr(figures, "draw_all", lambda folder: [])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_what_is_published(runs: Path, published: Path) -> None:
    before, names = contents(runs), set(contents(published))
    manifest = json.loads((published / MANIFEST).read_text())
    assert set(manifest["files"]) == names - {MANIFEST}
    assert not any(word in name for name in names for word in ("checkpoint", "log.txt", ".lock", "trained.json", "safetensors"))
    for name in ("plan.json", "leaderboard.tex", "figures/cost-tiny.svg", f"{CELL}/ledger.json", f"{CELL}/selection.parquet", ANSWERS):
        assert name in names
    assert (manifest["runs"], manifest["answers"], manifest["dirty"]) == (6, {read_table(published / ANSWERS)["grader"][0]: 72}, [])
    assert read_json(published / "plan.json")["command"] == "selbench run tiny -q"  # the folder was of that machine
    assert "/somewhere" not in (published / "leaderboard.md").read_text()
    assert (published / "leaderboard.csv").read_text() == leaderboard.render(leaderboard.collect(runs), "csv")
    assert contents(runs) == before


def test_a_published_folder_verifies(published: Path) -> None:
    report = verify_folder(published)
    assert report.problems == []
    assert [line.split()[0] for line in report.lines] == ["files", "records", "verdicts", "tables"]
    assert "6 of 6 runs, 72 answers" in report.lines[1]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_flipped_byte_is_found_and_its_file_named(published: Path, data: st.DataObject) -> None:
    path = published / data.draw(st.sampled_from(sorted(contents(published))))
    before = path.read_bytes()
    place, flip = data.draw(st.integers(0, len(before) - 1)), data.draw(st.integers(1, 255))
    path.write_bytes(before[:place] + bytes([before[place] ^ flip]) + before[place + 1 :])
    try:
        (problem,) = verify_folder(published, grade=False).problems
    finally:
        path.write_bytes(before)
    assert problem.startswith(f"{path.relative_to(published).as_posix()}: ")


def test_lost_and_foreign_files_are_named(results: Path) -> None:
    (results / "leaderboard.md").unlink()
    (results / CELL / "notes.txt").write_text("mine")
    (results / "figures" / "cost-tiny.svg").unlink()
    (results / "figures" / "cost-tiny.svg").symlink_to(results / "figures" / "cost-tiny.png")
    assert verify_folder(results).problems == [
        "leaderboard.md: in the manifest, but not there",
        "figures/cost-tiny.svg: a link or no regular file",
        f"{CELL}/notes.txt: not in the manifest",
    ]


@pytest.mark.parametrize("tamper", TAMPERED, ids=lambda tamper: tamper.__name__)
def test_publish_refuses_and_leaves_what_is_published(tamper: Callable[[Path], None], copied: Path, results: Path) -> None:
    before = contents(results.parent)
    tamper(copied)
    with pytest.raises((ConfigError, RecordError)) as refused:
        publish(copied, results.parent, quiet=True)
    assert any(TAMPERED[tamper][0] in problem for problem in refused.value.problems), refused.value.problems
    assert all("\n" not in problem for problem in refused.value.problems)
    assert contents(results.parent) == before


@pytest.mark.parametrize("tamper", TAMPERED, ids=lambda tamper: tamper.__name__)
def test_verify_finds_it_under_a_manifest_made_to_fit(tamper: Callable[[Path], None], results: Path) -> None:
    tamper(results)
    forge(results)
    found = verify_folder(results).problems
    assert any(TAMPERED[tamper][1] in problem for problem in found), found


def test_a_table_that_the_records_do_not_give(results: Path) -> None:
    table = results / "leaderboard.md"
    table.write_text(table.read_text().replace("| `random-v1@0.1` |", "| `randon-v1@0.1` |", 1))
    forge(results)
    (problem,) = verify_folder(results).problems
    assert problem.startswith("leaderboard.md: differs from line ")


def test_an_interrupted_publication_changes_nothing(runs: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(results.parent)

    def fail(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(figures, "draw_all", fail)
    with pytest.raises(KeyboardInterrupt):
        publish(runs, results.parent, quiet=True)
    assert contents(results.parent) == before
    monkeypatch.setattr(figures, "draw_all", lambda folder: [])
    (results / "stale.txt").write_text("of an earlier publication")
    publish(runs, results.parent, quiet=True)
    after = contents(results.parent)
    manifest = f"{results.name}/{MANIFEST}"
    assert after.pop(manifest) != before.pop(manifest)
    assert after == {name: content for name, content in before.items() if "/figures/" not in name}


@pytest.mark.usefixtures("undrawn")
def test_a_dirty_tree_is_marked_in_the_table(copied: Path, tmp_path: Path) -> None:
    dirty_tree(copied)
    folder = publish(copied, tmp_path / "out", allow_dirty=True, quiet=True).folder
    assert "**uncommitted code**" in (folder / "leaderboard.md").read_text()
    assert f"no commit holds the code of 1 runs, the first {CELL}" in (folder / "leaderboard.tex").read_text()
    assert read_json(folder / MANIFEST)["dirty"] == [CELL]
    assert verify_folder(folder).problems == []


@pytest.mark.usefixtures("undrawn")
def test_answers_of_an_older_grader_are_judged_again(copied: Path, tmp_path: Path) -> None:
    other_verdict_and_accuracy(copied)
    write_table(copied / ANSWERS, [row | {"grader": "selbench-sympy-1"} for row in rows_of(copied / ANSWERS)])
    edit((copied / ANSWERS).with_name("meta.json"), grader="selbench-sympy-1")
    before = contents(copied)
    done = publish(copied, tmp_path / "out", quiet=True)
    assert done.moved == 1
    assert set(read_table(done.folder / ANSWERS)["grader"]) == {
        read_table(copied / f"{CELL[:-1]}0/eval/arithmetic/samples.parquet")["grader"][0]
    }
    assert read_json((done.folder / ANSWERS).with_name("meta.json"))["accuracy"] == summed(rows_of(done.folder / ANSWERS))["accuracy"]
    assert verify_folder(done.folder).problems == []
    assert contents(copied) == before


def test_the_verbs(runs: Path, results: Path, tmp_path: Path) -> None:
    (results.parent / "notes").mkdir()
    run = CliRunner().invoke
    said = run(cli.app, ["verify", str(results.parent)])
    assert said.exit_code == 0, said.output
    assert f"{results.parent / 'notes'}: not verifiable: no manifest.json" in said.output
    assert "1 of 1 published folders verified" in said.output
    assert run(cli.app, ["verify", str(results.parent / "notes")]).exit_code == 1
    (results / "leaderboard.csv").write_text("better,better\n")
    said = run(cli.app, ["verify", str(results.parent)])
    assert said.exit_code == 1
    assert f"selbench: {results}: leaderboard.csv: changed" in said.output
    with pytest.raises(ConfigError, match="no such folder"):
        verify([tmp_path / "nowhere"])
    (tmp_path / "out" / runs.name).mkdir(parents=True)
    for folder, problem in ((runs, "holds no published protocol"), (tmp_path, "no plan.json there")):
        with pytest.raises(ConfigError, match=problem):
            publish(folder, tmp_path / "out", quiet=True)
