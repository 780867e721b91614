"""A pair, loaded: two causal language models that share a tokenizer, one renderer for both, and their output heads."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from selbench.adapter import adapter_off, attach, base_of, load_adapter
from selbench.errors import ConfigError
from selbench.mismatch import Finding, check_pair, compare_pair
from selbench.registry import Registry
from selbench.renderer import Renderer, load_renderer, vocabulary
from selbench.sources import end_ids_of, identity, open_model

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from selbench.config import Lora
    from selbench.guest import Guest
    from selbench.losses import Head

__all__ = [
    "PAIRS",
    "Finding",
    "Pair",
    "PairSpec",
    "Renderer",
    "adhoc_pair",
    "check_pair",
    "compare_pair",
    "emulated",
    "head_of",
    "identity",
    "load_model",
    "load_pair",
    "load_renderer",
    "pair_settings",
    "register_pair",
]


@dataclass(frozen=True)
class PairSpec:
    """What identifies a pair. `teacher` and `student` are hub ids or folders.

    planted: text of a response -> one label per character (0 clean, 1 overconfident, 2 uncertain), where the truth is known.
    privileged: user message that the teacher reads in place of the student's, with {problem}, {answer}, {solution}.
    privileged_system: system message that the teacher reads in place of the student's.
    adapter: the teacher is the student with its low-rank adapter switched off: one set of weights in memory.
    settings: what a protocol takes where it says nothing itself, by dotted key (`model.thinking`); `sources` says where each is from.
    shapes: "teacher" and "student" -> parameters, hidden_size, num_hidden_layers, vocab_size, num_attention_heads,
        num_key_value_heads, head_dim, intermediate_size, tied (0 or 1), as published, so that memory is planned without the hub.
    """

    name: str
    teacher: str
    student: str
    summary: str = ""
    planted: Callable[[str], list[int]] | None = None
    privileged: str | None = None
    privileged_system: str | None = None
    adapter: bool = False
    file: str = field(default="<command line>", compare=False)
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)
    shapes: Mapping[str, Mapping[str, int]] = field(default_factory=dict, compare=False)

    def context(self) -> str:
        """Hash of what makes this teacher read another prompt or share the student's weights; empty for an ordinary pair."""
        own = (self.privileged, self.privileged_system, self.adapter)
        return hashlib.sha256(repr(own).encode()).hexdigest() if any(own) else ""


PAIRS: Registry[PairSpec] = Registry("pair", "pairs")


def register_pair(spec: PairSpec) -> None:
    """Make a pair known by name. Raises ConfigError when another file holds the name."""
    PAIRS.add(spec)


