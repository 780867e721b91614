"""The teacher in another context, and the student's own base as its teacher: same tokens, no leak, one set of weights."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st

from selbench import plan, sweep
from selbench.config import Cell, Lora, PairEntry, load_protocol
from selbench.errors import ConfigError
from selbench.loop import PICTURED, Backbone, Step, distil_step, train
from selbench.models import PAIRS, Pair, PairSpec, head_of, load_pair
from selbench.privileged import context_problems, require_context, teacher_ids, teacher_rollouts
from selbench.prompts import Prompt, load_prompts, prompts_of_step
from selbench.provenance import Clock
from selbench.records import read_metrics
from selbench.rollout import Rollouts
from selbench.rollout.hf import HFEngine
from selbench.scoring import layout, rows_after
from tests.conftest import LOSSES, MakeCell
from tests.test_cli import problems
from tests.test_invariants import kept_tokens, reordered, rollouts_of

PLAIN = "{problem}"
TOLD = "{problem}; the answer is {answer}, {problem}="
TINY = PAIRS.get("tiny")
SETTINGS = load_protocol("tiny").model.model_dump()
OWN = PairSpec("own", TINY.student, TINY.student, adapter=True, privileged=TOLD)


def asked(count: int = 12) -> list[Prompt]:
    """The prompts that `rollouts_of` answers."""
    return prompts_of_step(load_prompts("selbench:tiny/prompts.jsonl"), 0, 1, count)


def told(pair: Pair, text: str | None, **more: Any) -> Pair:
    return replace(pair, spec=replace(pair.spec, privileged=text, **more))


def one_step(pair: Pair, cell: Cell, rollouts: Rollouts, prompts: Sequence[Prompt], step: int = 1) -> tuple[Step, torch.Tensor]:
    """One step that changes no weight, the teacher in the pair's context: its record and the clipped gradient of what is trained."""
    trained = [p for p in pair.student.parameters() if p.requires_grad]
    optimiser, read = torch.optim.SGD(trained, lr=0.0), teacher_rollouts(pair, rollouts, prompts)
    backbone = Backbone(pair.student)
    done = distil_step(Accelerator(cpu=True), cell, pair, backbone, optimiser, rollouts, Clock(), step, read=read, pictured=PICTURED)
    assert all(p.grad is None for p in pair.student.parameters() if not p.requires_grad)
    return done, torch.cat([p.grad.flatten().clone() for p in trained if p.grad is not None])


def adapted(spec: PairSpec = OWN, *, moved: bool = True, **lora: Any) -> Pair:
    """A pair with an adapter that does something (a fresh one changes nothing)."""
    pair = load_pair(spec, SETTINGS, "cpu", lora=Lora(rank=4, **lora), seed=7)
    if moved:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in pair.student.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0, 0.05, generator=generator)
    return pair


TOKENS = st.lists(st.integers(0, 99), min_size=1, max_size=6)


@given(st.lists(st.tuples(TOKENS, TOKENS, st.lists(st.tuples(st.integers(0, 99), st.integers(0, 1)), max_size=8)), min_size=1, max_size=5))
def test_rows_match_one_to_one(content: list[tuple[list[int], list[int], list[tuple[int, int]]]]) -> None:
    """Whatever stands before a response, its rows are the same tokens in the same order, only further along."""

    def after(which: int) -> Rollouts:
        prompts: list[list[int]] = [c[1] if which else c[0] for c in content]
        plain = Rollouts.of(prompts, [[t for t, _ in c[2]] for c in content], ["stop"] * len(content))
        return replace(plain, mask=tuple((*(0 for _ in p), *(m for _, m in c[2])) for p, c in zip(prompts, content, strict=True)))

    mine, other = after(0), after(1)
    rows, found = layout(mine), layout(other)
    moved = rows_after(rows, mine, other)
    for name in ("token", "sample", "position", "sequence", "column"):
        assert torch.equal(getattr(moved, name), getattr(found, name))
    assert torch.equal(moved.token, torch.tensor([other.tokens[s][c] for s, c in zip(moved.sequence, moved.column, strict=True)]).long())
    if any(c[2] for c in content):
        at = next(i for i, c in enumerate(content) if c[2])
        torn = list(other.tokens)
        torn[at] = (*torn[at][:-1], torn[at][-1] + 1)
        with pytest.raises(ValueError, match=f"sequence {at}"):
            rows_after(rows, mine, replace(other, tokens=tuple(torn)))


