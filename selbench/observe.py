"""What is measured of each training batch beside the loss: right answers, truncation, and recall of planted tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from selbench.grading import grade
from selbench.models import PairSpec, Renderer
from selbench.prompts import Prompt
from selbench.rollout import Rollouts

if TYPE_CHECKING:
    from torch import Tensor

    from selbench.loop import Observer
    from selbench.scoring import Rows

__all__ = ["observer", "planted_rows"]


def observer(spec: PairSpec, renderer: Renderer) -> Observer:
    """What is measured of each training batch: share of right answers, and recall of planted tokens where truth is known."""

    def observe(asked: Sequence[Prompt], rollouts: Rollouts, rows: Rows, kept: Tensor) -> tuple[dict[str, float], list[int] | None]:
        found: dict[str, float] = {
            "truncated": rollouts.finish.count("length"),
            "response_tokens": sum(map(len, rollouts.responses())) / max(1, len(rollouts)),
        }
        texts = [renderer.decode(ids) for ids in rollouts.responses()]
        pairs = [
            grade(text, asked[i].answer or "", truncated=finish == "length").verdict
            for text, finish, i in zip(texts, rollouts.finish, rollouts.sample, strict=True)
            if asked[i].answer is not None
        ]
        if pairs:
            found["response_accuracy"] = pairs.count("correct") / len(pairs)
        if spec.planted is None:
            return found, None
        labels = planted_rows(spec.planted, renderer, rollouts, rows)
        hit = kept.tolist()
        for name, wanted in (("planted_recall", (1, 2)), ("planted_recall_overconfident", (1,)), ("planted_recall_uncertain", (2,))):
            planted = [keep for keep, label in zip(hit, labels, strict=True) if label in wanted]
            if planted:
                found[name] = sum(planted) / len(planted)
        return found, labels

    return observe


def planted_rows(planted: Callable[[str], list[int]], renderer: Renderer, rollouts: Rollouts, rows: Rows) -> list[int]:
    """The planted label of each valid token: the highest label of the characters it stands for."""
    by_place: dict[tuple[int, int], int] = {}
    for sequence, (tokens, mask) in enumerate(zip(rollouts.tokens, rollouts.mask, strict=True)):
        columns = [column for column, m in enumerate(mask) if m]
        pieces = [renderer.decode([tokens[column]]) for column in columns]
        labels, at = planted("".join(pieces)), 0
        for column, piece in zip(columns, pieces, strict=True):
            by_place[sequence, column] = max(labels[at : at + len(piece)], default=0)
            at += len(piece)
    return [by_place[place] for place in zip(rows.sequence.tolist(), rows.column.tolist(), strict=True)]
