"""An evaluation that is killed goes on where it was, and leaves the records of one that nothing happened to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from selbench import evaluate
from selbench.config import Evaluation
from selbench.lm import Partial, Response
from selbench.models import load_renderer
from selbench.records import read_json, read_table
from selbench.rollout import Progress, Rollouts, Sampling
from selbench.seeding import derive
from selbench.task import TASKS

ROOT = Path(__file__).parents[1]
TINY = str(ROOT / "selbench" / "tiny" / "student")
SETTINGS = Evaluation(problems=150, samples=4, batch=64)  # 600 requests: two whole blocks and a short one
RENDERER = load_renderer(TINY, template="{problem}", system=None, thinking=None)
MEASURED = {"seconds", "generation_seconds", "tokens_per_second", "peak_memory_bytes"}


ANSWERS = [row["answer"] for row in TASKS.get("arithmetic").load()]


def expected(seed: int, number: int) -> tuple[str, str]:
    """What `Drawn` says to request `number`: right, wrong or cut, by a hash."""
    drawn = derive(seed, number, "response")
    return (f"#{ANSWERS[number // 4]}" if drawn % 3 else f"#{drawn % 90}"), "length" if drawn % 7 == 0 else "stop"


class Drawn:
    """An engine whose response hangs on the seed and the request's number alone. `before` is called with each block's first number."""

    name = "drawn"

    def __init__(self, before: Callable[[int], None] = lambda first: None, lost: int = 0) -> None:
        self.before, self.lost = before, lost
        self.asked: list[tuple[int, int]] = []  # first number and size of each call

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int, progress: Progress | None = None,
        first: int | Sequence[int] = 0,
    ) -> Rollouts:  # fmt: skip
        assert isinstance(first, int)
        self.before(first)
        self.asked.append((first, len(prompts)))
        said = [expected(seed, first + i) for i in range(len(prompts))]
        if progress:
            progress(len(prompts) // 2, len(prompts))
            progress(len(prompts), len(prompts))
        kept = len(prompts) - (self.lost if first else 0)
        return Rollouts.of(prompts[:kept], [RENDERER.encode_text(text) for text, _ in said[:kept]], [end for _, end in said[:kept]], first)

    def sync(self, student: Any) -> None:
        """Nothing to take over."""

    def rest(self) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing to free."""


def run(folder: Path, engine: Drawn, fingerprint: str = "f", progress: Progress | None = None) -> float:
    return evaluate.evaluate_task(TASKS.get("arithmetic"), engine, RENDERER, SETTINGS, 0, folder, fingerprint, progress)


def die_at(number: int) -> Callable[[int], None]:
    def before(first: int) -> None:
        if first == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return before


def stop_at(number: int) -> Callable[[int], None]:
    def before(first: int) -> None:
        if first == number:
            raise KeyboardInterrupt

    return before


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records of an evaluation that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder, Drawn())
    return folder


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """The folder of an evaluation that stopped at its third block."""
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Drawn(stop_at(512)))
    return tmp_path


def assert_same(folder: Path, whole: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["meta.json", "samples.parquet"]
    assert (folder / "samples.parquet").read_bytes() == (whole / "samples.parquet").read_bytes()
    one, other = read_json(folder / "meta.json"), read_json(whole / "meta.json")
    assert {k: v for k, v in one.items() if k not in MEASURED} == {k: v for k, v in other.items() if k not in MEASURED}
    assert one.keys() == other.keys()


def test_every_request_gets_its_own_response(whole: Path) -> None:
    seed = derive(0, 0, "evaluate/arithmetic")
    table = read_table(whole / "samples.parquet")
    assert [*zip(table["response"], table["finish"], strict=True)] == [expected(seed, number) for number in range(600)]
    assert list(table["sample"]) == [0, 1, 2, 3] * 150
    assert {"correct", "incorrect", "truncated"} == set(table["verdict"])
    assert set(table["finish"]) == {"stop", "length"}


def test_killed_and_resumed(tmp_path: Path, whole: Path) -> None:
    code = f"from tests.test_evaluate_resume import *; run(Path({str(tmp_path)!r}), Drawn(die_at(512)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False, timeout=300)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["partial.jsonl"]
    engine = Drawn()
    run(tmp_path, engine)
    assert engine.asked == [(512, 88)]
    assert_same(tmp_path, whole)


def test_killed_while_it_grades(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "grade_many", die)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, Drawn())
    engine = Drawn()
    run(tmp_path, engine)
    assert engine.asked == []
    assert_same(tmp_path, whole)