def test_a_response_without_a_prompt_before_it_is_refused() -> None:
    mine, other = Rollouts.of([[1]], [[2, 3]], ["stop"]), Rollouts.of([[]], [[2, 3]], ["stop"])
    with pytest.raises(ValueError, match="sequence 0"):
        rows_after(layout(mine), mine, other)


def test_fields_are_filled_once(tiny_pair: Pair) -> None:
    """A field that looks like another field is text; ids are those of the rendered whole; the system message is the teacher's own."""
    prompt = Prompt("{answer}+1", "{solution}", "{problem}")
    pair = told(tiny_pair, "{problem}|{answer}|{solution}", privileged_system="know {answer}")
    text = pair.renderer.tokenizer.decode(teacher_ids(pair, prompt))
    assert text == "<|system|>know {answer}<|end|><|user|>{answer}+1|{solution}|{problem}<|end|><|assistant|>"
    plain = told(tiny_pair, None, privileged_system="add")
    assert pair.renderer.tokenizer.decode(teacher_ids(plain, prompt)) == "<|system|>add<|end|><|user|>{answer}+1<|end|><|assistant|>"
    assert teacher_ids(told(tiny_pair, PLAIN), prompt) == tiny_pair.renderer.encode(prompt.problem)


@pytest.mark.parametrize("kind", LOSSES)
def test_the_same_weights_in_the_same_context_teach_nothing(tiny_pair: Pair, make_cell: MakeCell, kind: str) -> None:
    pair = told(replace(tiny_pair, teacher=copy.deepcopy(tiny_pair.student).requires_grad_(False)), PLAIN)
    rollouts = rollouts_of(pair, 4)
    assert teacher_rollouts(pair, rollouts, asked(4)) == rollouts
    step, gradient = one_step(pair, make_cell("full", **{"loss.kind": kind}), rollouts, asked(4))
    assert abs(step.record["loss"]) < 1e-6
    assert float(gradient.abs().max()) < 1e-6
    other, moved = one_step(told(pair, TOLD), make_cell("full", **{"loss.kind": kind}), rollouts, asked(4))
    assert other.record["loss"] != 0
    assert float(moved.abs().max()) > 1e-4


def test_the_teacher_answers_in_its_own_context(tiny_pair: Pair, make_cell: MakeCell) -> None:
    """Loss and per-token divergence against both models run whole by transformers, sequence by sequence, prompt by prompt."""
    pair, rollouts, prompts = told(tiny_pair, TOLD), rollouts_of(tiny_pair, 6), asked(6)
    step, _ = one_step(pair, make_cell("full"), rollouts, prompts)
    render, expected = pair.renderer.tokenizer, []
    assert pair.teacher is not None
    for prompt, response in zip(prompts, rollouts.responses(), strict=True):
        message = f"{prompt.problem}; the answer is {prompt.answer}, {prompt.problem}="
        chats = [[{"role": "user", "content": text}] for text in (prompt.problem, message)]
        before = [render.apply_chat_template(c, add_generation_prompt=True, tokenize=True, return_dict=False) for c in chats]
        student, teacher = (
            model(input_ids=torch.tensor([[*start, *response]])).logits[0, len(start) - 1 : -1].detach().log_softmax(-1)
            for model, start in zip((pair.student, pair.teacher), before, strict=True)
        )
        expected.append((student.exp() * (student - teacher)).sum(-1))
    torch.testing.assert_close(step.pictured["reverse_kl"], torch.cat(expected), rtol=1e-4, atol=1e-5)
    assert step.record["loss"] == pytest.approx(float(torch.cat(expected).mean()), rel=1e-4)
    assert step.record["loss"] > 0.1
    assert step.record["loss"] != pytest.approx(one_step(tiny_pair, make_cell("full"), rollouts, prompts)[0].record["loss"], rel=0.01)
    assert torch.equal(step.rows.position, layout(rollouts).position)  # where a token stands is the student's matter


