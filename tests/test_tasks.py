"""The benchmarks: pinned by content, repaired where the published text is broken, refused in one line where anything differs."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from selbench import ConfigError, cli, task
from selbench.registry import PLUGINS, load_plugin
from selbench.task import MIRROR, TASKS, Benchmark, hub_revision, row_hash
from selbench.templates import template_text

ROOT = Path(__file__).parents[1]
ROWS = {"math500": 500, "aime24": 30, "aime25": 30, "gsm8k": 1319}
BREAKS = {7: "align*", 10: "cases"}  # rows of AIME 2025 in which a line break has lost a backslash
FRACTIONS = {18: 5, 27: 1}  # rows in which so many \frac have become a form feed and rac
TRIANGLE = 19  # the row in which \triangle has become a tab and riangle


def published(name: str) -> Benchmark:
    data = TASKS.get(name).data
    assert data is not None
    return data


def problem(action: Callable[[], object]) -> str:
    """The one line that a user reads."""
    with pytest.raises(ConfigError) as caught:
        action()
    assert len(caught.value.problems) == 1
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def mirrored(benchmark_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The benchmarks as files; no task may ask the hub."""
    monkeypatch.setenv(MIRROR, str(benchmark_data))
    return benchmark_data


@pytest.fixture
def altered(benchmark_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Copies a task's file with its lines changed, and points SELBENCH_DATA there. Returns the file."""

    def alter(name: str, change: Callable[[list[str]], list[str]]) -> Path:
        mirror = published(name).mirror
        lines = (benchmark_data / mirror).read_text(encoding="utf-8").splitlines()
        file = tmp_path / "data" / mirror
        file.parent.mkdir(parents=True)
        file.write_text("\n".join(change(lines)) + "\n", encoding="utf-8")
        monkeypatch.setenv(MIRROR, str(tmp_path / "data"))
        return file

    return alter


def edited(line: str, **changes: Any) -> str:
    """A row with some columns replaced; None removes one."""
    row = {**json.loads(line), **changes}
    return json.dumps({key: value for key, value in row.items() if value is not None})


@pytest.mark.parametrize(("name", "count"), ROWS.items())
def test_rows_are_the_pinned_ones(name: str, count: int, mirrored: Path) -> None:
    found = TASKS.get(name)
    rows = found.load()
    assert len(rows) == published(name).rows == count
    assert row_hash(rows) == found.sha256
    assert len({row["id"] for row in rows}) == count
    assert all(row["problem"].strip() and row["answer"].strip() for row in rows)
    origin = published(name).origin()
    assert str(origin["hub_id"]) in found.source
    assert origin["revision"] is None, "rows from a file have no revision of the hub"
    assert len(str(origin["mirror_sha256"])) == 64


def test_rows_of_the_embedded_task() -> None:
    rows = TASKS.get("arithmetic").load()
    assert len({row["id"] for row in rows}) == len(rows) == 200
    assert all(int(row["answer"]) == sum(map(int, row["problem"].rstrip("=").split("+"))) for row in rows)


def test_aime_2025_is_repaired_and_otherwise_as_published(mirrored: Path) -> None:
    lines = (mirrored / published("aime25").mirror).read_text(encoding="utf-8").splitlines()
    raw, rows = [json.loads(line) for line in lines], TASKS.get("aime25").load()
    before, after = [row["problem"] for row in raw], [row["problem"] for row in rows]
    assert {n for n, pair in enumerate(zip(before, after, strict=True)) if len(set(pair)) == 2} == {*BREAKS, *FRACTIONS, TRIANGLE}
    assert [str(row["answer"]) for row in raw] == [row["answer"] for row in rows]
    assert not any(sign in text for text in after for sign in "\x0c\t")
    for n, count in FRACTIONS.items():
        assert before[n].count("\x0crac{") == count
        assert after[n] == before[n].replace("\x0crac{", "\\frac{")
    assert before[TRIANGLE].count("\triangle") == 1
    assert after[TRIANGLE] == before[TRIANGLE].replace("\triangle", "\\triangle")
    for n, environment in BREAKS.items():
        assert "\\\\" not in before[n].replace("\\\\[", "")
        assert after[n].replace(" \\\\ ", " \\ ") == before[n]
        first, second = after[n].split(" \\\\ ")
        assert f"\\begin{{{environment}}}" in first
        assert f"\\end{{{environment}}}" in second


@given(st.text(alphabet="ab\\\x0c\t \n{}", max_size=40), st.booleans())
def test_repairing_twice_is_repairing_once(text: str, aligned: bool) -> None:
    repaired = importlib.import_module("selbench.tasks.aime25.aime25").repaired
    text = "\\begin{cases}" + text if aligned else text
    assert repaired(repaired(text)) == repaired(text)
    if not set(text) & {"\x0c", "\t"} and not aligned:
        assert repaired(text) == text


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("gsm8k", lambda lines: [*lines[:7], edited(lines[7], answer="so it is 261\n#### 261"), *lines[8:]], "content hash"),
        ("aime24", lambda lines: [edited(lines[0], answer="203"), *lines[1:]], "content hash"),
        ("aime25", lambda lines: [edited(lines[0], problem="What is 1+1?"), *lines[1:]], "content hash"),
        ("math500", lambda lines: [lines[1], lines[0], *lines[2:]], "content hash"),
        ("math500", lambda lines: lines[:-1], "499 rows, expected 500"),
        ("aime24", lambda lines: [*lines, lines[0]], "31 rows, expected 30"),
        ("aime25", lambda lines: [*lines[:4], edited(lines[4], answer=None), *lines[5:]], "row 4 has no 'answer'; columns there: id"),
        ("math500", lambda lines: [edited(lines[0], unique_id=""), *lines[1:]], "row 0 has no 'unique_id'"),
        ("aime24", lambda lines: [edited(lines[0], problem=["a", "list"]), *lines[1:]], "row 0 has no 'problem'"),
        ("gsm8k", lambda lines: [*lines[:9], lines[9][:-20], *lines[10:]], "line 10 is not JSON"),
        ("gsm8k", lambda lines: ["[1, 2]", *lines[1:]], "line 1 is not a JSON object"),
    ],
)  # fmt: skip
def test_other_rows_are_refused(name: str, change: Callable[[list[str]], list[str]], says: str, altered: Callable[..., Path]) -> None:
    file = altered(name, change)
    message = problem(TASKS.get(name).load)
    assert says in message
    assert str(file) in message
    assert published(name).hub_id in message
    assert any(remedy in message for remedy in (f"fetch the rows of {published(name).hub_id} again", "use the release of"))


