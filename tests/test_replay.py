"""A cell run again: equal to the last bit, equal as far as the answers tell, or different, and where first."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from selbench import cli, executors
from selbench.errors import ConfigError, UserError
from selbench.executors import run_inline
from selbench.publishing.replay import find_cell, replay
from selbench.records import read_json, read_metrics, write_json, write_table
from selbench.sweep import Job
from tests.small_run import edit, rows_of, small_run

CELL = "tiny/random-v1@0.1/seed1"
SAMPLES = "eval/arithmetic/samples.parquet"
OUTCOMES = ("tokens", "signals", "metrics", "selection", "final weights", "answers, arithmetic")


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("runs"), ["random"], [1], only=CELL)


@pytest.fixture(scope="session")
def second(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cell run once more, for real."""
    place = tmp_path_factory.mktemp("again")

    def run(job: Job, below: Path, threads: int | None) -> None:
        assert threads == 1
        assert run_inline([job], below, "cpu", lambda running: None) == []

    found = replay(root / CELL, place, run)
    assert found.word == "bit-equal"
    assert {level.name: level.same for level in found.levels if level.name in OUTCOMES} == dict.fromkeys(OUTCOMES, True)
    assert found.first is not None
    assert found.first.name == "code"  # the fixture's commit is made up: named, but no other result
    return place / CELL


@pytest.fixture
def first(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(root / CELL, tmp_path / CELL))


def same_code(folder: Path, second: Path) -> None:
    edit(folder / "passport.json", code=read_json(second / "passport.json")["code"])


def other_token(folder: Path) -> None:
    rows = rows_of(folder / "tokens.parquet")
    rows[3]["token"] += 1
    write_table(folder / "tokens.parquet", rows)


def other_signal(folder: Path) -> None:
    rows = rows_of(folder / "tokens.parquet")
    rows[-1]["student_entropy"] += 1e-7
    write_table(folder / "tokens.parquet", rows)


def other_loss(folder: Path) -> None:
    steps = read_metrics(folder / "metrics.jsonl")
    steps[1]["loss"] += 1e-12
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in steps))


def one_verdict(folder: Path) -> None:
    rows = rows_of(folder / SAMPLES)
    write_table(folder / SAMPLES, [rows[0] | {"verdict": "timeout"}, *rows[1:]])


def all_verdicts(folder: Path) -> None:
    write_table(folder / SAMPLES, [row | {"verdict": "timeout"} for row in rows_of(folder / SAMPLES)])


def lost_answers(folder: Path) -> None:
    write_table(folder / SAMPLES, rows_of(folder / SAMPLES)[:-1])


def other_final_weights(folder: Path) -> None:
    path = folder / "checkpoint" / "final" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")


def other_torch(folder: Path) -> None:
    edit(folder / "passport.json", packages=read_json(folder / "passport.json")["packages"] | {"torch": "1.0"})


def other_weights(folder: Path) -> None:
    models = read_json(folder / "passport.json")["models"]
    edit(folder / "passport.json", models=models | {"teacher": models["teacher"] | {"sha256": "e" * 64}})


def other_data(folder: Path) -> None:
    edit(folder / "passport.json", training_prompts=read_json(folder / "passport.json")["training_prompts"] | {"sha256": "e" * 64})


def other_prompt(folder: Path) -> None:
    edit(folder / "passport.json", rendered_example="1+1?")


EQUAL, LIKELY, DIFFERENT = "bit-equal", "statistically equal", "different"
ALTERED: dict[Callable[[Path], None], tuple[str, str, str]] = {  # what is said, and of what first
    other_torch: (EQUAL, "packages", "torch 1.0, now "),
    other_token: (LIKELY, "tokens", "step 1, sample 0, position "),
    other_signal: (LIKELY, "signals", "step 2, sample "),
    other_loss: (LIKELY, "metrics", "step 2, loss "),
    other_final_weights: (LIKELY, "final weights", ""),
    one_verdict: (LIKELY, "answers, arithmetic", "sample 0, verdict timeout, now correct"),
    all_verdicts: (DIFFERENT, "answers, arithmetic", "sample 0, verdict timeout, now correct"),
    lost_answers: (DIFFERENT, "answers, arithmetic", "11 rows, now 12"),
    other_weights: (DIFFERENT, "weights", "teacher eeeeeeeeeeee, now "),
    other_data: (DIFFERENT, "data", "training prompts eeeeeeeeeeee, now "),
    other_prompt: (DIFFERENT, "prompts", "rendered_example 1+1?, now "),
}


