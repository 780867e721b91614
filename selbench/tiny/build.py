"""The embedded pair from nothing: tokenizer, planted text, two small Qwen3 models. Run by `selbench tiny build`."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selbench.seeding import derive
from selbench.tiny.text import DIGITS, operands, problems, render

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

Report = Callable[[str, int, int, float], None]  # role, step, steps, loss (nats)

PAD, END = "<|pad|>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
TRAINING_PROMPTS, TEST_PROBLEMS = 4096, 200


@dataclass(frozen=True)
class Recipe:
    """How one of the two models is made. Sizes in units, `corrupt` a probability per written digit."""

    hidden: int
    layers: int
    heads: int
    steps: int
    batch: int
    learning_rate: float
    planted: bool
    corrupt: float
    spread: float = 0.02  # standard deviation of the first weights; models this narrow learn to copy far sooner from hidden ** -0.5
    noise: float = 0.0  # probability that a token of the model's own is read as any other: what is right after text that has derailed


RECIPES = {
    "teacher": Recipe(hidden=128, layers=3, heads=4, steps=1600, batch=128, learning_rate=2e-3, planted=False, corrupt=0.06),
    "student": Recipe(hidden=64, layers=2, heads=2, steps=1200, batch=96, learning_rate=3e-3, planted=True, corrupt=0.0),
}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A character-level fast tokenizer: one id per printable ASCII character and newline, roles and end as single tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = [PAD, END, *ROLES]
    characters = [*(chr(code) for code in range(32, 127)), "\n"]
    vocabulary = {token: index for index, token in enumerate([*special, *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token="?", additional_special_tokens=list(ROLES)
    )
    fast.chat_template = TEMPLATE
    return fast


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, seed: int, context: int = 256) -> PreTrainedModel:
    """A Qwen3 causal LM of the recipe's size with weights drawn from `seed`; head and embedding tied."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=recipe.hidden, intermediate_size=3 * recipe.hidden,
        num_hidden_layers=recipe.layers, num_attention_heads=recipe.heads, num_key_value_heads=recipe.heads,
        head_dim=recipe.hidden // recipe.heads, max_position_embeddings=context, tie_word_embeddings=True, initializer_range=recipe.spread,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config)


def batches(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (input_ids, targets), both (B, T) int64 and already shifted; targets are -100 on the prompt.

    A target is what is *right* given the text as written (teacher) or the text as written (student).
    """
    import torch

    rng = np.random.default_rng(seed)
    code = np.zeros(128, dtype=np.int64)
    for character in map(chr, [*range(32, 127), 10]):
        code[ord(character)] = tokenizer.convert_tokens_to_ids(character)
    step = 0
    while True:
        digits = DIGITS[step % len(DIGITS)]
        text = render(*operands(rng, recipe.batch, digits), rng, planted=recipe.planted, corrupt=recipe.corrupt)
        head = np.array([tokenizer.apply_chat_template([{"role": "user", "content": p}], add_generation_prompt=True,
                                                       return_dict=False) for p in text.prompts])  # fmt: skip
        end = np.full((recipe.batch, 1), tokenizer.eos_token_id)
        written, right = (np.concatenate([code[c], end], 1) for c in (text.written, text.written if recipe.planted else text.right))
        inputs = np.concatenate([head, written], 1)[:, :-1]
        targets = np.concatenate([np.full_like(head, -100), right], 1)[:, 1:]
        yield torch.from_numpy(inputs), torch.from_numpy(targets)
        step += 1


def train_model(role: str, folder: Path, seed: int, report: Report | None = None) -> dict[str, Any]:
    """Train one model of the pair and save it with its tokenizer; returns what was done (steps, seconds, loss in nats)."""
    recipe, began = RECIPES[role], time.perf_counter()
    tokenizer = build_tokenizer()
    model = build_model(recipe, tokenizer, derive(seed, 0, f"tiny/{role}/init"))
    text = batches(recipe, tokenizer, derive(seed, 0, f"tiny/{role}/text"))
    average = fit(model, text, recipe, lambda step, loss: report(role, step, recipe.steps, loss) if report else None)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"role": role, "steps": recipe.steps, "loss_nats": round(average, 6), "seconds": round(time.perf_counter() - began, 1)}


def fit(model: PreTrainedModel, text: Iterator[tuple[Tensor, Tensor]], recipe: Recipe, report: Callable[[int, float], None]) -> float:
    """Train on `recipe.steps` batches of (input_ids, targets); returns the running loss (nats) and leaves the model in evaluation mode."""
    import torch
    from torch.nn.functional import cross_entropy

    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    average = math.log(model.config.vocab_size)
    for step in range(1, recipe.steps + 1):
        scale = min(step / 100, 0.5 * (1 + math.cos(math.pi * step / recipe.steps)))
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * scale
        inputs, targets = next(text)
        loss = cross_entropy(model(input_ids=inputs).logits.flatten(0, 1).float(), targets.flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        average += 0.02 * (loss.item() - average)
        if step % 50 == 0 or step == recipe.steps:
            report(step, average)
    model.eval()
    return average


def write_problems(prompts: Path, test: Path, seed: int) -> None:
    """Training prompts and held-out test problems as JSON lines; no problem is in both."""
    rng = np.random.default_rng(derive(seed, 0, "tiny/problems"))
    held_out = problems(rng, TEST_PROBLEMS)
    training = problems(rng, TRAINING_PROMPTS, exclude=frozenset(row["prompt"] for row in held_out))
    for path, rows in ((prompts, training), (test, held_out)):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
