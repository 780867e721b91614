"""avg@k, pass@k, maj@k and their interval against their definitions, and the way from stored records to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, pairwise, permutations
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from selbench.errors import RecordError
from selbench.records import VERDICTS
from selbench.scores import UNREADABLE, answer_matrices, score_table
from selbench.stats import accuracy_interval, average_at_k, bayes_at_n, majority_at_k, pass_at_k, run_interval

Matrix = NDArray[np.int64]


@st.composite
def matrices(draw: st.DrawFn, problems: int = 6, samples: int = 6) -> Matrix:
    """correct (P, k) of 0 and 1."""
    k = draw(st.integers(1, samples))
    rows = st.lists(st.integers(0, 1), min_size=k, max_size=k)
    return np.array(draw(st.lists(rows, min_size=1, max_size=problems)), dtype=np.int64)


@st.composite
def ballots(draw: st.DrawFn, problems: int = 4, samples: int = 6) -> tuple[Matrix, Matrix]:
    """votes (P, k) from -1 to 3, and correct: of each problem one answer is right, or none."""
    k = draw(st.integers(1, samples))
    rows = st.lists(st.integers(-1, 3), min_size=k, max_size=k)
    votes = np.array(draw(st.lists(rows, min_size=1, max_size=problems)), dtype=np.int64)
    right = np.array(draw(st.lists(st.integers(0, 4), min_size=len(votes), max_size=len(votes))))
    return votes, (votes == right[:, None]).astype(np.int64)


@given(matrices())
def test_average_is_the_share_of_right_samples(correct: Matrix) -> None:
    assert average_at_k(correct) == pytest.approx(sum(map(sum, correct.tolist())) / correct.size)
    assert average_at_k(correct) == pytest.approx(1 - average_at_k(1 - correct))


@given(matrices(), st.data())
def test_pass_is_the_expectation_over_all_subsets(correct: Matrix, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, correct.shape[1]))
    expected = np.mean([np.mean([max(subset) for subset in combinations(row, k)]) for row in correct.tolist()])
    assert pass_at_k(correct, k) == pytest.approx(float(expected), abs=1e-12)


@given(matrices(samples=12))
def test_pass_rises_from_average_to_any(correct: Matrix) -> None:
    n = correct.shape[1]
    curve = [pass_at_k(correct, k) for k in range(1, n + 1)]
    assert all(low <= high + 1e-12 for low, high in pairwise(curve))
    assert curve[0] == pytest.approx(average_at_k(correct))
    assert curve[-1] == pytest.approx(float(correct.any(axis=1).mean()))
    assert all(0 <= value <= 1 for value in curve)


def test_pass_by_hand() -> None:
    """n = 4, c = 1 and 2, k = 2: 1 - C(3,2)/C(4,2) = 1/2 and 1 - C(2,2)/C(4,2) = 5/6."""
    assert pass_at_k([[1, 0, 0, 0], [1, 1, 0, 0]], 2) == pytest.approx((1 / 2 + 5 / 6) / 2)
    many = np.zeros((1, 1000), dtype=np.int64)
    many[0, :3] = 1
    assert pass_at_k(many, 100) == pytest.approx(1 - math.comb(997, 100) / math.comb(1000, 100))


@pytest.mark.parametrize("k", [0, -1, 4])
def test_pass_refuses_what_was_not_sampled(k: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 3 samples"):
        pass_at_k([[1, 0, 1]], k)


@pytest.mark.parametrize("bad", [[], [[]], [1, 0], [[0.5]], [[2]], [[float("nan")]]])
def test_estimators_refuse_what_is_not_a_matrix_of_0_and_1(bad: Any) -> None:
    for estimate in (
        average_at_k,
        accuracy_interval,
        bayes_at_n,
        run_interval,
        lambda c: pass_at_k(c, 1),
        lambda c: majority_at_k(np.zeros_like(c), c),
    ):
        with pytest.raises(ValueError, match="array of 0 and 1"):
            estimate(bad)


def first_of_the_most_frequent(votes: Sequence[int], correct: Sequence[int], order: Sequence[int]) -> float:
    counts = {name: list(votes).count(name) for name in order if name in votes}
    if not counts:
        return 0.0
    winner = max(counts, key=lambda name: counts[name])  # the first of equals, in the order given
    return float(correct[list(votes).index(winner)])


@settings(max_examples=60)
@given(ballots())
def test_majority_is_the_mean_over_random_tie_breaking(ballot: tuple[Matrix, Matrix]) -> None:
    votes, correct = ballot
    rows = list(zip(votes.tolist(), correct.tolist(), strict=True))
    expected = np.mean([[first_of_the_most_frequent(v, c, order) for order in permutations(range(4))] for v, c in rows])
    assert majority_at_k(votes, correct) == pytest.approx(float(expected), abs=1e-12)


@given(ballots(), st.permutations(range(4)), st.randoms(use_true_random=False))
def test_majority_knows_neither_names_nor_order(ballot: tuple[Matrix, Matrix], names: list[int], draw: Any) -> None:
    votes, correct = ballot
    value = majority_at_k(votes, correct)
    order = list(range(votes.shape[1]))
    draw.shuffle(order)
    assert majority_at_k(votes[:, order], correct[:, order]) == pytest.approx(value)
    assert majority_at_k(np.append(names, -1)[votes], correct) == pytest.approx(value)
    assert majority_at_k(np.where(votes < 0, -7, votes + 100), correct) == pytest.approx(value)


def test_majority_by_hand() -> None:
    assert majority_at_k([[0, 0, 1]], [[1, 1, 0]]) == 1
    assert majority_at_k([[0, 0, 1, 1]], [[1, 1, 0, 0]]) == pytest.approx(1 / 2)
    assert majority_at_k([[0, 1, 2, -1]], [[1, 0, 0, 0]]) == pytest.approx(1 / 3)
    assert majority_at_k([[0, -1, -1, -1]], [[1, 0, 0, 0]]) == 1
    assert majority_at_k([[-1, -1]], [[0, 0]]) == 0
    assert majority_at_k([[-1, -1], [5, 5]], [[0, 0], [1, 1]]) == pytest.approx(1 / 2)
    with pytest.raises(ValueError, match="differ in shape"):
        majority_at_k([[0, 1]], [[1]])


def test_wilson_by_hand() -> None:
    """8 of 10, z = 1.959964: (0.8 + z²/20 ± z·sqrt(0.016 + z²/400)) / (1 + z²/10) = 0.716740 ± 0.226578."""
    interval, method = accuracy_interval([[1]] * 8 + [[0]] * 2)
    assert method == "Wilson"
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.8, 0.490162, 0.943318), abs=1e-6)
    none, _ = accuracy_interval([[0]] * 30)
    assert (none.mean, none.low, none.high) == pytest.approx((0, 0, 3.841459 / 33.841459), abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(matrices(problems=12, samples=5), st.integers(0, 3))
def test_the_interval_contains_the_mean_and_stays_inside(correct: Matrix, seed: int) -> None:
    interval, method = accuracy_interval(correct, seed=seed)
    assert interval.mean == pytest.approx(average_at_k(correct))
    assert 0 <= interval.low <= interval.mean + 1e-9
    assert interval.mean - 1e-9 <= interval.high <= 1
    assert interval.low < interval.high
    assert (interval, method) == accuracy_interval(correct, seed=seed)


@pytest.mark.parametrize(
    "correct",
    [[[1, 1], [1, 1]], [[0, 0, 0]], [[1, 0]], [[1, 0], [0, 1], [1, 0]], [[1, 1, 1, 0]] * 30],
    ids=["all right", "all wrong", "one problem", "equal shares", "three of four throughout"],
)
def test_where_a_bootstrap_has_nothing_to_resample(correct: list[list[int]]) -> None:
    interval, method = accuracy_interval(correct)
    assert method == "Wilson"
    assert 0 <= interval.low <= interval.mean <= interval.high <= 1
    assert interval.high - interval.low > 0.1, "no false certainty"


def test_bootstrap_is_seeded_narrows_and_agrees_with_the_standard_error() -> None:
    rng = np.random.default_rng(0)
    correct = (rng.random((400, 4)) < rng.beta(1, 1, size=(400, 1))).astype(np.int64)
    one, method = accuracy_interval(correct, seed=0)
    other, _ = accuracy_interval(correct, seed=1)
    assert method.startswith("BCa")
    assert one != other
    assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.004)
    error = float(correct.mean(axis=1).std()) / math.sqrt(400)
    assert (one.high - one.low) / (2 * 1.96) == pytest.approx(error, rel=0.05)
    few, _ = accuracy_interval(correct[:40])
    assert few.high - few.low > 2 * (one.high - one.low)
    wide, _ = accuracy_interval(correct, level=0.99)
    assert wide.high - wide.low > one.high - one.low


def published_bayes(correct: Matrix, weights: Sequence[float], prior: float) -> tuple[float, float]:
    """Mean and standard deviation of Bayes@N for outcomes 0..C with these weights: arXiv:2510.04265, algorithm 1, term by term."""
    problems, samples = correct.shape
    total = prior * len(weights) + samples
    counts = [[prior + sum(int(value) == c for value in row) for c in range(len(weights))] for row in correct]
    mean = weights[0] + sum(n * (w - weights[0]) for row in counts for n, w in zip(row, weights, strict=True)) / (problems * total)
    squares = [sum(n / total * (w - weights[0]) ** 2 for n, w in zip(row, weights, strict=True)) for row in counts]
    means = [sum(n / total * (w - weights[0]) for n, w in zip(row, weights, strict=True)) for row in counts]
    return mean, math.sqrt(sum(s - m**2 for s, m in zip(squares, means, strict=True)) / (problems**2 * (total + 1)))


@settings(max_examples=40, deadline=None)
@given(matrices(), st.sampled_from((0.5, 1.0, 3.0)))
def test_bayes_is_the_published_formula(correct: Matrix, prior: float) -> None:
    mean, deviation = published_bayes(correct, (0.0, 1.0), prior)
    found = bayes_at_n(correct, prior=(prior, prior))
    assert found.mean == pytest.approx(mean)
    assert (found.low, found.high) == pytest.approx((mean - 1.959964 * deviation, mean + 1.959964 * deviation), abs=1e-6)
    turned = bayes_at_n(1 - correct, prior=(prior, prior))
    assert (turned.mean, turned.low, turned.high) == pytest.approx((1 - found.mean, 1 - found.high, 1 - found.low))


def test_bayes_refuses() -> None:
    for prior, level in (((0.0, 1.0), 0.95), ((1.0, 1.0), 95.0)):
        with pytest.raises(ValueError, match="prior of positive counts"):
            bayes_at_n([[1, 0]], prior=prior, level=level)


def test_the_interval_of_one_run_by_hand() -> None:
    """Shares 1/2 and 1/4 of 4: variance (1/4 + 3/16) / 3 / 4 = 0.0364583; no spread inside problems: 0.05 = (1 - d)**8."""
    found = run_interval([[1, 1, 0, 0], [1, 0, 0, 0]])
    half = 1.959964 * math.sqrt((1 / 4 + 3 / 16) / 3 / 4)
    assert (found.mean, found.low, found.high) == pytest.approx((0.375, 0.375 - half, 0.375 + half), abs=1e-6)
    none = run_interval([[0, 0, 0, 0]] * 2)
    assert (none.low, none.high) == pytest.approx((0, 1 - 0.05 ** (1 / 8)))
    assert math.isnan(run_interval([[1], [0]]).low), "one sample says nothing of how samples differ"


def records(answers: Sequence[Sequence[tuple[str, str | None]]]) -> pd.DataFrame:
    """A table of (verdict, extracted answer), a row of the argument a problem."""
    return pd.DataFrame(
        [
            {"problem": f"p{n}", "sample": i, "verdict": verdict, "extracted": text, "finish": "stop", "tokens": 10 * i + 10, "grader": "g"}
            for n, row in enumerate(answers)
            for i, (verdict, text) in enumerate(row)
        ]
    )  # fmt: skip


def test_votes_by_hand() -> None:
    row = [
        ("correct", "1/2"), ("correct", "0.5"), ("incorrect", "x + 1"), ("incorrect", "x+1"), ("incorrect", "x+2"),
        ("unparsed_answer", None), ("truncated", None), ("timeout", "9"),
    ]  # fmt: skip
    correct, votes = answer_matrices(records([row, [("incorrect", "x+1")] * 8]))
    assert correct.tolist() == [[1, 1, 0, 0, 0, 0, 0, 0], [0] * 8]
    first, second = votes.tolist()
    assert first[0] == first[1], "right answers are one vote, however written"
    assert first[2] == first[3], "wrong ones are equal where their texts are, spaces aside"
    assert len({first[0], first[2], first[4], first[7]}) == 4
    assert first[5] == first[6] == -1, "no answer, no vote"
    assert len(set(second)) == 1
    assert min(second) >= 0


TEXTS = st.sampled_from(["1", "2", "x", None])
VERDICT = st.sampled_from(VERDICTS)


@st.composite
def tables(draw: st.DrawFn) -> pd.DataFrame:
    k = draw(st.integers(1, 4))
    rows = draw(st.lists(st.lists(st.tuples(VERDICT, TEXTS), min_size=k, max_size=k), min_size=1, max_size=5))
    return records([[(verdict, text or "5" if verdict == "correct" else text) for verdict, text in row] for row in rows])


@settings(max_examples=40, deadline=None)
@given(tables(), st.randoms(use_true_random=False))
def test_scores_add_up_and_do_not_depend_on_the_order_of_records(table: pd.DataFrame, draw: Any) -> None:
    scores = score_table(table)
    assert sum(scores["verdicts"].values()) == len(table) == scores["problems"] * scores["samples"]
    assert scores["accuracy"] == pytest.approx(scores["verdicts"]["correct"] / len(table))
    assert scores["unreadable"] == pytest.approx(sum(scores["verdicts"][name] for name in UNREADABLE) / len(table))
    assert scores["low"] <= scores["accuracy"] + 1e-9
    assert scores["accuracy"] - 1e-9 <= scores["high"]
    assert scores["pass_at_k"]["1"] == pytest.approx(scores["accuracy"])
    assert 0 <= scores["majority_at_k"] <= float(answer_matrices(table)[0].any(axis=1).mean()) + 1e-9
    order = list(range(len(table)))
    draw.shuffle(order)
    shuffled = score_table(table.iloc[order].reset_index(drop=True))
    assert shuffled["majority_at_k"] == pytest.approx(scores["majority_at_k"])
    assert shuffled["accuracy"] == scores["accuracy"]


def test_shares_of_truncated_and_unreadable_answers() -> None:
    table = records([[("correct", "1"), ("truncated", None), ("unparsed_answer", None), ("timeout", "7")]])
    table["finish"] = ["length", "length", "stop", "stop"]
    scores = score_table(table)
    assert scores["truncated"] == pytest.approx(1 / 2), "by the finish reason: a response cut after its answer is cut all the same"
    assert scores["unreadable"] == pytest.approx(1 / 2)
    assert scores["accuracy"] == pytest.approx(1 / 4)
    assert scores["tokens_per_response"] == pytest.approx(25)
    assert scores["pass_at_k"] == pytest.approx({"1": 1 / 4, "2": 1 / 2, "4": 1})


def test_missing_records_are_an_error() -> None:
    table = records([[("correct", "1")] * 3, [("incorrect", "2")] * 3])
    with pytest.raises(RecordError, match="between 2 and 3 samples per problem"):
        answer_matrices(table.drop(index=4))
    with pytest.raises(RecordError, match="stands there twice"):
        answer_matrices(table.assign(sample=[0, 1, 1, 0, 1, 2]))
    with pytest.raises(RecordError, match="no records"):
        answer_matrices(table.iloc[:0])