@pytest.mark.parametrize("alter", ALTERED, ids=lambda alter: alter.__name__)
def test_the_first_difference_is_named(alter: Callable[[Path], None], first: Path, second: Path, tmp_path: Path) -> None:
    same_code(first, second)
    alter(first)

    def run(job: Job, below: Path, threads: int | None) -> None:
        """The second execution again, all its answers right: six problems that all turn are told apart (2 / 2^6)."""
        shutil.copytree(second, below / job.folder, dirs_exist_ok=True)
        write_table(below / job.folder / SAMPLES, [row | {"verdict": "correct"} for row in rows_of(second / SAMPLES)])

    if alter is not all_verdicts and alter is not one_verdict and alter is not lost_answers:
        write_table(first / SAMPLES, [row | {"verdict": "correct"} for row in rows_of(first / SAMPLES)])
    elif alter is not all_verdicts:
        write_table(first / SAMPLES, [row | {"verdict": "correct"} for row in rows_of(second / SAMPLES)])
        alter(first)
    found = replay(first, tmp_path / "again", run)
    word, name, detail = ALTERED[alter]
    assert found.first is not None
    assert (found.word, found.first.name) == (word, name)
    assert detail in found.first.detail
    if alter is all_verdicts:
        (test,) = found.tests
        assert (test.problems, test.points) == (6, 100)
        assert test.p == pytest.approx(2 / 2**6)
    if alter is one_verdict:
        (test,) = found.tests
        assert test.points == pytest.approx(100 / 12)
        assert test.p == 1


def never(job: Job, below: Path, threads: int | None) -> None:
    raise AssertionError("there is nothing to repeat")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"budget": 0.2}, "are not those that DONE was written for"),
        ({"seed": 7}, "seed 7 in config.yaml, 1 in passport.json"),
        ({"version": 9}, "random is version 1 here, the cell is of version 9"),
        ({"protocol": {"training": {"learning_rate": 0.5}}}, "the protocol in config.yaml is "),
    ],
)
def test_edited_settings_are_not_run(change: dict[str, object], said: str, first: Path, tmp_path: Path) -> None:
    content = yaml.safe_load((first / "config.yaml").read_text())
    if isinstance(inner := change.get("protocol"), dict):
        content["protocol"]["training"] |= inner["training"]
    else:
        content |= change
    (first / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    found = replay(first, tmp_path / "again", never)
    assert (found.word, found.levels) == (DIFFERENT, [found.first])
    assert found.first is not None
    assert said in found.first.detail


def test_what_cannot_be_replayed_is_one_line_each(first: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no passport.json, config.yaml, DONE there"):
        find_cell(tmp_path)
    with pytest.raises(UserError, match="could not be run again: out of disk"):
        replay(first, tmp_path / "a", lambda job, below, threads: write_json(below / job.folder / "FAILED.json", {"error": "out of disk"}))
    with pytest.raises(ConfigError, match="is there already; choose another --output"):
        replay(first, tmp_path / "a", never)
    (first / "config.yaml").write_text("strategy: random\ncolour: red\n")
    with pytest.raises(ConfigError) as refused:
        replay(first, tmp_path / "b", never)
    assert any("unknown key 'colour'" in problem for problem in refused.value.problems)


def test_the_verb(first: Path, second: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def again(jobs: list[Job], below: Path, *rest: object, threads: int | None = None) -> list[Job]:
        shutil.copytree(second, below / jobs[0].folder, dirs_exist_ok=True)
        return []

    monkeypatch.setattr(executors, "run_jobs", again)
    said = CliRunner().invoke(cli.app, ["replay", str(first / "passport.json"), "--quiet", "--device", "cpu"])
    assert said.exit_code == 0, said.output
    assert f"{first}: bit-equal; though there are differences in code" in said.output
    other_weights(first)
    said = CliRunner().invoke(cli.app, ["replay", str(first), "--json", "--device", "cpu"])
    assert said.exit_code == 1
    assert json.loads(said.stdout)["word"] == "different"
