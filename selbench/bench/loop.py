"""The training loop beside TRL's: the embedded pair, every token kept, reverse KL, the same prompts, seeds, optimiser and limits.

Each run has a process of its own; systems take turns within a round, and a round has its own seed. Responses are sampled (temperature 1)
by `transformers` in all of them, each from its own random stream, so that losses agree within the noise of sampling and not to the bit.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from selbench.bench.loop_child import PHASES, SYSTEMS
from selbench.bench.tables import markdown_table, rich_table
from selbench.errors import ConfigError, UserError, nearest
from selbench.provenance import hardware, package_versions, usable_cores

__all__ = ["figure", "markdown", "measure", "render"]

SETTINGS: dict[str, Any] = {"batch": 32, "tokens": 56, "learning_rate": 3e-4, "betas": [0.9, 0.999], "clip_norm": 1.0}
LAST = 10  # steps at the end that the final loss is the mean of
WARM = 1  # steps at the beginning that count for no speed: trainers set themselves up within the first
EVEN = 0.03  # the two best within this share of each other are called even
SEPARATE = 0.05  # curves are called different where Welch's test over the seeds says so at this level


def fresh(spec: dict[str, Any]) -> dict[str, Any]:
    """One run in a new process. Raises UserError with the end of its output where it fails."""
    quiet = {"TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    threads = {"OMP_NUM_THREADS": str(spec["threads"]), "MKL_NUM_THREADS": str(spec["threads"])}
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder) / "spec.json", Path(folder) / "result.json"
        asked.write_text(json.dumps(spec))
        command = [sys.executable, "-m", "selbench.bench.loop_child", str(asked), str(answer)]
        done = subprocess.run(command, check=False, env={**os.environ, **quiet, **threads}, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"bench loop: {spec['system']} failed:\n{done.stderr[-3000:]}")
        found: dict[str, Any] = json.loads(answer.read_text())
    return found


def measure(
    steps: int = 50, rounds: int = 3, systems: list[str] | None = None, threads: int | None = None, **changed: Any
) -> dict[str, Any]:  # fmt: skip
    """All of it: {"runs": {system: [run of each seed]}, "summary", "comparison", …}. changed: what differs from SETTINGS.

    threads: that every process may use, None as many as there are cores.

    Raises ConfigError where trl is not installed, UserError where a run fails.
    """
    names = list(SYSTEMS) if systems is None else systems
    if unknown := [name for name in names if name not in SYSTEMS]:
        raise ConfigError(*(f"bench loop: no system {name!r}: {nearest(name, SYSTEMS)}" for name in unknown))
    if any(name.startswith("trl") for name in names) and importlib.util.find_spec("trl") is None:
        raise ConfigError("bench loop: trl is not installed; `pip install trl==1.16.0`")
    settings = {**SETTINGS, **changed, "steps": steps, "threads": threads or usable_cores()}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for seed in range(rounds):
        turn = seed % len(names)
        for name in names[turn:] + names[:turn]:  # nobody is always the first on a machine that warms up
            runs[name].append(fresh({**settings, "system": name, "seed": seed}))
    return {
        "schema": 1, "settings": settings, "rounds": rounds, "warm_steps": WARM, "last_steps": LAST,
        "loss": "mean reverse KL of a generated token, nats; GKD is kept from dividing by the labels of the data set",
        "summary": {name: summary(each) for name, each in runs.items()}, "comparison": comparison(runs), "runs": runs,
        "packages": package_versions() | _versions("trl"), "hardware": hardware(),
    }  # fmt: skip


def _versions(*names: str) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Over the rounds: rates (median, lowest, highest), milliseconds of a step by phase, memory, loss at the end."""
    warm = [run["steps"][WARM:] or run["steps"] for run in runs]
    seconds = [sum(step["seconds"] for step in steps) for steps in warm]
    per_step = [len(steps) / spent for steps, spent in zip(warm, seconds, strict=True)]
    per_token = [sum(step["tokens"] for step in steps) / spent for steps, spent in zip(warm, seconds, strict=True)]
    each = [{name: 1000 * statistics.fmean(step[name] for step in steps) for name in PHASES} for steps in warm]
    return {
        "steps_per_second": _spread(per_step), "tokens_per_second": _spread(per_token),
        "milliseconds": {name: statistics.median(run[name] for run in each) for name in PHASES},
        "step_milliseconds": 1000 / statistics.median(per_step),
        "first_step_seconds": statistics.median(run["steps"][0]["seconds"] for run in runs),
        "peak_bytes": max(run["peak_bytes"] for run in runs),
        "training_bytes": statistics.median(run["peak_bytes"] - run["loaded_bytes"] for run in runs),
        "first_loss": statistics.fmean(run["losses"][0] for run in runs),
        "last_loss": statistics.fmean(_last(run) for run in runs),
    }  # fmt: skip


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def _last(run: dict[str, Any]) -> float:
    return statistics.fmean(run["losses"][-LAST:])