def test_torn_last_line(broken: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = broken / "partial.jsonl"
    path.write_bytes(path.read_bytes()[:-9])  # within the line that closes the second block
    capsys.readouterr()
    engine = Drawn()
    run(broken, engine)
    assert engine.asked == [(256, 256), (512, 88)]
    assert "256 of 600 responses are there" in capsys.readouterr().err
    assert_same(broken, whole)


@pytest.mark.parametrize(
    ("key", "other"), [("fingerprint", "g"), ("engine", "hf"), ("seed", 1), ("block", 512), ("prompts", "0"), ("schema", 2)]
)
def test_responses_of_another_evaluation_are_not_used(
    key: str, other: Any, broken: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = broken / "partial.jsonl"
    head, *rest = path.read_text().splitlines(keepends=True)
    assert key in json.loads(head)
    path.write_text(json.dumps({**json.loads(head), key: other}) + "\n" + "".join(rest))
    capsys.readouterr()
    engine = Drawn()
    run(broken, engine)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"{path}: responses of another evaluation ({key}); they are made anew"
    assert engine.asked == [(0, 256), (256, 256), (512, 88)]
    assert_same(broken, whole)


def test_a_lost_response_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="engine drawn: 255 responses to 256 prompts"):
        run(tmp_path, Drawn(lost=1))
    assert [path.name for path in tmp_path.iterdir()] == ["partial.jsonl"]
    assert json.loads((tmp_path / "partial.jsonl").read_text().splitlines()[-1])["done"] == 256, "nothing of the short block is kept"


def test_seconds_are_those_of_all_processes(broken: Path) -> None:
    path = broken / "partial.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    closing = [row for row in rows if "done" in row]
    assert [(row["done"], row["requests"]) for row in closing] == [(256, 600), (512, 600)]
    assert all(0 < row["seconds"] < 60 for row in closing)
    path.write_text("".join(json.dumps({**row, "seconds": 1000.0} if "done" in row else row) + "\n" for row in rows))
    run(broken, Drawn())
    meta = read_json(broken / "meta.json")
    assert 2000 < meta["generation_seconds"] < 2060
    assert meta["generation_seconds"] < meta["seconds"] < 2120
    assert meta["tokens_per_second"] == meta["tokens"] / meta["generation_seconds"]


def test_progress_goes_on_where_it_was(broken: Path) -> None:
    seen: list[tuple[int, int]] = []
    run(broken, Drawn(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(512, 600), (556, 600), (600, 600)]


HEAD = {"engine": "drawn", "seed": 1, "requests": 7}
BLOCKS: list[list[Response]] = [[([1, 22], "stop"), ([3], "length")], [([], "stop"), ([4, 5, 6], "stop")], [([7], "stop")]]


def test_cut_anywhere_only_whole_blocks_count(tmp_path: Path) -> None:
    """At each of its bytes: what is read is a number of whole blocks, and the file written on from there is the uncut one."""
    path = tmp_path / "partial.jsonl"
    partial = Partial(path, "f")
    ends: list[int] = []
    for block in BLOCKS:
        if not ends:
            assert partial.open(HEAD) == ([], 0.0)
        ends.append(path.stat().st_size)
        partial.append(2 * (len(ends) - 1), block, 1.5, 7)
    uncut = path.read_bytes()
    ends = [*ends[1:], len(uncut)]
    for size in range(len(uncut) + 1):
        path.write_bytes(uncut[:size])
        found, seconds = partial.open(HEAD)
        count = sum(end <= size for end in ends)
        assert found == [response for block in BLOCKS[:count] for response in block], size
        assert seconds == 1.5 * count
        for number in range(count, 3):
            partial.append(2 * number, BLOCKS[number], 1.5, 7)
        assert path.read_bytes() == uncut, size


def test_garbage_in_the_middle_ends_what_is_believed(tmp_path: Path) -> None:
    partial = Partial(tmp_path / "partial.jsonl", "f")
    partial.open(HEAD)
    for number, block in enumerate(BLOCKS):
        partial.append(2 * number, block, 1.0, 7)
    lines = partial.path.read_bytes().splitlines(keepends=True)
    for bad in (b"\x00\xff\n", b"[1]\n", b"3\n", lines[1]):
        partial.path.write_bytes(b"".join([*lines[:5], bad, *lines[6:]]))
        assert partial.open(HEAD) == (BLOCKS[0], 1.0)


@pytest.mark.slow
@pytest.mark.deep
def test_the_command_killed_at_any_instant(tmp_path: Path) -> None:
    """`selbench eval` on the embedded student, killed as soon as a block is on the disk: the records of the run that was left alone."""

    def start(folder: Path) -> subprocess.Popen[bytes]:
        words = [
            "--tasks",
            "arithmetic",
            "--prompt",
            "{problem}",
            "--temperature",
            "1",
            "--top-p",
            "1",
            "--top-k",
            "0",
            "--max-tokens",
            "56",
        ]
        command = [sys.executable, "-m", "selbench", "eval", TINY, *words, "--device", "cpu", "-n", "256", "-o", str(folder), "--quiet"]
        return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)

    left_alone, killed = tmp_path / "alone", tmp_path / "killed"
    assert start(left_alone).wait(300) == 0
    for least in (1, 2):
        process, path = start(killed), killed / "eval" / "arithmetic" / "partial.jsonl"
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and process.poll() is None:
            if path.exists() and path.read_bytes().count(b'{"done":') >= least:
                break
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert path.exists()
    assert start(killed).wait(300) == 0
    assert_same(killed / "eval" / "arithmetic", left_alone / "eval" / "arithmetic")
    assert len(read_table(killed / "eval" / "arithmetic" / "samples.parquet")) == 800
