"""The benchmarks of speed and memory, verbs of `selbench bench`."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from selbench.cli_answers import Plugins, bench, plug, words
from selbench.errors import ConfigError

__all__ = ["bench_loop", "bench_rollout", "bench_select", "bench_step"]


def numbers(option: str, text: str) -> tuple[int, ...]:
    """A comma-separated option as whole numbers."""
    try:
        return tuple(int(word.replace("_", "")) for word in words(text) or [])
    except ValueError:
        raise ConfigError(f"{option} {text!r}: whole numbers, separated by commas") from None


def told(found: dict[str, Any]) -> dict[str, Any]:
    """A measurement with the command that repeats it and the code that it is of."""
    from selbench.provenance import code_version

    return {"command": shlex.join(["selbench", *sys.argv[1:]]), "code": code_version(), **found}


def writable(output: Path | None) -> None:
    """Raises ConfigError before anything runs, if the result could not be written."""
    if output is not None and not output.parent.is_dir():
        raise ConfigError(f"--output {output}: no folder {output.parent}; create it first")


@bench.command("step")
def bench_step(
    vocabulary: Annotated[str, typer.Option(help="Sizes of the vocabulary, comma-separated.")] = "512,32768,151936",
    rows: Annotated[str, typer.Option(help="Numbers of hidden rows, comma-separated.")] = "512,2048,8192",
    width: Annotated[int, typer.Option(min=1, help="Of the student's hidden rows.")] = 1024,
    teacher_width: Annotated[int | None, typer.Option(min=2, help="Of the teacher's (default: twice the student's).")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Each implementation runs once a round, in a fresh process.")] = 5,
    only: Annotated[str | None, typer.Option(help="Comma-separated implementations, NAME or NAME@PERCENT of the rows.")] = None,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16, of rows and heads.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(min=0, help="Of the random rows and heads, and of rollouts.")] = 0,
    flat: Annotated[str | None, typer.Option(help="Numbers of rows at which selbench's memory is measured beside.")] = None,
    flat_vocabulary: Annotated[int, typer.Option(min=2, help="For --flat.")] = 32_768,
    student: Annotated[str | None, typer.Option(help="Hub id or folder: real rows and heads; with --teacher and --prompts.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Hub id or folder.")] = None,
    prompts: Annotated[str | None, typer.Option(help="JSON-lines file for the rollouts.")] = None,
    teacher_dtype: Annotated[str, typer.Option(help="float32 or bfloat16, in which the real teacher reads.")] = "float32",
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest response of a rollout.")] = 256,
    tensors: Annotated[Path | None, typer.Option(help="File to keep the real rows in; used again if it is there.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for every number; a figure goes beside it.")] = None,
) -> None:
    """The distillation loss of other libraries and ours side by side: memory, time, exactness. Minutes to hours."""
    from selbench.bench import step, step_report

    writable(output)
    real = None
    if student and teacher and prompts:
        real = step.Real(student, teacher, prompts, teacher_dtype, max_tokens, tensors)
    elif student or teacher or prompts or tensors:
        raise ConfigError("--student, --teacher and --prompts go together; --tensors keeps what they give")
    settings = step.Settings(
        numbers("--vocabulary", vocabulary), numbers("--rows", rows), width, teacher_width, rounds, tuple(words(only) or ()) or None, dtype,
        device, seed, flat=numbers("--flat", flat or ""), flat_vocabulary=flat_vocabulary, real=real,
    )  # fmt: skip
    found = step.measure(settings, shlex.join(["selbench", *sys.argv[1:]]))
    step_report.render(found)
    if output is not None:
        output.write_text(json.dumps(found, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
        step_report.figure(found, output.with_suffix(".svg"))


@bench.command("select")
def bench_select(
    tokens: Annotated[str, typer.Option(help="Batch sizes in tokens, comma-separated.")] = "10_000,100_000,1_000_000,10_000_000",
    cap: Annotated[float, typer.Option(min=0, help="Seconds that one run of the released procedure may be expected to take.")] = 60.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the random signals.")] = 0,
    plugin: Plugins = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for every number.")] = None,
) -> None:
    """Token selection on one core: tokens per second of every rule, given the signals, and a released selector beside it. Minutes."""
    from selbench.bench import select

    writable(output)
    plug(plugin)
    found = told(select.measure(numbers("--tokens", tokens), cap, seed))
    select.render(found)
    if output is not None:
        output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@bench.command("loop")
def bench_loop(
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of each run.")] = 50,
    rounds: Annotated[int, typer.Option(min=1, help="Each system runs once a round, in a fresh process, with the round as seed.")] = 3,
    only: Annotated[str | None, typer.Option(help="Comma-separated: selbench, trl-distillation, trl-gkd (default: all).")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Prompts of a step.")] = 32,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest response.")] = 56,
    learning_rate: Annotated[float, typer.Option(min=0, help="Of AdamW, constant.")] = 3e-4,
    threads: Annotated[int | None, typer.Option(min=1, help="Of every process (default: the cores there are).")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for every number; a figure goes beside it.")] = None,
) -> None:
    """The training loop beside TRL's trainers on the embedded pair: speed, time by phase, memory, the same losses. Minutes."""
    from selbench.bench import loop

    writable(output)
    found = told(loop.measure(steps, rounds, words(only), threads, batch=batch, tokens=max_tokens, learning_rate=learning_rate))
    loop.render(found)
    if output is not None:
        output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        loop.figure(found, output.with_suffix(".svg"))


@bench.command("rollout")
def bench_rollout(
    model: Annotated[str | None, typer.Option(help="Hub id or folder (default: the embedded student).")] = None,
    batch: Annotated[str, typer.Option(help="Numbers of sequences computed together, comma-separated.")] = "1,32,256",
    tokens: Annotated[str, typer.Option(help="Lengths of the responses, comma-separated.")] = "128,1024",
    only: Annotated[str | None, typer.Option(help="Comma-separated: hf, generate, continuous, vllm (default: all).")] = None,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="Of every process (default: the cores there are).")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Each system runs once a round and size, in a fresh process.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of prompts, samples and the order of the systems.")] = 0,
    natural: Annotated[bool, typer.Option(help="Responses end by end tokens; else every one runs to its limit.")] = False,
    limit: Annotated[float, typer.Option(min=0, help="Seconds that one timed run may be expected to take.")] = 300.0,
    prompts: Annotated[str | None, typer.Option(help="JSON-lines file (default: the embedded one).")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for every number; a figure goes beside it.")] = None,
) -> None:
    """Rollout engines side by side: tokens per second, start-up, weight sync, memory, the same greedy answers. Minutes to hours."""
    from selbench.bench import rollout, rollout_report

    writable(output)
    settings = rollout.Settings(
        model, numbers("--batch", batch), numbers("--tokens", tokens), tuple(words(only) or ()) or None, dtype, device, threads, rounds,
        seed, natural, limit, prompts or rollout.EMBEDDED_PROMPTS,
    )  # fmt: skip
    found = told(rollout.measure(settings)) | {"command": rollout.spoken(sys.argv[1:])}
    rollout_report.render(found)
    if output is not None:
        output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        rollout_report.figure(found, output.with_suffix(".svg"))
