"""Rollouts by a decoding loop of our own over a transformers model, on the very module that is trained: in sync by construction."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from selbench.adapter import has_adapter
from selbench.errors import UserError
from selbench.rollout import EngineError, Progress, Rollouts, Sampling, numbers
from selbench.rollout.cache import Rooms, Shelf, cache_like
from selbench.rollout.draw import draw, uniforms
from selbench.seeding import derive

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["HFEngine"]

STEPS, STEPS_ELSEWHERE = 1, 8  # tokens drawn before the host looks at them, on CPU and where a look makes the device wait
SPARE = 4  # new sequences enter when a batch has 1/SPARE of its rows free


@dataclass
class Row:
    """One sequence in the making. start: the column of the cache that holds its first token."""

    number: int
    key: int
    prompt: tuple[int, ...]
    start: int = 0
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: str = ""


class HFEngine:
    """Batched sampling. Sequences leave the batch when they end and waiting ones take their place, the longest prompts first.

    Which tokens are drawn for a prompt depends on weights, seed and the prompt's number alone, not on `batch`, up to the rounding of
    the forward passes. Of the model's own generation settings only `suppress_tokens` counts.
    logprobs: return each drawn token's log-probability under the raw logits.
    """

    name = "hf"

    def __init__(self, model: PreTrainedModel, *, end_ids: Sequence[int], pad_id: int, batch: int = 256, logprobs: bool = False) -> None:
        self.model, self.end_ids, self.pad_id, self.batch, self.logprobs = model, frozenset(end_ids), pad_id, batch, logprobs

    def sync(self, student: torch.nn.Module) -> None:
        """Nothing to move: the engine samples from the trained module itself. Raises ValueError if given another one."""
        if student is not self.model:
            raise ValueError("the hf engine was built on another module than the one being trained")

    def rest(self) -> None:
        """Nothing is held between two calls."""

    def close(self) -> None:
        """Nothing is held besides the model."""

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int, progress: Progress | None = None,
        first: int | Sequence[int] = 0,
    ) -> Rollouts:  # fmt: skip
        """See `Engine.generate`. No global generator is used; modules in training mode are put back into it."""
        self._require_context(prompts, sampling.max_tokens)
        keys = [derive(seed, number, "rollout") for number in numbers(first, len(prompts))]
        rows = [Row(i, key, tuple(prompt)) for i, (key, prompt) in enumerate(zip(keys, prompts, strict=True))]
        with sampling_mode(self.model):
            for done in Decoding(self, sampling).run(rows):
                if progress:
                    progress(done, len(rows))
        logprobs = [row.logprobs for row in rows] if self.logprobs else None
        return Rollouts.of(prompts, [row.tokens for row in rows], [row.finish for row in rows], first, logprobs)

    def _require_context(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> None:
        empty = next((i for i, prompt in enumerate(prompts) if not prompt), None)
        if empty is not None:
            raise UserError(f"prompt {empty} has no tokens; a response needs at least one to start from: check model.template")
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        longest = max(map(len, prompts), default=0)
        if limit is None or longest + max_tokens <= limit:
            return
        if longest >= limit:
            place = next(i for i, prompt in enumerate(prompts) if len(prompt) == longest)
            raise UserError(f"prompt {place} has {longest} tokens and the model's context holds {limit}; shorten or filter the prompts")
        raise UserError(
            f"a prompt of {longest} tokens and a response of up to {max_tokens} exceed the model's context of {limit} tokens; "
            f"set the response limit (training.max_response_tokens or evaluation.max_tokens) to {limit - longest} or less"
        )


@contextmanager
def sampling_mode(model: PreTrainedModel) -> Iterator[None]:
    """Within it `model` is in evaluation mode and takes no gradients; afterwards every module is in the mode in which it was."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        with torch.no_grad():  # inference mode would leave buffers behind that no later backward pass takes
            yield
    finally:
        for module in training:
            module.training = True
        if torch.is_autocast_enabled(model.device.type):
            torch.clear_autocast_cache()  # it holds casts of the weights that lead no gradient back to them