def test_a_file_that_is_no_text(altered: Callable[..., Path]) -> None:
    file = altered("aime24", lambda lines: lines)
    file.write_bytes(b"\xff\xfe\x00")
    message = problem(TASKS.get("aime24").load)
    assert f"{file}: not readable as text" in message


def test_an_absent_mirror_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MIRROR, str(tmp_path))
    message = problem(TASKS.get("math500").load)
    for expected in (f"{MIRROR}={tmp_path}", "math500/test.jsonl", "point it at a folder", "HuggingFaceH4/MATH-500"):
        assert expected in message


@pytest.mark.parametrize("name", ROWS)
def test_offline_the_way_out_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the hub's clients raise."""
    import datasets

    def fail(*arguments: Any, **options: Any) -> None:
        raise ConnectionError("no route to host\nand three pages more")

    monkeypatch.delenv(MIRROR, raising=False)
    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.setattr(task, "hub_revision", lambda hub_id: None)
    message = problem(TASKS.get(name).load)
    for expected in (published(name).hub_id, "no route to host", MIRROR, published(name).mirror):
        assert expected in message
    assert "three pages" not in message


@pytest.mark.parametrize("offline", [{"HF_HUB_OFFLINE": "1"}, {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_offline_takes_seconds(offline: dict[str, str], tmp_path: Path) -> None:
    """Whether the user says so, or nothing answers."""
    environment = {key: value for key, value in os.environ.items() if key != MIRROR and not key.lower().endswith("_proxy")}
    environment |= {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path), **offline}
    run = [sys.executable, "-m", "selbench", "eval", str(ROOT / "selbench/tiny/student"), "--tasks", "math500,aime24", "-o", "out"]
    began = time.perf_counter()
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert time.perf_counter() - began < 20
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 2, "one line a task"
    for line, name in zip(lines, ("math500", "aime24"), strict=True):
        assert line.startswith("selbench: ")
        for expected in (published(name).hub_id, MIRROR, published(name).mirror):
            assert expected in line
    assert not (tmp_path / "out").exists()


def test_a_revision_that_cannot_be_looked_up_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError("offline")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", fail)
    hub_revision.cache_clear()
    assert hub_revision("owner/set") is None
    hub_revision.cache_clear()
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, hub_id, timeout: type("Info", (), {"sha": hub_id[::-1]}))
    assert hub_revision("owner/set") == "tes/renwo"
    hub_revision.cache_clear()
    monkeypatch.setenv(MIRROR, "/data")
    assert published("aime24").revision() is None


PLUGIN = """
from selbench import register_task
from selbench.task import keep_all, share_correct, test_split

@register_task("{name}", version=1, source="none")
def rows():
    return [{{"id": "0", "problem": "1+1=", "answer": "2"}}]

def load(**_):
    return test_split(rows())
"""
YAML = """
task: selbench_{name}
custom_dataset: !function {name}.load
test_split: test
output_type: generate_until
doc_to_text: "{{{{problem}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: []}}
filter_list:
  - name: keep_all
    filter: [{{function: custom, filter_fn: !function {name}.keep_all}}]
process_results: !function {name}.share_correct
{metrics}: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Writes a task of a contributor; afterwards the registry, the loaded modules and the environment are as they were."""
    len(list(TASKS))
    monkeypatch.setattr(TASKS, "_entries", dict(TASKS._entries))
    monkeypatch.setenv(PLUGINS, "")
    modules = set(sys.modules)

    def write(name: str = "sums", metrics: str = "metric_list", more: str = "") -> Path:
        (tmp_path / f"{name}.yaml").write_text(YAML.format(name=name, metrics=metrics) + more)
        file = tmp_path / f"{name}.py"
        file.write_text(PLUGIN.format(name=name))
        return file

    yield write
    for name in set(sys.modules) - modules:
        if name.startswith("selbench_plugin_"):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("metrics", "more", "says"),
    [
        ("metric_lst", "", "unknown key 'metric_lst'"),
        ("metric_list", "tsak: other", "unknown key 'tsak'"),
        ("metric_list", "description: Answer in French.", "sets 'description'"),
        ("metric_list", "num_fewshot: 4", "sets 'num_fewshot'"),
        ("metric_list", "task: selbench_summs", "names the task 'selbench_summs', expected 'selbench_sums'"),
        ("metric_list", "a: b: c", "is not readable as YAML"),
    ],
)
def test_a_slip_in_a_yaml(metrics: str, more: str, says: str, plugin: Callable[..., Path], tmp_path: Path) -> None:
    load_plugin(plugin(metrics=metrics, more=more))
    message = problem(TASKS.get("sums").load)
    assert says in message
    assert str(tmp_path / "sums.yaml") in message
    if "unknown key" in says:
        assert f"did you mean {'task' if more else 'metric_list'}" in message


