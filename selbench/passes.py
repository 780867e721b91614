"""What a step computed, in FLOPs and bytes, beside a full-token step on the same batch. Arithmetic on counts, nothing is measured.

FLOPs count matrix products, two a multiplication and addition: weights, heads, and causal attention over the positions that a token
sees (kernels that compute a padded square do up to twice that; it counts as waste). Backward passes cost two forward passes, less
the gradients of frozen weights; an adapter's own products are left out, as are norms, activations and the loss's formulas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from selbench import records
from selbench.estimate import Shape, chunked_bytes, forward_flops, head_flops

__all__ = [
    "DENSE_TENSORS", "Passes", "baseline_flops", "chunked_bytes", "dense_bytes", "padded_share", "shape_of", "step_flops", "step_record",
    "update_flops",
]  # fmt: skip

# float32 tensors (N, V) at the widest moment of a dense reverse KL in plain torch, forward and backward: both logits, both
# log-softmaxes, the student's softmax, the difference, and two of the gradients on their way to the logits.
# Measured as resident memory beyond inputs and their gradients, N = 256, V = 32,768, on a CPU: 8.0; a dense JSD: 15.0.
DENSE_TENSORS = 8
OPTIMISER_FLOPS = 10  # AdamW, per trained parameter: two moments, their corrections, a root, a division, decay, the update

Counts = list[tuple[int, int]]


@dataclass(frozen=True)
class Passes:
    """What one step computed, on one rank.

    generated: (prompt, response) tokens of each sequence. teacher, scored, distilled: (sequences, padded length) of each
    micro-batch, of the teacher without gradient, of the student without gradient, of the student with gradient.
    student_rows, teacher_rows: rows whose head products were computed for scoring. kept: rows in the loss, of `tokens` valid ones.
    one_pass: the pass that scored was the pass of the loss: `scored` holds its forward, `distilled` costs the backward alone.
    """

    generated: Counts
    teacher: Counts
    scored: Counts
    distilled: Counts
    student_rows: int
    teacher_rows: int
    kept: int
    tokens: int
    adapter: bool
    checkpointed: bool
    one_pass: bool


def shape_of(model: Any) -> Shape:
    """The shape of a loaded decoder, adapters left out."""
    config = model.config.get_text_config()
    heads = int(config.num_attention_heads)
    return Shape(
        parameters=sum(p.numel() for name, p in model.named_parameters() if "lora_" not in name), hidden_size=int(config.hidden_size),
        num_hidden_layers=int(config.num_hidden_layers), vocab_size=len(model.get_output_embeddings().weight), num_attention_heads=heads,
        num_key_value_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        intermediate_size=int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size),
        tied=int(model.get_output_embeddings().weight is model.get_input_embeddings().weight),
    )  # fmt: skip


def step_flops(passes: Passes, student: Shape, teacher: Shape, trained: int | None = None) -> dict[str, float]:
    """FLOPs of one step by phase, padding included where passes are padded; the engine's own padding is unknown and left out.

    trained: parameters that the optimiser updates (none: all of the student; of an adapter they are not known, so is the phase).
    """
    size = min(student.vocab_size, teacher.vocab_size)  # columns past the shared vocabulary are not computed
    own, other = (replace(shape, vocab_size=size) for shape in (student, teacher))
    forward = _forward(student, passes.distilled)
    backward = 2 * forward + forward * passes.checkpointed
    if passes.adapter:  # no gradients of the weights
        backward -= 2.0 * student.body * sum(n * length for n, length in passes.distilled)
    heads = head_flops(own, (2 if passes.adapter else 3) * passes.kept) + head_flops(other, passes.kept)
    found = {
        "rollout": sum(forward_flops(student, max(p + r - 1, 0), (p + r) / 2) + head_flops(student, r) for p, r in passes.generated),
        "teacher": _forward(teacher, passes.teacher),
        "score": _forward(student, passes.scored) + head_flops(own, passes.student_rows) + head_flops(other, passes.teacher_rows),
        "select": 0.0,  # comparisons
        "distil": (0.0 if passes.one_pass else forward) + backward + heads,
    }  # fmt: skip
    trained = trained if trained is not None or passes.adapter else student.parameters
    return found if trained is None else found | {"optimiser": float(OPTIMISER_FLOPS * trained)}


def baseline_flops(passes: Passes, student: Shape, teacher: Shape) -> float:
    """FLOPs of the full-token update on the same batch: both models over whole sequences once, heads at all tokens, no scoring.

    A dense loss and a chunked one compute the same products; they differ in memory.
    """
    whole = _whole(passes)
    full = replace(
        passes, teacher=_teacher_whole(passes, whole), scored=[], distilled=whole, student_rows=0, teacher_rows=0, kept=passes.tokens,
        one_pass=False,
    )  # fmt: skip
    return update_flops(step_flops(full, student, teacher))


def update_flops(flops: Mapping[str, float]) -> float:
    return sum(flops[phase] for phase in records.UPDATE)


def padded_share(passes: Passes) -> float | None:
    """Share of the positions in the student's passes that are padding. Runs that skipped micro-batches are left out; None if all did."""
    lengths, needed, computed = _lengths(passes), 0, 0
    for run in [passes.scored] if passes.one_pass else [passes.scored, passes.distilled]:
        if sum(n for n, _ in run) == len(lengths):
            own = iter(lengths)
            needed += sum(min(next(own), width) for n, width in run for _ in range(n))  # a pass ends with the last token it needs
            computed += sum(n * width for n, width in run)
    return 1 - needed / computed if computed else None


