"""The verbs about episodes: act in a world by hand, look at what a model did in one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selbench.cli_answers import Plugins, bench, plug, words

__all__ = ["agent", "bench_agent"]

agent = typer.Typer(help="Episodes with tools: act in one, look at one.", no_args_is_help=True)


@agent.command()
def play(
    case: Annotated[str, typer.Argument(help="A case of the task, by its id.")],
    task: Annotated[str, typer.Option(help="A task that is acted on.")],
    plugin: Plugins = None,
) -> None:
    """Act as the model: type tool calls (tab completes), see what would be scored, and the score at the end."""
    from selbench.agent_play import act
    from selbench.task import TASKS

    plug(plugin)
    act(TASKS.get(task), case)


@agent.command()
def show(
    path: Annotated[Path, typer.Argument(help="The folder of an evaluation, or its episodes.jsonl.")],
    episode: Annotated[int, typer.Argument(min=0, help="Number of the episode.")] = 0,
    model: Annotated[str | None, typer.Option(help="Show tokens instead of messages, read by this model's tokenizer.")] = None,
) -> None:
    """Show a stored episode: what the model wrote (mask 1) in green, what it read (mask 0) dim."""
    from selbench.agent_play import show_episode

    show_episode(path, episode, model)


@bench.command("agent")
def bench_agent(
    tasks: Annotated[str, typer.Option(help="Comma-separated tasks that are acted on.")],
    model: Annotated[str, typer.Option(help="Whose tokenizer and chat template are used.")],
    episodes: Annotated[int, typer.Option(min=1, help="Episodes side by side.")] = 120,
    seconds: Annotated[float, typer.Option(help="Of processor time for each rate.")] = 2.0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for every number.")] = None,
) -> None:
    """What the agent loop costs beside generation; tool calls and judged episodes per second."""
    import json

    from selbench.bench import agent as measured
    from selbench.cli_bench import told, writable

    writable(output)
    found = told(measured.measure(words(tasks) or [], model, episodes=episodes, seconds=seconds))
    measured.show(found)
    if output is not None:
        output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
