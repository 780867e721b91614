"""Real rows for the step benchmark: a student's own rollouts, read by student and teacher, and both output heads, in one file.

`python -m selbench.bench.real SPEC.json RESULT.json` in a process of its own, so that the models are gone before anything is measured.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selbench.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from selbench.losses import Head
    from selbench.rollout import Rollouts

__all__ = ["collect", "main"]

TEMPLATE = "{problem}\nPlease reason step by step, and put your final answer within \\boxed{}."


def collect(spec: dict[str, Any]) -> dict[str, Any]:
    """Rollouts of spec["student"] on spec["prompts"] to at least spec["rows"] response tokens; writes spec["tensors"].

    The file has student_hidden (N, D_S), student_weight (V, D_S), teacher_hidden (N, D_T), teacher_weight (V, D_T), all float32;
    token (N,) int64 sampled ids; score (N,) float32, the reverse KL of the row in nats. V: the columns that both heads have.
    Returns what was read and drawn. Raises ConfigError where a head has a bias, a scale or a cap, which not every library can take,
    and where the prompts are too few.
    """
    import torch
    from safetensors.torch import save_file

    from selbench.losses import Head, chunked_divergence
    from selbench.models import load_model, load_renderer, only_tokens
    from selbench.rollout import Sampling
    from selbench.scoring import layout
    from selbench.sources import end_ids_of

    device = spec["device"]
    with torch.no_grad():
        student = load_model(spec["student"], "float32", device)
        renderer = load_renderer(
            spec["student"], template=TEMPLATE, system=None, thinking=None, end_ids=end_ids_of(student.generation_config)
        )  # fmt: skip
        only_tokens(student, renderer, spec["student"])
        sampling = Sampling(max_tokens=spec["max_tokens"], temperature=1.0)
        rollouts = _rollouts(student, renderer, spec, sampling)
        rows = layout(rollouts)
        rows = rows.at(torch.arange(spec["rows"]))
        hidden, head = _read(student, rollouts, rows, spec["student"])
        del student
        teacher = load_model(spec["teacher"], spec["teacher_dtype"], device)
        teacher_hidden, teacher_head = _read(teacher, rollouts, rows, spec["teacher"])
        size = min(len(head.weight), len(teacher_head.weight))
        head, teacher_head = Head(head.weight[:size].float()), Head(teacher_head.weight[:size].float())
        del teacher
        hidden, teacher_hidden, token = hidden.float(), teacher_hidden.float(), rows.token.to(device)
        _, score = chunked_divergence(hidden, head, teacher_hidden, teacher_head, kind="reverse_kl", token=token)
    tensors = {
        "student_hidden": hidden, "student_weight": head.weight, "teacher_hidden": teacher_hidden, "teacher_weight": teacher_head.weight,
        "token": token, "score": score,
    }  # fmt: skip
    save_file({name: x.detach().cpu().contiguous() for name, x in tensors.items()}, spec["tensors"])
    lengths = [len(response) for response in rollouts.responses()]
    return {
        "student": spec["student"], "teacher": spec["teacher"], "teacher_dtype": spec["teacher_dtype"], "prompts": spec["prompts"],
        "sampling": vars(sampling) | {"seed": spec["seed"]}, "responses": len(lengths), "response_tokens": sum(lengths),
        "rows": len(rows), "finished": rollouts.finish.count("stop"), "mean_reverse_kl": float(score.mean()),
    }  # fmt: skip


def _rollouts(student: Any, renderer: Any, spec: dict[str, Any], sampling: Any) -> Rollouts:
    """Enough responses, in batches of eight prompts."""
    from selbench.prompt_sources import read_prompts
    from selbench.rollout import Rollouts
    from selbench.rollout.hf import HFEngine

    problems = [prompt.problem for prompt in read_prompts(spec["prompts"]).prompts]
    engine = HFEngine(student, end_ids=renderer.end_ids, pad_id=renderer.pad_id, batch=8)
    prompts: list[list[int]] = []
    responses: list[list[int]] = []
    finish: list[str] = []
    for start in range(0, len(problems), 8):
        more = [renderer.encode(problem) for problem in problems[start : start + 8]]
        drawn = engine.generate(more, sampling, spec["seed"] + start)
        prompts += more
        responses += drawn.responses()
        finish += drawn.finish
        tokens = sum(map(len, responses))
        print(f"{tokens:,} of {spec['rows']:,} response tokens", file=sys.stderr, flush=True)
        if tokens >= spec["rows"]:
            return Rollouts.of(prompts, responses, finish)
    drawn_tokens = sum(map(len, responses))
    raise ConfigError(f"--prompts {spec['prompts']}: {len(problems)} prompts gave {drawn_tokens:,} tokens, not {spec['rows']:,}")


def _read(model: Any, rollouts: Rollouts, rows: Any, source: str) -> tuple[Tensor, Head]:
    """Hidden rows (N, D) of the tokens in `rows`, and the head, which must be a plain matrix."""
    from selbench.models import head_of
    from selbench.scoring import all_hidden, micro_batches

    head = head_of(model)
    if head.bias is not None or head.scale != 1 or head.softcap is not None:
        raise ConfigError(f"model {source!r}: its head has a bias, a scale or a cap, which not every implementation here can take")
    return all_hidden(model.get_decoder(), rollouts, rows, micro_batches(rollouts, 4), model.device), head


def main(spec_file: str, result_file: str) -> None:
    """Collect, and write what was collected."""
    import torch

    from selbench.provenance import usable_cores

    torch.set_num_threads(usable_cores())
    Path(result_file).write_text(json.dumps(collect(json.loads(Path(spec_file).read_text()))))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ConfigError as error:
        sys.exit(str(error))
