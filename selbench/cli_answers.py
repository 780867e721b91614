"""The verbs about answers and prompts: eval, grade, check-overlap, bench. What they share with the others stands here too."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from selbench.errors import ConfigError

__all__ = ["Plugins", "bench", "check_overlap", "device_at_hand", "eval_", "grade", "plug", "seed_numbers", "words"]

bench = typer.Typer(help="Side-by-side benchmarks against other libraries.", no_args_is_help=True)

Plugins = Annotated[list[Path] | None, typer.Option("--plugin", help="A contributor's file to load; may be repeated.")]


def plug(plugins: list[Path] | None) -> None:
    """Load contributors' files."""
    from selbench.registry import load_plugin

    for path in plugins or []:
        load_plugin(path)


def words(text: str | None) -> list[str] | None:
    """A comma-separated option as a list; None where it was not given."""
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def seed_numbers(text: str | None) -> list[int] | None:
    """`0,1,2` or `0-4` as numbers; None where it was not given. Raises ConfigError."""
    if text is None:
        return None
    seeds: list[int] = []
    for word in words(text) or []:
        low, dash, high = word.partition("-")
        if not low.isdigit() or (dash and not high.isdigit()):
            raise ConfigError(f"--seeds {text!r}: {word!r} is not a number or a range such as 0-4")
        seeds += range(int(low), int(high if dash else low) + 1)
    return seeds


