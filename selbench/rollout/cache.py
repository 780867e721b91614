"""Keys and values of unfinished sequences: written into buffers with room, rows and columns given back as sequences end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

__all__ = ["Room", "Rooms", "Shelf", "cache_like"]


class Room(DynamicLayer):
    """One layer's keys (rows, heads, columns, key width) and values, as views of larger buffers: no token copies those before it.

    Drop-in for DynamicLayer, whose `update` concatenates. A full buffer is replaced by one with twice the columns in use, or with
    `wanted` more than those, whichever is less. Sequences end in the same column; what is left of a sequence is masked.
    """

    def __init__(self) -> None:
        super().__init__()
        self.buffers: list[Tensor] = []  # keys, values: (most rows, heads, columns, width)
        self.rows = self.begin = self.end = 0  # the part in use: the first rows, columns begin to end
        self.wanted = 1 << 62  # columns to come

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Buffers for as many rows as are given, and no column yet."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.buffers = [states.new_empty((*states.shape[:2], 0, states.shape[3])) for states in (key_states, value_states)]
        self.rows, self.is_initialized = len(key_states), True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the new columns of every row; all columns in use, keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        new = key_states.shape[-2]
        if self.end + new > self.buffers[0].shape[2]:
            self._grow(new)
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[: self.rows, :, self.end : self.end + new] = states
        self.end += new
        self.wanted -= new
        return self._look()

    def admit(self, keys: Tensor, values: Tensor, index: Tensor) -> None:
        """Rows behind those in use, row r from row index[r] of `keys`, `values` (n, heads, columns, width), aligned at the last column."""
        columns, more = keys.shape[-2], len(index)
        if self.rows == 0 and (not self.is_initialized or more > len(self.buffers[0]) or columns > self.buffers[0].shape[2]):
            self.buffers = [s.new_empty((more, s.shape[1], columns + min(columns, self.wanted), s.shape[3])) for s in (keys, values)]
            self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        if self.rows == 0:
            self.begin, self.end = 0, columns
        for buffer, states in zip(self.buffers, (keys, values), strict=True):
            fresh = buffer[self.rows : self.rows + more, :, self.begin : self.end]
            fresh[:, :, : fresh.shape[2] - columns] = 0  # masked, but 0 * NaN would be NaN
            fresh[:, :, fresh.shape[2] - columns :] = states[index]
        self.rows += more
        self._look()

    def keep(self, rows: Sequence[int]) -> None:
        """From now on row r is what row rows[r] was, and there are no others. Rows that stay in their place are not copied."""
        moved = [r for r, source in enumerate(rows) if r != source]
        if moved:
            sources = torch.tensor([rows[r] for r in moved], device=self.device)
            for buffer in self.buffers:
                part = buffer[:, :, self.begin : self.end]
                part[torch.tensor(moved, device=self.device)] = part[sources]
        self.rows = len(rows)
        self._look()

    def trim(self, columns: int) -> None:
        """Forget the first `columns` columns."""
        self.begin += columns
        self._look()

    def _grow(self, new: int) -> None:
        used = self.end - self.begin
        columns = used + max(new, min(used, self.wanted))
        for place, old in enumerate(self.buffers):
            self.buffers[place] = old.new_empty((*old.shape[:2], columns, old.shape[3]))
            self.buffers[place][: self.rows, :, :used] = old[: self.rows, :, self.begin : self.end]
        self.begin, self.end = 0, used

    def _look(self) -> tuple[Tensor, Tensor]:
        keys, values = (buffer[: self.rows, :, self.begin : self.end] for buffer in self.buffers)
        self.keys, self.values = keys, values
        return keys, values


class Rooms:
    """A cache of ordinary attention layers. Finished rows leave at once and new ones take their place."""

    refills = True

    def __init__(self, layers: int) -> None:
        self.layers = [Room() for _ in range(layers)]
        self.past: Cache = Cache(layers=list(self.layers))

    def admit(self, prompts: Any, index: Tensor, wanted: int) -> None:
        """New rows from a cache that has just read prompts, no wider than what is there; see `Room.admit`. wanted: columns to come."""
        for room, layer in zip(self.layers, prompts.layers, strict=True):
            room.wanted = wanted
            room.admit(layer.keys, layer.values, index)

    def keep(self, rows: Sequence[int]) -> None:
        """See `Room.keep`."""
        for room in self.layers:
            room.keep(rows)

    def trim(self, columns: int) -> None:
        """See `Room.trim`."""
        for room in self.layers:
            room.trim(columns)


class Shelf:
    """The model's own cache, for sliding windows, recurrent states and whatever else there is: one batch at a time, rows may leave."""

    refills = False

    def __init__(self, past: Any) -> None:
        self.past = past

    def admit(self, prompts: Any, index: Tensor, wanted: int) -> None:
        """The rows of a cache that has just read prompts, row r from its row index[r]."""
        self.past = prompts
        if index.tolist() != list(range(len(index))):
            prompts.reorder_cache(index)

    def keep(self, rows: Sequence[int]) -> None:
        """From now on row r is what row rows[r] was."""
        if rows:
            self.past.reorder_cache(torch.tensor(rows))

    def trim(self, columns: int) -> None:
        """Nothing: its layers count their columns themselves."""


def cache_like(past: Any) -> Rooms | Shelf:
    """An empty cache that takes rows from caches like `past`, which a model made: with room where all layers are ordinary attention."""
    plain = type(past) is DynamicCache and all(type(layer) is DynamicLayer for layer in past.layers)
    return Rooms(len(past.layers)) if plain else Shelf(past)
