"""The content of grades.json as tables: one list of sections, for the screen (rich) and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["markdown", "show"]

SHOWN = 20
WIDEST = 40  # characters of an answer
UNREADABLE = ("truncated", "unparsed_answer", "unparsed_gold", "timeout", "error")
Section = tuple[str, list[str], list[list[str]]]  # title, header, rows
LEGEND = (
    "Accuracy in per cent of all records, whatever the verdict, with a 95 % interval over problems. Agreement: what one grader calls "
    "correct and another does not. Ranks: 1 is the most accurate, = is level; tau is Kendall's tau-b. Order: the first system's accuracy "
    "minus the second's in points, 95 % interval."
)


def show(content: Mapping[str, Any], differing: Sequence[Mapping[str, Any]]) -> None:
    """Print the tables and notes; the tables are as wide as they need to be where standard output is no terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=400)
    for title, header, rows in _sections(content, differing, everything=False):
        if not rows:
            console.print(Text(title, style="bold"))
            continue
        table = Table(*header, title=title, title_justify="left", title_style="bold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
    for line in (LEGEND, *content["notes"], *_updated(content)):
        console.print(Text(line), soft_wrap=True)


def markdown(content: Mapping[str, Any], differing: Sequence[Mapping[str, Any]]) -> str:
    """grades.md: all tables in full, but for the disagreements, of which the first stand here and all in disagreements.jsonl."""
    versions = ", ".join(f"{name} ({version})" for name, version in content["graders"].items())
    lines = ["# Graders side by side", "", f"{content['records']} records; {versions}.", "", LEGEND, ""]
    lines += [f"- {line}" for line in (*content["notes"], *_updated(content))]
    for title, header, rows in _sections(content, differing, everything=True):
        lines += ["", f"## {title}"]
        if rows:
            lines += ["", _line(header), _line(["---"] * len(header)), *map(_line, rows)]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("\\", "\\\\").replace("|", "\\|").replace("`", "\\`") for cell in cells) + " |"


def _sections(content: Mapping[str, Any], differing: Sequence[Mapping[str, Any]], *, everything: bool) -> list[Section]:
    names = list(content["graders"])
    ordered = sorted(content["systems"], key=lambda s: (s["task"], -s["graders"][names[0]]["accuracy"], s["system"]))
    scores = [[s["task"], s["system"], str(s["records"]), *(_score(s["graders"][name]) for name in names)] for s in ordered]
    sections: list[Section] = [("Accuracy", ["task", "system", "records", *names], scores), _verdicts(ordered, names, everything)]
    if len(names) > 1:
        pairs = {frozenset(entry["graders"]): f"{entry['differ']} ({100 * entry['share']:.2f} %)" for entry in content["agreement"]}
        matrix = [[first, *(pairs.get(frozenset((first, second)), "") for second in names)] for first in names]
        sections.append((f"Disagreement, records of {content['records']}", ["", *names], matrix))
        if differing:
            kinds: dict[tuple[str, ...], tuple[str, ...]] = {}
            for cells in (_disagreement(row, names) for row in differing):
                kinds.setdefault(cells[2:], cells)
            rows = list(kinds.values())[:SHOWN]
            title = f"Records the graders disagree on: {len(differing)}, {len(kinds)} of them different, {len(rows)} shown"
            sections.append((title, ["record", "system", "gold", *names, "extracted"], [list(row) for row in rows]))
    for ranks in content["ranks"]:
        sections += _ranks(ranks, names, everything)
    return sections


def _score(score: Mapping[str, Any]) -> str:
    return f"{100 * score['accuracy']:.1f} [{100 * score['low']:.1f}, {100 * score['high']:.1f}]"


