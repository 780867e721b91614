"""What `selbench bench step` shows: a table a size, and a figure of memory against rows and time against budget."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from selbench.bench.rivals import RIVALS

__all__ = ["figure", "markdown", "render"]

Record = dict[str, Any]
OURS = "selbench"
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # without yellow, too pale on white; black is ours
MARKERS = "sD^vPX"


def render(found: Record) -> None:
    """Print everything that was measured."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    exact = {(e["vocabulary"], e["entry"]): e for e in found["exactness"]}
    for size in found["sizes"]:
        title = (
            f"V={size['vocabulary']:,}, N={size['rows']:,}, widths {size['width']:,} and {size['teacher_width']:,}, "
            f"{found['settings']['dtype']}; mean student entropy {size['mean_entropy']:.2f} nats, reverse KL {size['mean_reverse_kl']:.2f}"
            + ("" if found["real"] else f", scale {size['scale']:.3g}")
        )
        table = Table(title=title, title_justify="left")
        table.add_column("implementation", no_wrap=True)
        for column in ("ms, median", "range", "× dense", "× best rival", "peak MB", "loss error", "gradient error"):
            table.add_column(column, justify="right")
        for record in found["summary"]:
            if (record["vocabulary"], record["rows"]) == (size["vocabulary"], size["rows"]):
                table.add_row(record["entry"], *_cells(record, exact.get((size["vocabulary"], record["entry"]))))
        console.print(table)
    if found["flat"]:
        table = Table("rows", "peak MB", "ms", "ms per 1,000 rows", title=f"selbench, all rows, V={found['flat'][0]['vocabulary']:,}")
        for one in found["flat"]:
            cells = (_megabytes(one["peak_bytes"]), f"{one['ms']:,.0f}", f"{1000 * one['ms'] / one['rows']:,.0f}") if "ms" in one else ()
            table.add_row(f"{one['rows']:,}", *(cells or (one["error"],)))
        console.print(table)
    best = sorted({record["best"] for record in found["summary"] if record.get("best")})
    console.print(
        "peak: beyond inputs and gradients, the largest of all rounds. × : median of the ratios within a round. "
        f"best rival: the fastest other exact library at that size ({', '.join(best) or 'none'}). "
        "errors: relative, against dense autograd in float64, the worse of the two gradients; — : another objective."
    )
    console.print(f"losses of the exact implementations, all rows: at most {_loss_spread(found['summary']):.0e} apart, relatively")
    for reason in found["left_out"]:
        console.print(f"left out: {reason}", highlight=False)


def markdown(found: Record) -> str:
    """The table of each size, one under the other; sizes are named in the first column where there are several."""
    columns = ["implementation", "ms, median", "range", "× dense", "× best rival", "peak MB", "loss error", "gradient error"]
    exact, several = {(e["vocabulary"], e["entry"]): e for e in found["exactness"]}, len(found["sizes"]) > 1
    lines = ["| " + " | ".join([*(["V", "N"] * several), *columns]) + " |"]
    lines.append("|" + " ---: |" * (2 * several) + " --- |" + " ---: |" * (len(columns) - 1))
    for record in found["summary"]:
        size = [f"{record['vocabulary']:,}", f"{record['rows']:,}"] * several
        cells = [f"`{record['entry']}`", *_cells(record, exact.get((record["vocabulary"], record["entry"])))]
        lines.append("| " + " | ".join([*size, *cells]) + " |")
    return "\n".join(lines)


def _cells(record: Record, exact: Record | None) -> list[str]:
    errors = ["—", "—"]
    if exact is not None:
        errors = ["failed", ""]
        if "error" not in exact:
            errors = [f"{exact['loss_relative']:.0e}", f"{max(exact['hidden_relative'], exact['weight_relative']):.0e}"]
    if "error" in record:
        return [record["error"], "", "", "", "", *errors]
    ratios = ("" if record[name] is None else f"{record[name]:.2f}" for name in ("to_dense", "to_best"))
    times = _time(record["ms"]), f"{_time(record['ms_least'])}–{_time(record['ms_most'])}"
    return [*times, *ratios, _megabytes(record["peak_bytes"]), *errors]


