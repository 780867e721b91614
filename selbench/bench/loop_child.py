"""One training run in a process of its own: `python -m selbench.bench.loop_child SPEC.json RESULT.json`.

Whatever trains, the same instruments look on: what generates (the student's `generate`, or selbench's engine) is wrapped, forward
passes of both decoders, the backward pass and the optimiser are timed by hooks. What none of them covers is the rest: loss arithmetic,
selection, batching, bookkeeping. Where the gradient of the head is computed differs, in the rest (selbench, within the loss) or in the
backward pass (trl): of these two phases the sum is what compares.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selbench.config import Cell
    from selbench.models import Pair
    from selbench.prompts import Prompt

__all__ = ["PHASES", "SYSTEMS", "main", "run"]

PHASES = ("generate", "teacher", "student", "backward", "optimiser", "rest")


class Watch:
    """Seconds of each step by phase, its generated tokens, and whether it was asked the prompts of `expected`."""

    def __init__(self, pair: Pair, expected: Sequence[Sequence[Sequence[int]]], end_ids: Sequence[int]) -> None:
        self.pair, self.expected, self.end_ids = pair, expected, end_ids
        self.steps: list[dict[str, float]] = []
        self.now: dict[str, float] = defaultdict(float)
        self.began = time.perf_counter()
        self.active = False

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the seconds within for a phase; a phase inside another one counts for the outer one alone."""
        if self.active:
            yield
            return
        self.active, began = True, time.perf_counter()
        try:
            yield
        finally:
            self.active = False
            self.now[name] += time.perf_counter() - began

    def timed(self, action: Callable[..., Any], name: str) -> Callable[..., Any]:
        def wrapped(*given: Any, **named: Any) -> Any:
            with self.phase(name):
                return action(*given, **named)

        return wrapped

    def install(self) -> None:
        """Put the instruments in place, on these two models, and in autograd and the optimisers of this process."""
        import torch

        student, teacher = self.pair.student, self.pair.teacher
        generate: Any = student.generate
        assert teacher is not None

        def asked(*given: Any, **named: Any) -> Any:
            with self.phase("generate"):
                out = generate(*given, **named)
            whole, ids = getattr(out, "sequences", out), named["input_ids"]
            prompts = [row[seen.bool()].tolist() for row, seen in zip(ids, named["attention_mask"], strict=True)]
            self.look(prompts, whole[:, ids.shape[1] :].tolist())
            return out

        vars(student)["generate"] = asked  # an attribute of the object: what asks this model to write passes here
        for model, name in ((student, "student"), (teacher, "teacher")):
            body: Any = model.get_decoder()
            vars(body)["forward"] = self.timed(body.forward, name)
        torch.autograd.backward = self.timed(torch.autograd.backward, "backward")
        torch.optim.AdamW.step = self.timed_step(torch.optim.AdamW.step)  # type: ignore[method-assign]

    def timed_step(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """A method again, so that schedulers can wrap it."""

        def wrapped(optimiser: Any, *given: Any, **named: Any) -> Any:
            with self.phase("optimiser"):
                return step(optimiser, *given, **named)

        return wrapped

    def look(self, prompts: Sequence[Sequence[int]], written: Sequence[Sequence[int]]) -> None:
        """Compare the prompts with those that are due at this step, count what was written up to the first end token, itself included."""
        if sorted(map(list, prompts)) != sorted(map(list, self.expected[len(self.steps)])):
            raise AssertionError(f"step {len(self.steps) + 1}: the model was not asked the token ids that the renderer gives")
        for row in written:
            self.now["tokens"] += next((n for n, token in enumerate(row, 1) if token in self.end_ids), len(row))

    def stamp(self) -> None:
        """The end of a step."""
        now = time.perf_counter()
        seconds = now - self.began
        phases = {name: self.now[name] for name in PHASES[:-1]}
        self.steps.append({**phases, "rest": seconds - sum(phases.values()), "seconds": seconds, "tokens": self.now["tokens"]})
        self.now, self.began = defaultdict(float), now


def _selbench(spec: dict[str, Any], cell: Cell, pair: Pair, prompts: Sequence[Prompt], watch: Watch, folder: Path) -> list[float]:
    from selbench.loop import train
    from selbench.rollout.hf import HFEngine

    def observe(*_: Any) -> tuple[dict[str, float], None]:  # a rival grades nothing, so nothing is graded here
        watch.stamp()
        return {}, None

    engine: Any = HFEngine(pair.student, end_ids=pair.renderer.end_ids, pad_id=pair.renderer.pad_id, batch=spec["batch"])
    generate = engine.generate

    def asked(prompts: Sequence[Sequence[int]], *given: Any, **named: Any) -> Any:
        with watch.phase("generate"):
            rollouts = generate(prompts, *given, **named)
        watch.look(prompts, rollouts.responses())
        return rollouts

    engine.generate = asked
    train(cell, pair, engine, prompts, folder, observe)
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _arguments(spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What both trainers of TRL take; their own choices (a fused AdamW) stay."""
    return {
        "output_dir": str(folder), "max_steps": spec["steps"], "per_device_train_batch_size": spec["batch"], "seed": spec["seed"],
        "learning_rate": spec["learning_rate"], "lr_scheduler_type": "constant", "warmup_steps": 0, "weight_decay": 0.0,
        "adam_beta1": spec["betas"][0], "adam_beta2": spec["betas"][1], "adam_epsilon": 1e-8, "max_grad_norm": spec["clip_norm"],
        "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "logging_strategy": "no", "report_to": "none",
        "save_strategy": "no", "disable_tqdm": True, "dataloader_pin_memory": False, "beta": 1.0, "temperature": 1.0,
    }  # fmt: skip


def _run_trainer(trainer: Any, watch: Watch, *, per_batch: bool = False) -> list[float]:
    """Train, and return the loss of each step: the mean reverse KL of a generated token.

    per_batch: the trainer is kept from dividing by the labels of the data set instead of by the tokens that were generated.
    """
    from transformers import TrainerCallback

    losses: list[float] = []
    compute = trainer.compute_loss

    def compute_loss(model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        out = compute(model, inputs, return_outputs, None if per_batch else num_items_in_batch)
        losses.append(float((out[0] if return_outputs else out).detach()))
        return out

    class Stamps(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.stamp()

    trainer.compute_loss = compute_loss
    trainer.add_callback(Stamps())
    trainer.train()
    return losses


def _distillation(spec: dict[str, Any], cell: Cell, pair: Pair, prompts: Sequence[Prompt], watch: Watch, folder: Path) -> list[float]:
    from datasets import Dataset
    from trl import DistillationConfig, DistillationTrainer  # type: ignore[attr-defined]  # imported by name on first use

    asked = [{"prompt": [{"role": "user", "content": prompt.problem}]} for prompt in prompts]
    config = DistillationConfig(**_arguments(spec, folder), max_completion_length=spec["tokens"], top_p=1.0, top_k=0, shuffle_dataset=False)
    trainer = DistillationTrainer(
        model=pair.student, teacher_model=pair.teacher, args=config, train_dataset=Dataset.from_list(asked),
        processing_class=pair.renderer.tokenizer,
    )  # fmt: skip
    return _run_trainer(trainer, watch)


def _gkd(spec: dict[str, Any], cell: Cell, pair: Pair, prompts: Sequence[Prompt], watch: Watch, folder: Path) -> list[float]:
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    teacher: Any = pair.teacher

    def row(prompt: Prompt) -> dict[str, Any]:  # an answer of one token: it is replaced by what the student writes
        ids = pair.renderer.encode(prompt.problem)
        return {
            "prompt": pair.renderer.text(prompt.problem), "input_ids": [*ids, pair.renderer.end_ids[0]],
            "attention_mask": [1] * (len(ids) + 1), "completion_mask": [0] * len(ids) + [1],
        }  # fmt: skip

    config = GKDConfig(**_arguments(spec, folder), max_new_tokens=spec["tokens"], lmbda=1.0, max_length=None)
    data = Dataset.from_list([row(prompt) for prompt in prompts])
    trainer: Any = GKDTrainer(
        model=pair.student, teacher_model=teacher, args=config, train_dataset=data, processing_class=pair.renderer.tokenizer
    )
    trainer._get_train_sampler = lambda *_: SequentialSampler(data)  # the order of the prompts is part of the comparison
    return _run_trainer(trainer, watch, per_batch=True)


SYSTEMS: dict[str, Callable[..., list[float]]] = {"selbench": _selbench, "trl-distillation": _distillation, "trl-gkd": _gkd}


def cell_of(spec: dict[str, Any]) -> Cell:
    """The cell of the embedded pair with every token kept, at these settings."""
    from selbench.config import load_protocol
    from selbench.plan import cells_of
    from selbench.strategy import STRATEGIES

    everything = next(strategy.name for strategy in STRATEGIES if strategy.role == "reference")
    training = {
        "steps": spec["steps"], "prompts_per_step": spec["batch"], "micro_batch": spec["batch"], "rollout_batch": spec["batch"],
        "max_response_tokens": spec["tokens"], "learning_rate": spec["learning_rate"], "warmup_steps": 0, "checkpoint_every": 0,
        "clip_norm": spec["clip_norm"], "betas": json.dumps(spec["betas"]), "weight_decay": 0.0,
    }  # fmt: skip
    overrides = [f"training.{name}={value}" for name, value in training.items()]
    return cells_of(load_protocol("tiny", [*overrides, f"strategies=[{everything}]", f"seeds=[{spec['seed']}]"]))[0]


def run(spec: dict[str, Any]) -> dict[str, Any]:
    """Train as spec["system"] says: losses and seconds by step, bytes at the peak of this process and before training."""
    import torch

    from selbench.models import load_pair
    from selbench.prompts import prompts_of_step, training_prompts
    from selbench.provenance import peak_memory
    from selbench.sweep import pair_of

    torch.set_num_threads(spec["threads"])
    cell = cell_of(spec)
    entry = pair_of(cell.pair)
    prompts = training_prompts(cell.protocol, [entry])
    pair = load_pair(entry, cell.protocol.model.model_dump(), "cpu")
    by_step = [prompts_of_step(prompts, cell.seed, step, spec["batch"]) for step in range(1, spec["steps"] + 1)]
    watch = Watch(pair, [[pair.renderer.encode(p.problem) for p in asked] for asked in by_step], pair.renderer.end_ids)
    watch.install()
    given = prompts if spec["system"] == "selbench" else [p for asked in by_step for p in asked]
    loaded = peak_memory()
    with tempfile.TemporaryDirectory() as folder:
        watch.began = time.perf_counter()
        losses = SYSTEMS[spec["system"]](spec, cell, pair, given, watch, Path(folder))
    if not len(losses) == len(watch.steps) == spec["steps"]:
        raise AssertionError(f"{spec['steps']} steps were due, {len(watch.steps)} were done, {len(losses)} losses seen")
    return {"losses": losses, "steps": watch.steps, "peak_bytes": peak_memory(), "loaded_bytes": loaded, "threads": torch.get_num_threads()}


def main(spec_file: str, result_file: str) -> None:
    """Do what the specification says; write the result."""
    Path(result_file).write_text(json.dumps(run(json.loads(Path(spec_file).read_text()))))


if __name__ == "__main__":
    main(*sys.argv[1:])