def _verdicts(systems: Sequence[Mapping[str, Any]], names: Sequence[str], everything: bool) -> Section:
    """The sum over all systems of every grader; one line a system besides where something could not be judged (or always)."""
    kinds = list(systems[0]["graders"][names[0]]["verdicts"])
    rows = []
    for name in names:
        found = [system["graders"][name]["verdicts"] for system in systems]
        rows.append([name, "all systems", *(str(sum(verdicts[kind] for verdicts in found)) for kind in kinds)])
    for system in systems if len(systems) > 1 else []:
        for name in names:
            verdicts = system["graders"][name]["verdicts"]
            if everything or any(verdicts[kind] for kind in UNREADABLE):
                rows.append([name, f"{system['task']} {system['system']}", *(str(verdicts[kind]) for kind in kinds)])
    return "Verdicts", ["grader", "system", *kinds], rows


def _disagreement(row: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    seen = {_shown(text) for text in row["extracted"].values() if text is not None}
    verdicts = [row["verdicts"][name] for name in names]
    return f"{row['source']} row {row['row']}", row["system"], _shown(row["gold"]), *verdicts, ", ".join(sorted(seen)) or "nothing"


def _shown(text: str) -> str:
    """Model text for a terminal: no control characters, no line breaks, not long; the end of it, where a gold solution has its answer."""
    line = "".join(sign if sign.isprintable() else " " for sign in text)
    return line if len(line) <= WIDEST else "…" + line[1 - WIDEST :]


def _ranks(ranks: Mapping[str, Any], names: Sequence[str], everything: bool) -> list[Section]:
    places: dict[str, list[str]] = {}
    for name in names:
        held = [entry["rank"] for entry in ranks["order"][name]]
        for entry in ranks["order"][name]:
            places.setdefault(entry["system"], []).append(("=" if held.count(entry["rank"]) > 1 else "") + str(entry["rank"]))
    sections: list[Section] = [(f"Ranks on {ranks['task']}", ["system", *names], [[system, *held] for system, held in places.items()])]
    if len(names) > 1:
        tau = {frozenset(entry["graders"]): "–" if entry["tau"] is None else f"{entry['tau']:.3f}" for entry in ranks["tau"]}
        matrix = [[first, *(tau.get(frozenset((first, second)), "") for second in names)] for first in names]
        sections.append((f"Kendall's tau of the orders on {ranks['task']}", ["", *names], matrix))
        changes = ranks["changes"] if everything else ranks["changes"][:SHOWN]
        flips = sum(change["kind"] == "reversed" for change in ranks["changes"])
        title = f"Order on {ranks['task']}, pairs: {flips} reversed, {len(ranks['changes']) - flips} level under some graders only"
        title += "" if len(changes) == len(ranks["changes"]) else f", {len(changes)} shown"
        rows = [[change["kind"], *change["systems"], *(_gap(change["difference"][name]) for name in names)] for change in changes]
        sections.append((title, ["change", "first", "second", *names], rows))
    return sections


def _gap(gap: Mapping[str, float | None]) -> str:
    mean, low, high = (gap[key] for key in ("mean", "low", "high"))
    assert mean is not None
    return f"{100 * mean:+.2f}" + ("" if low is None or high is None else f" [{100 * low:+.1f}, {100 * high:+.1f}]")


def _updated(content: Mapping[str, Any]) -> list[str]:
    if content["update"] is None:
        fit = all(source.endswith("samples.parquet") for source in content["sources"])
        return ["--update puts the new verdicts into samples.parquet"] if fit and any(entry["moved"] for entry in content["stored"]) else []
    changes = content["update"]
    moved, total = (sum(change[key] for change in changes) for key in ("moved", "records"))
    return [
        f"updated {len(changes)} files: {moved} of {total} verdicts moved",
        *(
            f"{change['path']}: {change['moved']} of {change['records']} verdicts moved, accuracy "
            f"{100 * change['accuracy_before']:.2f} -> {100 * change['accuracy_after']:.2f} %, was {', '.join(change['graders_before'])}"
            for change in changes
            if change["moved"]
        ),
    ]