def device_at_hand() -> str:
    """cuda where there is one, else cpu."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def eval_(
    model: Annotated[str, typer.Argument(help="Hub id, folder, .gguf file or a finished cell's folder (with --table: of evaluations).")],
    tasks: Annotated[str | None, typer.Option(help="Comma-separated tasks.")] = None,
    samples: Annotated[int | None, typer.Option("--samples", "-k", help="Answers per problem (default: the task's).")] = None,
    problems: Annotated[int | None, typer.Option("--problems", "-n", help="Only the first so many problems.")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Temperature 0, one answer.")] = False,
    temperature: Annotated[float, typer.Option(help="Sampling temperature.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Nucleus.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="0: off.")] = 20,
    max_tokens: Annotated[int, typer.Option(help="Longest response, tokens.")] = 4096,
    turns: Annotated[int | None, typer.Option(help="Tasks acted on: turns of the model in a phase (default 50).")] = None,
    turn_tokens: Annotated[int | None, typer.Option(help="Tasks acted on: longest turn, tokens; --max-tokens bounds the episode.")] = None,
    result_characters: Annotated[int | None, typer.Option(help="Tasks acted on: longer tool results lose their middle.")] = None,
    malformed: Annotated[str | None, typer.Option(help="Tasks acted on: answer, or end as published, when a call is broken.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="A string that ends a response; may be repeated.")] = None,
    prompt: Annotated[str, typer.Option(help="Answer-format instruction, by name or as a text with {problem}.")] = "boxed-qwen",
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    thinking: Annotated[bool | None, typer.Option("--thinking/--no-thinking", help="The chat template's thinking mode.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16 (default: bfloat16 on a GPU, else float32).")] = None,
    batch: Annotated[int, typer.Option(help="Sequences generated together.")] = 64,
    engine: Annotated[str, typer.Option(help="auto, hf, vllm or vllm-server: what answers.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of the sampling.")] = 0,
    name: Annotated[str | None, typer.Option(help="What the records call the model (default: its source).")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    plugin: Plugins = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the records (default: runs/eval/MODEL).")] = None,
    table_only: Annotated[bool, typer.Option("--table", help="Only the table of the evaluations below MODEL, a folder.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The table as JSON.")] = False,
) -> None:
    """Evaluate one model on the tasks, without training: accuracy with interval, pass@k, maj@k, truncation, speed."""
    from selbench import eval_model
    from selbench.rollout.choose import ENGINES

    plug(plugin)
    if table_only:
        eval_model.show(Path(model), as_json=as_json)
        return
    if not words(tasks):
        raise ConfigError("eval: name the tasks with --tasks, comma-separated (selbench list tasks)")
    if engine not in ENGINES:
        raise ConfigError(f"--engine {engine!r}: {', '.join(ENGINES[:-1])} or {ENGINES[-1]}")
    chosen = device or device_at_hand()
    kind = dtype or ("float32" if chosen == "cpu" else "bfloat16")
    settings, evaluation, found, agent = eval_model.settings_of(
        {"system": system, "thinking": thinking, "student_dtype": kind, "teacher_dtype": kind},
        {"samples": samples, "problems": problems, "temperature": 0.0 if greedy else temperature, "top_p": top_p, "top_k": top_k,
         "max_tokens": max_tokens, "stop": stop, "template": prompt, "batch": batch},
        words(tasks) or [],
        {"max_turns": turns, "max_turn_tokens": turn_tokens, "max_result_characters": result_characters, "malformed": malformed},
    )  # fmt: skip
    folder = output or Path("runs") / "eval" / (name or model.rstrip("/").split("/")[-1]).lower()
    written = eval_model.evaluate_model(
        model, found, settings, evaluation, folder, chosen, seed=seed, name=name, engine=engine, quiet=quiet or as_json, agent=agent
    )
    eval_model.show(folder, as_json=as_json)
    if not (quiet or as_json):
        print(f"records: {', '.join(str(place) for place in written)}")
        print(f"next: `selbench grade {folder}` judges them with other graders; `selbench eval --table {folder.parent}` compares models")


def grade(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Run folders, samples.parquet, .jsonl, .csv, lm-eval's samples.")],
    graders: Annotated[str | None, typer.Option(help="Comma-separated: sympy, math_verify, hendrycks, exact (default: all).")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the report (default: beside the first FILE).")] = None,
    update: Annotated[bool, typer.Option("--update", help="Put the sympy grader's verdicts into the samples.parquet read.")] = False,
    by: Annotated[str, typer.Option(help="What a system is in run folders: cell, or strategy (its seeds together).")] = "cell",
    workers: Annotated[int | None, typer.Option(min=1, help="Grading processes (default: usable cores).")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for one comparison.")] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON on standard output.")] = False,
) -> None:
    """Grade stored outputs again, with several graders side by side: scores, disagreements, ranks that flip. No model runs.

    Stored episodes of tasks that are acted on are judged again by the task itself.
    """
    import json

    from selbench import arena, regrade

    played = [arena.rescore(folder, rewrite=update) for folder in arena.played_below(files)]
    if played:
        for row in played if not as_json else ():
            was = "" if row["score_before"] is None else f" (was {row['score_before']:.4f})"
            print(f"{row['folder']}: {row['task']} by {row['grader']}: {row['episodes']} episodes, {row['solved']} solved, "
                  f"score {row['score']:.4f}{was}, {row['moved']} verdicts moved")  # fmt: skip
        if not regrade.has_outputs(files):
            if as_json:
                print(json.dumps({"schema": 1, "episodes": played}, indent=1, sort_keys=True))
            return
    report = regrade.regrade(
        files, graders=words(graders), output=output, rewrite=update, by=by, workers=workers, timeout=timeout, quiet=as_json
    )
    if as_json:
        print(json.dumps(report.content, indent=1, sort_keys=True))
        return
    regrade.show(report.content, report.disagreements)
    print(f"wrote {', '.join(str(path) for path in report.written)}")


def check_overlap(
    prompts: Annotated[list[str], typer.Argument(help="Training prompts: .jsonl files or hub dataset ids.")],
    tasks: Annotated[str | None, typer.Option(help="Comma-separated tasks (default: all whose problems can be had).")] = None,
    n: Annotated[int, typer.Option("--n", min=2, help="Words in a row that make a prompt near a problem.")] = 13,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Jaccard index of the 6-grams, from which on they are near.")] = 0.2,
    containment: Annotated[float, typer.Option(min=0, max=1, help="Share of the problem's 6-grams in the prompt, likewise.")] = 0.6,
    examples: Annotated[int, typer.Option(min=0, help="Matches shown of each task and kind.")] = 3,
    fail: Annotated[bool, typer.Option("--fail", help="Exit code 1 if anything overlaps.")] = False,
    plugin: Plugins = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for every match.")] = None,
) -> None:
    """Find evaluation problems among training prompts: equal ones and near ones, per task, with examples side by side."""
    from selbench import overlap

    plug(plugin)
    found = overlap.survey(prompts, words(tasks), overlap.Rule(n, threshold, containment))
    print(overlap.render(found, examples))
    if output:
        overlap.save(found, output)
    if fail and found["matches"]:
        sys.exit(1)


@bench.command("grading")
def bench_grading(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for every number.")] = None,
    responses: Annotated[int, typer.Option(min=1, help="Long responses that are graded.")] = 10_000,
) -> None:
    """The graders side by side: accuracy on labelled pairs by kind, speed, long responses, the price of a hang. Minutes."""
    import json

    from selbench.bench import grading

    if output is not None and not output.parent.is_dir():
        raise ConfigError(f"--output {output}: no folder {output.parent}; create it first")
    found = grading.measure(responses)
    grading.render(found)
    if output is not None:
        output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
