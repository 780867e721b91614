"""What a run takes, from the shapes of its two models alone: bytes and seconds by phase. An estimate, nothing is measured.

Memory counts what the loop holds: weights, gradients, Adam's moments (from the second step on they live in every phase), the
activations that autograd saves for one micro-batch, the key-value cache of the rollouts, the hidden rows of the whole batch
and the row chunks of the head. Time is a roofline: passes at `MFU` of the matmul rate, decoding at the bandwidth or at the
host's pace, whichever is slower. Every response is taken to run to its limit, so both are upper ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from selbench.devices import Device
from selbench.execution import Execution
from selbench.optimisers import MOMENT_BYTES

__all__ = [
    "HOST_SECONDS", "MFU", "USABLE", "Phase", "Shape", "Work", "activation_bytes", "adapter_parameters", "chunked_bytes", "forward_flops",
    "head_flops", "peak", "phases", "rows_per_chunk",
]  # fmt: skip

MFU = 0.4  # share of the dense matmul rate that forward and backward passes reach
STREAM = 0.7  # share of the bandwidth that decoding and the optimiser reach
HOST_SECONDS = {False: 4e-4, True: 7e-4}  # on a GPU?: per layer and decoded token of generate, whatever the batch: Python, launches
USABLE = 0.92  # of a device's memory: the rest is lost to fragments and other processes
RUNTIME = 600 * 10**6  # interpreter and libraries, or the CUDA context
CHUNK_BYTES = {False: 5 * 2**26, True: 2**30}  # on a GPU?: both logit buffers of a row chunk, as in losses.py, which needs torch
CHUNK_ROWS, BLOCK_ELEMENTS = 1024, 2**20
# Temporaries (n, V) in float32 of the block that formulas run on: a piece of the chunk on a CPU, the whole of it on a GPU, where
# fusing may need less. Measured as resident memory, one block of 256 rows, V = 32,768: 9.0 tensors with the chunk's two.
BLOCK_TENSORS = 7
LINK = 25e9  # bytes/s between host and GPU, pinned: PCIe 4 x16 in practice
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

# Bytes that autograd saves per token and layer of a gated decoder (Qwen3, with query and key norms; Qwen2 and Llama save less):
# per hidden, attention, key-value and intermediate feature; the attention's part differs where padding needs a mask.
SAVED = {  # (float32 weights?, bf16 autocast?): hidden, (attention, key-value) without and with mask, intermediate
    (True, False): (24.0, (16.5, 16.25), (24.5, 8.25), 16.0),
    (True, True): (26.0, (10.5, 10.25), (14.5, 6.25), 8.0),
    (False, False): (16.0, (10.5, 10.25), (14.5, 6.25), 8.0),
    (False, True): (16.0, (10.5, 10.25), (14.5, 6.25), 8.0),
}


@dataclass(frozen=True)
class Shape:
    """The numbers of a decoder's published configuration that memory and time depend on; `parameters` counts a tied head once."""

    parameters: int
    hidden_size: int
    num_hidden_layers: int
    vocab_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    tied: int

    @property
    def key_value(self) -> int:
        """Features of the keys, and of the values, of one layer and token."""
        return self.num_key_value_heads * self.head_dim

    @property
    def body(self) -> int:
        """Parameters of the layers, without embedding and head."""
        return self.parameters - self.vocab_size * self.hidden_size * (1 if self.tied else 2)

    @property
    def attention(self) -> int:
        """Features of the queries of one layer and token."""
        return self.num_attention_heads * self.head_dim

    @property
    def cache_elements(self) -> int:
        """Elements of the key-value cache per token."""
        return 2 * self.num_hidden_layers * self.key_value


