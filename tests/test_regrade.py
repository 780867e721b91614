"""Stored outputs graded again: what is read, what is counted, which ranks flip, what is put back, what is refused."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selbench.errors import ConfigError, RecordError
from selbench.grading import GRADER, GRADERS, Grade, Verdict
from selbench.records import VERDICTS, read_json, read_table, write_table
from selbench.regrade import Record, compare, disagreements, read_outputs, regrade
from tests.test_cli import problems, selbench

TINY = Path(__file__).parents[1] / "results" / "tiny"
# gold, the same in another notation that string normalisation does not see through, something else
ANSWERS = [
    (r"\sqrt{8}", r"2\sqrt{2}", r"\sqrt{6}"),
    ("x+1", "1+x", "x-1"),
    (r"\frac{3}{4}", "0.75", r"\frac{4}{3}"),
    ("1000000", r"10^6", "100000"),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", r"\sqrt{2}"),
    ("27", r"3^3", "26"),
    (r"\frac{2}{3}", r"\frac{4}{6}", r"\frac{3}{2}"),
    ("11", "11", "12"),
]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def flipping(tmp_path: Path) -> list[Path]:
    """Two systems: one writes 7 of 8 answers right but its own way, the other 5 verbatim. One response was cut off."""

    def row(number: int, answer: str) -> dict[str, Any]:
        return {"id": f"p{number}", "response": f"So the answer is $\\boxed{{{answer}}}$.", "gold": ANSWERS[number][0], "finish": "stop"}

    own = [row(n, other) for n, (_, other, _) in enumerate(ANSWERS)]
    own[-1] |= {"response": "Let us see, first of all", "finish": "length"}
    copied = [row(n, gold if n < 5 else wrong) for n, (gold, _, wrong) in enumerate(ANSWERS)]
    return [jsonl(tmp_path / "own.jsonl", own), jsonl(tmp_path / "copied.jsonl", copied)]


def test_a_rank_that_flips_between_graders_is_found(flipping: list[Path], tmp_path: Path) -> None:
    content = regrade(flipping, graders=["sympy", "hendrycks", "exact"], output=tmp_path / "out", quiet=True).content
    scores = {entry["system"]: {name: entry["graders"][name]["accuracy"] for name in content["graders"]} for entry in content["systems"]}
    assert scores["own"]["sympy"] == 7 / 8
    assert scores["own"]["hendrycks"] < scores["copied"]["hendrycks"] == scores["copied"]["sympy"] == 5 / 8
    (ranks,) = content["ranks"]
    assert [entry["system"] for entry in ranks["order"]["sympy"]] == ["own", "copied"]
    assert [entry["system"] for entry in ranks["order"]["hendrycks"]] == ["copied", "own"]
    (change,) = ranks["changes"]
    assert change["systems"] == ["copied", "own"]
    assert change["kind"] == "reversed"
    assert change["difference"]["sympy"]["mean"] == -2 / 8
    assert change["difference"]["sympy"]["low"] <= -2 / 8 <= change["difference"]["sympy"]["high"]
    tau = {tuple(entry["graders"]): entry["tau"] for entry in ranks["tau"]}
    assert tau[("sympy", "hendrycks")] == -1
    assert tau[("hendrycks", "exact")] == 1


def test_what_could_not_be_judged_is_counted_apart(flipping: list[Path], tmp_path: Path) -> None:
    content = regrade(flipping, output=tmp_path / "out", quiet=True).content
    own = next(entry for entry in content["systems"] if entry["system"] == "own")
    assert set(own["graders"]) == set(GRADERS)
    for found in own["graders"].values():
        assert list(found["verdicts"]) == list(VERDICTS)
        assert sum(found["verdicts"].values()) == own["records"] == 8
        assert found["verdicts"]["truncated"] == 1


def test_every_disagreement_is_written_with_its_place(flipping: list[Path], tmp_path: Path) -> None:
    report = regrade(flipping, graders=["sympy", "exact"], output=tmp_path / "out", quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "out" / "disagreements.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines == report.disagreements
    assert len(lines) == report.content["disagreements"] == report.content["agreement"][0]["differ"] == 7
    for line in lines:
        source = Path(line["source"]).read_text(encoding="utf-8").splitlines()[line["row"] - 1]
        assert json.loads(source)["gold"] == line["gold"]
        assert line["verdicts"] == {"sympy": "correct", "exact": "incorrect"}
        assert line["extracted"]["sympy"] in json.loads(source)["response"]


def test_the_same_call_gives_the_same_bytes(flipping: list[Path], tmp_path: Path) -> None:
    first, second = (regrade(flipping, output=tmp_path / name, quiet=True).written for name in ("a", "b"))
    assert [path.name for path in first] == ["grades.json", "grades.md", "disagreements.jsonl"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_the_command_prints_what_it_writes(flipping: list[Path], tmp_path: Path) -> None:
    done = selbench("grade", *map(str, flipping), "--output", "out", "--graders", "sympy,exact", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == read_json(tmp_path / "out" / "grades.json")
    done = selbench("grade", *map(str, flipping), "--output", "out", "--graders", "sympy,exact", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "pairs: 1 reversed, 0 level" in done.stdout
    assert "87.5 [52.9, 97.8]" in done.stdout  # Wilson's interval of 7 in 8
    assert "own.jsonl row 1" in done.stdout


# Arithmetic on given verdicts


def records_of(systems: dict[str, int], *, samples: int = 1) -> list[Record]:
    return [
        Record("t", name, "", f"p{n}", k, "", "", False, Path(f"{name}.jsonl"), n * samples + k + 1, None)
        for name, count in systems.items() for n in range(count) for k in range(samples)
    ]  # fmt: skip


def verdicts(flags: list[bool]) -> list[Grade]:
    return [Grade("correct" if flag else "incorrect", None, "given", 0.0) for flag in flags]


def test_ties_are_ties() -> None:
    """Accuracies (1/2, 1/2, 0) and (1, 1/2, 1/2): one pair in order under both, one level under each: tau-b = 1/2 by hand."""
    records = records_of({"a": 2, "b": 2, "c": 2})
    grades = {"sympy": verdicts([True, False, True, False, False, False]), "exact": verdicts([True, True, True, False, True, False])}
    (ranks,) = compare(records, grades)["ranks"]
    assert [(entry["system"], entry["rank"]) for entry in ranks["order"]["sympy"]] == [("a", 1), ("b", 1), ("c", 3)]
    assert [(entry["system"], entry["rank"]) for entry in ranks["order"]["exact"]] == [("a", 1), ("b", 2), ("c", 2)]
    assert ranks["tau"][0]["tau"] == pytest.approx(0.5)
    assert {tuple(change["systems"]): change["kind"] for change in ranks["changes"]} == {("a", "b"): "tie", ("b", "c"): "tie"}


def test_different_problems_are_named_and_not_paired() -> None:
    records = records_of({"a": 3, "b": 4})
    grades = {"sympy": verdicts([True] * 3 + [False] * 4), "exact": verdicts([False] * 3 + [True] * 4)}
    content = compare(records, grades)
    assert content["notes"] == ["t: the systems did not answer the same problems; their ranks compare different questions"]
    assert content["ranks"][0]["changes"][0]["difference"]["sympy"] == {"mean": 1.0, "low": None, "high": None}
    assert content["ranks"][0]["tau"][0]["tau"] == pytest.approx(-1)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), count=st.integers(1, 5), samples=st.integers(1, 3))
def test_counts_add_up_whatever_the_verdicts(data: st.DataObject, count: int, samples: int) -> None:
    records = records_of({"a": count, "b": count, "c": count}, samples=samples)
    kinds = st.lists(st.sampled_from(get_args(Verdict)), min_size=len(records), max_size=len(records))
    grades = {name: [Grade(kind, None, "given", 0.0) for kind in data.draw(kinds)] for name in ("sympy", "exact")}
    content = compare(records, grades)
    for entry in content["systems"]:
        for found in entry["graders"].values():
            assert sum(found["verdicts"].values()) == entry["records"] == count * samples
            assert found["accuracy"] == found["verdicts"]["correct"] / entry["records"]
            assert 0 <= found["low"] <= found["accuracy"] + 1e-9
            assert found["accuracy"] <= found["high"] + 1e-9 <= 1 + 1e-9
    (pair,) = content["agreement"]
    assert pair["differ"] == pair["only_first"] + pair["only_second"] == len(disagreements(records, grades)) == content["disagreements"]
    order = np.random.default_rng(0).permutation(len(records))
    shuffled = compare([records[i] for i in order], {name: [found[i] for i in order] for name, found in grades.items()})
    assert {key: shuffled[key] for key in ("systems", "agreement", "ranks")} == {k: content[k] for k in ("systems", "agreement", "ranks")}


@settings(max_examples=20, deadline=None)
@given(flags=st.lists(st.booleans(), min_size=6, max_size=6))
def test_a_grader_agrees_with_itself(flags: list[bool]) -> None:
    content = compare(records_of({"a": 3, "b": 3}), {"sympy": verdicts(flags), "exact": verdicts(flags)})
    assert content["agreement"][0]["differ"] == content["disagreements"] == 0
    assert content["ranks"][0]["changes"] == []
    assert content["ranks"][0]["tau"][0]["tau"] in (None, pytest.approx(1.0))


def test_problems_with_more_samples_weigh_more() -> None:
    """Two samples of one problem right, the only one of the other wrong: 2/3 of the records, and an interval around that."""
    records = [*records_of({"a": 1}, samples=2), Record("t", "a", "", "p9", 0, "", "", False, Path("a.jsonl"), 9, None)]
    (entry,) = compare(records, {"sympy": verdicts([True, True, False])})["systems"]
    found = entry["graders"]["sympy"]
    assert found["accuracy"] == 2 / 3
    assert found["low"] < 2 / 3 < found["high"]


# What is read


def test_formats_of_a_plain_file_are_one(tmp_path: Path) -> None:
    rows = [{"id": f"q{n}", "response": f'"{n}", so\n\\boxed{{{n}}}', "answer": str(n), "truncated": n == 2} for n in range(3)]
    jsonl(tmp_path / "x.jsonl", rows)
    write_table(tmp_path / "x.parquet", rows)
    with (tmp_path / "x.csv").open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    read = [read_outputs([tmp_path / f"x.{form}"]) for form in ("jsonl", "parquet", "csv")]
    shown = [[(r.system, r.problem, r.sample, r.response, r.gold, r.truncated, r.row) for r in records] for records in read]
    assert shown[0] == shown[1] == shown[2] == [("x", f"q{n}", 0, rows[n]["response"], str(n), n == 2, n + 1) for n in range(3)]


def test_systems_tasks_and_samples_come_from_the_fields(tmp_path: Path) -> None:
    row = {"response": "1", "gold": 1, "problem": "1+0", "task": "sums"}
    path = jsonl(tmp_path / "x.jsonl", [row | {"model": "m", "strategy": s} for s in ("a", "a", "b")])
    found = read_outputs([path])
    assert [(r.task, r.system, r.problem, r.sample, r.gold) for r in found] == [
        ("sums", "m/a", "1+0", 0, "1"), ("sums", "m/a", "1+0", 1, "1"), ("sums", "m/b", "1+0", 0, "1"),
    ]  # fmt: skip


def test_files_of_one_name_stay_two_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        jsonl(tmp_path / name / "out.jsonl", [{"id": 1, "response": name, "gold": "1"}])
    assert [r.system for r in read_outputs([Path("a/out.jsonl"), Path("b/out.jsonl")])] == ["a/out", "b/out"]


def test_samples_logged_by_lm_eval(tmp_path: Path) -> None:
    """Written by lm-eval's own tracker: two filters give two lines a doc, repeats a list; U+2028 stays inside its string."""
    from lm_eval.loggers import EvaluationTracker

    tracker = EvaluationTracker(output_path=str(tmp_path))
    tracker.general_config_tracker.model_name_sanitized = "org__model"
    tracker.date_id = "2026-01-02T03-04-05.678901"
    base = {"arguments": [("question", {"until": []})], "metrics": ["acc"], "acc": 0.0}
    samples = [
        base
        | {"doc_id": n, "doc": {"question": "?"}, "target": gold, "filter": name, "resps": [[text, "no idea"]], "filtered_resps": [cut]}
        for name, cut in (("strict", "[invalid]"), ("flexible", "7"))
        for n, (gold, text) in enumerate([("steps #### 7", "line\u2028the answer is 7"), (8, "\\boxed{9}")])
    ]
    tracker.save_results_samples("gsm_task", samples)  # type: ignore[arg-type]
    found = read_outputs([tmp_path])
    assert [(r.task, r.system, r.problem, r.sample, r.response, r.gold, r.truncated) for r in found] == [
        ("gsm_task", "org__model", "0", 0, "line\u2028the answer is 7", "steps #### 7", None),
        ("gsm_task", "org__model", "0", 1, "no idea", "steps #### 7", None),
        ("gsm_task", "org__model", "1", 0, "\\boxed{9}", "8", None),
        ("gsm_task", "org__model", "1", 1, "no idea", "8", None),
    ]
    content = regrade([tmp_path], graders=["sympy"], output=tmp_path / "out", quiet=True).content
    assert content["systems"][0]["graders"]["sympy"]["verdicts"]["correct"] == 1
    assert "4 records do not say whether they were cut" in content["notes"][0]


