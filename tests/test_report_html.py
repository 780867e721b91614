"""The HTML report: its numbers against the records, worked apart; text that stays text; a page that needs nothing else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from selbench import leaderboard, records
from selbench.cli_report import report
from selbench.errors import ConfigError
from selbench.report import html, sections, tokens, viewer
from tests.test_cli import ROOT, selbench

PUBLISHED = ROOT / "results" / "tiny"
NASTY = "</script><img src=x onerror=alert(1)> <!-- & \u2028 'quoted' \"twice\""
LETTERS = dict(enumerate("0123456789+=,#", 21))


def told(folder: Path = PUBLISHED, rollouts: int = 200) -> pd.DataFrame:
    """Rows as `selbench.report.tokens` writes them, without a model: made-up texts and candidates for the tokens of the records."""
    plan = records.read_json(folder / "plan.json")
    bank = viewer.bank_of(folder, sections.groups_of(plan), plan["pairs"][0])
    frames = []
    for number, rows in enumerate(viewer.chosen(bank, rollouts, html.TOKENS)):
        n = len(rows)
        facts = {"problem": NASTY if number == 1 else f"problem {number}", "gold": "7", "finish": "stop", "extracted": str(number)}
        part = rows[[*viewer.KEY, "token", *viewer.STORED]].assign(**facts, verdict=("correct", "incorrect", "timeout")[number % 3])
        part["text"] = [LETTERS.get(int(token), "<b>") for token in rows["token"]]
        part = part.assign(compatibility_mass_16=0.5, teacher_entropy=0.25, student_logprob=-1.0, teacher_logprob=-2.0)
        for side in ("student", "teacher"):
            part[f"{side}_texts"], part[f"{side}_shares"] = [["<b>", " ", "\n", "1", "2"]] * n, [[0.5, 0.25, 0.125, 0.0625, 0.0001]] * n
        frames.append(part)
    return pd.concat(frames, ignore_index=True)


def data_of(page: str) -> Any:
    return json.loads(page.split('<script type="application/json" id="data">', 1)[1].split("</script>", 1)[0])


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    return html.collect(PUBLISHED, told())


def test_the_leaderboard_has_every_column_and_row_of_its_file(content: dict[str, Any]) -> None:
    rows = json.loads((PUBLISHED / "leaderboard.json").read_text(encoding="utf-8"))["rows"]
    assert [{name: row[name] for name in rows[0]} for row in content["table"]["rows"]] == rows
    columns = content["table"]["columns"]
    named = {column["name"] for column in columns} | {end for column in columns for end in column["ends"] or ()}
    assert named >= set(rows[0])
    (points,) = (column for column in columns if column["name"] == "vs_reference_points")
    assert points["ends"] == ["vs_reference_low_points", "vs_reference_high_points"]
    assert columns[0]["name"] == "strategy"


def test_columns_that_do_not_exist_yet_are_shown() -> None:
    board = leaderboard.collect(PUBLISHED)
    words = ["better", "worse", "equivalent", "undecided: one seed"] * 3
    table = board.table.assign(vs_reference_verdict=words[: len(board.table)], accuracy_low_percent=1.5, accuracy_high_percent=2.5)
    found = sections.table(replace(board, table=table))
    columns = {column["name"]: column for column in found["columns"]}
    assert columns["vs_reference_verdict"]["shown"]
    assert columns["vs_reference_verdict"]["kind"] == "text"
    assert columns["accuracy_percent"]["ends"] == ["accuracy_low_percent", "accuracy_high_percent"]
    assert found["rows"][1]["vs_reference_verdict"] == "worse"


def test_curves_are_trailing_means_over_the_seeds(content: dict[str, Any]) -> None:
    (learning,) = content["learning"]
    line = next(line for line in learning["lines"] if line["label"] == "entropy-v1@0.1")
    seeds = [records.read_metrics(PUBLISHED / f"tiny/entropy-v1@0.1/seed{seed}/metrics.jsonl") for seed in range(3)]
    for step in (1, 3, 56):
        window = [100 * np.mean([row["response_accuracy"] for row in rows[max(0, step - 5) : step]]) for rows in seeds]
        at = line["steps"].index(step)
        shown = [side[at] for side in line["values"]["response_accuracy"]]
        assert shown == pytest.approx([np.mean(window), min(window), max(window)], rel=1e-3)
    assert {level["label"] for level in learning["levels"]["response_accuracy"]} == {
        "student, evaluated on arithmetic", "teacher, evaluated on arithmetic",
    }  # fmt: skip


def test_overlap_is_that_of_the_kept_sets(content: dict[str, Any]) -> None:
    (overlap,) = content["overlap"]
    found = []
    for seed in range(3):
        sides = []
        for label in ("entropy-v1@0.1", "divergence-v1@0.1"):
            rows = pd.read_parquet(PUBLISHED / f"tiny/{label}/seed{seed}/tokens.parquet")
            rows = rows[(rows["step"] == 1) & rows["kept"]]
            sides.append(set(zip(rows["sample"], rows["position"], strict=True)))
        found.append(len(sides[0] & sides[1]) / len(sides[0] | sides[1]))
    i, j = (overlap["labels"].index(label) for label in ("entropy-v1@0.1", "divergence-v1@0.1"))
    assert overlap["jaccard"][i][j] == overlap["jaccard"][j][i] == pytest.approx(np.mean(found), rel=1e-3)
    assert all(overlap["jaccard"][k][k] == 1 for k in range(8))
    assert overlap["chance"][i][j] == pytest.approx(0.1 / 1.9, rel=0.02)
    assert overlap["apart"] == []


def test_a_run_that_met_other_rollouts_is_named_and_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(PUBLISHED, folder)
    path = folder / "tiny/random-v1@0.1/seed1/tokens.parquet"
    rows = records.read_table(path)
    rows.assign(token=rows["token"].where(rows.index != 3, 9)).to_parquet(path)
    overlap = html.collect(folder, told())["overlap"][0]
    assert overlap["apart"] == ["random-v1@0.1, seed 1"]
    at = overlap["labels"].index("random-v1@0.1")
    assert overlap["jaccard"][at][at] == 1  # of the two seeds that are left


def test_atlas_shares_and_costs_are_those_of_the_records(content: dict[str, Any]) -> None:
    (atlas,) = content["atlas"]
    assert len(atlas["panels"]) == 16
    assert len(atlas["clouds"]) == 9  # the first step is one cloud for all strategies
    panel = next(p for p in atlas["panels"] if p["label"] == "tip_q3-v1@0.1" and p["when"] == "last")
    rows = pd.read_parquet(PUBLISHED / "tiny/tip_q3-v1@0.1/seed0/tokens.parquet")
    rows = rows[rows["step"] == rows["step"].max()]
    right, up = (rows[name] >= rows[name].median() for name in ("student_entropy", "reverse_kl"))
    assert panel["shares"][2] == pytest.approx(100 * (rows["kept"] & ~right & up).sum() / rows["kept"].sum(), rel=1e-2)
    assert sum(panel["shares"]) == pytest.approx(100, abs=0.5)
    view = content["costs"][0]["views"][0]
    bar = next(bar for bar in view["bars"] if bar["label"] == "full-v1@1")
    seeds = [records.read_metrics(PUBLISHED / f"tiny/full-v1@1/seed{seed}/metrics.jsonl") for seed in range(3)]
    for phase, value in bar["parts"]:
        assert value == pytest.approx(np.mean([sum(row["seconds"].get(phase, 0) for row in rows) for rows in seeds]), rel=1e-3), phase
    assert [line["label"] for line in view["lines"]] == ["full-v1@1", "random-v1@0.1"]


def test_budget_curves_need_several_budgets(content: dict[str, Any]) -> None:
    assert content["budgets"] == []
    plan = records.read_json(PUBLISHED / "plan.json")
    extra = [cell | {"folder": cell["folder"].replace("entropy-v1@0.1", "entropy-v1@0.3")} for cell in plan["cells"]]
    rows = content["table"]["rows"]
    at_more = next(row for row in rows if row["strategy"] == "entropy-v1@0.1") | {
        "strategy": "entropy-v1@0.3", "kept_percent": 30.0, "accuracy_percent": 93.0, "teacher_seconds": 1.0, "score_seconds": 2.0,
        "select_seconds": 3.0, "distil_seconds": 4.0,
    }  # fmt: skip
    (found,) = sections.budgets([at_more, *rows], sections.groups_of(plan | {"cells": [*plan["cells"], *extra]}))
    (line,) = found["lines"]
    assert line["label"] == "entropy-v1"
    assert [point["kept"] for point in line["points"]] == [pytest.approx(10, abs=0.1), 30.0]
    assert line["points"][1]["seconds"] == 10
    assert found["whole"]["kept"] == 100


def test_the_viewer_shows_what_each_strategy_kept(content: dict[str, Any]) -> None:
    (view,) = content["viewer"]
    assert len(view["rollouts"]) == view["scored"] == 200
    assert view["gap"] == 0  # made up of the stored signals themselves
    assert sum(view["batches"][rollout["batch"]].endswith("every strategy") for rollout in view["rollouts"]) == 96
    for rollout in (view["rollouts"][0], view["rollouts"][-1]):
        batch = view["batches"][rollout["batch"]]
        seed = int(re.search(r"seed (\d)", batch)[1])  # type: ignore[index]
        for number, places in rollout["kept"].items():
            rows = pd.read_parquet(PUBLISHED / f"tiny/{view['labels'][number]}/seed{seed}/tokens.parquet")
            rows = rows[(rows["step"] == (1 if "every" in batch else 56)) & (rows["sample"] == rollout["sample"])]
            assert rows["token"].tolist() == rollout["token"]
            assert np.flatnonzero(rows["kept"]).tolist() == places
    assert list(view["rollouts"][-1]["kept"]) == [7]  # a last step is that of one strategy


def test_without_a_model_tokens_are_shown_by_their_ids() -> None:
    (view,) = html.collect(PUBLISHED, pd.DataFrame())["viewer"]
    first = view["rollouts"][0]
    assert view["scored"] == 0
    assert view["texts"][first["text"][0]] == f"#{first['token'][0]}"
    assert set(first["signals"]) == set(viewer.STORED)
    assert "problem" not in first


def test_what_is_told_of_other_tokens_is_not_believed() -> None:
    rows = told(rollouts=2)
    rows["token"] = rows["token"].where(rows.index != 0, rows["token"] + 1)
    (view,) = html.collect(PUBLISHED, rows)["viewer"]
    assert view["scored"] == 1
    assert "problem" not in view["rollouts"][0]


def test_model_text_stays_text(content: dict[str, Any]) -> None:
    page = html.render(content)
    assert data_of(page)["viewer"][0]["rollouts"][1]["problem"] == NASTY
    assert page.count("<script") == page.count("</script") == 2
    assert "<img" not in page
    assert "onerror" not in page.split('id="data">')[0]
    named = html.render(content | {"head": content["head"] | {"protocol": "<b>$data</b>"}})
    assert "<title>selbench: &lt;b&gt;$data&lt;/b&gt;</title>" in named


def test_the_page_needs_nothing_else(content: dict[str, Any]) -> None:
    page = html.render(content)
    assert len(page.encode()) < 5_000_000
    outside = page.split('id="data">')[0] + page.split("</script>")[1]
    assert re.findall(r"(?:src|href)=\"(?!#|data:,)[^\"]*\"|@import|url\(|https?://(?!www\.w3\.org/2000/svg)", outside) == []
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    assert "default-src 'none'" in policy[1]
    assert "unsafe" not in policy[1]


def test_same_content_same_bytes(content: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert html.render(content) == html.render(json.loads(json.dumps(content)))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    facts = dict(html.collect(PUBLISHED, told())["head"]["facts"])
    assert facts["page"].startswith("written 1970-01-02 00:00 UTC")
    commits = {json.loads(path.read_text())["code"]["commit"][:12] for path in PUBLISHED.rglob("passport.json")}
    assert facts["code of the runs"] == ", ".join(commits)


def test_an_unfinished_folder_has_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    shutil.copy(PUBLISHED / "plan.json", folder)
    report(folder, models=False)
    shown = data_of((folder / "report.html").read_text(encoding="utf-8"))
    assert shown["viewer"] == shown["learning"] == shown["costs"] == shown["atlas"] == []
    assert {row["status"] for row in shown["table"]["rows"]} == {"missing 1/1", "missing 3/3"}
    assert "wrote" in capsys.readouterr().out


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no plan\.json there"):
        report(tmp_path)
    with pytest.raises(ConfigError, match="create it first"):
        report(PUBLISHED, tmp_path / "nowhere" / "page.html")


def test_unreadable_records_are_named_on_the_page(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(PUBLISHED, folder)
    (folder / "tiny/random-v1@0.1/seed0/eval/arithmetic/samples.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(SystemExit) as stopped:
        report(folder, tmp_path / "page.html", models=False)
    assert stopped.value.code == 2
    assert any("samples.parquet" in problem for problem in data_of((tmp_path / "page.html").read_text(encoding="utf-8"))["problems"])


def test_the_page_needs_no_torch() -> None:
    heavy = "{'torch', 'transformers', 'matplotlib'}"
    code = f"import sys, selbench.report.html, selbench.report.tokens; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_models_read_the_run_s_own_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ["training.steps=2", "training.prompts_per_step=6", "evaluation.problems=4", "evaluation.samples=1"]
    done = selbench("run", *settings, "--strategies", "full,random@0.2,entropy@0.2", "--seeds", "0", "--executor", "inline", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()

    def tell(**more: Any) -> tokens.Told:
        return tokens.tell(folder, rollouts=9, tokens=10_000, device="cpu", **more)

    assert tell(models=False).rows.empty
    passport = folder / "tiny/entropy-v1@0.2/seed0/passport.json"
    before = passport.read_text(encoding="utf-8")
    passport.write_text(before.replace(json.loads(before)["models"]["teacher"]["sha256"], "f" * 64), encoding="utf-8")
    assert "the teacher here" in tell().missing[0]
    passport.write_text(before, encoding="utf-8")
    first = tell()
    assert first.missing == []
    content = html.collect(folder, first.rows, rollouts=9)
    (view,) = content["viewer"]
    assert (view["scored"], len(view["rollouts"])) == (9, 9)
    assert 0 <= view["gap"] < 1e-3  # nats, from the signals that the run stored
    shown = [rollout for rollout in view["rollouts"] if view["batches"][rollout["batch"]].startswith("step 1")]
    assert {rollout["verdict"] for rollout in shown} <= set(records.VERDICTS)
    share = records.read_metrics(folder / "tiny/full-v1@1/seed0/metrics.jsonl")[0]["response_accuracy"]
    assert np.mean([rollout["verdict"] == "correct" for rollout in shown]) == pytest.approx(share)
    one = shown[0]
    assert "".join(view["texts"][n] for n in one["text"]).endswith("<|end|>") == (one["finish"] == "stop")
    shares = first.rows["student_shares"].dropna()
    assert all(list(row) == sorted(row, reverse=True) and sum(row) <= 1.0001 for row in shares)
    assert set(first.rows[first.rows["strategy"] == ""]["student_texts"].map(len)) == {5}
    assert first.rows[first.rows["strategy"] != ""]["student_entropy"].isna().all()
    assert [view["name"] for view in content["costs"][0]["views"]][:2] == ["seconds", "FLOPs"]

    def fail(*arguments: Any) -> None:
        raise AssertionError("a model was asked again")

    monkeypatch.setattr(tokens, "_with_models", fail)
    pd.testing.assert_frame_equal(tell().rows, tell(models=False).rows)