@dataclass(frozen=True)
class Work:
    """What a protocol asks of one cell, in numbers. Tokens are limits, `evaluated` counts answers per cell over all tasks."""

    prompts: int
    samples: int
    prompt_tokens: int
    response_tokens: int
    micro_batch: int
    rollout_batch: int
    evaluation_batch: int
    evaluated: int
    evaluated_tokens: int
    student_dtype: str = "float32"
    teacher_dtype: str = "float32"
    autocast: bool = False
    filtered: bool = False  # top-p or top-k sampling sorts the vocabulary
    optimiser: str = "adamw"
    micro_batch_tokens: int | None = None  # padded tokens of a pass at most
    lora_rank: int = 0  # 0: all weights are trained
    dropout: bool = False  # of the adapter
    shared: bool = False  # the teacher is the student with its adapter off
    checkpointed: bool = False  # activations are computed again layer by layer in the backward pass
    needs_student: bool = True  # the strategy scores with the student, with the teacher
    needs_teacher: bool = True
    share: float = 1.0  # of the tokens, kept

    @property
    def responses(self) -> int:
        """Of one step."""
        return self.prompts * self.samples

    @property
    def sequence(self) -> int:
        """Tokens of a prompt and its response at their limits."""
        return self.prompt_tokens + self.response_tokens

    @property
    def tokens(self) -> int:
        """Response tokens of one step."""
        return self.responses * self.response_tokens

    @property
    def one_pass(self) -> bool:
        """Whether the pass that scores is the pass of the loss."""
        return self.needs_student and self.responses <= self.together

    @property
    def together(self) -> int:
        """Sequences of a pass at their limits, at most: shorter ones are more, of no more tokens."""
        fitting = self.responses if self.micro_batch_tokens is None else max(1, self.micro_batch_tokens // self.sequence)
        return min(self.micro_batch, self.responses, fitting)


@dataclass(frozen=True)
class Phase:
    """One phase: seconds (of a step, or of a cell's whole evaluation) and bytes by what holds them."""

    name: str
    seconds: float
    memory: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.memory.values())


def adapter_parameters(shape: Shape, rank: int) -> int:
    """Parameters of a low-rank adapter on every linear layer but the head: rank x (inputs + outputs) each."""
    linear = 2 * (shape.hidden_size + shape.attention) + 2 * (shape.hidden_size + shape.key_value)
    return rank * shape.num_hidden_layers * (linear + 3 * (shape.hidden_size + shape.intermediate_size))


def forward_flops(shape: Shape, tokens: float, context: float) -> float:
    """Of the layers: two a parameter and token, and four a query feature, layer and attended position (`context` of them on average)."""
    return tokens * (2.0 * shape.body + 4.0 * shape.attention * context * shape.num_hidden_layers)


def head_flops(shape: Shape, rows: float) -> float:
    return rows * 2.0 * shape.vocab_size * shape.hidden_size


def activation_bytes(shape: Shape, sequences: int, length: int, dtype: str, *, autocast: bool, checkpointed: bool = False) -> int:
    """What autograd saves in a forward pass over `sequences` of `length` tokens; several sequences are padded, one is not.

    Padding costs a mask of length² in every layer besides. Checkpointed: the input of every layer, and one layer at a time.
    """
    full, padded = dtype == "float32", sequences > 1
    hidden, plain, masked, inner = SAVED[full, autocast]
    query, key_value = masked if padded else plain
    token = hidden * shape.hidden_size + query * shape.attention + key_value * shape.key_value + inner * shape.intermediate_size
    mask = length * length * (4 if full and not autocast else 2) if padded else 0
    layer = sequences * (length * token + mask)
    if checkpointed:
        return int(layer + shape.num_hidden_layers * sequences * length * shape.hidden_size * (4 if full else 2))
    return int(layer * shape.num_hidden_layers)