# Run folders


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    """A copy of one published cell below its protocol's folder."""
    source = sorted(path for path in TINY.glob("*/*/seed0") if "eval" in {child.name for child in path.iterdir()})[0]
    copy = tmp_path / "runs" / source.relative_to(TINY.parent)
    shutil.copytree(source, copy)
    return copy


def digest(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_published_verdicts_stand_under_the_current_grader(tmp_path: Path) -> None:
    before = digest(TINY)
    content = regrade([TINY], graders=["sympy"], output=tmp_path / "out", quiet=True).content
    assert len(content["sources"]) == len(content["systems"]) == 26
    assert content["records"] == 26 * 800
    assert all(entry["moved"] == 0 for entry in content["stored"])
    for entry in content["systems"]:
        name = entry["system"]
        meta = read_json(next(TINY.glob(f"{name}/eval/*/meta.json")))
        assert entry["graders"]["sympy"]["accuracy"] == meta["accuracy"], name
    assert digest(TINY) == before


def test_seeds_of_a_strategy_are_one_system_on_demand(cell: Path) -> None:
    other = cell.with_name("seed1")
    shutil.copytree(cell, other)
    by_cell, by_strategy = (read_outputs([cell.parent], by=by) for by in ("cell", "strategy"))
    assert {r.system for r in by_cell} == {"/".join(folder.parts[-3:]) for folder in (cell, other)}
    assert {r.system for r in by_strategy} == {"/".join(cell.parts[-3:-1])}
    assert {r.run for r in by_strategy} == {"seed0", "seed1"}
    correct = [r.stored is not None and r.stored[0] == "correct" for r in by_strategy]
    (entry,) = compare(by_strategy, {"sympy": verdicts(correct)})["systems"]
    assert (entry["records"], entry["problems"], entry["runs"]) == (1600, 200, 2)
    assert entry["graders"]["sympy"]["accuracy"] == read_json(next(cell.glob("eval/*/meta.json")))["accuracy"]


def test_update_puts_right_what_an_old_grader_got_wrong(cell: Path) -> None:
    (place,) = cell.glob("eval/*/samples.parquet")
    good, meta = read_table(place), read_json(place.with_name("meta.json"))
    spoiled = good.to_dict("records")
    chosen = [n for n, row in enumerate(spoiled) if row["verdict"] == "correct"][:3]
    for n in chosen:
        spoiled[n] |= {"verdict": "incorrect", "extracted": None, "grader": "selbench-sympy-0"}
    write_table(place, spoiled)  # type: ignore[arg-type]
    spoiled_bytes = place.read_bytes()

    seen = regrade([cell], graders=["sympy"], quiet=True).content
    assert place.read_bytes() == spoiled_bytes
    assert {entry["grader"]: entry["moved"] for entry in seen["stored"]}["selbench-sympy-0"] == 3
    assert any(note.startswith("3 records were graded with selbench-sympy-0") for note in seen["notes"])

    (change,) = regrade([cell], graders=["sympy"], rewrite=True, quiet=True).content["update"]
    assert (change["records"], change["moved"]) == (800, 3)
    assert change["accuracy_after"] - change["accuracy_before"] == pytest.approx(3 / 800)
    after = read_table(place)
    assert list(after.columns) == list(good.columns)
    assert after.drop(columns=["grader", "method"]).equals(good.drop(columns=["grader", "method"]))
    assert set(after["grader"]) == {GRADER}
    now = read_json(place.with_name("meta.json"))
    assert now == meta | {"grader": GRADER, "accuracy": meta["accuracy"]}

    settled = digest(cell / "eval")
    (again,) = regrade([cell], graders=["sympy"], rewrite=True, quiet=True).content["update"]
    assert again["moved"] == 0
    assert digest(cell / "eval") == settled


# What is refused


GOOD = {"id": 1, "response": "1", "gold": "1"}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], "x.jsonl: no records in it"),
        (["{"], "x.jsonl row 1: not JSON"),
        (["[1]"], "row 1: a JSON list where an object"),
        (
            [json.dumps(GOOD), json.dumps({"id": 2, "gold": "1", "text": "1"})],
            "row 2: no response; needed are response and gold (or answer)",
        ),
        ([json.dumps(GOOD | {"gold": " "})], "row 1: no gold or answer"),
        ([json.dumps(GOOD | {"gold": None})], "row 1: no gold or answer"),
        ([json.dumps(GOOD | {"gold": ["1"]})], "row 1: gold is a list, not text"),
        ([json.dumps(GOOD | {"response": 1})], "row 1: response is a int, not text"),
        ([json.dumps(GOOD | {"truncated": "maybe"})], "truncated is 'maybe'; true or false"),
        ([json.dumps(GOOD | {"sample": "first"})], "sample is 'first', not a number"),
        ([json.dumps(GOOD | {"sample": 0})] * 2, "sample 0 of x stands in"),
        ([json.dumps({"doc_id": 0, "doc": {}, "target": 1, "resps": [[["-1.0", "False"]]]})], "no generated text in resps"),
        ([json.dumps({"doc_id": 0, "doc": {}, "target": "1", "resps": [[r]]}) for r in ("1", "2")], "doc 0 has other responses further up"),
    ],
)
def test_bad_rows_are_named(lines: list[str], expected: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        regrade([path], quiet=True)
    (line,) = caught.value.problems
    assert expected in line
    assert "\n" not in line
    assert list(tmp_path.iterdir()) == [path]


def test_bad_files_are_named(tmp_path: Path, cell: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", [GOOD])
    with pytest.raises(ConfigError, match=r"no such file or folder; did you mean .*x\.jsonl\?"):
        read_outputs([tmp_path / "x.json"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"no samples\.parquet or samples_"):
        read_outputs([tmp_path / "empty"])
    (tmp_path / "x.txt").touch()
    with pytest.raises(ConfigError, match=r"not a \.parquet, \.jsonl or \.csv file"):
        read_outputs([tmp_path / "x.txt"])
    with pytest.raises(ConfigError, match="given twice"):
        read_outputs([path, tmp_path / "empty" / ".." / "x.jsonl"])
    (tmp_path / "x.csv").write_bytes(b"response,gold\n\xff,1\n")
    with pytest.raises(ConfigError, match="not readable as csv in UTF-8"):
        read_outputs([tmp_path / "x.csv"])
    (tmp_path / "short.csv").write_text("response,gold\n1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="row 1: no gold or answer"):
        read_outputs([tmp_path / "short.csv"])
    next(cell.glob("eval/*/samples.parquet")).write_bytes(b"PAR1")
    with pytest.raises(RecordError, match="not readable as Parquet"):
        read_outputs([cell])


def test_bad_settings_are_named_before_anything_is_graded(tmp_path: Path, cell: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", [GOOD])
    for problem, arguments in {
        "unknown grader 'simpy': did you mean sympy?": {"graders": ["simpy"]},
        "--graders: none given": {"graders": []},
        "--timeout 0: not more than 0 seconds": {"timeout": 0.0},
        "--by 'seed': cell or strategy": {"by": "seed"},
        "--update rewrites the samples.parquet of evaluations": {"rewrite": True},
        "x.jsonl: cannot be made": {"output": path},
    }.items():
        with pytest.raises(ConfigError) as caught:
            regrade([path], quiet=True, **arguments)  # type: ignore[arg-type]
        assert problem in caught.value.problems[0]
    with pytest.raises(ConfigError, match="--update writes the verdicts of the sympy grader"):
        regrade([cell], graders=["exact"], rewrite=True, quiet=True)
    held = jsonl(tmp_path / "disagreements.jsonl", [GOOD])
    with pytest.raises(ConfigError, match="would be overwritten"):
        regrade([held], quiet=True)


def test_the_command_refuses_in_one_line(tmp_path: Path) -> None:
    jsonl(tmp_path / "x.jsonl", [GOOD])
    (line,) = problems("grade", "x.jsonl", "--graders", "sympy,hendriks", cwd=tmp_path)
    assert line == "--graders: unknown grader 'hendriks': did you mean hendrycks?"
    (line,) = problems("grade", "y.jsonl", cwd=tmp_path)
    assert line == "y.jsonl: no such file or folder; did you mean x.jsonl?"
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]
