"""The embedded pair that calls tools: a word tokenizer with a tool template, and two small Qwen3 models trained on demonstrations.

What is demonstrated is the business of the task that is named; here it is text. Run by `selbench tiny build-agent`.
"""

from __future__ import annotations

import itertools
import random
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from selbench.environment import Environment, Message
from selbench.errors import ConfigError
from selbench.rollout.agent import shorten
from selbench.seeding import derive
from selbench.tiny.build import END, PAD, Recipe, Report, build_model, fit

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

    from selbench.rollout.dialogue import Dialogue

__all__ = ["RECIPES", "TEMPLATE", "Demonstrates", "build_tokenizer", "rebuild", "sequences", "train_model"]

UNKNOWN = "<|unknown|>"
ROLES = ("<|system|>", "<|tools|>", "<|user|>", "<|assistant|>", "<|tool|>")
TAGS = ("<tool_call>", "</tool_call>")
PIECE = r"[A-Za-z_]+[0-9]*|[0-9]|\s+|[^\w\s]+|\w"
TEMPLATE = (  # as Qwen's, in fewer tokens: of the tools their names alone
    "{% if tools %}<|tools|>{% for t in tools %} {{ t['function']['name'] }}{% endfor %}<|end|>{% endif %}"
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + (m['content'] or '') }}"
    "{% for c in m['tool_calls'] or [] %}{{ '' if loop.first and not m['content'] else '\\n' }}"
    "{{ '<tool_call>\\n{\"name\": \"' + c['function']['name'] + '\", \"arguments\": ' }}{{ c['function']['arguments'] | tojson }}"
    "{{ '}\\n</tool_call>' }}{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONTEXT = 1024  # positions of the models
RESULT = 72  # characters of a tool result, as in the protocol
SEEN = 256  # demonstrations of each kind that the vocabulary is read from
RECIPES = {
    "teacher": Recipe(
        hidden=96, layers=2, heads=3, steps=700, batch=12, learning_rate=3e-3, planted=False, corrupt=0.1, spread=0.1, noise=0.05
    ),
    "student": Recipe(hidden=64, layers=2, heads=2, steps=700, batch=12, learning_rate=3e-3, planted=True, corrupt=0.0, spread=0.125),
}


class Demonstrates(Protocol):
    """What a task's arena offers besides, where a model can be taught from it."""

    def demonstrations(self, seed: int, *, planted: bool = False, corrupt: float = 0.0) -> Iterator[tuple[Environment, list[Message]]]:
        """Endless fresh worlds, each with the messages of an episode: the assistant's have `content` and, word by word, `right`."""
        ...


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of words, digits, blanks and runs of signs: those that occur in `texts`, and every printable character."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    found = {piece for text in texts for piece in re.findall(PIECE, re.sub("|".join(TAGS), "", text))}
    special = [PAD, END, UNKNOWN, *ROLES]
    pieces = [*special, *TAGS, *sorted({*map(chr, range(32, 127)), "\n", *found})]
    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECE), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in TAGS])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN, additional_special_tokens=list(ROLES)
    )
    fast.chat_template = TEMPLATE
    return fast


def seen_texts(arena: Demonstrates, seed: int) -> Iterator[str]:
    """What the vocabulary is read from."""
    for planted, corrupt in ((False, 0.2), (True, 0.0)):
        for world, messages in itertools.islice(arena.demonstrations(seed, planted=planted, corrupt=corrupt), SEEN):
            yield from (_shown(message)["content"] for message in messages)
            yield from (f" {tool['function']['name']}" for tool in world.tools)


def _shown(message: Message) -> Message:
    return {**message, "content": shorten(message["content"], RESULT)} if message["role"] == "tool" else message


