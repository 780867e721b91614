"""Special and template tokens in the student's own rollouts: what each model thinks of them, in nats.

A teacher with another chat template or end token gives such tokens next to no probability, so that a handful of them makes up
most of the divergence (Revisiting OPD, arXiv:2603.25562: '<|im_end|>' student -0.00, teacher -58.71). Looked for before the
first step, on a few greedy rollouts.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from selbench.errors import ConfigError
from selbench.models import Pair, PairSpec, compare_pair, head_of, load_pair
from selbench.prompt_sources import Prompt
from selbench.sources import is_local

if TYPE_CHECKING:
    from torch import Tensor

    from selbench.rollout import Rollouts
    from selbench.settings import Agent

__all__ = ["LARGE", "PROBES", "Gap", "Gaps", "greedy_episodes", "greedy_rollouts", "probe_prompts", "report_pair", "special_token_gaps"]

LARGE = 5.0  # nats: the teacher gives the token less than 1/148 of the student's probability
PROBES = ("3+4", "12+5", "20+22", "7+8")  # short answers, so that responses reach their end; the embedded pair reads them too
TAG = re.compile(r"</?[A-Za-z_]+>")


@dataclass(frozen=True)
class Gap:
    """One special or template token in the rollouts: mean log-probabilities (nats) over its `count` occurrences.

    instead: what the teacher finds most likely at these places. share: part of the summed |ln p_S - ln p_T| over all tokens.
    """

    token: str
    id: int
    count: int
    student: float
    teacher: float
    instead: str
    share: float

    @property
    def nats(self) -> float:
        """How much less likely the teacher finds it."""
        return self.student - self.teacher

    def explanation(self) -> str | None:
        """What a large gap will do and what to set; None for a gap of at most `LARGE` nats."""
        if self.nats <= LARGE:
            return None
        return (
            f"{self.token!r}: the student writes it with probability {math.exp(self.student):.2g}; the teacher finds it e^{self.nats:.1f} "
            f"times less likely and would write {self.instead!r}; {self.count} such tokens hold {self.share:.0%} of the difference between "
            f"the models, and training would mend the format before anything else; set loss.special_token_mask=[{self.token!r}], or, "
            f"where the chat templates differ, model.chat_template=teacher"
        )


@dataclass(frozen=True)
class Gaps:
    """The table, and what it was measured on: responses, how many of them reached their end, tokens."""

    rows: tuple[Gap, ...]
    responses: int
    ended: int
    tokens: int

    def content(self) -> dict[str, Any]:
        """For a passport."""
        return {**asdict(self), "rows": [asdict(row) for row in self.rows], "large_nats": LARGE}

    def lines(self) -> list[str]:
        """For people: the table, then a sentence for each large gap."""
        head = f"special tokens in {self.responses} greedy rollouts ({self.tokens} tokens, {self.ended} reached their end)"
        if not self.rows:
            return [f"{head}: none occurs"]
        table = [f"  {'token':<24} {'count':>5} {'student':>8} {'teacher':>8} {'gap':>7} {'share':>6}  teacher's choice"]
        table += [
            f"  {row.token!r:<24} {row.count:>5} {row.student:>8.2f} {row.teacher:>8.2f} {row.nats:>7.2f} {row.share:>6.1%}  "
            f"{row.instead!r}"
            for row in self.rows
        ]
        large = [text for text in map(Gap.explanation, self.rows) if text]
        return [f"{head}, mean log-probability in nats:", *table, *(large or [f"no gap is above {LARGE:g} nats"])]


def probe_prompts() -> list[Prompt]:
    """Sums with their answers: prompts whose responses are short enough to reach their end."""
    return [Prompt(text, str(total := sum(map(int, text.split("+")))), f"{text}={total}") for text in PROBES]


def greedy_rollouts(pair: Pair, problems: Sequence[str], max_tokens: int) -> Rollouts:
    """The student's greedy responses to the rendered problems, at most `max_tokens` each."""
    from selbench.rollout import Sampling
    from selbench.rollout.hf import HFEngine

    engine = HFEngine(pair.student, end_ids=pair.renderer.end_ids, pad_id=pair.renderer.pad_id)
    return engine.generate([pair.renderer.encode(problem) for problem in problems], Sampling(max_tokens, temperature=0), 0)


def greedy_episodes(pair: Pair, prompts: Sequence[Prompt], max_tokens: int, limits: Agent | None) -> Rollouts:
    """The student's greedy episodes in the worlds of the prompts, at most `max_tokens` after each opening."""
    from selbench.rollout import Sampling
    from selbench.rollout.agent import draw_episodes
    from selbench.rollout.hf import HFEngine

    engine = HFEngine(pair.student, end_ids=pair.renderer.end_ids, pad_id=pair.renderer.pad_id)
    worlds = {number: world for number, prompt in enumerate(prompts) if (world := prompt.world)}
    return draw_episodes(engine, pair.renderer, worlds, Sampling(max_tokens, temperature=0), limits, 0)