def _time(ms: float) -> str:
    return f"{ms:,.0f}" if ms >= 100 else f"{ms:.3g}"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f}" if count >= 1e8 else f"{count / 1e6:.3g}"


def figure(found: Record, path: Path) -> None:
    """Left: peak bytes against rows, at the largest vocabulary. Right: time against budget at the most rows measured there."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    vocabulary = max(size["vocabulary"] for size in found["sizes"])
    here = [record for record in found["summary"] if record["vocabulary"] == vocabulary and "ms" in record]
    if not here:
        return
    style: dict[Any, Any] = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "selbench"}
    with rc_context(style):
        drawn = Figure(figsize=(8.4, 3.8), layout="constrained")
        left, right = drawn.subplots(1, 2)
        names = [name for name in RIVALS if any(record["entry"] == name for record in here)]
        look = {OURS: ("#000000", "o", "-")} | {
            name: (OKABE_ITO[i % 6], MARKERS[i % 6], "-" if i < 6 else "--") for i, name in enumerate(n for n in names if n != OURS)
        }
        for name in names:
            own = sorted((r["rows"], max(r["peak_bytes"], 1) / 1e9) for r in here if r["entry"] == name)
            colour, marker, dash = look[name]
            left.plot(*zip(*own, strict=True), color=colour, marker=marker, ls=dash, ms=4, lw=2 if name == OURS else 1, label=name)
        left.set(xscale="log", yscale="log", xlabel="rows N", ylabel="peak beyond inputs and gradients, GB")
        ticks = sorted({r["rows"] for r in here})
        left.set_xticks(ticks, [f"{n:,}" for n in ticks])
        left.minorticks_off()
        left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        left.yaxis.set_major_formatter("{x:g}")
        drawn.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=7)
        left.set_title(f"Memory, V = {vocabulary:,}", loc="left")
        _times(right, [r for r in here if r["rows"] == max(ticks)], look)
        drawn.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _times(axes: Any, here: list[Record], look: dict[str, tuple[str, str, str]]) -> None:
    """selbench over its budgets; every other implementation, which computes all rows, as a level line."""
    for record in here:
        name = record["entry"]
        if record["budget"] == 100 and name in look and name != OURS:
            axes.axhline(record["ms"] / 1000, color=look[name][0], ls=look[name][2], lw=0.8)
            axes.annotate(name, (1, record["ms"] / 1000), xycoords=("axes fraction", "data"), fontsize=6, va="bottom", ha="right")
    own = sorted((r["budget"], r["ms"], r["ms_least"], r["ms_most"]) for r in here if r["entry"].split("@")[0] == OURS)
    if own:
        budget = [one[0] for one in own]
        ms, least, most = ([one[i] / 1000 for one in own] for i in (1, 2, 3))
        bars = [[m - low for m, low in zip(ms, least, strict=True)], [high - m for m, high in zip(ms, most, strict=True)]]
        axes.errorbar(budget, ms, bars, color=look[OURS][0], marker="o", ms=4, lw=2, capsize=2)
        axes.set_xticks(budget, [f"{b:g}" for b in budget])
    largest = max(record["ms"] for record in here) / 1000
    axes.set(xlabel="budget of selbench, % of the rows", ylabel="loss and backward, s", ylim=(0, 1.08 * largest), xlim=(0, 102))
    axes.set_title(f"Time, N = {here[0]['rows']:,}", loc="left")


def _loss_spread(summary: list[Record]) -> float:
    """Largest relative gap between the losses of two exact implementations on all rows of the same size: they had the same inputs."""
    gaps = [0.0]
    for size in {(r["vocabulary"], r["rows"]) for r in summary}:
        losses = [
            r["loss"] for r in summary
            if (r["vocabulary"], r["rows"]) == size and "loss" in r and r["entry"] in RIVALS and RIVALS[r["entry"]].exact
            and math.isfinite(r["loss"])
        ]  # fmt: skip
        if losses:
            gaps.append((max(losses) - min(losses)) / max(abs(min(losses)), 1e-12))
    return max(gaps)
