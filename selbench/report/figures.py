"""Pictures of a protocol folder: how strategies learn, which tokens they keep, what it costs. The same records, the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from selbench import records
from selbench.errors import RecordError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["cost_bars", "draw_all", "learning_curves", "quadrants"]

Groups = dict[str, list[dict[str, Any]]]  # strategy label: its cells, by seed
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # without yellow, too pale for a line on white
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1.2, 1, 1.2)))
BY_ROLE: dict[str, tuple[str, Any]] = {"reference": ("#000000", "-"), "control": ("#666666", (0, (4, 1.5)))}
GREYS = [colour for colour, _ in BY_ROLE.values()]
CORNERS = {"Q1": (0.98, 0.96), "Q2": (0.98, 0.04), "Q3": (0.02, 0.96), "Q4": (0.02, 0.04)}  # right: uncertain, up: far from the teacher
PHASE_COLOURS = {  # what selection does not touch is grey
    "rollout": "#D0D0D0", "teacher": "#0072B2", "score": "#56B4E9", "select": "#D55E00", "distil": "#009E73", "optimiser": "#E69F00",
    "sync": "#CC79A7", "observe": "#A6A6A6", "checkpoint": "#666666",
}  # fmt: skip
TRAILING_STEPS = 5
DRAWN_TOKENS = 4000  # a panel with more is a blot; medians and shares use all tokens
STYLE: dict[Any, Any] = {
    "font.size": 8, "axes.titlesize": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6,
    "axes.edgecolor": "#666666", "xtick.color": "#666666", "ytick.color": "#666666", "savefig.dpi": 200, "svg.hashsalt": "selbench",
}  # fmt: skip


def draw_all(folder: Path) -> list[Path]:
    """Every picture of the folder; returns their paths."""
    return [*learning_curves(folder), *quadrants(folder), *cost_bars(folder)]


def learning_curves(folder: Path) -> list[Path]:
    """`figures/learning-<pair>`: share of training rollouts answered correctly (where absent, the loss) against the step.

    Means over seeds of a trailing mean; bands from the worst to the best seed; a line ends where its shortest seed does.
    """
    return _each_pair(folder, "learning", _learning)


def quadrants(folder: Path) -> list[Path]:
    """`figures/quadrants-<pair>`: student entropy and reverse KL of the tokens of the first seed, a row per strategy.

    Quadrants by the medians of the batch, numbered as in TIP (arXiv:2604.14084): in Q3 the student is sure and disagrees.
    """
    return _each_pair(folder, "quadrants", _quadrants)


def cost_bars(folder: Path) -> list[Path]:
    """`figures/cost-<pair>`: training seconds by phase, a bar per strategy, means over its finished seeds; the reference first."""
    return _each_pair(folder, "cost", _cost)


def _each_pair(folder: Path, stem: str, draw: Callable[[Path, str, Groups], Figure | None]) -> list[Path]:
    import matplotlib

    plan = records.read_json(folder / "plan.json")
    written: list[Path] = []
    for pair in plan["pairs"]:
        groups: Groups = {}
        for cell in sorted((cell for cell in plan["cells"] if cell["pair"] == pair), key=lambda cell: int(cell["seed"])):
            groups.setdefault(Path(cell["folder"]).parent.name, []).append(cell)
        with matplotlib.rc_context(STYLE):
            if (figure := draw(folder, f"Protocol {plan['protocol']}, pair {pair}", groups)) is None:
                continue
            for kind, undated in (("png", "Software"), ("svg", "Date")):
                written.append(folder / "figures" / f"{stem}-{pair}.{kind}")
                with records.beside(written[-1]) as draft:
                    figure.savefig(draft, format=kind, metadata={undated: None}, bbox_inches="tight")
    return written


def _learning(folder: Path, title: str, groups: Groups) -> Figure | None:
    done = {
        label: [folder / cell["folder"] for cell in cells if (folder / cell["folder"] / "DONE").exists()] for label, cells in groups.items()
    }
    runs = {label: [frame for path in paths if len(frame := _frame(path / "metrics.jsonl"))] for label, paths in done.items()}
    present = [frame for frames in runs.values() for frame in frames]
    if not present:
        return None
    accuracy = all("response_accuracy" in frame for frame in present)
    column, scale, unit = ("response_accuracy", 100, "correct training rollouts, %") if accuracy else ("loss", 1, "loss, nats per token")
    figure, axes = _canvas(1, 1, 6.0, max(3.4, 0.16 * len(runs) + 1))
    ends = []
    for (label, frames), (colour, dashes) in zip(runs.items(), _looks(groups), strict=True):
        if frames:
            steps = [scale * frame.set_index("step")[column].astype(float) for frame in frames]
            seeds = pd.concat([step.rolling(TRAILING_STEPS, min_periods=1).mean() for step in steps], axis=1, join="inner")
            axes[0, 0].fill_between(seeds.index, seeds.min(axis=1), seeds.max(axis=1), color=colour, alpha=0.1, linewidth=0)
            axes[0, 0].plot(seeds.index, seeds.mean(axis=1), color=colour, linestyle=dashes, linewidth=1.5)
            partial = "" if len(frames) == len(groups[label]) else f" ({len(frames)} of {len(groups[label])} seeds)"
            ends.append((float(seeds.mean(axis=1).iloc[-1]), float(seeds.index[-1]), label + partial, colour))
    pairs = sorted({folder / cell["pair"] for cells in groups.values() for cell in cells}) if accuracy else []
    for path in (found for pair in pairs for base in records.BASE for found in sorted(pair.glob(f"{base}/eval/*/samples.parquet"))):
        if len(rows := _frame(path)):
            height, name = 100 * float(records.worth(rows).mean()), path.parts[-4].removeprefix("base-")
            axes[0, 0].axhline(height, color="#999999", linewidth=0.7, linestyle=(0, (5, 4)), zorder=0)
            place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "xytext": (0, 2), "textcoords": "offset points", "ha": "right"}
            axes[0, 0].annotate(f"{name}, evaluated on {path.parts[-2]}", (0.99, height), color="#777777", fontsize=7, **place)
    axes[0, 0].set_title(f"{title}: trailing mean over {TRAILING_STEPS} steps, band over seeds", loc="left")
    axes[0, 0].set(xlabel="step", ylabel=unit)
    axes[0, 0].margins(x=0.01)
    _label_ends(axes[0, 0], ends, figure.get_figheight())
    return figure


def _label_ends(axes: Axes, ends: list[tuple[float, float, str, str]], inches: float) -> None:
    """Names beside the ends of the lines, spread around where lines end close together."""
    ends.sort()
    low, high = axes.get_ylim()
    slots = 9.5 / (72 * inches * axes.get_position().height) * np.arange(len(ends))  # a line of text each, in axes heights
    free = np.array([(y - low) / (high - low) for y, *_ in ends]) - slots
    spread = (np.maximum.accumulate(free) + np.minimum.accumulate(free[::-1])[::-1]) / 2  # pushed up, pushed down: half way
    for place, (y, x, label, colour) in zip(np.clip(spread, 0, 1 - slots[-1]) + slots, ends, strict=True):
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 0, "relpos": (0, 0.5)}
        axes.annotate(label, (x, y), (1.04, place), "data", "axes fraction", line, color=colour, va="center", annotation_clip=False)


def _cost(folder: Path, title: str, groups: Groups) -> Figure | None:
    bars: list[tuple[str, bool, pd.Series]] = []
    for label, cells in groups.items():
        frames = [_frame(folder / cell["folder"] / "metrics.jsonl") for cell in cells if (folder / cell["folder"] / "DONE").exists()]
        seeds = [pd.DataFrame(list(frame["seconds"])).sum() for frame in frames if "seconds" in frame]
        if seeds:
            partial = "" if len(seeds) == len(cells) else f" ({len(seeds)} of {len(cells)} seeds)"
            mean = pd.concat(seeds, axis=1).fillna(0.0).mean(axis=1)
            bars.append((label + partial, cells[0]["role"] == "reference", mean))
    if not bars:
        return None
    bars.sort(key=lambda bar: (not bar[1], bar[2].sum(), bar[0]))
    figure, axes = _canvas(1, 1, 6.0, 0.24 * len(bars) + 1.3)
    places, left = range(len(bars)), np.zeros(len(bars))
    for phase in [phase for phase in records.PHASES if any(phase in mean for *_, mean in bars)]:
        widths = np.array([float(mean.get(phase, 0.0)) for *_, mean in bars])
        look: dict[str, Any] = {"color": PHASE_COLOURS[phase], "edgecolor": "white", "linewidth": 0.4}
        axes[0, 0].barh(places, widths, left=left, height=0.72, label=phase, **look)
        left += widths
    for place, total in zip(places, left, strict=True):
        text: dict[str, Any] = {"xytext": (3, 0), "textcoords": "offset points", "va": "center", "fontsize": 7}
        axes[0, 0].annotate(f"{total:#.3g}", (total, place), **text)
    reference = next((total for total, bar in zip(left, bars, strict=True) if bar[1]), None)
    if reference is not None:
        axes[0, 0].axvline(reference, color="#000000", linewidth=0.7, linestyle=(0, (4, 2)))
    axes[0, 0].set_yticks(places, [label for label, *_ in bars])
    axes[0, 0].invert_yaxis()
    axes[0, 0].margins(x=0.08)
    axes[0, 0].set_title(f"{title}: training seconds by phase, mean over seeds", loc="left")
    axes[0, 0].set_xlabel("seconds of all steps")
    axes[0, 0].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=7, handlelength=1, borderaxespad=0.2)
    return figure


def _quadrants(folder: Path, title: str, groups: Groups) -> Figure | None:
    found = [_frame(folder / cells[0]["folder"] / "tokens.parquet") for cells in groups.values()]
    shown = [row for row in zip(groups, _looks(groups), found, strict=True) if len(row[2])]
    if not shown:
        return None
    abreast = 2 if len(shown) > 4 else 1
    figure, axes = _canvas(-(-len(shown) // abreast), 2 * abreast, 5.4 * abreast, 1.8 * -(-len(shown) // abreast) + 0.5)
    panels = axes.reshape(-1, 2)
    for pair, (label, (colour, _), tokens) in zip(panels, shown, strict=False):
        colour = "#000000" if colour in GREYS else colour  # dropped tokens are grey
        for panel, step in zip(pair, (tokens["step"].min(), tokens["step"].max()), strict=True):
            _panel(panel, tokens[tokens["step"] == step], colour)
            panel.set_title(f"{label}, step {step}", loc="left")
    for panel in panels[len(shown) :].flat:
        panel.remove()
    planted = any("planted" in tokens for *_, tokens in shown)
    marks = "\nOutlined: planted errors, overconfident (circles) and uncertain (squares)" if planted else ""
    figure.suptitle(f"{title}. Colour: kept tokens, % of them by quadrant; lines: medians{marks}", fontsize=8)
    figure.supxlabel("student entropy, nats", fontsize=8)
    figure.supylabel("reverse KL, nats", fontsize=8)
    return figure


def _panel(axes: Axes, tokens: pd.DataFrame, colour: str) -> None:
    x, y, kept = (tokens[name].to_numpy() for name in ("student_entropy", "reverse_kl", "kept"))
    kept = kept.astype(bool)
    planted = tokens["planted"].to_numpy() if "planted" in tokens else np.zeros(len(x))
    drawn = np.arange(len(x)) % max(1, -(-len(x) // DRAWN_TOKENS)) == 0
    for at, face, edge, marker, size in (
        (~kept, "#BDBDBD", "none", "o", 4), (kept, colour, "none", "o", 7), (planted == 1, "none", "#333333", "o", 13),
        (planted == 2, "none", "#333333", "s", 13),
    ):  # fmt: skip
        look: dict[str, Any] = {"alpha": 0.6, "linewidths": 0.35 if face == "none" else 0, "rasterized": True}
        axes.scatter(x[drawn & at], y[drawn & at], s=size, facecolors=face, edgecolors=edge, marker=marker, **look)
    right, up = x >= np.median(x), y >= np.median(y)
    axes.axvline(float(np.median(x)), color="#444444", linewidth=0.6)
    axes.axhline(float(np.median(y)), color="#444444", linewidth=0.6)
    for name, inside, (at_x, at_y) in zip(CORNERS, (right & up, right & ~up, ~right & up, ~right & ~up), CORNERS.values(), strict=True):
        text = f"{name} {100 * (inside & kept).sum() / max(1, kept.sum()):.0f} %"
        place: dict[str, Any] = {"ha": "right" if at_x > 0.5 else "left", "va": "top" if at_y > 0.5 else "bottom", "zorder": 5}
        box = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1}
        axes.text(at_x, at_y, text, transform=axes.transAxes, fontsize=7, bbox=box, **place)
    axes.margins(0.03, 0.13)
    axes.set_xscale("symlog", linthresh=0.1)
    axes.set_yscale("symlog", linthresh=0.1)


def _looks(groups: Groups) -> Iterator[tuple[str, Any]]:
    """Colour and dashes of each strategy: fixed for reference and control, then all colours solid, then dashed."""
    free = iter([(colour, dashes) for dashes in DASHES for colour in OKABE_ITO] * len(groups))
    return (BY_ROLE.get(cells[0]["role"]) or next(free) for cells in groups.values())


def _canvas(rows: int, columns: int, width: float, height: float) -> tuple[Figure, Any]:
    """A figure outside pyplot (no window, no global state) and its (rows, columns) axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained" if rows * columns > 1 else None)
    return figure, figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)


def _frame(path: Path) -> pd.DataFrame:
    """Its rows; empty when the file is missing or torn, which the leaderboard says in words."""
    try:
        return pd.DataFrame(records.read_metrics(path)) if path.suffix == ".jsonl" else records.read_table(path)
    except RecordError:
        return pd.DataFrame()