def test_a_yaml_that_is_not_there(plugin: Callable[..., Path], tmp_path: Path) -> None:
    load_plugin(plugin())
    assert TASKS.get("sums").load()[0]["answer"] == "2"
    (tmp_path / "sums.yaml").unlink()
    assert "sums.yaml is not readable" in problem(TASKS.get("sums").load)


@pytest.mark.parametrize("verb", ["eval", "run"])
def test_a_slip_in_a_yaml_stops_the_verbs_before_any_model_loads(
    verb: str, plugin: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import transformers

    def loaded(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", loaded)
    monkeypatch.chdir(tmp_path)
    file = plugin(metrics="metric_lst")
    words = {"eval": [str(ROOT / "selbench/tiny/student")], "run": ["--executor", "inline"]}[verb]
    monkeypatch.setattr(sys, "argv", ["selbench", verb, *words, "--tasks", "sums", "--plugin", str(file)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("selbench: task sums: unknown key 'metric_lst'")
    assert "did you mean metric_list" in line
    assert {path.name for path in tmp_path.iterdir()} <= {"sums.py", "sums.yaml", "__pycache__"}


@pytest.mark.parametrize("name", [found.name for found in TASKS if found.arena is None])
def test_stock_lm_eval_reads_the_yaml(name: str, benchmark_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv(MIRROR, str(benchmark_data))
    found = TASKS.get(name)
    manager = TaskManager(include_path=str(ROOT / "tasks"), include_defaults=False)
    assert found.lm_eval_name in manager.all_tasks
    loaded = manager.load_task_or_group([found.lm_eval_name])[found.lm_eval_name]
    docs, rows = list(loaded.test_docs()), found.load()
    assert [(doc["id"], doc["problem"], doc["answer"]) for doc in docs] == [(row["id"], row["problem"], row["answer"]) for row in rows]
    assert loaded.config.repeats == found.samples
    assert loaded.config.metadata["version"] == found.version
    assert loaded.doc_to_target(docs[0]) == rows[0]["answer"]
    if found.data is not None:
        assert loaded.config.dataset_path == found.data.hub_id
        assert loaded.doc_to_text(docs[0]) == template_text("boxed-qwen").replace("{problem}", rows[0]["problem"])
    assert yaml.safe_load(found.yaml.read_text().replace("!function", ""))["generation_kwargs"]["until"] == []


def test_stock_lm_eval_reads_the_rows_without_selbench_having_been_imported(benchmark_data: Path) -> None:
    """It imports a task's module by its path; selbench's own import of that file is not another task."""
    code = (
        "import sys; from lm_eval.tasks import TaskManager; "
        "manager = TaskManager(include_path=sys.argv[1], include_defaults=False); "
        "print(len(list(manager.load_task_or_group(['selbench_aime24'])['selbench_aime24'].test_docs())))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), MIRROR: str(benchmark_data)}
    done = subprocess.run([sys.executable, "-c", code, str(ROOT / "tasks")], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "30"), done.stderr