def dense_bytes(tokens_in_micro_batch: int, vocabulary: int) -> int:
    """What a dense full-token loss holds at its widest beyond its inputs and their gradients (see DENSE_TENSORS)."""
    return DENSE_TENSORS * 4 * tokens_in_micro_batch * vocabulary


def step_record(
    passes: Passes, student: Shape, teacher: Shape, *, rows_per_chunk: int, device: str, trained: int | None = None
) -> dict[str, Any]:
    """The fields of a step's record that the ledger is made of, besides the measured `seconds` and `peak_bytes`."""
    size, padded = min(student.vocab_size, teacher.vocab_size), padded_share(passes)
    responses = [r for _, r in sorted(passes.generated, key=lambda pair: -sum(pair))]
    sizes = [n for n, _ in _whole(passes)]
    largest = max((sum(responses[sum(sizes[:i]) :][:n]) for i, n in enumerate(sizes)), default=0)
    return {
        "flops": step_flops(passes, student, teacher, trained), "baseline_flops": baseline_flops(passes, student, teacher),
        "dense_bytes": dense_bytes(min(largest, passes.tokens), size),
        "chunk_bytes": chunked_bytes(min(rows_per_chunk, max(1, passes.kept)), size, device),
        **({} if padded is None else {"padded_share": padded}),
    }  # fmt: skip


def _forward(shape: Shape, passes: Counts) -> float:
    return sum(forward_flops(shape, n * length, (length + 1) / 2) for n, length in passes)


def _lengths(passes: Passes) -> list[int]:
    """Positions of each sequence that a pass needs, longest first, as micro-batches are made: the last token is read by nobody."""
    return sorted((max(p + r - 1, 0) for p, r in passes.generated), reverse=True)


def _padded(sizes: Sequence[int], lengths: Sequence[int]) -> Counts:
    """(sequences, padded length) of micro-batches of these sizes; lengths: of the sequences, longest first."""
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [(n, lengths[start] if start < len(lengths) else 0) for n, start in zip(sizes, starts, strict=True)]


def _covering(run: Counts, sequences: int) -> Counts:
    """The first passes of a run that make up the whole batch; none where it skipped some."""
    return next((run[:i] for i in range(1, len(run) + 1) if sum(n for n, _ in run[:i]) == sequences), [])


def _whole(passes: Passes) -> Counts:
    """The student's micro-batches over whole sequences: as they ran if they did, else by the sizes of those that ran."""
    count = len(passes.generated)
    ran = _covering(passes.scored, count) or (_covering(passes.distilled, count) if passes.kept == passes.tokens else [])
    if ran:
        return ran
    sizes = [n for n, _ in _covering(passes.teacher, count) or _covering(passes.distilled, count)]
    size = max((n for n, _ in (*passes.teacher, *passes.distilled)), default=count)
    return _padded(sizes or [min(size, count - start) for start in range(0, count, size or 1)], _lengths(passes))


def _teacher_whole(passes: Passes, whole: Counts) -> Counts:
    """The teacher's, each sequence once: as they ran for the signals of all tokens; else as the student's, or longer if they were."""
    ran = _covering(passes.teacher, len(passes.generated))
    if ran and (passes.teacher_rows or passes.kept == passes.tokens):
        return ran
    alike = [n for n, _ in ran] == [n for n, _ in whole]
    return [(n, max(length, full)) for (n, length), (_, full) in zip(ran, whole, strict=True)] if alike else whole
