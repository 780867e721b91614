"""The tables and the figure of `selbench bench rollout`, from its JSON alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["figure", "markdown", "rates", "render"]

EVEN = 0.03  # within this share of the best counts as the best, too
COSTS: tuple[tuple[str, str, float, str], ...] = (  # quantity, its key, unit, form
    ("imports, s", "import_seconds", 1, "{:.1f}"),
    ("start-up, s", "startup_seconds", 1, "{:.2f}"),
    ("first token, s", "first_token_seconds", 1, "{:.2f}"),
    ("weight sync, s", "sync_seconds", 1, "{:.3f}"),
    ("check of the samples, s", "check_seconds", 1, "{:.2f}"),
    ("peak beyond model and imports, MB", "beyond_bytes", 1e6, "{:,.0f}"),
)

Record = dict[str, Any]
Rows = tuple[list[str], list[list[str]]]


def _by_size(found: Record) -> tuple[list[str], dict[tuple[int, int], dict[str, Record]]]:
    names = list(dict.fromkeys(found["settings"]["only"]))
    sizes: dict[tuple[int, int], dict[str, Record]] = {}
    for row in found["summary"]:
        sizes.setdefault((row["batch"], row["tokens"]), {})[row["system"]] = row
    return names, sizes


def _marked(rows: dict[str, Record], names: list[str], key: str, cell: Callable[[Record], str], *, largest: bool = False) -> list[str]:
    """A cell a system; the best in bold, and whatever is as good within EVEN."""
    values = {name: rows[name][key] for name in names if rows.get(name, {}).get("runs")}
    if not values:
        return ["–"] * len(names)
    best = (max if largest else min)(values, key=lambda name: values[name])
    cells = []
    for name in names:
        if name not in values:
            cells.append("–")
            continue
        text, row = cell(rows[name]), rows[name]
        near = values[name] >= (1 - EVEN) * values[best] if largest else values[name] <= (1 + EVEN) * values[best]
        good = len(values) > 1 and (near or text == cell(rows[best]))
        text += f"; {row['runs']} of {row['rounds']} rounds" if row["failed"] else ""
        cells.append(f"**{text}**" if good else text)
    return cells


def _rates(found: Record) -> Rows:
    names, sizes = _by_size(found)
    ours = names[0]

    def rate(row: Record) -> str:
        ranged = f" ({row['low']:,.0f} to {row['high']:,.0f})" if row["runs"] > 1 else ""
        return f"{row['tokens_per_second']:,.0f}{ranged}"

    body = []
    for (batch, tokens), rows in sizes.items():
        own = rows.get(ours, {})
        ratio = f"{own['to_best']:.2f} ({own['best_other']})" if own.get("to_best") else ""
        body.append([str(batch), f"{tokens:,}", *_marked(rows, names, "tokens_per_second", rate, largest=True), ratio])
    return ["batch", "tokens", *names, f"{ours} × best other"], body


def _costs(found: Record) -> Rows:
    names, sizes = _by_size(found)
    body = []
    for (batch, tokens), rows in sizes.items():
        for label, key, unit, form in COSTS:
            cells = _marked(rows, names, key, lambda row, key=key, unit=unit, form=form: form.format(row[key] / unit))  # type: ignore[misc]
            body.append([str(batch), f"{tokens:,}", label, *cells])
    return ["batch", "tokens", "", *names], body


def _lines(found: Record) -> list[str]:
    """What is not in the tables: agreement of the answers, and every reason for a missing number."""
    lines = []
    for name, each in found["answers"].items():
        said = (
            [f"{each['equal']} of {each['asked']} greedy responses of {each['tokens']} tokens as the first system's"]
            if "asked" in each
            else []
        )
        if each.get("parts_at"):
            said.append(f"others part at token {', '.join(map(str, each['parts_at']))}")
        if "gap_mean" in each:
            said.append(f"log-probabilities off by {each['gap_mean']:.1e} nats, {each['gap_largest']:.1e} at most")
        said += [str(each[key]) for key in ("flaw", "skipped", "error") if key in each]
        lines.append(f"{name}, float32: {'; '.join(said)}")
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in found["summary"]:
        for why in row["failed"]:
            reasons.setdefault((row["system"], why), []).append(f"{row['batch']} × {row['tokens']}")
    by_size: dict[tuple[str, str], list[str]] = {}
    for (name, why), sizes in reasons.items():
        by_size.setdefault((why, ", ".join(sizes)), []).append(name)
    lines += [f"no number for {', '.join(each)} at {sizes}: {why}" for (why, sizes), each in by_size.items()]
    return lines + [f"left out: {reason}" for reason in found["left_out"]]


def _title(found: Record) -> str:
    s = found["settings"]
    place = ", ".join(found["hardware"]["gpus"]) if s["device"] == "cuda" else f"{s['threads']} thread{'s' * (s['threads'] > 1)}"
    ends = "real end tokens" if s["natural"] else "every response runs to the limit"
    return f"{s['model']['source']}, {s['dtype']}, {place}, {s['rounds']} round{'s' * (s['rounds'] > 1)}, {ends}"


def rates(found: Record) -> str:
    """Generated tokens per second as a table for a page: median, and range over the rounds."""
    return "\n".join(_piped(_rates(found), 0))


def markdown(found: Record) -> str:
    """Both tables for a page, then the lines below them. Generated tokens per second: median, and range over the rounds."""
    parts = [[_title(found)], [rates(found)], _piped(_costs(found), 1), [f"- {line}" for line in _lines(found)]]
    return "\n\n".join("\n".join(part) for part in parts)


def _piped(rows: Rows, words: int) -> list[str]:
    """words: columns of text after the first two."""
    head, body = rows
    rule = ["---:"] * 2 + ["---"] * words + ["---:"] * (len(head) - 2 - words)
    return [f"| {' | '.join(line)} |" for line in (head, rule, *body)]


def render(found: Record) -> None:
    """Print the tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for title, (head, body) in (("generated tokens/s", _rates(found)), ("costs", _costs(found))):
        table = Table(title=f"{title}: {_title(found)}")
        for name in head:
            table.add_column(name, justify="right" if name else "left")
        for row in body:
            table.add_row(*(cell.replace("**", "") if not cell.startswith("**") else f"[bold]{cell.strip('*')}[/bold]" for cell in row))
        console.print(table)
    for line in _lines(found):
        console.print(line, highlight=False, markup=False)