def sequences(dialogue: Dialogue, world: Environment, messages: list[Message], planted: bool = False) -> tuple[list[int], list[int]]:
    """A demonstration as ids and targets, equally long, not shifted. Targets are what is right there, or if `planted` what is
    written there, errors included; -100 where no model writes."""
    messages = [_shown(message) for message in messages]
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    ids = dialogue.opening(messages[: turns[0]], world.tools)
    targets = [-100] * len(ids)
    end = dialogue.renderer.end_ids[0]
    for turn, following in zip(turns, [*turns[1:], None], strict=True):
        written, right = (dialogue.renderer.encode_text(messages[turn][key]) for key in ("content", "right"))
        if len(written) != len(right):
            raise ConfigError("demonstration: what is written and what is right differ in length; write them word by word alike")
        between = [] if following is None else dialogue.following(messages[turn + 1 : following], end)
        ids += [*written, end, *between]
        targets += [*(written if planted else right), end, *[-100] * len(between)]
    return ids, targets


def batches(recipe: Recipe, dialogue: Dialogue, arena: Demonstrates, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (input_ids, targets), both (B, T) int64 and already shifted, right padded."""
    import torch

    shown = arena.demonstrations(seed, planted=recipe.planted, corrupt=recipe.corrupt)
    draw, vocabulary = random.Random(seed), len(dialogue.renderer.tokenizer)
    while True:
        rows = [sequences(dialogue, *demonstration, recipe.planted) for demonstration in itertools.islice(shown, recipe.batch)]
        for ids, right in rows if recipe.noise else ():
            ids[:] = [draw.randrange(vocabulary) if t >= 0 and draw.random() < recipe.noise else i for i, t in zip(ids, right, strict=True)]
        inputs, targets = (
            torch.nn.utils.rnn.pad_sequence([torch.tensor(row[i]) for row in rows], batch_first=True, padding_value=fill)
            for i, fill in ((0, dialogue.renderer.pad_id), (1, -100))
        )
        yield inputs[:, :-1], targets[:, 1:]


def train_model(role: str, arena: Demonstrates, folder: Path, seed: int, report: Report | None = None) -> dict[str, Any]:
    """Train one model of the pair and save it, in bfloat16, with its tokenizer; returns what was done (steps, seconds, loss in nats)."""
    import torch

    from selbench.renderer import make_renderer
    from selbench.rollout.dialogue import Dialogue

    recipe, began = RECIPES[role], time.perf_counter()
    tokenizer = build_tokenizer(seen_texts(arena, seed))
    dialogue = Dialogue(make_renderer(tokenizer, role, template="{problem}", system=None, thinking=None))
    model = build_model(recipe, tokenizer, derive(seed, 0, f"tiny agent/{role}/init"), CONTEXT)
    text = batches(recipe, dialogue, arena, derive(seed, 0, f"tiny agent/{role}/text"))
    average = fit(model, text, recipe, lambda step, loss: report(role, step, recipe.steps, loss) if report else None)
    torch.nn.Module.to(model, torch.bfloat16)  # the method of transformers is wrapped without types
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"role": role, "steps": recipe.steps, "loss_nats": round(average, 6), "seconds": round(time.perf_counter() - began, 1)}


def rebuild(folder: Path, task: str, seed: int) -> None:
    """Write `folder`/{teacher,student}. Raises ConfigError when they are there, and for a task that cannot be demonstrated."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from selbench.task import TASKS

    arena: Any = TASKS.get(task).arena
    if not hasattr(arena, "demonstrations"):
        raise ConfigError(f"task {task}: has no demonstrations to learn from; the shipped pair learnt from a task that has")
    if held := [role for role in RECIPES if (folder / role).exists()]:
        raise ConfigError(f"{folder / held[0]}: is there already; choose an empty folder")
    with Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[loss]}"), TimeRemainingColumn()) as progress:
        for role, recipe in RECIPES.items():
            bar = progress.add_task(role, total=recipe.steps, loss="")

            def report(_: str, step: int, __: int, loss: float, bar: Any = bar) -> None:
                progress.update(bar, completed=step, loss=f"loss {loss:.4f} nats")

            fact = train_model(role, arena, folder / role, seed, report)
            progress.console.print(f"{role}: {fact['steps']} steps in {fact['seconds']:.0f} s, loss {fact['loss_nats']:.5f} nats")
