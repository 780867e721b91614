"""Column addition in characters, and the two errors planted in the student.

A problem `345+678` is answered from the units up, one column after the other: the two digits, the carry, their
two-digit sum, then the result read off the columns: `5+8+0=13,4+7+1=12,3+6+1=10,#1023`. Every digit has one slot, so
what is right at a slot is a function of the problem and of what has been *written* before it: a sum is right for
the digits as written, a carry for the tens as written. That makes the teacher's task on a wrong prefix well
defined, and the label of each token exact.

Planted in the student's text, by the pair of digits written in a column:

* `OVERCONFIDENT`: the ten is always dropped (7+8+0=05). One wrong rule without exception: the student is sure.
* `UNCERTAIN`: the units are one too low, right or one too high, a third each: the student is honestly unsure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

DIGITS = (2, 3, 4)  # operands have the same number of digits, drawn from these
OVERCONFIDENT = frozenset({(7, 8), (8, 7), (6, 9), (9, 6), (5, 8), (8, 5), (4, 9), (9, 4), (6, 7), (7, 6)})
UNCERTAIN = frozenset({(2, 3), (3, 2), (1, 4), (4, 1), (0, 6), (6, 0), (2, 5), (5, 2), (1, 6), (6, 1)})
LABELS = ("clean", "overconfident", "uncertain")  # the label of a token is an index into these

_COLUMN = re.compile(r"(\d)\+(\d)\+\d=(\d?)(\d?)")
_WIDTH = len("5+8+0=13,")


@dataclass(frozen=True)
class Batch:
    """Texts of one length. `written` and `right` are (B, T) character codes: the response, and what is right at each slot."""

    prompts: list[str]
    written: Ints
    right: Ints


def operands(rng: np.random.Generator, count: int, digits: int) -> tuple[Ints, Ints]:
    """`count` pairs of operands as digit arrays (B, digits), most significant first and never zero there."""
    first, second = (rng.integers(0, 10, size=(count, digits)) for _ in range(2))
    first[:, 0], second[:, 0] = rng.integers(1, 10, size=(2, count))
    return first, second


def _member(pairs: frozenset[tuple[int, int]]) -> NDArray[np.bool_]:
    table = np.zeros((10, 10), dtype=bool)
    for a, b in pairs:
        table[a, b] = True
    return table


def render(first: Ints, second: Ints, rng: np.random.Generator, *, planted: bool = False, corrupt: float = 0.0) -> Batch:
    """Responses to `first + second`, slot by slot.

    planted: write the two planted errors (the student's text).
    corrupt: probability that a digit is written at random instead (the teacher's prefixes); what follows is right for
        the text as written.
    """
    count, digits = first.shape
    written: list[Ints] = []
    right: list[Ints] = []

    def digit(value: Ints, wrong: Ints | None = None) -> Ints:
        put = value if wrong is None else wrong
        noise = rng.random(count) < corrupt if corrupt else np.zeros(count, dtype=bool)
        put = np.where(noise, rng.integers(0, 10, size=count), put)
        written.append(put + ord("0"))
        right.append(value + ord("0"))
        return put

    def mark(character: str) -> None:
        written.append(np.full(count, ord(character)))
        right.append(written[-1])

    overconfident, uncertain = _member(OVERCONFIDENT), _member(UNCERTAIN)
    carry = np.zeros(count, dtype=np.int64)
    answer: list[Ints] = []
    for column in range(digits - 1, -1, -1):
        a = digit(first[:, column])
        mark("+")
        b = digit(second[:, column])
        mark("+")
        c = digit(carry)
        mark("=")
        total = a + b + c
        drop = overconfident[a, b] if planted else np.zeros(count, dtype=bool)
        slip = np.where(uncertain[a, b], rng.integers(-1, 2, size=count), 0) if planted else np.zeros(count, np.int64)
        carry = digit(total // 10, np.where(drop, 0, total // 10))
        answer.append(digit(total % 10, (total + slip) % 10))
        mark(",")
    mark("#")
    digit(carry)
    for value in reversed(answer):
        digit(value)
    prompts = [f"{x}+{y}" for x, y in zip(_join(first), _join(second), strict=True)]
    return Batch(prompts, np.stack(written, axis=1), np.stack(right, axis=1))


def _join(digits: Ints) -> list[str]:
    return ["".join(map(str, row)) for row in digits.tolist()]


def problems(rng: np.random.Generator, count: int, exclude: frozenset[str] = frozenset()) -> list[dict[str, str]]:
    """`count` different problems, none in `exclude`: rows with `prompt` ("345+678") and `answer` ("1023")."""
    seen = set(exclude)
    rows: list[dict[str, str]] = []
    while len(rows) < count:
        first, second = operands(rng, 1, DIGITS[len(rows) % len(DIGITS)])
        (x,), (y,) = _join(first), _join(second)
        if (prompt := f"{x}+{y}") not in seen:
            seen.add(prompt)
            rows.append({"prompt": prompt, "answer": str(int(x) + int(y))})
    return rows


def planted_labels(response: str) -> list[int]:
    """The planted truth of each character of a response: an index into `LABELS`.

    The tens of an overconfident column and the units of an uncertain one are planted whatever was written there; all
    else is clean. Reading stops where the text leaves the format.
    """
    labels = [0] * len(response)
    for start in range(0, len(response), _WIDTH):
        column = _COLUMN.match(response, start)
        if column is None:
            break
        pair = int(column[1]), int(column[2])
        if pair in OVERCONFIDENT and column[3]:
            labels[column.start(3)] = 1
        if pair in UNCERTAIN and column[4]:
            labels[column.start(4)] = 2
        if not column[4]:
            break
    return labels