@pytest.mark.parametrize("name", ["tip_softor", "full", "prefix"])
def test_micro_batches_do_not_matter_in_the_teachers_context(tiny_pair: Pair, make_cell: MakeCell, name: str) -> None:
    pair, rollouts, prompts = told(tiny_pair, TOLD), rollouts_of(tiny_pair), asked()
    whole, gradient = one_step(pair, make_cell(name, 0.2), rollouts, prompts)
    for size, order in ((1, range(12)), (5, reversed(range(12)))):
        other, same = one_step(pair, make_cell(name, 0.2, **{"training.micro_batch": size}), reordered(rollouts, list(order)), prompts)
        assert kept_tokens(other) == kept_tokens(whole)
        assert other.record["loss"] == pytest.approx(whole.record["loss"], rel=1e-5)
        torch.testing.assert_close(same, gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("size", [3, 12])  # 12: one micro-batch, its graph is alive while the teacher answers
@pytest.mark.parametrize("name", ["full", "tip_softor", "random"])
def test_the_student_without_adapter_is_its_base(make_cell: MakeCell, name: str, size: int) -> None:
    """An adapter switched off teaches exactly what a separate copy of the base teaches."""
    pytest.importorskip("peft")
    pair, prompts = adapted(), asked()
    assert pair.teacher is pair.student
    copied = replace(adapted(replace(OWN, adapter=False)), spec=replace(OWN, adapter=False))
    assert copied.teacher is not None
    assert all(torch.equal(a, b) for a, b in zip(pair.student.parameters(), copied.student.parameters(), strict=True))
    rollouts, cell = rollouts_of(pair), make_cell(name, 0.2, **{"training.micro_batch": size})
    (one, gradient), (other, same) = (one_step(p, cell, rollouts, prompts) for p in (pair, copied))
    assert one.record["loss"] == pytest.approx(other.record["loss"], abs=1e-6)
    assert one.record["loss"] > 0.01
    assert kept_tokens(one) == kept_tokens(other)
    torch.testing.assert_close(gradient, same, rtol=0, atol=1e-6)
    assert float(gradient.abs().max()) > 1e-4


def test_a_fresh_adapter_changes_nothing_and_depends_on_the_seed(make_cell: MakeCell) -> None:
    pytest.importorskip("peft")
    state = torch.random.get_rng_state()
    pairs = [load_pair(OWN, SETTINGS, "cpu", seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.random.get_rng_state(), state)
    factors = [{n: p for n, p in pair.student.named_parameters() if p.requires_grad} for pair in pairs]
    assert all("lora_" in name for name in factors[0])
    assert all(torch.equal(factors[0][n], factors[1][n]) for n in factors[0])
    assert any(not torch.equal(factors[0][n], factors[2][n]) for n in factors[0])
    step, _ = one_step(told(pairs[0], None), make_cell("full"), rollouts_of(pairs[0], 4), asked(4))
    assert abs(step.record["loss"]) < 1e-6


def test_the_head_is_found_on_an_adapted_model() -> None:
    pytest.importorskip("peft")
    pair = adapted()
    ids = torch.arange(8, 20).unsqueeze(0)
    with torch.no_grad():
        hidden = pair.student.get_decoder()(input_ids=ids).last_hidden_state[0]
        expected = pair.student(input_ids=ids).logits[0]
        with pair.teaching():
            base = pair.student(input_ids=ids).logits[0]
    torch.testing.assert_close(head_of(pair.student).logits(hidden, expected.shape[-1]), expected)
    assert not torch.allclose(base, expected)
    assert not pair.student.get_output_embeddings().weight.requires_grad


class Interrupted(RuntimeError):
    pass


def trained(spec: PairSpec, cell: Cell, folder: Path, stop: int | None = None) -> Pair:
    """Train in this process; `stop`: die in the middle of that step."""
    pair = load_pair(spec, SETTINGS, "cpu", lora=cell.protocol.lora, seed=7)
    engine = HFEngine(pair.student, end_ids=pair.renderer.end_ids, pad_id=pair.renderer.pad_id)
    calls: list[int] = []

    def observe(*_: Any) -> tuple[dict[str, float], None]:
        calls.append(1)
        if stop is not None and len(calls) == stop:
            raise Interrupted
        return {}, None

    folder.mkdir(exist_ok=True)
    train(cell, pair, engine, load_prompts(cell.protocol.prompts), folder, observe)
    return pair


def small(make_cell: MakeCell, **more: Any) -> Cell:
    sizes = {"training.steps": 5, "training.checkpoint_every": 2, "training.prompts_per_step": 6, "training.micro_batch": 4,
             "training.max_prompt_tokens": 64, "training.learning_rate": 0.01, "training.warmup_steps": 0}  # fmt: skip
    return make_cell("tip_softor", 0.3, **{**sizes, **more})


@pytest.mark.parametrize(
    ("spec", "dropout"), [(OWN, 0.0), (replace(TINY, name="apart"), 0.0), (OWN, 0.2)], ids=["own base", "other teacher", "dropout"]
)
def test_an_adapter_is_all_that_is_trained_and_resumed(make_cell: MakeCell, tmp_path: Path, spec: PairSpec, dropout: float) -> None:
    pytest.importorskip("peft")
    from safetensors.torch import load_file

    cell = small(make_cell, **{"lora.rank": 4, "lora.dropout": dropout})
    whole = trained(spec, cell, tmp_path / "whole")
    with pytest.raises(Interrupted):
        trained(spec, cell, tmp_path / "broken", stop=4)
    (state,) = (tmp_path / "broken" / "checkpoint").glob("step*")
    assert not list(state.glob("model*"))
    assert all("lora_" in name for name in load_file(state / "adapter.safetensors"))
    again = trained(spec, cell, tmp_path / "broken")
    first, second = (dict(pair.student.named_parameters()) for pair in (whole, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
    start = dict(load_pair(spec, SETTINGS, "cpu", lora=cell.protocol.lora, seed=7).student.named_parameters())
    changed = {name for name in start if not torch.equal(start[name], first[name])}
    assert changed == {name for name in start if "lora_" in name}
    records = [
        [
            {k: v for k, v in row.items() if k not in ("seconds", "peak_bytes", "peak_memory_bytes")}
            for row in read_metrics(folder / "metrics.jsonl")
        ]
        for folder in (tmp_path / "whole", tmp_path / "broken")
    ]
    assert records[0] == records[1]
    assert len(records[0]) == 5
    finals = [folder / "checkpoint" / "final" / "adapter_model.safetensors" for folder in (tmp_path / "whole", tmp_path / "broken")]
    assert finals[0].read_bytes() == finals[1].read_bytes()
    assert not (finals[0].parent / "model.safetensors").exists()
    loaded = load_pair(PairSpec("final", spec.teacher, str(finals[0].parent)), SETTINGS, "cpu", teacher=False)
    ids = torch.arange(8, 20).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(loaded.student(input_ids=ids).logits, whole.student(input_ids=ids).logits)
    assert loaded.renderer.end_ids == whole.renderer.end_ids
    assert rollouts_of(loaded, 4) == rollouts_of(whole, 4)


def test_an_adapter_on_other_weights_is_refused(make_cell: MakeCell, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    trained(OWN, small(make_cell, **{"training.steps": 1, "lora.rank": 2}), tmp_path / "run")
    final = tmp_path / "run" / "checkpoint" / "final"
    spec = PairSpec("final", TINY.teacher, str(final))
    with pytest.raises(ConfigError, match="merge it"):
        load_pair(spec, SETTINGS, "cpu")
    base = json.loads((final / "base.json").read_text())
    (final / "base.json").write_text(json.dumps({**base, "sha256": "0" * 64}))
    with pytest.raises(ConfigError, match="other weights"):
        load_pair(spec, SETTINGS, "cpu", teacher=False)


def test_dropout_is_the_students_alone_and_drawn_from_the_seed(make_cell: MakeCell) -> None:
    pytest.importorskip("peft")
    rollouts, prompts = rollouts_of(adapted()), asked()
    (calm, _), (wild, _), (again, _), (later, _) = (
        one_step(adapted(dropout=p), make_cell("full", **{"lora.dropout": p, "lora.rank": 4}), rollouts, prompts, step)
        for p, step in ((0.0, 1), (0.3, 1), (0.3, 1), (0.3, 2))
    )
    assert torch.equal(calm.pictured["reverse_kl"], wild.pictured["reverse_kl"])  # scores are drawn without it
    assert wild.record["loss"] == again.record["loss"]
    assert len({calm.record["loss"], wild.record["loss"], later.record["loss"]}) == 3


MARK, CUE = "90417263", "read and forget"


def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_cell: MakeCell, *, adapter: bool) -> Cell:
    """A cell whose prompts carry a marked solution, on a pair whose teacher reads it."""
    lines = [json.dumps({"problem": f"{n}+{n + 7}", "answer": str(2 * n + 7), "solution": f"{MARK}{n}"}) for n in range(210, 230)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    teacher = TINY.student if adapter else TINY.teacher
    spec = PairSpec("secret", teacher, TINY.student, privileged="{problem} {solution}", privileged_system=CUE, adapter=adapter)
    monkeypatch.setitem(PAIRS._entries, spec.name, spec)
    cell = small(make_cell, **{"prompts": str(tmp_path / "prompts.jsonl"), "evaluation.problems": 4, "evaluation.samples": 2})
    return cell.model_copy(update={"pair": PairEntry(name="secret")})


@pytest.mark.parametrize("adapter", [False, True])
def test_the_teachers_text_leaks_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_cell: MakeCell, adapter: bool) -> None:
    """No prompt given to the student, no rollout, no record holds it; and the teacher did read it."""
    if adapter:
        pytest.importorskip("peft")
    cell = secret(tmp_path, monkeypatch, make_cell, adapter=adapter)
    seen: list[list[int]] = []
    read: list[Rollouts] = []
    generate = HFEngine.generate

    def spy(self: HFEngine, prompts: Any, *arguments: Any, **more: Any) -> Rollouts:
        rollouts = generate(self, prompts, *arguments, **more)
        seen.extend(map(list, rollouts.tokens))
        return rollouts

    def kept(pair: Pair, rollouts: Rollouts, prompts: Sequence[Prompt]) -> Rollouts:
        read.append(teacher_rollouts(pair, rollouts, prompts))
        return read[-1]

    monkeypatch.setattr(HFEngine, "generate", spy)
    monkeypatch.setattr("selbench.loop.teacher_rollouts", kept)
    assert context_problems(PAIRS.get("secret"), load_prompts(cell.protocol.prompts), cell.protocol.prompts) == []
    sweep.work(cell, tmp_path / "runs", "cpu")
    folder = sweep.job_folder(cell, tmp_path / "runs")
    decode = load_pair(TINY, SETTINGS, "cpu", teacher=False).renderer.tokenizer.decode
    assert len(seen) >= 5 * 6 + 4 * 2  # and the few that are drawn before the first step
    assert len(read) == 5
    assert not [text for text in map(decode, seen) if MARK in text or CUE in text]
    assert all(MARK in text and CUE in text for rollouts in read for text in map(decode, map(list, rollouts.tokens)))
    files = [path for path in folder.rglob("*") if path.is_file()]
    content = {
        path: pd.read_parquet(path).to_json() if path.suffix == ".parquet" else path.read_bytes().decode("latin-1") for path in files
    }
    assert [path for path, text in content.items() if MARK in text] == []
    assert [path.name for path, text in content.items() if CUE in text] == ["passport.json"]  # the template is on record, once
    assert len([path for path in files if path.name == "samples.parquet"]) == 1
    final = json.loads((folder / "checkpoint" / "final" / ("adapter_config.json" if adapter else "config.json")).read_text())
    assert final.get("base_model_name_or_path") == (TINY.student if adapter else None)


def test_evaluation_after_a_crash_loads_base_and_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_cell: MakeCell) -> None:
    """Trained, died before its evaluation, run again: the records are those of an unbroken run."""
    pytest.importorskip("peft")
    cell = secret(tmp_path, monkeypatch, make_cell, adapter=True)
    sweep.work(cell, tmp_path / "whole", "cpu")

    def die(*_: Any, **__: Any) -> None:
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "evaluate_task", die)
        with pytest.raises(Interrupted):
            sweep.work(cell, tmp_path / "broken", "cpu")
    sweep.work(cell, tmp_path / "broken", "cpu")
    one, other = (sweep.job_folder(cell, tmp_path / name) / "eval" for name in ("whole", "broken"))
    (records,) = one.rglob("samples.parquet")
    assert records.read_bytes() == (other / records.relative_to(one)).read_bytes()


def test_a_missing_solution_stops_the_run_before_any_model_loads(tmp_path: Path) -> None:
    (tmp_path / "pair.py").write_text(
        "from selbench.models import PAIRS, PairSpec, register_pair\ntiny = PAIRS.get('tiny')\n"
        "register_pair(PairSpec('knows', tiny.student, tiny.student, privileged='{problem} {solution}', file=__file__))\n"
    )
    rows = [{"problem": "1+1", "answer": "2", "solution": "11"}, {"problem": "2+3", "answer": "5"}, {"problem": "2+4", "answer": "6"}]
    (tmp_path / "some.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (line,) = problems("run", "--plugin", "pair.py", "--pair", "knows", "--prompts", "some.jsonl", cwd=tmp_path)
    assert line.startswith("pair knows: its teacher reads the solution of a prompt, which 2 of 3 prompts of some.jsonl lack")
    assert "first: prompt 2, '2+3'" in line
    assert not (tmp_path / "runs").exists()


def test_contexts_that_cannot_be(tiny_pair: Pair, make_cell: MakeCell) -> None:
    prompts = [Prompt("1+1", "2", "11"), Prompt("1+2", "", " ")]

    def found(**fields: Any) -> str:
        return "\n".join(context_problems(replace(TINY, **fields), prompts, "p.jsonl"))

    assert found() == found(privileged=None, privileged_system="x") == ""
    assert "unknown field {sollution} in its privileged context; did you mean solution?" in found(privileged="{problem} {sollution}")
    assert "has no {problem}" in found(privileged="think")
    assert "1 of 2 prompts of p.jsonl lack (first: prompt 2, '1+2')" in found(privileged="{problem}{answer}")
    assert found(privileged=r"{problem} \boxed{answer_here} \frac{a}{b} x^{n} a_{ij}") == ""
    assert "zero for ever" in found(adapter=True)
    with pytest.raises(ConfigError, match=r"reads the solution of a prompt, and '7\+8' has none"):
        teacher_ids(told(tiny_pair, "{problem} {solution}"), Prompt("7+8", "15"))
    long = told(tiny_pair, "{problem} " + "again " * 20)
    with pytest.raises(ConfigError, match=r"longer than training.max_prompt_tokens = 32 .*longest 1\d\d tokens"):
        require_context(make_cell("full"), long, asked())
    require_context(make_cell("full", **{"training.max_prompt_tokens": 200}), long, asked())


def test_adapters_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    with pytest.raises(ConfigError, match="name one model twice"):
        load_pair(replace(TINY, adapter=True), SETTINGS, "cpu")
    with pytest.raises(ConfigError, match="set both alike"):
        load_pair(OWN, {**SETTINGS, "teacher_dtype": "bfloat16"}, "cpu")
    with pytest.raises(ConfigError, match=r"'q_pro' is no linear layer of .*did you mean .*q_proj"):
        load_pair(OWN, SETTINGS, "cpu", lora=Lora(targets=("v_proj", "q_pro")))
    with pytest.raises(ConfigError, match="'lm_head' is no linear layer"):
        load_pair(OWN, SETTINGS, "cpu", lora=Lora(targets=("lm_head",)))
    some = load_pair(OWN, SETTINGS, "cpu", lora=Lora(targets=("v_proj",)))
    assert all("v_proj" in name for name, p in some.student.named_parameters() if p.requires_grad)
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ConfigError, match=r"selbench\[lora\]"):
        load_pair(OWN, SETTINGS, "cpu")


def test_the_protocols_section() -> None:
    protocol = load_protocol("tiny", ["lora.rank=4", "lora.targets=[q_proj]"])
    assert protocol.lora == Lora(rank=4, targets=("q_proj",))
    assert load_protocol("tiny").lora is None
    cells = [plan.cells_of(p)[0].training_fingerprint() for p in (protocol, load_protocol("tiny"))]
    assert cells[0] != cells[1]
    with pytest.raises(ConfigError, match=r"unknown key 'lora.rnak': did you mean rank"):
        load_protocol("tiny", ["lora.rnak=4"])
    with pytest.raises(ConfigError, match=r"lora.dropout"):
        load_protocol("tiny", ["lora.dropout=1"])


def real_models() -> Path:
    """The folder of models that holds SmolLM2-135M-Instruct; skipped where there is none."""
    homes = [os.environ.get(name) for name in ("SELBENCH_TEST_MODELS", "SELBENCH_MODELS")] + ["~/.cache/selbench-models"]
    folders = [Path(home).expanduser() for home in homes if home]
    found = next((folder for folder in folders if (folder / "smollm2-135m-instruct" / "config.json").is_file()), None)
    if found is None:
        pytest.skip("no folder smollm2-135m-instruct under SELBENCH_TEST_MODELS, SELBENCH_MODELS or ~/.cache/selbench-models")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True])
