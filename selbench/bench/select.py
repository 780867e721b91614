"""Token selection on one core: tokens per second of every registered rule, given the signals, and a released selector beside it.

The rival is the per-token procedure of TA-OPD's training code (arXiv:2605.26844; wyy-code/TA-OPD @ ccdf21d2), expressed anew from
its description: a list of rows, quantiles of each column, scores and order in Python. Its rows are built before the clock starts.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from selbench.bench.tables import markdown_table, rich_table
from selbench.provenance import hardware, package_versions
from selbench.signals import Signals, Tensor, signal_top_k
from selbench.strategy import STRATEGIES, Strategy, select

if TYPE_CHECKING:
    import torch

__all__ = ["PUBLISHED", "REQUIRED", "SIZES", "draw", "markdown", "measure", "published", "render"]

SIZES = (10**4, 10**5, 10**6, 10**7)
REQUIRED = 20e6  # tokens per second and core that a rule with scores is held to, at a million tokens
LARGEST_RIVAL = 10**6  # tokens; a row of Python numbers takes half a kilobyte
ROW = dict[str, float]


@dataclass(frozen=True)
class Published:
    """A method of the released selector: the signals behind its columns, which columns it scales, the score of a row, the minimum."""

    columns: dict[str, str]
    scaled: tuple[str, ...]
    score: Callable[[ROW], float]
    minimum: int = 0  # tokens that each response keeps at least; an option of theirs


def _soft_or(row: ROW) -> float:
    return 1 - (1 - row["Hn"]) * (1 - row["DCn"])


_D, _C, _H = {"D": "forward_kl"}, {"C": "compatibility_mass_16"}, {"H": "student_entropy"}
_SERVER = {"D": "server_forward_kl_16", **_C, "H": "topk_entropy_16"}
PUBLISHED = {  # by its formula; n: scaled between the 5 and 95 % quantiles
    "Dn·Cn": Published({**_D, **_C}, ("D", "C"), lambda row: row["Dn"] * row["Cn"]),
    "Dn·(1-Cn)": Published({**_D, **_C}, ("D", "C"), lambda row: row["Dn"] * (1 - row["Cn"])),
    "1-(1-Hn)(1-DCn)": Published({**_D, **_C, **_H}, ("H", "DC"), _soft_or),
    "Hn": Published(_H, ("H",), lambda row: row["Hn"]),  # the order of H while the budget is 5 to 95 %: outside, clipping makes ties
    "Dn·Cn, minimum 1": Published(_SERVER, ("H", "D", "C", "DC"), lambda row: row["Dn"] * row["Cn"], minimum=1),
}
PROBE = 2000  # tokens on which a registered rule must keep the very set of a method to be measured beside it


def draw(tokens: int, names: Sequence[str], seed: int = 0, dtype: torch.dtype | None = None) -> Signals:
    """A batch of `tokens` tokens with those signals, (N,) of `dtype` (float32): random, shaped as in training.

    Responses are log-normal in length (median 270 tokens, 8 to 4096). Half of the entropies lie below 0.02 nats and a tenth above
    0.45; divergences are log-normal, correlated with entropy, their mean a multiple of their median; most teacher mass lies on the
    student's candidates.
    """
    import torch

    source = torch.Generator().manual_seed(seed)
    lengths = torch.empty(tokens // 100 + 64).log_normal_(5.6, 0.7, generator=source).long().clamp(8, 4096)
    ends = lengths.cumsum(0)
    responses = int((ends < tokens).sum()) + 1
    lengths = lengths[:responses]
    sample = torch.arange(responses).repeat_interleave(lengths)[:tokens]
    position = torch.arange(len(sample)) - (ends[:responses] - lengths)[sample]
    uncertain = torch.randn(len(sample), generator=source)

    def normal(correlation: float) -> Tensor:
        return correlation * uncertain + math.sqrt(1 - correlation**2) * torch.randn(len(sample), generator=source)

    def signal(name: str) -> Tensor:
        family = signal_top_k(name)[0]
        if family == "position_fraction":
            return position / (lengths[sample] - 1).clamp_min(1)
        if family.endswith(("_entropy", "_entropy_K")):
            nats = (2.5 * normal(0.95) - 4).exp()
            return (nats / math.log(16)).clamp_max(1) if family == "topk_entropy_K" else nats.clamp_max(11.9)
        if family == "verified_K":
            return (normal(-0.5) < 1.3).float()
        if family.split("_")[0] in ("compatibility", "overlap", "bhattacharyya"):
            return 1 - torch.rand(len(sample), generator=source) ** 6
        divergence = (2 * normal(0.6) - 4).exp()
        if family == "jsd":
            return math.log(2) * (1 - (-divergence).exp())
        return -divergence if family.endswith("logprob") else divergence

    kind = torch.float32 if dtype is None else dtype
    return Signals({name: signal(name).to(kind) for name in names}, position=position, sample=sample)


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it, torch computes on one core."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _seconds(action: Callable[[], Any], least: float = 0.5, most: int = 30) -> list[float]:
    """Seconds of each of 3 or more calls, until `least` seconds are spent; a call before them warms up."""
    action()
    spent: list[float] = []
    while len(spent) < 3 or (sum(spent) < least and len(spent) < most):
        began = time.perf_counter()
        action()
        spent.append(time.perf_counter() - began)
    return spent


def speed(strategy: Strategy, seen: Signals) -> dict[str, Any]:
    """Seconds of `select` at the rule's published budget, of which its own score; what it kept."""
    view = seen.keeping(strategy.needs, 0)
    chosen = select(strategy, seen, strategy.budget, 0)
    whole = _seconds(lambda: select(strategy, seen, strategy.budget, 0))
    score = _seconds(lambda: strategy.score(view), least=0.1)
    return {
        "seconds": statistics.median(whole), "fastest": min(whole), "slowest": max(whole), "runs": len(whole),
        "score_seconds": statistics.median(score), "tokens_per_second": len(seen) / statistics.median(whole),
        "kept": len(chosen.index), "candidates": chosen.candidates, "filled": chosen.filled, "ties": chosen.ties,
    }  # fmt: skip


