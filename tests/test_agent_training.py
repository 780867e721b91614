"""On-policy distillation of whole episodes, on the embedded pair that calls tools: every run here is a real one, only short."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from accelerate import Accelerator

from selbench import leaderboard, plan, sweep
from selbench.config import Cell, Protocol, load_protocol
from selbench.executors import run_inline
from selbench.loop import sample
from selbench.models import PAIRS, Pair, load_pair
from selbench.prompts import prompts_of_step, training_prompts
from selbench.records import EPISODES, read_json, read_metrics, read_table
from selbench.rollout import Rollouts, Sampling
from selbench.rollout.agent import play, rollouts_of
from selbench.rollout.dialogue import Dialogue
from selbench.rollout.episodes import read_episodes
from selbench.rollout.hf import HFEngine
from selbench.scoring import layout
from selbench.settings import Agent

SHORT = ["training.steps=2", "training.prompts_per_step=4", "training.micro_batch=2", "training.checkpoint_every=1",
         "evaluation.problems=4", "evaluation.batch=4"]  # fmt: skip


@pytest.fixture(scope="module")
def protocol() -> Protocol:
    return load_protocol("tiny-agent", SHORT, seeds=[0])


@pytest.fixture(scope="module")
def pair(protocol: Protocol) -> Pair:
    return load_pair(PAIRS.get("tiny-agent"), protocol.model.model_dump(), "cpu")


@pytest.fixture(scope="module")
def run(protocol: Protocol, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both models and three strategies, trained, evaluated."""
    root = tmp_path_factory.mktemp("runs") / protocol.name
    root.mkdir()
    cells, jobs = plan.jobs_of(protocol)
    assert not plan.check(protocol, jobs, root).problems
    sweep.write_plan(protocol, cells, root, "selbench run tiny-agent")
    assert not run_inline(plan.missing(jobs, root), root, "cpu", lambda *_: None, {})
    return root


def drawn(protocol: Protocol, pair: Pair) -> Rollouts:
    cell: Cell = plan.cells_of(protocol)[0]
    settings = protocol.training
    asked = prompts_of_step(training_prompts(protocol, [pair.spec]), 0, 1, settings.prompts_per_step)
    engine = HFEngine(pair.student, end_ids=pair.renderer.end_ids, pad_id=pair.renderer.pad_id)
    return sample(Accelerator(cpu=True), pair, engine, asked, Sampling(settings.max_response_tokens), cell, 1)


def test_what_is_distilled_is_what_the_student_wrote(protocol: Protocol, pair: Pair) -> None:
    """Decoded, the valid tokens are calls and replies; everything else of a rollout is what tools, user and template wrote."""
    rollouts = drawn(protocol, pair)
    rows = layout(rollouts)
    for i, (tokens, mask) in enumerate(zip(rollouts.tokens, rollouts.mask, strict=True)):
        own = pair.renderer.tokenizer.decode(rows.token[rows.sequence == i].tolist())
        read = pair.renderer.tokenizer.decode([t for t, m in zip(tokens, mask, strict=True) if not m])
        assert "<tool_call>" in own
        assert not [role for role in ("<|tool|>", "<|user|>", "<|assistant|>", "<|system|>", "<|tools|>") if role in own]
        assert "<|tool|>" in read  # it may quote a call that could not be read
        assert read.count("<|assistant|>") == sum(now > before for before, now in pairwise(mask))  # one head before every turn
    assert rollouts.sample == tuple(range(4))
    assert rollouts.facts["agent_calls"] > 1


def test_an_episode_does_not_depend_on_those_beside_it(pair: Pair, protocol: Protocol) -> None:
    prompts = training_prompts(protocol, [pair.spec])
    worlds = {n: prompts[n].world for n in range(3)}
    engine = HFEngine(pair.student, end_ids=pair.renderer.end_ids, pad_id=pair.renderer.pad_id)
    limits = protocol.agent or Agent()

    def tokens(concurrent: int, numbers: list[int]) -> dict[int, list[int]]:
        chosen: Any = {n: worlds[n] for n in numbers}
        own = limits.model_copy(update={"concurrent": concurrent})
        return {e.number: e.tokens for e in play(engine, Dialogue(pair.renderer), chosen, Sampling(448), own, 7)}

    beside = tokens(3, [0, 1, 2])
    assert tokens(1, [0, 1, 2]) == beside
    assert tokens(1, [2]) == {2: beside[2]}


@pytest.mark.slow
def test_a_run_leaves_a_leaderboard(run: Path, protocol: Protocol) -> None:
    board = leaderboard.collect(run)
    assert board.problems == []
    rows = json.loads(leaderboard.render(board, "json"))["rows"]
    assert {"full-v1@1", "random-v1@0.1", "tip_q3-v1@0.1"} <= {row["strategy"] for row in rows}
    for folder in [run / "tiny-agent" / "base-student", *(run / "tiny-agent").glob("*/seed0")]:
        meta, samples = read_json(folder / "eval/shop_tiny/meta.json"), read_table(folder / "eval/shop_tiny/samples.parquet")
        assert len(samples) == 4
        assert meta["accuracy"] == pytest.approx(samples["score"].mean())
        assert set(samples["score"]) <= {0.0, 0.5, 1.0}
        assert ((samples["verdict"] == "correct") == (samples["score"] == 1)).all()
        assert len(list(read_episodes(folder / "eval/shop_tiny" / EPISODES))) == 4


@pytest.mark.slow
def test_a_run_records_its_episodes(run: Path) -> None:
    for folder in (run / "tiny-agent").glob("*/seed0"):
        steps = read_metrics(folder / "metrics.jsonl")
        assert [step["step"] for step in steps] == [1, 2]
        assert all(step["agent_calls"] > 0 and step["agent_tool_tokens"] > 0 for step in steps)
        assert all(abs(sum(v for k, v in step.items() if k.startswith("agent_ended_by_")) - 1) < 1e-9 for step in steps)
        tokens = pd.read_parquet(folder / "tokens.parquet")
        assert len(tokens[tokens["step"] == 1]) == steps[0]["tokens"]


@pytest.mark.slow
def test_the_teacher_shops_and_the_student_errs(run: Path) -> None:
    scores = {role: read_json(run / "tiny-agent" / f"base-{role}/eval/shop_tiny/meta.json")["accuracy"] for role in ("teacher", "student")}
    assert scores["teacher"] > scores["student"]


def test_masked_tokens_carry_no_loss(pair: Pair, protocol: Protocol) -> None:
    """Another tool result under the same mask would be another context; the rows of the loss stay those of the model's tokens."""
    rollouts = drawn(protocol, pair)
    rows = layout(rollouts)
    assert len(rows) == sum(map(sum, rollouts.mask))
    assert all(rollouts.mask[s][c] for s, c in zip(rows.sequence.tolist(), rows.column.tolist(), strict=True))
    assert rollouts_of([], []).tokens == ()