def pair_settings(content: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The settings of each registered pair that a protocol's raw content names; names that nobody knows are left to others."""
    given = content.get("pairs")
    entries = [{"name": e} if isinstance(e, str) else e for e in given] if isinstance(given, list) else []
    named = [e.get("name") for e in entries if isinstance(e, Mapping) and not (e.get("teacher") and e.get("student"))]
    return {name: PAIRS.get(name).settings for name in named if isinstance(name, str) and name in PAIRS}


def adhoc_pair(teacher: str, student: str) -> PairSpec:
    """A pair from two hub ids or folders, named after them."""

    def short(source: str) -> str:
        return source.rstrip("/").removesuffix(".gguf").split("/")[-1].lower()

    return PairSpec(f"{short(teacher)}--{short(student)}", teacher, student, summary="given on the command line")


@dataclass
class Pair:
    """Both models on one device, with their heads. guest: the teacher's weights, where they are not always there."""

    spec: PairSpec
    student: PreTrainedModel
    teacher: PreTrainedModel | None
    renderer: Renderer
    guest: Guest | None = None

    @property
    def device(self) -> torch.device:
        return self.student.device

    def offload(self) -> None:
        """From now on the teacher's weights are on the device only within `present`. Nothing changes on a CPU, or for a shared teacher."""
        from selbench.guest import Guest

        if self.device.type != "cpu" and self.teacher is not None and self.teacher is not self.student and self.guest is None:
            self.guest = Guest(self.teacher, self.device)

    def present(self) -> AbstractContextManager[None]:
        """Within it the teacher's weights are on the device."""
        return nullcontext() if self.guest is None else self.guest.visit()

    def teaching(self) -> AbstractContextManager[None]:
        """Within it, `teacher` answers as the teacher: where it is the student itself, with the adapter switched off."""
        return adapter_off(self.student) if self.spec.adapter and self.teacher is self.student else nullcontext()


def load_model(source: str, dtype: str, device: str, revision: str | None = None) -> PreTrainedModel:
    """A causal LM in evaluation mode. Raises ConfigError when it cannot be loaded or its head is not a plain linear one."""
    import torch

    if emulated(dtype, device):
        print(f"{source}: this processor has no {dtype} arithmetic; its products take up to a hundred times as long as in float32: "
              f"set the model's dtype to float32, where the memory allows", file=sys.stderr)  # fmt: skip
    model = open_model(source, dtype, revision)
    model.eval()
    torch.nn.Module.to(model, device)  # the method of transformers is wrapped without types
    _probe_head(model, source)
    return model


def emulated(dtype: str, device: str) -> bool:
    """Whether products of that type are computed in software: with AVX2 alone, 0.5 GFLOP/s in bfloat16 beside 50 in float32."""
    import torch

    if device != "cpu" or dtype == "float32" or not torch.backends.mkldnn.is_available():
        return False
    ops = torch.ops.mkldnn
    return not (ops._is_mkldnn_bf16_supported() if dtype == "bfloat16" else ops._is_mkldnn_fp16_supported())


def head_of(model: PreTrainedModel) -> Head:
    """The output head as numbers: weight (V, D), bias, scale and soft-cap of the model's configuration."""
    from selbench.losses import Head

    linear, config = model.get_output_embeddings(), model.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    return Head(linear.weight, getattr(linear, "bias", None), scale, getattr(config, "final_logit_softcapping", None))


def _probe_head(model: PreTrainedModel, source: str) -> None:
    import torch

    ids = torch.arange(4, device=model.device).unsqueeze(0)
    with torch.no_grad():
        hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[0]
        expected = model(input_ids=ids, use_cache=False).logits[0].float()
        got = head_of(model).logits(hidden, expected.shape[-1])
    gap = float((got - expected).abs().max())
    if gap > 1e-3 * max(1.0, float(expected.abs().max())):
        raise ConfigError(f"model {source!r}: its logits are not its head applied to its last hidden state (gap {gap:.3g}); unsupported")


def only_tokens(model: PreTrainedModel, renderer: Renderer, source: str) -> None:
    """Keep `model` from writing ids that are padding of its head. Raises ConfigError when the head lacks a token."""
    tokens, columns = 1 + max(vocabulary(renderer.tokenizer).values()), len(head_of(model).weight)
    if tokens > columns:
        raise ConfigError(f"model {source!r}: its head has {columns} columns, the tokenizer {tokens} tokens; they do not belong together")
    if model.generation_config is not None and tokens < columns:
        model.generation_config.suppress_tokens = list(range(tokens, columns))


def load_pair(
    spec: PairSpec, settings: Mapping[str, Any], device: str, *, teacher: bool = True, lora: Lora | None = None, seed: int = 0,
    rendered_by: tuple[str, str | None] | None = None,
) -> Pair:  # fmt: skip
    """Load a pair by a protocol's `model` settings (template, system, thinking, student_dtype, teacher_dtype).

    lora: train an adapter, its factors drawn from `seed`; a pair whose teacher is the student without adapter always does.
    A student folder that holds an adapter is loaded as its base with that adapter.
    rendered_by: model whose tokenizer renders and decodes, and its revision; none: the student.
    """
    _check_adapter(spec, settings)
    base = base_of(spec.student)
    if base and teacher:
        raise ConfigError(f"student {spec.student!r}: is an adapter on {base!r} and is not trained further; merge it into its base first")
    revision = settings["student_revision"]
    student = load_model(base or spec.student, settings["student_dtype"], device, revision)
    tokenizer, pinned = rendered_by or (spec.student, revision)
    renderer = load_renderer(
        tokenizer, template=settings["template"], system=settings["system"], thinking=settings["thinking"],
        end_ids=end_ids_of(student.generation_config), chat_template=settings["chat_template"], teacher=spec.teacher, revision=pinned,
    )  # fmt: skip
    only_tokens(student, renderer, spec.student)
    if base:
        student = load_adapter(student, spec.student, identity(base, student, revision))
    elif lora or spec.adapter:
        student = attach(student, lora, spec.student, seed)
    if not teacher or spec.adapter:
        return Pair(spec, student, student if teacher else None, renderer)
    other = load_model(spec.teacher, settings["teacher_dtype"], device, settings["teacher_revision"])
    only_tokens(other, renderer, spec.teacher)
    other.requires_grad_(False)
    return Pair(spec, student, other, renderer)


def _check_adapter(spec: PairSpec, settings: Mapping[str, Any]) -> None:
    if spec.adapter and spec.teacher != spec.student:
        raise ConfigError(
            f"pair {spec.name}: its teacher is the student without adapter, yet {spec.teacher!r} and {spec.student!r} are named; "
            f"name one model twice, or leave `adapter` out"
        )
    if spec.adapter and settings["teacher_dtype"] != settings["student_dtype"]:
        raise ConfigError(
            f"pair {spec.name}: its teacher is the student without adapter, yet model.teacher_dtype = {settings['teacher_dtype']} and "
            f"model.student_dtype = {settings['student_dtype']}; set both alike"
        )
