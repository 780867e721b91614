"""The verb `plan`: seeds and samples for a wanted effect, and their cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selbench.cli_answers import Plugins, device_at_hand, plug
from selbench.errors import ConfigError

if TYPE_CHECKING:
    from selbench.designs import Cost, Designs, Setting

__all__ = ["plan_"]


def plan_(
    place: Annotated[
        str | None, typer.Argument(metavar="[FOLDER|PROTOCOL]", help="A protocol's folder with runs, or the name of a protocol to run.")
    ] = None,
    effect: Annotated[float, typer.Option(help="The difference to find, points.")] = 2.0,
    power: Annotated[float, typer.Option(help="Chance to find it.")] = 0.8,
    task: Annotated[str | None, typer.Option(help="Only this task; without runs the one to plan.")] = None,
    pair: Annotated[str | None, typer.Option(help="Only this pair.")] = None,
    strategy: Annotated[
        str | None, typer.Option(help="Noise of this strategy's difference to the baseline (default: all, pooled).")
    ] = None,
    problems: Annotated[int | None, typer.Option("--problems", "-n", min=2, help="Problems (default: those of the runs or task).")] = None,
    strategies: Annotated[int, typer.Option(min=2, help="Trained strategies, without runs or a protocol.")] = 2,
    seed_points: Annotated[
        float | None, typer.Option(min=0, help="Without runs: standard deviation of a difference between training seeds, points.")
    ] = None,
    problem_points: Annotated[float | None, typer.Option(min=0, help="Without runs: the same between problems, points.")] = None,
    these: Annotated[bool, typer.Option("--these-problems", help="Find it on these problems, not on problems like these.")] = False,
    gpu: Annotated[str | None, typer.Option(help="With a protocol's name: the cost on this GPU, as in h100.")] = None,
    plugin: Plugins = None,
    as_json: Annotated[bool, typer.Option("--json", help="The designs as JSON.")] = False,
) -> None:
    """Seeds x samples: the difference each design can show, its hours, and the cheapest that shows the wanted one."""
    import json
    from dataclasses import asdict, replace

    from selbench.designs import designs, from_runs
    from selbench.stats import LIKE, THESE

    plug(plugin)
    wrong = [f"--effect {effect:g}: points between 0 and 100"] if not 0 < effect < 100 else []
    wrong += [f"--power {power:g}: a chance between 0 and 1, as in 0.8"] if not 0 < power < 1 else []
    stored = place is not None and (Path(place) / "plan.json").is_file()
    if place is not None and not stored and Path(place).is_dir():
        wrong.append(f"{place}: no plan.json there; give the folder of a protocol, as in runs/tiny, or --task")
    if stored and (seed_points is not None or problem_points is not None or gpu):
        wrong.append("--seed-points, --problem-points and --gpu stand for what is not measured; the runs say it")
    if not stored and strategy:
        wrong.append("--strategy chooses among runs: give the folder of a protocol")
    if gpu and (stored or place is None):
        wrong.append("--gpu needs the name of a protocol whose cost is estimated")
    if wrong:
        raise ConfigError(*dict.fromkeys(wrong))
    if stored:
        settings = from_runs(Path(str(place)), power, pair=pair, task=task, strategy=strategy)
    else:
        settings = _planned(place, task, pair, strategies, gpu, {"seed_points": seed_points, "problem_points": problem_points})
    found = []
    for setting in settings:
        setting = replace(setting, problems=problems or setting.problems)
        found.append((setting, designs(setting, effect, power, THESE if these else LIKE)))
    if as_json:
        print(json.dumps([{**asdict(setting), **asdict(each), "effect": effect, "power": power} for setting, each in found], indent=1))
        return
    print("\n\n".join(_told(setting, each, effect, power, THESE if these else LIKE) for setting, each in found))


def _planned(
    protocol: str | None, task: str | None, pair: str | None, strategies: int, gpu: str | None, noise: dict[str, float | None]
) -> list[Setting]:
    """Settings without runs: of a task alone, or of a protocol with an estimate of its cost."""
    from selbench.designs import assumed
    from selbench.task import TASKS

    if protocol is None:
        if task is None:
            raise ConfigError("plan: give a protocol's folder with runs, a protocol, or --task NAME (selbench list tasks)")
        if pair is not None:
            raise ConfigError("--pair chooses among the pairs of a folder or a protocol: give one")
        return [assumed(task, _rows(TASKS.get(task)), strategies, strategies - 1, None, **noise)]
    from selbench import plan
    from selbench.comparison import OPPONENTS
    from selbench.config import load_protocol
    from selbench.errors import nearest
    from selbench.models import pair_settings

    found = load_protocol(protocol, also=plan.name_problems, beneath=pair_settings)
    for option, given, known in (("pair", pair, [entry.name for entry in found.pairs]), ("task", task, list(found.tasks))):
        if given and given not in known:
            raise ConfigError(f"--{option} {given!r}: not in the protocol {protocol}; {nearest(given, known)}")
    chosen = [one for one, _ in plan.choices(found.strategies, found.budget)]
    roles = {one.role for one in chosen} & set(OPPONENTS)
    contenders = sum(one.role not in OPPONENTS for one in chosen)
    comparisons = max(1, contenders * (max(1, len(roles)) if found.family == "both" else 1))
    costs = _costs(found, gpu)
    return [
        assumed(f"{entry.name}, {name}", min(_rows(TASKS.get(name)), found.evaluation.problems or 10**9), len(chosen), comparisons,
                costs[entry.name], **noise)
        for entry in found.pairs if entry.name == (pair or entry.name) for name in found.tasks if name == (task or name)
    ]  # fmt: skip


def _rows(task: Any) -> int:
    return task.data.rows if task.data else len(task.rows())


def _costs(protocol: Any, gpu: str | None) -> dict[str, Cost]:
    """An estimate from shapes, by pair."""
    from selbench import devices, forecast, plan
    from selbench.designs import Cost
    from selbench.task import TASKS

    target = devices.gpu(gpu) if gpu else devices.at_hand(device_at_hand())
    cells, jobs = plan.jobs_of(protocol)
    rows = {name: _rows(TASKS.get(name)) for name in protocol.tasks}
    costs = {}
    for one in forecast.forecast(protocol, cells, jobs, target, None, rows):
        count = sum(cell.pair.name == one.pair for cell in cells)
        answer = sum(phase.seconds for phase in one.phases if phase.name == forecast.EVALUATE) / max(one.work.evaluated, 1)
        unit = "GPU hours" if target.is_gpu else "CPU hours"
        costs[one.pair] = Cost(one.training / count, answer, unit, f"estimated from shapes for {target.name}, an upper end")
    return costs


def _told(setting: Setting, found: Designs, effect: float, power: float, scope: str) -> str:
    parts = setting.components
    points = ", ".join(
        f"{100 * value**0.5:.1f} {name}" for name, value in (
            ("between seeds", parts.seed), ("between problems", parts.problem), ("between seeds at a problem", parts.interaction),
            ("between samples", parts.sample),
        )
    )  # fmt: skip
    cost = setting.cost
    below = f"{cost.unit} of all {setting.strategies} strategies, {cost.source}" if cost else "no cost: no runs and no protocol to estimate"
    lines = [
        f"{setting.title}: the true difference that {setting.problems} problems show with {power:.0%} power, points"
        + (f" / {cost.unit}" if cost else ""),
        "",
        "| seeds | " + " | ".join(f"{k} sample{'s' if k > 1 else ''}" for k in found.samples) + " |",
        "| ---: |" + " ---: |" * len(found.samples),
    ]
    for seeds, row, hours in zip(found.seeds, found.points, found.hours, strict=True):
        cells = []
        for k, value, each in zip(found.samples, row, hours, strict=True):
            text = f"{value:.1f}" + ("" if each is None else f" / {_hours(each)}")
            cells.append(f"**{text}**" if (seeds, k) == found.best else text)
        lines.append(f"| {seeds} | " + " | ".join(cells) + " |")
    count = f"{setting.comparisons} comparison{'s' if setting.comparisons > 1 else ''}"
    told = f"{setting.strategies} strategies, {count} corrected together (Holm's first step), for {scope}"
    if setting.judged is not None:
        told += f"; the leaderboard, which allows for one strategy noisier than the rest, says {setting.judged:.1f} of the stored runs"
    noise = f"a difference's standard deviations in points: {points}; {setting.source}"
    return "\n".join([*lines, "", _answer(setting, found, effect, power), "", f"- {told}", f"- {noise}", f"- {below}"])


def _answer(setting: Setting, found: Designs, effect: float, power: float) -> str:
    if found.best is not None:
        seeds, samples = found.best
        hours = setting.hours(seeds, samples)
        cost = f", {_hours(hours)} {setting.cost.unit}" if hours is not None and setting.cost else ", the fewest trainings"
        return f"{effect:g} points with {power:.0%} power: **{seeds} seeds x {samples} samples**{cost}."
    from selbench.designs import MOST_SEEDS

    more = f"{found.problems_needed:,} would do" if found.problems_needed else "more would not do either"
    return (
        f"{effect:g} points with {power:.0%} power: no design of up to {MOST_SEEDS} seeds x {found.samples[-1]} samples; "
        f"{setting.problems} problems set the limit, {more}. --these-problems asks about these alone."
    )


def _hours(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"
