"""A pair, loaded: two causal language models that share a tokenizer, one renderer for both, and their output heads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selbench.errors import ConfigError
from selbench.provenance import hash_folder
from selbench.registry import Registry

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from selbench.losses import Head

__all__ = [
    "PAIRS",
    "Pair",
    "PairSpec",
    "Renderer",
    "adhoc_pair",
    "check_pair",
    "head_of",
    "identity",
    "load_model",
    "load_pair",
    "register_pair",
]


@dataclass(frozen=True)
class PairSpec:
    """What identifies a pair. `teacher` and `student` are hub ids or folders.

    planted: text of a response -> one label per character (0 clean, 1 overconfident, 2 uncertain), where the truth is known.
    """

    name: str
    teacher: str
    student: str
    summary: str = ""
    planted: Callable[[str], list[int]] | None = None
    file: str = field(default="<command line>", compare=False)


PAIRS: Registry[PairSpec] = Registry("pair", "pairs")


def register_pair(spec: PairSpec) -> None:
    """Make a pair known by name. Raises ConfigError when another file holds the name."""
    PAIRS.add(spec)


def adhoc_pair(teacher: str, student: str) -> PairSpec:
    """A pair from two hub ids or folders, named after them."""

    def short(source: str) -> str:
        return source.rstrip("/").split("/")[-1].lower()

    return PairSpec(f"{short(teacher)}--{short(student)}", teacher, student, summary="given on the command line")


@dataclass(frozen=True)
class Renderer:
    """Problem text to token ids and back, the same for rollout, teacher and evaluation."""

    tokenizer: PreTrainedTokenizerBase
    template: str  # with {problem}
    system: str | None
    thinking: bool | None
    end_ids: tuple[int, ...]

    def text(self, problem: str) -> str:
        """The whole prompt as the chat template renders it, special tokens included."""
        messages = [{"role": "user", "content": self.template.replace("{problem}", problem)}]
        if self.system:
            messages.insert(0, {"role": "system", "content": self.system})
        flags: dict[str, Any] = {} if self.thinking is None else {"enable_thinking": self.thinking}
        return str(self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **flags))

    def encode(self, problem: str) -> list[int]:
        """Prompt ids of a problem."""
        return self.encode_text(self.text(problem))

    def encode_text(self, rendered: str) -> list[int]:
        """Ids of an already rendered prompt."""
        return list(self.tokenizer(rendered, add_special_tokens=False)["input_ids"])

    def decode(self, ids: list[int]) -> str:
        """A response as text, without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    @property
    def pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(self.end_ids[0] if pad is None else pad)

    def sha256(self) -> str:
        """Hash of a rendered probe: template, system prompt, thinking flag and special tokens in one number."""
        return hashlib.sha256(self.text("1+1").encode()).hexdigest()


@dataclass
class Pair:
    """Both models on one device, with their heads."""

    spec: PairSpec
    student: PreTrainedModel
    teacher: PreTrainedModel | None
    renderer: Renderer

    @property
    def device(self) -> torch.device:
        return self.student.device


def check_pair(spec: PairSpec) -> list[str]:
    """What stands in the way of training this pair, found without loading weights: one sentence each."""
    found: dict[str, PreTrainedTokenizerBase] = {}
    problems: list[str] = []
    for role in ("teacher", "student"):
        source = getattr(spec, role)
        try:
            found[role] = _tokenizer(source)
        except Exception as error:  # transformers, hub and tokenizers raise dozens of types
            problems.append(f"{role} {source!r}: no tokenizer there ({_first_line(error)}); give a folder or a reachable hub id")
    if len(found) == 2:
        teacher, student = (dict(found[role].get_vocab()) for role in ("teacher", "student"))
        odd = sorted(token for token in teacher.keys() | student.keys() if teacher.get(token) != student.get(token))
        if odd:
            problems.append(
                f"pair {spec.name}: the tokenizers differ in {len(odd)} tokens, first {odd[0]!r} (teacher id {teacher.get(odd[0])}, "
                f"student id {student.get(odd[0])}); token-level distillation needs one shared tokenizer"
            )
        if found["student"].chat_template is None:
            problems.append(f"student {spec.student!r}: its tokenizer has no chat template; add one (chat_template.jinja)")
    return problems


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _tokenizer(source: str) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    if source.startswith((".", "/", "~")) and not Path(source).expanduser().is_dir():
        raise FileNotFoundError("no such folder")
    return AutoTokenizer.from_pretrained(source)


def load_model(source: str, dtype: str, device: str) -> PreTrainedModel:
    """A causal LM in evaluation mode. Raises ConfigError when it cannot be loaded or its head is not a plain linear one."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, dtype))
    except (OSError, ValueError) as error:
        raise ConfigError(f"model {source!r}: cannot be loaded ({_first_line(error)})") from error
    model.eval()
    torch.nn.Module.to(model, device)  # the method of transformers is wrapped without types
    _probe_head(model, source)
    return model


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


def identity(source: str, model: PreTrainedModel | None = None) -> dict[str, str | None]:
    """What a passport says of a model: its source, the hub's commit, and for a folder the hash of its configuration and weights."""
    folder = Path(source).expanduser()
    package = Path(__file__).parent
    if not folder.is_dir():
        return {"source": source, "commit": getattr(getattr(model, "config", None), "_commit_hash", None), "sha256": None}
    inside = folder.resolve().is_relative_to(package)
    name = f"selbench/{folder.resolve().relative_to(package).as_posix()}" if inside else folder.resolve().name
    return {"source": name, "commit": None, "sha256": hash_folder(folder, "*.json", "*.safetensors", "*.jinja")}


def load_renderer(source: str, *, template: str, system: str | None, thinking: bool | None, end_ids: tuple[int, ...] = ()) -> Renderer:
    """The renderer of the student at `source`; `end_ids` are end tokens besides the tokenizer's own."""
    tokenizer = _tokenizer(source)
    own = () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)
    return Renderer(tokenizer, template, system, thinking, tuple(dict.fromkeys((*own, *end_ids))))


def load_pair(spec: PairSpec, settings: Mapping[str, Any], device: str, *, teacher: bool = True) -> Pair:
    """Load a pair by a protocol's `model` settings (template, system, thinking, student_dtype, teacher_dtype)."""
    student = load_model(spec.student, settings["student_dtype"], device)
    declared = student.generation_config.eos_token_id if student.generation_config else None
    ends = tuple(declared) if isinstance(declared, list) else () if declared is None else (int(declared),)
    renderer = load_renderer(
        spec.student, template=settings["template"], system=settings["system"], thinking=settings["thinking"], end_ids=ends
    )
    other = load_model(spec.teacher, settings["teacher_dtype"], device) if teacher else None
    if other is not None:
        other.requires_grad_(False)
    return Pair(spec, student, other, renderer)