def comparison(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Of each rival with selbench: difference of the mean loss over all steps and over the last ones, and Welch's p over the seeds."""
    from scipy.stats import ttest_ind

    found: dict[str, Any] = {}
    for name, theirs in runs.items():
        if name == "selbench" or "selbench" not in runs or len(theirs) < 2:
            continue
        for part, value in (("all", lambda run: statistics.fmean(run["losses"])), ("last", _last)):
            a, b = ([value(run) for run in each] for each in (runs["selbench"], theirs))
            p = float(ttest_ind(a, b, equal_var=False).pvalue)
            found.setdefault(name, {})[part] = {
                "difference": statistics.fmean(a) - statistics.fmean(b), "relative": statistics.fmean(a) / statistics.fmean(b) - 1,
                "deviation": statistics.fmean([statistics.stdev(a), statistics.stdev(b)]), "p": p, "same": not p < SEPARATE,
            }  # fmt: skip
    return found


def _rows(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """A row a quantity, a column a system, then the best of them."""
    by_system: dict[str, dict[str, Any]] = found["summary"]

    def row(label: str, value: Any, form: str, *, largest: bool = False, spread: Any = None) -> list[str]:
        values = {name: value(each) for name, each in by_system.items()}
        order = sorted(values, key=lambda name: values[name], reverse=largest)
        cells = [form.format(v) for v in values.values()]
        if spread is not None:
            ranges = [spread(each) for each in by_system.values()]
            cells = [f"{cell} ({form.format(r['low'])} to {form.format(r['high'])})" for cell, r in zip(cells, ranges, strict=True)]
        ratio = abs(values[order[1]] / values[order[0]] - 1) if len(order) > 1 else 0.0
        return [label, *cells, order[0] if ratio > EVEN else "even" if len(order) > 1 else ""]

    body = [
        row("steps/s", lambda s: s["steps_per_second"]["median"], "{:.2f}", largest=True, spread=lambda s: s["steps_per_second"]),
        row(
            "generated tokens/s",
            lambda s: s["tokens_per_second"]["median"],
            "{:,.0f}",
            largest=True,
            spread=lambda s: s["tokens_per_second"],
        ),
        *(row(f"{phase}, ms/step", lambda s, phase=phase: s["milliseconds"][phase], "{:.1f}") for phase in PHASES),
        row("backward and rest, ms/step", lambda s: s["milliseconds"]["backward"] + s["milliseconds"]["rest"], "{:.1f}"),
        row("first step, s", lambda s: s["first_step_seconds"], "{:.2f}"),
        row("peak memory, MB", lambda s: s["peak_bytes"] / 1e6, "{:,.0f}"),
        row("of which since loading, MB", lambda s: s["training_bytes"] / 1e6, "{:,.0f}"),
    ]
    last = [f"{each['last_loss']:.4f}" for each in by_system.values()]
    return ["", *by_system, "best"], [*body, [f"loss, last {LAST} steps", *last, ""]]


def _verdicts(found: dict[str, Any]) -> list[str]:
    lines = []
    for name, parts in found["comparison"].items():
        said = [f"{part} steps {p['difference']:+.4f} nats ({p['relative']:+.1%}, p = {p['p']:.2f})" for part, p in parts.items()]
        same = all(p["same"] for p in parts.values())
        lines.append(f"loss of selbench minus {name}: {'; '.join(said)}: {'same within noise' if same else 'NOT the same'}")
    return lines


def markdown(found: dict[str, Any]) -> str:
    """The table of medians (ranges over rounds), and whether the losses are the same."""
    return "\n".join([*markdown_table(*_rows(found)), "", *_verdicts(found)])


def render(found: dict[str, Any]) -> None:
    """Print the table."""
    from rich.console import Console

    settings = found["settings"]
    shape = f"{settings['steps']} steps of {settings['batch']} prompts, {settings['threads']} threads"
    console = Console()
    console.print(rich_table(f"training loop, embedded pair, {shape}, {found['rounds']} rounds", *_rows(found)))
    for line in _verdicts(found):
        console.print(line, highlight=False)


def figure(found: dict[str, Any], path: Path) -> None:
    """Loss of each step (thin: a seed, thick: their mean), and where the time of a step goes. The suffix decides the format."""
    import matplotlib

    from selbench.report.figures import OKABE_ITO, STYLE

    runs, summaries = found["runs"], found["summary"]
    with matplotlib.rc_context(STYLE):
        from matplotlib.figure import Figure

        picture = Figure(figsize=(7.2, 2.6), layout="constrained")
        curves, bars = picture.subplots(1, 2)
        for colour, (name, each) in zip(OKABE_ITO, runs.items(), strict=False):
            steps = range(1, 1 + len(each[0]["losses"]))
            for run in each:
                curves.plot(steps, run["losses"], color=colour, linewidth=0.5, alpha=0.35)
            mean = [statistics.fmean(values) for values in zip(*(run["losses"] for run in each), strict=True)]
            curves.plot(steps, mean, color=colour, linewidth=1.6, label=name)
        curves.set(xlabel="step", ylabel="reverse KL of a token, nats", ylim=(0, None))
        curves.legend(frameon=False)
        left = [0.0] * len(summaries)
        for colour, phase in zip((*OKABE_ITO, "#999999"), PHASES, strict=False):
            width = [each["milliseconds"][phase] for each in summaries.values()]
            bars.barh(list(summaries), width, left=left, color=colour, label=phase, height=0.6)
            left = [a + b for a, b in zip(left, width, strict=True)]
        bars.invert_yaxis()
        bars.set(xlabel="milliseconds of a step")
        bars.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.4, 1.0))
        picture.savefig(path)