def figure(found: Record, path: Path) -> None:
    """Tokens per second of every system by batch, a panel for each length; whiskers: lowest and highest round."""
    import matplotlib

    from selbench.report.figures import OKABE_ITO, STYLE

    names, sizes = _by_size(found)
    lengths = list(dict.fromkeys(tokens for _, tokens in sizes))
    with matplotlib.rc_context(STYLE):
        from matplotlib.figure import Figure

        picture = Figure(figsize=(3.6 * len(lengths), 2.6), layout="constrained")
        panels = picture.subplots(1, len(lengths), squeeze=False)[0]
        for panel, length in zip(panels, lengths, strict=True):
            batches = [batch for batch, tokens in sizes if tokens == length]
            for place, (colour, name) in enumerate(zip(OKABE_ITO, names, strict=False)):
                shown = [(i, row) for i, b in enumerate(batches) if (row := sizes[b, length].get(name)) and row["runs"]]
                rates = [row["tokens_per_second"] for _, row in shown]
                off = [[r - row["low"] for r, (_, row) in zip(rates, shown, strict=True)]]
                off.append([row["high"] - r for r, (_, row) in zip(rates, shown, strict=True)])
                width = 0.8 / len(names)
                where = [i + (place - (len(names) - 1) / 2) * width for i, _ in shown]
                panel.bar(where, rates, width, yerr=off if shown else None, color=colour, label=name, error_kw={"linewidth": 0.8})
            panel.set_xticks(range(len(batches)), [str(batch) for batch in batches])
            panel.set(xlabel=f"sequences together, {length:,} tokens each", ylabel="generated tokens/s", yscale="log")
        panels[0].legend(frameon=False)
        picture.savefig(path)
