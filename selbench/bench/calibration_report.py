"""Tables and figure of the calibration of intervals and verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selbench.bench.calibration import LADDER

__all__ = ["figure", "markdown", "render", "worst"]

LEAST = 55  # per cent: what covers less often is drawn at the edge


def worst(found: dict[str, Any], kind: str) -> dict[str, tuple[float, float]]:
    """Lowest and highest share by name, over all cases. kind: "coverage" or "false"."""
    rows = found["cases"]
    names = list(dict.fromkeys(name for row in rows for name in row[kind]))
    values = {name: [row[kind][name] for row in rows if name in row[kind]] for name in names}
    return {name: (min(each), max(each)) for name, each in values.items()}


def render(found: dict[str, Any]) -> None:
    """Print the summary."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for kind, title in (("coverage", "95 % intervals: share that hold the truth, %"), ("false", "families with a false claim, %")):
        table = Table(kind, "lowest", "highest", title=f"{title} ({found['replicates']} tables a case)")
        for name, (low, high) in worst(found, kind).items():
            table.add_row(name, f"{100 * low:.1f}", f"{100 * high:.1f}")
        console.print(table)
    table = Table("size", "seeds", *(f"{100 * away:g}" for away in LADDER), title="verdict better by true difference in points, %")
    for row in (row for row in found["cases"] if row["case"]["truth"] == "ladder"):
        table.add_row(row["case"]["size"], str(row["case"]["seeds"]), *(f"{100 * share:.0f}" for share in row["words"]["better"]))
    console.print(table)
    for row in (row for row in found["cases"] if "twice" in row["case"]["noise"] and row["case"]["truth"] == "all equal"):
        case, false, apart = row["case"], row["false"]["verdict"], row["coverage"]["difference, problems like these"]
        console.print(
            f"{case['noise']}, {case['size']}, {case['seeds']} seeds: {100 * false:.1f} % false families, {100 * apart:.1f} % covered"
        )


def markdown(found: dict[str, Any]) -> str:
    """Coverage and false claims as one table; lowest and highest of all cases."""
    lines = ["| over simulated tables | wanted % | lowest % | highest % |", "| --- | ---: | ---: | ---: |"]
    for kind, what, wanted in (("coverage", "interval that holds the truth", "95"), ("false", "family with a false claim", "at most 5")):
        for name, (low, high) in worst(found, kind).items():
            lines.append(f"| {what}: {name} | {wanted} | {100 * low:.1f} | {100 * high:.1f} |")
    return "\n".join(lines)


def figure(found: dict[str, Any], path: Path) -> None:
    """Coverage of every interval in every case, false families of the verdict and of what is often done, power. The suffix decides."""
    import matplotlib

    from selbench.report.figures import OKABE_ITO, STYLE

    rows = found["cases"]
    sizes = dict(zip(found["sizes"], OKABE_ITO, strict=False))
    with matplotlib.rc_context(STYLE):
        from matplotlib.figure import Figure

        picture = Figure(figsize=(7.2, 6.4), layout="constrained")
        grid = picture.add_gridspec(2, 2, height_ratios=(3, 2.2))
        cover, false, power = (picture.add_subplot(place) for place in (grid[0, :], grid[1, 0], grid[1, 1]))
        for axes, kind in ((cover, "coverage"), (false, "false")):
            names = list(worst(found, kind))
            for row in rows:
                for name, share in row[kind].items():
                    mark = "o" if row["case"]["seeds"] == 3 else "D"
                    outside = kind == "coverage" and 100 * share < LEAST
                    place, mark = (LEAST, "<") if outside else (100 * share, mark)
                    axes.plot(place, names.index(name), mark, color=sizes[row["case"]["size"]], markersize=4, alpha=0.7, clip_on=False)
            axes.set_yticks(range(len(names)), names)
            axes.invert_yaxis()
        cover.axvspan(93, 97, color="#999999", alpha=0.25, linewidth=0)
        cover.set(xlabel="intervals of 95 % that hold the truth, %", xlim=(LEAST, 100))
        false.axvspan(0, 5, color="#999999", alpha=0.25, linewidth=0)
        false.set(xlabel="families of eight with a false claim, %", xlim=(0, 100))
        for row in (row for row in rows if row["case"]["truth"] == "ladder"):
            style = "--" if row["case"]["seeds"] == 3 else "-"
            label = f"{row['case']['size']}, {row['case']['seeds']} seeds"
            better = [100 * share for share in row["words"]["better"]]
            power.plot([100 * away for away in row["true_differences"]], better, style, color=sizes[row["case"]["size"]], label=label)
        power.set(xlabel="true difference, points", ylabel='verdict "better", %')
        picture.legend(
            *power.get_legend_handles_labels(), frameon=False, ncols=3, loc="outside lower center", title="dashed, ○: 3 seeds; ◇: 5"
        )
        picture.savefig(path)
