"""Random inputs for the property tests, each a function of one seed, and how close two tensors must be."""

from __future__ import annotations

import torch
from hypothesis import settings
from hypothesis import strategies as st

from selbench.losses import Head
from selbench.rollout import Rollouts
from selbench.scoring import signals_from_logits
from selbench.signals import Signals, Tensor
from selbench.strategy import STRATEGIES

settings.register_profile("selbench", derandomize=True, max_examples=8, deadline=None, database=None)
settings.load_profile("selbench")

seeds = st.integers(0, 2**20)
DECLARED = sorted({need for strategy in STRATEGIES for need in strategy.needs})


class Draw:
    """Random tensors that depend on nothing but a seed."""

    def __init__(self, seed: int) -> None:
        self.source = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.source)

    def order(self, n: int) -> Tensor:
        return torch.randperm(n, generator=self.source)

    def below(self, n: int, count: int) -> Tensor:
        return torch.randint(n, (count,), generator=self.source)

    def logits(self, rows: int = 24, vocabulary: int = 19) -> tuple[Tensor, Tensor, Tensor]:
        return 2 * self.normal(rows, vocabulary), 2 * self.normal(rows, vocabulary), self.below(vocabulary, rows)

    def signals(self, rows: int) -> Signals:
        """A batch of responses with up to nine tokens; every signal that any registered strategy declares."""
        student, teacher, token = self.logits(rows, 40)
        values = dict(signals_from_logits([name for name in DECLARED if name != "position_fraction"], student, teacher, token))
        position = torch.arange(rows) % 9
        return Signals(values | {"position_fraction": position / 8}, position=position, sample=torch.arange(rows) // 9)

    def heads(self, student: int = 21, teacher: int = 21, **options: float) -> tuple[Tensor, Head, Tensor, Head]:
        """Hidden rows and heads of two models of different width; the student's hold gradients."""
        hidden, weight, bias = ((self.normal(*shape) / 2).requires_grad_() for shape in ((13, 6), (student, 6), (student,)))
        return hidden, Head(weight, bias, **options), self.normal(13, 5) / 2, Head(self.normal(teacher, 5))


def same(found: Tensor, expected: Tensor, within: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, atol=within, rtol=within)


def reordered(seen: Signals, order: Tensor) -> Signals:
    return Signals({name: getattr(seen, name)[order] for name in DECLARED}, position=seen.position[order], sample=seen.sample[order])


def rollouts(draw: Draw, count: int = 5) -> Rollouts:
    """Multi-turn sequences: a prompt, then the student's words with a tool's in between, one after the other differently long."""
    lengths = [(int(draw.below(4, 1)) + 1, int(draw.below(6, 1)) + 2) for _ in range(count)]
    masks = [(0,) * prompt + (1,) * n + (0, 0) + (1,) * n for prompt, n in lengths]
    tokens = tuple(tuple(draw.below(50, len(m)).tolist()) for m in masks)
    return Rollouts(tokens, tuple(masks), tuple(prompt for prompt, _ in lengths), ("stop",) * count, tuple(range(7, 7 + count)))