class Decoding:
    """One call of the engine: the batch in the making, its cache, and what the device knows of it."""

    def __init__(self, engine: HFEngine, sampling: Sampling) -> None:
        self.engine, self.sampling = engine, sampling
        model: Any = engine.model
        self.model = model.get_base_model() if has_adapter(model) else model  # the adapter's layers are in it
        self.device = self.model.device
        self.takes = inspect.signature(self.model.forward).parameters
        suppressed = getattr(self.model.generation_config, "suppress_tokens", None)
        self.suppressed = torch.tensor(suppressed, device=self.device) if suppressed else None
        self.steps = STEPS if self.device.type == "cpu" else STEPS_ELSEWHERE
        self.cache: Rooms | Shelf | None = None
        self.live: list[Row] = []  # row r of the cache
        self.begin = self.now = 0  # columns in use; counted on when the cache forgets its first ones
        self.padded = False
        self.last = self.start = torch.empty(0, 1, dtype=torch.int64)  # of each row: last token, first column,
        self.origin = self.key = torch.empty(0, dtype=torch.int64)  # first column of the response, key

    def run(self, rows: Sequence[Row]) -> Iterator[int]:
        """Fill the rows; yields how many are finished whenever that has changed."""
        waiting = sorted(rows, key=lambda row: (len(row.prompt), row.prompt, -row.number))  # taken from the end
        done = 0
        while waiting or self.live:
            free = self.engine.batch - len(self.live)
            if waiting and (not self.live or (self.cache and self.cache.refills and SPARE * free >= self.engine.batch)):
                self._admit([waiting.pop() for _ in range(min(free, len(waiting)))])
            else:
                self._advance()
            before, done = done, len(rows) - len(waiting) - sum(not row.finish for row in self.live)
            self._drop()
            if done > before:
                yield done

    def _admit(self, fresh: list[Row]) -> None:
        """Read the prompts of new rows, equal ones once, and draw their first tokens. No prompt is longer than the columns in use."""
        numbers = {prompt: n for n, prompt in enumerate(dict.fromkeys(row.prompt for row in fresh))}
        lengths = torch.tensor([len(prompt) for prompt in numbers])
        width = int(lengths.max())
        ids = torch.tensor([[self.engine.pad_id] * (width - len(prompt)) + list(prompt) for prompt in numbers])
        place = torch.arange(width) - (width - lengths)[:, None]  # left padding: every response starts in the same column
        mask = place >= 0
        logits, past = self._forward(ids, None if bool(mask.all()) else mask, place.clamp(min=0), None)
        index, key = torch.tensor([[numbers[row.prompt] for row in fresh], [row.key for row in fresh]], device=self.device)
        self.cache = self.cache or cache_like(past)
        self.cache.admit(past, index, self.sampling.max_tokens - 1)
        if not self.live:
            self.begin, self.now = 0, width
        for row in fresh:
            row.start = self.now - len(row.prompt)
        token, logprob = self._draw(logits[index], uniforms(key, torch.zeros_like(key), 1)[0])
        self._write(fresh, [token], [logprob])
        self.live += fresh
        self._place()

    def _advance(self) -> None:
        """Draw the next tokens of every row; the host looks at them afterwards."""
        steps = min(self.steps, *(self.sampling.max_tokens - len(row.tokens) for row in self.live if not row.finish))
        u = uniforms(self.key, self.now + 1 - self.origin, steps)
        tokens, logprobs = [], []
        for own in u:
            mask = torch.arange(self.begin, self.now + 1, device=self.device) >= self.start if self.padded else None
            assert self.cache is not None
            logits, _ = self._forward(self.last, mask, self.now - self.start, self.cache.past)
            self.now += 1
            token, logprob = self._draw(logits, own)
            self.last = token.clamp(min=0)[:, None]
            tokens.append(token)
            logprobs.append(logprob)
        self._write(self.live, tokens, logprobs)

    def _forward(self, ids: Tensor, mask: Tensor | None, place: Tensor, past: Any) -> tuple[Tensor, Any]:
        """Logits (n, V) float32 after the last column, and the cache. ids, place: (n, columns) int64; mask: (n, all columns) bool."""
        inputs = {"position_ids": place.to(self.device), "logits_to_keep": 1}
        inputs = {name: value for name, value in inputs.items() if name in self.takes}
        mask = mask if mask is None else mask.to(self.device)
        out = self.model(input_ids=ids.to(self.device), attention_mask=mask, past_key_values=past, use_cache=True, **inputs)
        if getattr(out, "past_key_values", None) is None:
            raise UserError(f"the hf engine cannot sample from {type(self.model).__name__}: it keeps no keys and values between tokens")
        return out.logits[:, -1].float(), out.past_key_values

    def _draw(self, logits: Tensor, u: Tensor) -> tuple[Tensor, Tensor | None]:
        """A token per row, -1 where the logits are not numbers, and its log-probability if asked for."""
        total = logits.logsumexp(-1) if self.engine.logprobs else None
        if self.suppressed is not None:
            logits.index_fill_(1, self.suppressed, -torch.inf)
        token, fine = draw(logits, self.sampling, u)
        logprob = None if total is None else logits.gather(1, token[:, None])[:, 0] - total
        return token.where(fine, -1), logprob

    def _write(self, rows: Sequence[Row], tokens: list[Tensor], logprobs: list[Tensor | None]) -> None:
        """Hand the tokens of some steps to their rows; what is drawn after a row's end is dropped."""
        asked = [logprob for logprob in logprobs if logprob is not None]
        columns = zip(*torch.stack(tokens).tolist(), strict=True)
        for row, own, p in zip(rows, columns, torch.stack(asked).T.tolist() if asked else [()] * len(rows), strict=True):
            for token in own:
                if row.finish:
                    break
                if token < 0:
                    raise EngineError(
                        f"prompt {row.number}: the model's logits for response token {len(row.tokens)} are not numbers; "
                        f"its weights have diverged or its precision is too low"
                    )
                row.tokens.append(token)
                full = len(row.tokens) == self.sampling.max_tokens
                row.finish = "stop" if token in self.engine.end_ids else "length" if full else ""
            row.logprobs += p[: len(row.tokens) - len(row.logprobs)]

    def _drop(self) -> None:
        """Take finished rows out of the batch; the last rows move into their places."""
        stay = [r for r, row in enumerate(self.live) if not row.finish]
        gone = len(self.live) - len(stay)
        assert self.cache is not None
        if not gone or (stay and not self.cache.refills and SPARE * gone < len(self.live)):  # the model's own cache copies every row
            return
        movers = iter([r for r in stay if r >= len(stay)])
        order = [next(movers) if self.live[r].finish else r for r in range(len(stay))]
        self.cache.keep(order)
        self.live = [self.live[r] for r in order]
        if self.live:
            self._place()

    def _place(self) -> None:
        """Put on the device what it needs to know of each row."""
        assert self.cache is not None
        begin = min(row.start for row in self.live) if self.cache.refills else 0
        self.cache.trim(begin - self.begin)
        self.begin, self.padded = begin, any(row.start > begin for row in self.live)
        known = [(row.tokens[-1], row.start, row.start + len(row.prompt), row.key) for row in self.live]
        last, start, self.origin, self.key = torch.tensor(known, device=self.device).unbind(1)
        self.last, self.start = last[:, None], start[:, None]
