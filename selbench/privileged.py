"""The teacher's own context: before the very same response tokens it reads another prompt than the student.

A pair with `privileged` (a user message with {problem}, {answer}, {solution}) or `privileged_system` distils a model that
knows more than the student does: a reference solution, a hint, a longer system prompt. Both models may be the same weights
(self-distillation). The response is carried over as token ids; the student's prompt, rollout and evaluation never hold the
teacher's text. Three steps on a small real model:

    selbench run custom training.steps=3 training.prompts_per_step=4 training.max_response_tokens=64 evaluation.problems=8 \\
        evaluation.samples=1 evaluation.max_tokens=64 --pair smollm2-self --prompts gsm8k/train.jsonl --tasks gsm8k \\
        --strategies full --seeds 0
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from selbench.errors import ConfigError, nearest
from selbench.prompts import Prompt, prompts_of_step

if TYPE_CHECKING:
    from selbench.config import Cell
    from selbench.models import Pair, PairSpec
    from selbench.rollout import Rollouts

__all__ = ["context_facts", "context_problems", "require_context", "teacher_ids", "teacher_rollouts"]

FIELDS = ("problem", "answer", "solution")
_HOLE = re.compile(r"\{(problem|answer|solution)\}")
_LIKE_A_HOLE = re.compile(r"(?<![\\\w^_}])\{([a-z_]+)\}")  # not the braces of \boxed{x}, x^{n}, \frac{a}{b}


def has_context(spec: PairSpec) -> bool:
    """Whether the teacher reads another prompt than the student."""
    return spec.privileged is not None or spec.privileged_system is not None


def context_problems(spec: PairSpec, prompts: Sequence[Prompt], source: str) -> list[str]:
    """Why these prompts (from `source`) cannot be put before this pair's teacher: one sentence each. Loads nothing."""
    if spec.adapter and not has_context(spec):
        return [
            f"pair {spec.name}: its teacher is the student without adapter in the student's own context, the loss is zero for ever; "
            f"give the pair a `privileged` or `privileged_system` context"
        ]
    if has_context(spec) and any(prompt.world for prompt in prompts):
        return [f"pair {spec.name}: its teacher reads a prompt of its own, which episodes with tools have none of; use another pair"]
    if spec.privileged is None:
        return []
    odd = sorted(set(_LIKE_A_HOLE.findall(spec.privileged)) - set(FIELDS))
    problems = [f"pair {spec.name}: unknown field {{{name}}} in its privileged context; {nearest(name, FIELDS)}" for name in odd]
    wanted = set(_HOLE.findall(spec.privileged))
    if "problem" not in wanted:
        problems.append(f"pair {spec.name}: its privileged context has no {{problem}}; the teacher would not know what is asked")
    for name in sorted(wanted):
        lacking = [place for place, prompt in enumerate(prompts, 1) if not (getattr(prompt, name) or "").strip()]
        if lacking:
            problems.append(
                f"pair {spec.name}: its teacher reads the {name} of a prompt, which {len(lacking)} of {len(prompts)} prompts of {source} "
                f"lack (first: prompt {lacking[0]}, {prompts[lacking[0] - 1].problem[:60]!r}); use prompts that have it, or another pair"
            )
    return problems


def require_context(cell: Cell, pair: Pair, prompts: Sequence[Prompt]) -> None:
    """Raises ConfigError where a prompt that this cell will meet cannot be put before the teacher whole."""
    problems = context_problems(pair.spec, prompts, cell.protocol.prompts)
    settings = cell.protocol.training
    if has_context(pair.spec) and not problems:
        met = dict.fromkeys(p for s in range(settings.steps) for p in prompts_of_step(prompts, cell.seed, s + 1, settings.prompts_per_step))
        lengths = {prompt: len(teacher_ids(pair, prompt)) for prompt in met}
        long = [prompt for prompt, length in lengths.items() if length > settings.max_prompt_tokens]
        if long:
            problems.append(
                f"pair {pair.spec.name}: {len(long)} of {len(met)} prompts are longer than training.max_prompt_tokens = "
                f"{settings.max_prompt_tokens} in the teacher's context (longest {max(lengths.values())} tokens; first: "
                f"{long[0].problem[:60]!r}); raise it or filter the prompts"
            )
    if problems:
        raise ConfigError(*problems)


def context_facts(pair: Pair) -> dict[str, str]:
    """What a passport says of the teacher's context: an example and its hash; nothing for a pair without."""
    if not has_context(pair.spec):
        return {}
    example = _teacher_text(pair, Prompt("1+1", "2", "1+1=2"))
    return {"teacher_rendered_example": example, "teacher_prompt_sha256": hashlib.sha256(example.encode()).hexdigest()}


def teacher_ids(pair: Pair, prompt: Prompt) -> list[int]:
    """The prompt as the teacher reads it, rendered by the pair's one renderer, as ids."""
    return pair.renderer.encode_text(_teacher_text(pair, prompt))


def _teacher_text(pair: Pair, prompt: Prompt) -> str:
    spec, renderer = pair.spec, pair.renderer

    def given(hole: re.Match[str]) -> str:
        text: str | None = getattr(prompt, hole[1])
        if text is None:
            raise ConfigError(f"pair {spec.name}: its teacher reads the {hole[1]} of a prompt, and {prompt.problem[:60]!r} has none")
        return text

    # in one pass: a field that itself holds "{answer}" is text
    message = _HOLE.sub(given, renderer.template if spec.privileged is None else spec.privileged)
    system = renderer.system if spec.privileged_system is None else spec.privileged_system
    return replace(renderer, template="{problem}", system=system).text(message)


def teacher_rollouts(pair: Pair, rollouts: Rollouts, asked: Sequence[Prompt]) -> Rollouts:
    """The student's responses, ids and mask as they are, after the teacher's prompts; `rollouts` itself for a pair without context.

    asked: the prompts of the global batch, numbered as in `rollouts.sample`.
    """
    if not has_context(pair.spec):
        return rollouts
    prompts = [tuple(teacher_ids(pair, asked[number])) for number in rollouts.sample]
    ends = list(zip(prompts, rollouts.tokens, rollouts.mask, rollouts.start, strict=True))
    return replace(
        rollouts,
        tokens=tuple((*prompt, *tokens[start:]) for prompt, tokens, _, start in ends),
        mask=tuple((*(0 for _ in prompt), *mask[start:]) for prompt, _, mask, start in ends),
        start=tuple(map(len, prompts)),
    )