def same_rule(strategy: Strategy) -> str | None:
    """The method of the released selector with the same definition: same signals, same minimum, same tokens of a small batch."""
    for formula, method in PUBLISHED.items():
        alike = strategy.kind == "scores" and set(strategy.needs) == set(method.columns.values())
        if alike and strategy.min_per_sample == method.minimum and beside(strategy, method, PROBE, seed=0)["jaccard_float64"] == 1:
            return formula
    return None


def rows_of(seen: Signals, method: Published) -> list[ROW]:
    """The batch as the released selector has it: a dict of Python numbers for each token."""
    columns = [seen.sample.tolist(), seen.position.tolist(), *(getattr(seen, name).tolist() for name in method.columns.values())]
    return [dict(zip(("sample", "tok_pos", *method.columns), row, strict=True)) for row in zip(*columns, strict=True)]


def published(rows: list[ROW], method: Published, budget: float) -> set[int]:
    """The rows that the released procedure keeps (methods 3.1 to 3.4)."""
    if "DC" in method.scaled:
        for row in rows:
            row["DC"] = row["D"] * row["C"]
    for name in method.scaled:
        _normalise(rows, name)
    for row in rows:
        row["score"] = method.score(row)
    order = sorted(range(len(rows)), key=lambda i: (rows[i]["score"], -rows[i]["tok_pos"]), reverse=True)
    kept = set(order[: max(1, math.ceil(len(rows) * budget))])
    if method.minimum and budget < 1:
        by_sample: dict[float, list[int]] = {}
        for i, row in enumerate(rows):
            row["fill"] = _soft_or(row)
            by_sample.setdefault(row["sample"], []).append(i)
        for members in by_sample.values():
            missing = method.minimum - sum(i in kept for i in members)
            if missing > 0:
                left = [i for i in members if i not in kept]
                kept.update(sorted(left, key=lambda i: (rows[i]["fill"], -rows[i]["tok_pos"]), reverse=True)[:missing])
    return kept


def _normalise(rows: list[ROW], name: str) -> None:
    import numpy as np

    low, high = (float(q) for q in np.quantile([row[name] for row in rows if math.isfinite(row[name])], (0.05, 0.95)))
    for row in rows:
        flat = high - low < 1e-12 or not math.isfinite(row[name])
        row[f"{name}n"] = 0.0 if flat else min(max((row[name] - low) / (high - low), 0.0), 1.0)