def rows_per_chunk(vocabulary: int, *, gpu: bool) -> int:
    """Rows of a chunk where nothing else is said and memory is free: `losses.chunk_rows` without looking at this machine."""
    return max(1, min(CHUNK_ROWS, CHUNK_BYTES[gpu] // (8 * vocabulary)))


def chunked_bytes(rows: int, vocabulary: int, device: str = "cpu") -> int:
    """What the chunked loss holds beyond its inputs and their gradients, whatever the number of tokens. device: "cpu" or a GPU."""
    block = min(rows, max(1, BLOCK_ELEMENTS // vocabulary)) if device == "cpu" else rows
    return 4 * vocabulary * (2 * rows + BLOCK_TENSORS * block)


def phases(work: Work, student: Shape, teacher: Shape, device: Device, how: Execution | None = None) -> list[Phase]:
    """The phases of one step in order, then the evaluation of the trained student and of the untrained teacher.

    how: the execution; none takes what the work says.
    """
    how = how or Execution(work.micro_batch, gradient_checkpointing=work.checkpointed)
    work = replace(work, micro_batch=how.micro_batch, checkpointed=how.gradient_checkpointing)
    own, other = BYTES[work.student_dtype], BYTES[work.teacher_dtype]
    adapter = adapter_parameters(student, work.lora_rank) if work.lora_rank else 0
    trained, width = (adapter, 4) if adapter else (student.parameters, own)
    moments = MOMENT_BYTES[work.optimiser]
    gpu, away = device.is_gpu, device.is_gpu and how.teacher == "offloaded" and not work.shared
    whole, rest = (0 if work.shared else teacher.parameters * other), teacher.vocab_size * teacher.hidden_size * other
    held = {
        "runtime": RUNTIME,
        "student": student.parameters * own + adapter * 4,
        "teacher": rest if away else whole,  # elsewhere, all but its output head
        "Adam": int(trained * (2 * width if moments is None else moments)),
    }
    training = held | {"gradients": trained * width}
    there = {"teacher": whole}
    after = {**held, "teacher": 0, "Adam": 0}
    alone = {"runtime": RUNTIME, "teacher": teacher.parameters * other}
    copy = {"bf16 copy": student.parameters * 2 if own == 4 and work.autocast else 0}
    kept = max(1.0, work.share * work.tokens)
    group = work.together * work.response_tokens
    kept_rows = group if how.teacher_rows == "recomputed" or (gpu and how.teacher_rows == "host") else work.tokens
    rows = {"hidden rows": int(kept_rows * teacher.hidden_size * other) + group * student.hidden_size * own * (not work.one_pass)}
    saved = {
        "activations": activation_bytes(
            student, work.together, work.sequence, work.student_dtype,
            autocast=work.autocast, checkpointed=work.checkpointed,
        )
    }  # fmt: skip
    early = saved if work.one_pass else {}
    head = student.vocab_size * student.hidden_size * 4  # its gradient is added up in float32
    own_rate, other_rate = _rate(device, own), _rate(device, other)  # of the heads, which stand outside autocast
    all_tokens, context = work.responses * work.sequence, work.sequence / 2
    student_pass = forward_flops(student, all_tokens, context) / _rate(device, own, autocast=work.autocast)
    teacher_pass = forward_flops(teacher, all_tokens, context) / _rate(device, other, autocast=work.autocast)
    heads = work.needs_student * head_flops(student, work.tokens) / own_rate
    heads += work.needs_teacher * head_flops(teacher, work.tokens) / other_rate
    again = 0.0 if work.one_pass else student_pass
    twice = 2 if how.teacher_rows == "recomputed" and work.needs_teacher else 1
    moving = (whole - rest) / LINK if away else 0.0
    backward = (1 if adapter else 2) + (1 if work.checkpointed else 0)
    loss_heads = 3 * head_flops(student, kept) / own_rate + head_flops(teacher, kept) / other_rate
    vocabulary = min(student.vocab_size, teacher.vocab_size)
    chunk = how.rows_per_chunk or rows_per_chunk(vocabulary, gpu=gpu)
    chunks = chunked_bytes(min(chunk, work.tokens), vocabulary, "cuda" if gpu else "cpu")
    scored = {"logits": chunks} if work.needs_student or work.needs_teacher else {}
    one_layer = saved["activations"] // (1 if work.checkpointed else student.num_hidden_layers)
    wave, limit, batch, answers = work.rollout_batch, work.evaluated_tokens, work.evaluation_batch, work.evaluated
    drawn = 2 if work.autocast else own  # bytes of what a rollout reads and caches
    return [
        Phase("rollout", _decode_seconds(student, drawn, work.responses, wave, work.prompt_tokens, work.response_tokens, device),
              held | copy | _decode_memory(student, drawn, min(work.responses, wave), work, work.response_tokens)),
        Phase("teacher", twice * teacher_pass + moving, held | there | rows | early | {"transient": _transient(teacher, work, other)}),
        Phase("score", student_pass * work.needs_student + heads,
              held | (there if work.needs_teacher else {}) | copy | rows | early | scored | {"transient": _transient(student, work, own)}),
        Phase("distil", again + backward * student_pass + loss_heads,
              training | copy | rows | saved | {"logits": chunks + (0 if adapter else head), "transient": one_layer}),
        Phase("optimiser", 9 * trained * width / (STREAM * device.bandwidth), training),
        Phase("evaluate", _decode_seconds(student, own, answers, batch, work.prompt_tokens, limit, device),
              after | _decode_memory(student, own, min(answers, batch), work, limit)),
        Phase("evaluate teacher", _decode_seconds(teacher, other, answers, batch, work.prompt_tokens, limit, device),
              alone | _decode_memory(teacher, other, min(answers, batch), work, limit)),
    ]  # fmt: skip


def peak(work: Work, student: Shape, teacher: Shape, device: Device, how: Execution | None = None) -> int:
    """Bytes of the fullest phase."""
    return max(phase.total for phase in phases(work, student, teacher, device, how))


def _rate(device: Device, width: int, *, autocast: bool = False) -> float:
    """FLOP/s of a pass with weights of `width` bytes."""
    return MFU * (device.bf16 if width == 2 or autocast else device.fp32)


def _transient(shape: Shape, work: Work, width: int) -> int:
    """The widest moment of a pass without gradient: residual, its norm, gate, up and their product; and the mask of a padded batch."""
    sequences = work.together
    mask = work.sequence**2 * 3 if sequences > 1 else 0
    return int(sequences * (work.sequence * width * (4 * shape.hidden_size + 3 * shape.intermediate_size) + mask))


def _decode_memory(shape: Shape, width: int, batch: int, work: Work, limit: int) -> dict[str, int]:
    """Cache at the limit, the prompt's pass, and the sampler's copies of the last logits."""
    prefill = batch * work.prompt_tokens * width * (4 * shape.hidden_size + 3 * shape.intermediate_size)
    return {
        "KV cache": batch * (work.prompt_tokens + limit) * shape.cache_elements * width,
        "logits": batch * shape.vocab_size * (32 if work.filtered else 12),
        "transient": prefill,
    }


def _decode_seconds(shape: Shape, width: int, answers: int, batch: int, prompt: int, limit: int, device: Device) -> float:
    """Answers in batches: the prompt's pass, then `limit` steps that read all weights and the cache, half full on average."""
    rate = _rate(device, width)
    read = (shape.parameters - (0 if shape.tied else shape.vocab_size * shape.hidden_size)) * width
    seconds = 0.0
    for size, times in ((batch, answers // batch), (answers % batch, 1)):
        cache = size * (prompt + limit / 2) * shape.cache_elements * width
        step = max(
            (read + cache) / (STREAM * device.bandwidth),
            2.0 * size * shape.parameters / rate,
            HOST_SECONDS[device.is_gpu] * shape.num_hidden_layers,
        )
        seconds += times * (forward_flops(shape, size * prompt, prompt / 2) / rate + limit * step) if size else 0.0
    return seconds