def test_a_real_model_learns_from_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, benchmark_data: Path, lora: bool) -> None:
    """Three steps of the registered self-distillation pair on GSM8K with its worked solutions, then eight problems."""
    monkeypatch.setenv("SELBENCH_MODELS", str(real_models()))
    monkeypatch.setenv("SELBENCH_DATA", str(benchmark_data))
    if lora:
        pytest.importorskip("peft")
        own = replace(PAIRS.get("smollm2-self"), adapter=True)
        monkeypatch.setitem(PAIRS._entries, own.name, own)
    sizes = ["training.steps=3", "training.prompts_per_step=4", "training.max_response_tokens=64", "training.learning_rate=1e-5",
             "training.checkpoint_every=2", "evaluation.problems=8", "evaluation.samples=1", "evaluation.max_tokens=64"]  # fmt: skip
    source = str(benchmark_data / "gsm8k" / "train.jsonl")
    protocol = load_protocol("custom", sizes, pairs=["smollm2-self"], prompts=source, tasks=["gsm8k"], strategies=["tip_softor"])
    (cell,) = plan.cells_of(protocol)
    sweep.work(cell, tmp_path, "cpu")
    folder = sweep.job_folder(cell, tmp_path)
    rows = read_metrics(folder / "metrics.jsonl")
    assert all(0 < row["tokens"] <= 4 * 64 for row in rows)
    assert all(row["divergence_kept"] > 0.01 for row in rows)  # the same weights, but the teacher knows the solution
    assert rows[0]["reverse_kl"] < rows[0]["divergence_kept"]
    records = pd.read_parquet(folder / "eval" / "gsm8k" / "samples.parquet")
    assert len(records) == 8
    assert not records["prompt"].str.contains("reference solution").any()
    passport = json.loads((folder / "passport.json").read_text())
    assert "A reference solution of this problem, for you alone:\n1+1=2" in passport["teacher_rendered_example"]
    assert "reference solution" not in passport["rendered_example"]
    assert passport["models"]["student"]["sha256"] == passport["models"]["teacher"]["sha256"]
    final = folder / "checkpoint" / "final"
    if lora:  # the hub id, not the folder that stood for it
        assert json.loads((final / "adapter_config.json").read_text())["base_model_name_or_path"] == own.student
    assert (final / ("adapter_model.safetensors" if lora else "model.safetensors")).stat().st_size < (3e7 if lora else 6e8)
