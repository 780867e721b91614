"""`selbench eval` end to end: records, screen, what is refused, and the prompt that really goes to the engine."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from selbench import cli, eval_model, models
from selbench.config import Evaluation
from selbench.evaluate import evaluate_task
from selbench.grading import GRADER, grade
from selbench.lm import cut
from selbench.models import Renderer, load_renderer
from selbench.records import SAMPLE_COLUMNS, read_json, read_table, write_json, write_table
from selbench.rollout import Progress, Rollouts, Sampling, numbers
from selbench.task import MIRROR, TASKS, row_hash
from selbench.templates import template_text

ROOT = Path(__file__).parents[1]
TINY = str(ROOT / "selbench" / "tiny" / "student")
TEACHER = str(ROOT / "selbench" / "tiny" / "teacher")
PLAIN = ["--tasks", "arithmetic", "--prompt", "{problem}", "--temperature", "1", "--top-p", "1", "--top-k", "0", "--device", "cpu"]
SHORT = [*PLAIN, "--max-tokens", "56", "-n", "12", "--quiet"]
Command = Callable[..., str]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`selbench eval` in this process; gives what it printed."""

    def run(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["selbench", "eval", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert not stopped.value.code, capsys.readouterr().err
        return capsys.readouterr().out

    return run


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`selbench eval` that ends with exit code 2; gives its one line."""

    def run(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["selbench", "eval", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        shown = capsys.readouterr()
        assert stopped.value.code == 2, shown.err
        assert shown.out == ""
        (line,) = shown.err.splitlines()
        assert line.startswith("selbench: ")
        return line.removeprefix("selbench: ")

    return run


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny student on 12 problems, 4 samples each, by the command as a user runs it: a process of its own."""
    folder = tmp_path_factory.mktemp("eval") / "tiny"
    run = [sys.executable, "-m", "selbench", "eval", TINY, *[word for word in SHORT if word != "--quiet"], "-o", str(folder)]
    done = subprocess.run(run, env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for noise in ("Loading weights", "Custom kwargs", "it/s"):
        assert noise not in done.stderr
    (folder.parent / "screen.txt").write_text(done.stdout)
    return folder


def samples_of(folder: Path, task: str = "arithmetic") -> pd.DataFrame:
    return read_table(folder / "eval" / task / "samples.parquet")


def no_model(*arguments: Any, **options: Any) -> None:
    raise AssertionError("a model was loaded")


def test_records(evaluated: Path) -> None:
    table, rows = samples_of(evaluated), TASKS.get("arithmetic").load()[:12]
    assert tuple(table.columns) == SAMPLE_COLUMNS
    assert len(table) == 12 * 4
    assert list(table["problem"]) == [row["id"] for row in rows for _ in range(4)]
    assert list(table["sample"]) == [0, 1, 2, 3] * 12
    assert list(table["gold"]) == [row["answer"] for row in rows for _ in range(4)]
    assert set(table["finish"]) <= {"stop", "length"}
    assert table["tokens"].between(1, 56).all()
    assert set(table["grader"]) == {GRADER}
    assert table.groupby("problem")["response"].nunique().max() > 1, "samples of a problem differ"
    columns = zip(table["response"], table["gold"], table["finish"], strict=True)
    again = [grade(response, gold, truncated=finish == "length") for response, gold, finish in columns]
    assert [(judged.verdict, judged.extracted) for judged in again] == list(zip(table["verdict"], table["extracted"], strict=True))


def test_meta_and_passport(evaluated: Path) -> None:
    meta, table = read_json(evaluated / "eval" / "arithmetic" / "meta.json"), samples_of(evaluated)
    assert (meta["task"], meta["version"], meta["engine"]) == ("arithmetic", TASKS.get("arithmetic").version, "hf")
    assert (meta["problems"], meta["samples"], meta["seed"]) == (12, 4, 0)
    assert (meta["template"], meta["thinking"], meta["origin"]) == ("{problem}", None, None)
    assert meta["settings"]["max_tokens"] == 56
    assert meta["rows_sha256"] == row_hash(TASKS.get("arithmetic").load())
    assert meta["accuracy"] == pytest.approx((table["verdict"] == "correct").mean()) == pytest.approx(meta["lm_eval_acc"])
    assert meta["tokens"] == table["tokens"].sum()
    assert meta["tokens_per_second"] == pytest.approx(meta["tokens"] / meta["generation_seconds"])
    passport = read_json(evaluated / "passport.json")
    assert passport["models"]["student"]["source"] == "selbench/tiny/student"
    assert len(passport["models"]["student"]["sha256"]) == 64
    assert passport["prompt_sha256"] == meta["prompt_sha256"]
    assert "1+1" in passport["rendered_example"]
    assert (evaluated / "config.yaml").is_file()


def test_the_summary_is_written_and_recomputed(evaluated: Path, command: Command) -> None:
    before = (evaluated / "eval.md").read_text(), (evaluated / "eval.json").read_text()
    row = json.loads(command("--table", evaluated, "--json"))["rows"][0]
    assert ((evaluated / "eval.md").read_text(), (evaluated / "eval.json").read_text()) == before
    assert row["accuracy"] == pytest.approx((samples_of(evaluated)["verdict"] == "correct").mean())
    assert sum(row["verdicts"].values()) == 48
    assert f"| arithmetic | 12 x 4 | {100 * row['accuracy']:.1f} [" in before[0]


def test_the_screen(evaluated: Path) -> None:
    shown = (evaluated.parent / "screen.txt").read_text()
    assert "selbench/tiny/student, on" in shown
    assert "CPU cores" in shown
    for word in ("task", "n x k", "accuracy", "pass@k", "maj@k", "trun-", "unread-", "tok/s", "arithmetic", "12 x 4", "next:"):
        assert word in shown
    assert "…" not in shown


def test_tasks_of_a_pool_have_a_row_together(evaluated: Path, tmp_path: Path) -> None:
    """AIME 2024 and 2025 stand for themselves and as the union of their problems, which is what is published of them."""
    home = tmp_path / "model"
    shutil.copytree(evaluated, home)
    for task, problems in {"aime24": 12, "aime25": 4}.items():
        place = home / "eval" / task
        shutil.copytree(evaluated / "eval" / "arithmetic", place)
        names = samples_of(evaluated)["problem"].unique()[:problems]
        part = samples_of(evaluated).query("problem in @names", local_dict={"names": names})
        records: list[dict[str, Any]] = part.assign(task=task).to_dict("records")  # type: ignore[assignment]
        write_table(place / "samples.parquet", records, SAMPLE_COLUMNS)
        write_json(place / "meta.json", {**read_json(place / "meta.json"), "task": task, "tokens": 100, "generation_seconds": problems / 4})
    (table,), markdown, rows = eval_model.summary(tmp_path)
    by_task = {row["task"]: row for row in rows}
    assert list(by_task) == ["aime24", "aime25", "arithmetic", "aime"]
    one, two, both = (by_task[name] for name in ("aime24", "aime25", "aime"))
    assert (both["problems"], both["samples"]) == (16, 4), "problems of two tasks under one name stay two"
    assert both["accuracy"] == pytest.approx((12 * one["accuracy"] + 4 * two["accuracy"]) / 16)
    assert both["low"] < both["accuracy"] < both["high"]
    assert both["tokens_per_second"] == 200 / 4
    assert "aime is aime24 and aime25 together" in markdown
    assert "aime is aime24 and aime25 together" in str(table.caption)
    write_json(place / "meta.json", {**read_json(place / "meta.json"), "template": "another {problem}"})
    assert "aime" not in [row["task"] for row in eval_model.summary(tmp_path)[2]], "answers under other settings are not pooled"


def test_80_columns_are_enough(evaluated: Path, tmp_path: Path) -> None:
    """The longest names and numbers that a table is likely to hold; nothing is cut off, and names are texts, not markup."""
    counts = {"arithmetic": 1, "deepplanning": 12}
    for model in ("very-long-organisation-name/Some-Model-2.5-Instruct-4bit-q4_k_m-and-more", "[red]a|b[/red]"):
        home = tmp_path / model
        for name, count in counts.items():
            place = home / "eval" / name
            shutil.copytree(evaluated / "eval" / "arithmetic", place)
            table = pd.concat([samples_of(evaluated).assign(verdict="correct", extracted="1")] * count)
            table["problem"] = [str(n // 4) for n in range(len(table))]
            table.to_parquet(place / "samples.parquet")
            meta = read_json(place / "meta.json")
            (place / "meta.json").write_text(json.dumps({**meta, "task": name, "tokens_per_second": 12345.6}))
    tables, markdown, rows = eval_model.summary(tmp_path)
    assert len(tables) == 2
    assert len(rows) == 4
    console = Console(width=80, file=io.StringIO(), legacy_windows=False)
    for shown_table in tables:
        console.print(shown_table)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    assert "[red]a|b[/red], on" in shown
    for cell in ("deepplanning", "144 x 4", "100.0 [97.4, 100.0]", "12346"):
        assert cell in shown, shown
    body = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in body} == {12}
    assert "| [red]a\\|b[/red] | deepplanning | 144 x 4 |" in markdown


def test_columns_of_several_samples_are_left_out_where_there_is_one(evaluated: Path, tmp_path: Path) -> None:
    place = tmp_path / "eval" / "arithmetic"
    shutil.copytree(evaluated / "eval" / "arithmetic", place)
    table = samples_of(evaluated)
    table[table["sample"] == 0].to_parquet(place / "samples.parquet")
    (shown,), markdown, _ = eval_model.summary(tmp_path)
    assert not {"pass@k", "maj@k"} & {str(column.header) for column in shown.columns}
    assert "pass@k" in markdown
    table[table["sample"] < 3].to_parquet(place / "samples.parquet")
    (shown,), markdown, _ = eval_model.summary(tmp_path)
    assert {"pass@k", "maj@k"} <= {str(column.header) for column in shown.columns}
    assert "(k=2)" in markdown, "pass@k is estimated at powers of two; another number of samples is named"


def test_the_second_call_does_nothing(evaluated: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "load_model", no_model)
    kept = [evaluated / "passport.json", *(evaluated / "eval" / "arithmetic").iterdir()]
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert {path.name for path in kept} == {"meta.json", "samples.parquet", "passport.json"}
    assert "arithmetic" in command(TINY, *SHORT, "-o", evaluated)
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("other", [["--seed", "1"], ["--max-tokens", "57"], ["-k", "2"], ["--stop", "="], ["--prompt", "boxed-qwen"]])
def test_other_settings_are_refused(other: list[str], evaluated: Path, refused: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "load_model", no_model)
    line = refused(TINY, *SHORT, *other, "-o", evaluated)
    assert "holds records of other settings" in line
    assert "choose another --output" in line


def test_other_weights_of_the_same_name_are_refused(tmp_path: Path, command: Command, refused: Command) -> None:
    words = [*SHORT[:-3], "-n", "2", "-q", "--name", "mine", "-o", tmp_path]
    command(TINY, *words)
    assert read_json(tmp_path / "passport.json")["models"]["student"]["source"] == "mine"
    assert "holds records of other weights" in refused(TEACHER, *words)
    command(TINY, *words)


def test_greedy_gives_one_sample(tmp_path: Path, command: Command) -> None:
    shown = command(TINY, *SHORT, "--greedy", "-o", tmp_path / "one")
    command(TINY, *SHORT, "--greedy", "--seed", "7", "-o", tmp_path / "two")
    one, two = samples_of(tmp_path / "one"), samples_of(tmp_path / "two")
    assert len(one) == one["problem"].nunique() == 12
    assert list(one["response"]) == list(two["response"]), "no seed moves a greedy answer"
    assert "pass@k" not in shown


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([TINY, *SHORT, "-k", "0"], "samples = 0"),
        ([TINY, *SHORT, "-n", "0"], "problems = 0"),
        ([TINY, *SHORT, "--top-p", "0"], "top_p = 0"),
        ([TINY, *SHORT, "--greedy", "-k", "4"], "samples = 4 at temperature 0 would be 4 times the same answer; use samples=1"),
        ([TINY, *SHORT, "--dtype", "float23"], "dtype = 'float23'"),
        ([TINY, *SHORT, "--tasks", "arithmetik"], "unknown task 'arithmetik': did you mean arithmetic"),
        ([TINY, *SHORT, "--prompt", "boxd-qwen"], "prompt = 'boxd-qwen': no template of that name; did you mean boxed-qwen"),
        ([TINY, "--tasks", ","], "name the tasks with --tasks"),
        (["./nowhere", *SHORT], "'./nowhere': no such folder"),
        ([TINY, *SHORT, "--thinking"], "does not know enable_thinking"),
        ([".", "--table"], "no evaluation below it"),
    ],
)
def test_slips_are_one_line_each(
    words: list[str], says: str, refused: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert says in refused(*words)
    assert not list(tmp_path.rglob("*")), "nothing is left behind"


def test_several_slips_are_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--tasks", "arithmetik,arithmetic", "-k", "0", "--prompt", "boxd-qwen", "-o", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["selbench", "eval", TINY, *words])
    with pytest.raises(SystemExit):
        cli.main()
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_stop_strings_end_a_response(tmp_path: Path, evaluated: Path, command: Command) -> None:
    """The same samples as without them, each cut before the first stop string."""
    command(TINY, *SHORT, "--stop", ",", "--stop", "#", "-o", tmp_path)
    stopped, whole = samples_of(tmp_path), samples_of(evaluated)
    assert any("," in text for text in whole["response"])
    assert list(stopped["response"]) == [text.split(",")[0].split("#")[0] for text in whole["response"]]
    ended = [text != full for text, full in zip(stopped["response"], whole["response"], strict=True)]
    assert all(finish == "stop" for finish, early in zip(stopped["finish"], ended, strict=True) if early)
    assert list(stopped["tokens"]) == list(whole["tokens"]), "tokens are what was generated"


def test_cut() -> None:
    assert cut("a<b>c", ["<b>", "a<"]) == ""
    assert cut("a<b>c<b>", "<b>") == "a"
    assert cut("abc", ["x", "y"]) == "abc"
    assert cut("abc", []) == "abc"


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every prompt that goes to the engine, as text."""
    seen: list[str] = []
    encode = Renderer.encode_text

    def record(self: Renderer, rendered: str) -> list[int]:
        seen.append(rendered)
        return encode(self, rendered)

    monkeypatch.setattr(Renderer, "encode_text", record)
    return seen


def test_the_prompt_is_template_and_problem_once(tmp_path: Path, command: Command, prompts: list[str]) -> None:
    command(TINY, *SHORT, "--prompt", "boxed-qwen", "-n", "3", "-k", "2", "--max-tokens", "4", "-o", tmp_path)
    rows = TASKS.get("arithmetic").load()[:3]
    message = template_text("boxed-qwen")
    assert prompts == [f"<|user|>{message.replace('{problem}', row['problem'])}<|end|><|assistant|>" for row in rows for _ in range(2)]
    assert all(prompt.count("\\boxed{}") == 1 for prompt in prompts)
    assert read_json(tmp_path / "eval" / "arithmetic" / "meta.json")["template"] == message


@dataclass(frozen=True)
class Told(Renderer):
    """Decodes a response's only id to the text that it stands for."""

    texts: tuple[str, ...] = ()

    def decode(self, ids: list[int]) -> str:
        return self.texts[ids[0]]


class Parrot:
    """An engine that answers request n with text n of its list, over and over; every other one is cut at the limit."""

    name = "parrot"

    def __init__(self, count: int, *, finish: Sequence[str] = ("stop", "length")) -> None:
        self.count, self.finish = count, finish

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int, progress: Progress | None = None,
        first: int | Sequence[int] = 0,
    ) -> Rollouts:  # fmt: skip
        asked = numbers(first, len(prompts))
        return Rollouts.of(prompts, [[n % self.count] for n in asked], [self.finish[n // 2 % len(self.finish)] for n in asked])

    def sync(self, student: Any) -> None:
        """Nothing to take over."""

    def rest(self) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing to free."""


def told(texts: Sequence[str]) -> Told:
    renderer = load_renderer(TINY, template="{problem}", system=None, thinking=None)
    return Told(renderer.tokenizer, renderer.template, None, None, renderer.end_ids, texts=tuple(texts))


@pytest.mark.parametrize("name", [task.name for task in TASKS if task.arena is None])
def test_lm_eval_hands_every_problem_over_unchanged(
    name: str, benchmark_data: Path, tmp_path: Path, prompts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No space, backslash or brace is lost between the rows and the engine, and no instruction is added to the template."""
    monkeypatch.setenv(MIRROR, str(benchmark_data))
    task, template = TASKS.get(name), "Q: {problem}\nA {{0}} \\"
    settings = Evaluation(samples=1, template=template)
    evaluate_task(task, Parrot(1), told([""]), settings, 0, tmp_path, "f")
    assert prompts == [f"<|user|>{template.replace('{problem}', row['problem'])}<|end|><|assistant|>" for row in task.load()]
    assert set(read_table(tmp_path / "samples.parquet")["verdict"]) == {"truncated", "unparsed_answer"}