def special_token_gaps(
    pair: Pair, prompts: Sequence[Prompt], *, max_tokens: int = 128, rollouts: Rollouts | None = None, marks: Iterable[str] = ()
) -> Gaps:
    """Mean student and teacher log-probability of every special or template token in the student's rollouts, largest gap first.

    Looked for are the tokenizer's special and added tokens, the end tokens, and the ids of `marks` and of <tags> in the prompt.
    rollouts: the student's responses to `prompts` (numbered by `sample`); none: greedy ones. The teacher reads its own context
    where the pair has one. Ids that neither model could write raise ValueError.
    """
    import torch

    from selbench.privileged import teacher_rollouts
    from selbench.scoring import all_hidden, layout, micro_batches, rows_after, signal_values

    assert pair.teacher is not None
    drawn = greedy_rollouts(pair, [prompt.problem for prompt in prompts], max_tokens) if rollouts is None else rollouts
    rows, groups = layout(drawn), micro_batches(drawn, 8)
    tokens = len(pair.renderer.tokenizer)
    if len(rows) and int(rows.token.max()) >= tokens:
        raise ValueError(f"a rollout holds the id {int(rows.token.max())}, which the tokenizer of {tokens} tokens does not have")
    read = teacher_rollouts(pair, drawn, prompts)
    student = all_hidden(pair.student.get_decoder(), drawn, rows, groups, pair.device)
    with pair.teaching():
        teacher = all_hidden(pair.teacher.get_decoder(), read, rows_after(rows, drawn, read), groups, pair.device)
    heads = head_of(pair.student), head_of(pair.teacher)
    values = signal_values(("student_logprob", "teacher_logprob"), rows, student, heads[0], teacher, heads[1])
    ours, theirs = values["student_logprob"].double(), values["teacher_logprob"].double()
    total = float((ours - theirs).abs().sum())
    found = []
    for token in sorted(_looked_for(pair, marks) & set(rows.token.tolist())):
        here = (rows.token == token).nonzero().flatten()
        with torch.no_grad():
            size = min(len(head.weight) for head in heads)
            likeliest = Counter(heads[1].logits(teacher[here.to(teacher.device)], size).argmax(-1).tolist()).most_common(1)[0][0]
        found.append(Gap(
            _text(pair, token), token, len(here), _mean(ours[here]), _mean(theirs[here]), _text(pair, likeliest),
            float((ours - theirs)[here].abs().sum()) / total if total else 0.0,
        ))  # fmt: skip
    ended = sum(reason == "stop" for reason in drawn.finish)
    return Gaps(tuple(sorted(found, key=lambda gap: (-gap.nats, gap.id))), len(drawn), ended, len(rows))


def _mean(values: Tensor) -> float:
    return float(values.mean())


def _text(pair: Pair, token: int) -> str:
    tokenizer = pair.renderer.tokenizer
    return str(tokenizer.decode([token], skip_special_tokens=False)) or str(tokenizer.convert_ids_to_tokens(token))


def _looked_for(pair: Pair, marks: Iterable[str]) -> set[int]:
    renderer, tokenizer = pair.renderer, pair.renderer.tokenizer
    known = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder, *renderer.end_ids}
    texts = {*marks, *TAG.findall(renderer.text(PROBES[0]))}
    return known | {i for text in texts for i in tokenizer(text, add_special_tokens=False)["input_ids"]}


def report_pair(spec: PairSpec, *, weights: bool = True, device: str | None = None) -> bool:
    """Print what is known of a pair: findings without weights, then the gaps of its special tokens. False when it cannot be trained.

    weights: load both models, where they are on this machine, for a few greedy rollouts. Raises ConfigError for broken weights.
    """
    settings = _model_settings(spec)
    found = compare_pair(spec, settings)
    shown = {"error": "FAIL", "unreachable": "FAIL", "warning": "warn", "note": "note"}
    for finding in found:
        print(f"{shown[finding.severity]} {finding.text}")
    if any(finding.severity in ("error", "unreachable") for finding in found):
        return False
    if not any(finding.severity == "warning" for finding in found):
        print(f"ok   {spec.name}: vocabulary, chat template and end tokens of teacher and student agree")
    reason = None if weights else "not asked for"
    reason = reason or _cannot_load(spec, settings, device)
    if reason:
        print(f"skip special tokens in rollouts: {reason}")
        return True
    import torch

    pair = load_pair(spec, settings, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    for line in special_token_gaps(pair, probe_prompts()).lines():
        print(f"     {line}")
    return True


def _model_settings(spec: PairSpec) -> dict[str, Any]:
    from selbench.config import Model

    own = {key.removeprefix("model."): value for key, value in spec.settings.items() if key.startswith("model.")}
    return Model.model_validate(own).model_dump()


def _cannot_load(spec: PairSpec, settings: Mapping[str, Any], device: str | None) -> str | None:
    """Why the weights are not loaded: absent (nothing is downloaded for a check) or larger than the memory; None when they can be."""
    import psutil
    import torch

    for role in ("student", "teacher"):
        try:
            if not is_local(getattr(spec, role)):
                return f"the weights of {getattr(spec, role)} are not on this machine (a check downloads nothing)"
        except ConfigError as error:
            return str(error)
    width = {"float32": 4, "bfloat16": 2, "float16": 2}
    needed = sum(shape.get("parameters", 0) * width[settings[f"{role}_dtype"]] for role, shape in spec.shapes.items())
    on_gpu = torch.cuda.is_available() if device is None else device != "cpu"
    free = torch.cuda.mem_get_info()[0] if on_gpu else psutil.virtual_memory().available
    if needed > free:
        return f"the weights take {needed / 2**30:.0f} GiB, {free / 2**30:.0f} GiB are free"
    return None
