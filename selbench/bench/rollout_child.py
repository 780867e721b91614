"""One rollout engine in a process of its own: `python -m selbench.bench.rollout_child SPEC.json RESULT.json`.

Prompts, end tokens, threads and precision are the same for all systems; what is drawn is not, so that with real end tokens (`natural`)
the lengths differ between them. By default nothing ends a response: every one runs to the limit, and all systems do the same work.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from selbench.bench.rollout_systems import SYSTEMS, Task, flaw

__all__ = ["answers", "main", "run", "speed"]

PROBED = 8  # tokens of the warm-up that the estimate rests on
SECONDS, TIMED = 2.0, 5  # runs are repeated while they took less in all, at most so often
SYNCS = 3  # after the one that belongs to the start
COMPARED, COMPARED_TOKENS = 4, 32  # prompts and greedy tokens of the comparison between systems


def _task(spec: dict[str, Any]) -> Task:
    """Model and prompts, the weights touched: what the system maps lazily would be found in the first engine's memory."""
    from selbench.models import adhoc_pair, load_pair
    from selbench.prompts import load_prompts, prompts_of_step
    from selbench.settings import Model

    scored = spec["measure"] == "answers"
    dtype: Any = "float32" if scored else spec["dtype"]
    settings = Model(student_dtype=dtype).model_dump()
    pair = load_pair(adhoc_pair(spec["model"], spec["model"]), settings, spec["device"], teacher=False)
    for parameter in pair.student.parameters():
        parameter.detach().sum()
    chosen = prompts_of_step(load_prompts(spec["prompts"]).prompts, spec["seed"], 1, COMPARED if scored else spec["batch"])
    tokens = min(COMPARED_TOKENS, spec["tokens"]) if scored else spec["tokens"]
    ends = tuple(pair.renderer.end_ids) if spec["natural"] and not scored else ()
    asked = [pair.renderer.encode(prompt.problem) for prompt in chosen]
    return Task(pair.student, asked, ends, pair.renderer.pad_id, tokens, dtype, scored)


def _imported(spec: dict[str, Any]) -> float:
    """Seconds until the libraries of the system are there."""
    began = time.perf_counter()
    import torch

    for name in ("transformers", "selbench.models", "selbench.rollout.hf"):
        import_module(name)
    if spec["system"] == "vllm":
        from selbench.rollout.vllm_package import PLATFORMS, SHARED

        os.environ.update(SHARED | PLATFORMS[spec["device"]].environment)
        assert import_module("vllm").LLM  # vLLM imports the rest of itself when it is first asked for this name
    torch.set_num_threads(spec["threads"])
    return time.perf_counter() - began


def speed(spec: dict[str, Any], task: Task) -> dict[str, Any]:
    """Seconds of start, first token, sync and the whole batch; bytes at the peak, and beyond what was held before the engine."""
    import torch

    from selbench.bench.fresh import _in_use, _status
    from selbench.provenance import reset_peak_memory

    cuda = spec["device"] == "cuda"
    limit = getattr(task.model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and task.room > limit:
        return {"skipped": f"{task.room} tokens do not fit the model's context of {limit}", "for_all": True}
    held = _in_use(cuda)
    reset_peak_memory()

    def timed(action: Callable[[], Any]) -> tuple[float, Any]:
        began = time.perf_counter()
        out = action()
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - began, out

    def asked(tokens: int) -> float:
        """Seconds, without those of the engine's own check. Raises ValueError for what is no answer."""
        before = system.checking
        seconds, (responses, _) = timed(lambda: system.ask(tokens, spec["draws"]))
        if wrong := flaw(responses, task, tokens):
            raise ValueError(f"no valid output: {wrong}")
        generated.append(sum(map(len, responses)))
        return seconds - (system.checking - before)

    generated: list[int] = []
    built, system = timed(lambda: SYSTEMS[spec["system"]](task))
    started, _ = timed(system.sync)
    found = {"startup_seconds": built + started, "first_token_seconds": asked(1)}
    more = min(PROBED, task.tokens - 1)
    short, longer = asked(1), asked(1 + more) if more else 0.0
    expected = max(short + max(0.0, longer - short) / max(1, more) * (task.tokens - 1), found["first_token_seconds"])
    found["expected_seconds"] = expected
    if expected > spec["limit"]:
        return found | {"skipped": f"expected to take {expected:.0f} s at least, over the limit of {spec['limit']:g} s"}
    generated.clear()
    system.checking = 0.0
    seconds: list[float] = []
    while len(seconds) < TIMED and (not seconds or sum(seconds) < SECONDS):
        seconds.append(asked(task.tokens))
    checking = system.checking / len(seconds)
    syncs = []
    for _ in range(SYNCS):
        with torch.no_grad():
            for parameter in task.model.parameters():
                parameter.neg_()  # all change, as after a step; nothing is generated from them any more
        syncs.append(timed(system.sync)[0])
    peak = torch.cuda.max_memory_allocated() if cuda else _status("VmHWM")
    return found | {
        "seconds": seconds, "generated": generated, "sync_seconds": statistics.median(syncs), "check_seconds": checking,
        "tokens_per_second": statistics.median(n / spent for n, spent in zip(generated, seconds, strict=True)),
        "peak_bytes": peak, "beyond_bytes": peak - held,
    }  # fmt: skip


def answers(spec: dict[str, Any], task: Task) -> dict[str, Any]:
    """Greedy responses in float32, and how far the system's log-probabilities are from those of a plain forward pass, nats."""
    from selbench.rollout import Rollouts
    from selbench.rollout.probe import measure

    system = SYSTEMS[spec["system"]](task)
    system.sync()
    responses, logprobs = system.ask(task.tokens, spec["draws"], greedy=True)
    found: dict[str, Any] = {"responses": responses, "flaw": flaw(responses, task, task.tokens)}
    if logprobs is not None and found["flaw"] is None:
        gap = measure(task.model, Rollouts.of(task.prompts, responses, ["length"] * len(responses), 0, logprobs), spec["seed"])
        found |= {"gap_mean": gap.mean, "gap_largest": gap.largest, "gap_tokens": gap.tokens}
    return found


def run(spec: dict[str, Any]) -> dict[str, Any]:
    """Do what spec["measure"] says. {"error": reason} where the system fails."""
    import torch

    facts: dict[str, Any] = {"load_average": os.getloadavg()[0]}
    try:
        facts["import_seconds"] = _imported(spec)
        task = _task(spec)
        return facts | {"speed": speed, "answers": answers}[spec["measure"]](spec, task) | {"threads": torch.get_num_threads()}
    except Exception as error:  # of whatever library: a line of the table, and the traceback in the log
        traceback.print_exc()
        return facts | {"error": f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"}


def main(spec_file: str, result_file: str) -> None:
    """Do what the specification says; write the result."""
    Path(result_file).write_text(json.dumps(run(json.loads(Path(spec_file).read_text()))))


if __name__ == "__main__":
    main(*sys.argv[1:])