def beside(strategy: Strategy, method: Published, tokens: int, seed: int) -> dict[str, float]:
    """One run of the rival on one batch, and how far the sets agree (Jaccard): in its float64, and in float32 as signals come."""
    names = tuple(dict.fromkeys((*strategy.needs, *method.columns.values())))
    seen = draw(tokens, names, seed)
    rows = rows_of(seen, method)
    began = time.perf_counter()
    theirs = published(rows, method, strategy.budget)
    seconds = time.perf_counter() - began
    double = Signals({name: getattr(seen, name).double() for name in names}, position=seen.position, sample=seen.sample)
    found = {"seconds": seconds, "tokens_per_second": tokens / seconds, "kept": len(theirs)}
    for name, batch in (("jaccard_float64", double), ("jaccard_float32", seen)):
        ours = set(select(strategy, batch, strategy.budget, 0).index.tolist())
        found[name] = len(ours & theirs) / len(ours | theirs)
    return found


def measure(sizes: Sequence[int] = SIZES, cap: float = 60.0, seed: int = 0) -> dict[str, Any]:
    """All of it. cap: seconds that one run of the rival may be expected to take; larger batches are left out, and named."""
    found: dict[str, Any] = {}
    rival: dict[str, Any] = {}
    with one_thread():
        for strategy in STRATEGIES:
            by_size = {str(tokens): speed(strategy, draw(tokens, strategy.needs, seed)) for tokens in sizes}
            found[strategy.name] = {"version": strategy.version, "kind": strategy.kind, "budget": strategy.budget, "sizes": by_size}
            formula = same_rule(strategy)
            if formula is None:
                continue
            runs: dict[str, Any] = {}
            expected = 0.0
            for tokens in sorted(sizes):
                if tokens > LARGEST_RIVAL or expected > cap:
                    runs[str(tokens)] = None
                    continue
                runs[str(tokens)] = beside(strategy, PUBLISHED[formula], tokens, seed)
                expected = 15 * runs[str(tokens)]["seconds"]
            rival[strategy.name] = {"method": formula, **runs}
    return {
        "schema": 1, "threads": 1, "seed": seed, "sizes": list(sizes), "required": REQUIRED, "strategies": found,
        "published": {"source": "wyy-code/TA-OPD @ ccdf21d2, procedure", "cap_seconds": cap, "cap_tokens": LARGEST_RIVAL, "runs": rival},
        "packages": package_versions(), "hardware": hardware(),
    }  # fmt: skip


def _cell(found: dict[str, Any], name: str, tokens: int) -> str:
    return f"{found['strategies'][name]['sizes'][str(tokens)]['tokens_per_second'] / 1e6:.1f}"


def _table(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    sizes, runs = found["sizes"], found["published"]["runs"]
    measured = [n for n in sizes if any(by_size.get(str(n)) for by_size in runs.values())]
    head = ["rule", "budget", *(f"{n:,}" for n in sizes), *([f"released, {measured[-1]:,}", "faster", "same set"] if measured else [])]
    body = []
    for name, row in found["strategies"].items():
        cells = [name, f"{row['budget']:g}", *(_cell(found, name, n) for n in sizes)]
        theirs = runs.get(name, {}).get(str(measured[-1])) if measured else None
        if theirs:
            ratio = row["sizes"][str(measured[-1])]["tokens_per_second"] / theirs["tokens_per_second"]
            cells += [f"{theirs['tokens_per_second'] / 1e6:.2f}", f"{ratio:.0f}x", f"{theirs['jaccard_float64']:.4f}"]
        body.append(cells + [""] * (len(head) - len(cells)))
    return head, body


def markdown(found: dict[str, Any]) -> str:
    """Million tokens per second and core as a table: a row a rule, a column a batch size, the released procedure last."""
    head, body = _table(found)
    return "\n".join(markdown_table(head, ([f"`{row[0]}`", *row[1:]] for row in body)))


def render(found: dict[str, Any]) -> None:
    """Print the table, and which rules miss the requirement."""
    from rich.console import Console

    console = Console()
    console.print(rich_table("selection, million tokens per second on one core, given the signals", *_table(found)))
    rates = {name: row["sizes"].get(str(10**6), {}).get("tokens_per_second") for name, row in found["strategies"].items()}
    slow = [name for name, rate in rates.items() if rate is not None and rate < REQUIRED]
    if any(rates.values()):
        console.print(f"below {REQUIRED / 1e6:g} million at 1,000,000 tokens: {', '.join(slow) or 'none'}", highlight=False)
    rival = found["published"]
    console.print(
        f"released: {rival['source']}, expressed anew, in Python; at most {rival['cap_tokens']:,} tokens and about "
        f"{rival['cap_seconds']:g} s a run. same set: Jaccard of the kept tokens at equal features (float64), budget and minimum.",
        highlight=False,
    )
