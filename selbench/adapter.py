"""A low-rank adapter on a student (arXiv:2106.09685), through peft: attached, switched off for the teacher, saved and loaded again.

The base weights stay as they were loaded; only the adapter's factors are trained and written. The output head and the
embedding are never adapted, so that the head is one matrix for student and teacher.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selbench.errors import ConfigError, nearest
from selbench.records import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from selbench.config import Lora

__all__ = ["adapter_off", "attach", "base_of", "dropouts", "dropping", "has_adapter", "load_adapter", "save_student"]

BASE = "base.json"  # beside the adapter: which weights it belongs to
ALL_LINEAR = "all-linear"


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ConfigError("an adapter needs the package peft; install selbench[lora]") from error
    return peft


def attach(model: Any, lora: Lora | None, source: str, seed: int) -> Any:
    """`model` (loaded from `source`) as a PeftModel whose adapter changes nothing yet; its factors are drawn from `seed`.

    lora: none takes the defaults. Raises ConfigError for targets that the model does not have and for the output head.
    """
    import torch

    from selbench.config import Lora

    peft, lora = _peft(), lora or Lora()
    head = model.get_output_embeddings()
    linear = _linear_names(model, head)
    problems = [f"lora.targets: {name!r} is no linear layer of {source}; {nearest(name, linear)}" for name in lora.targets
                if name not in (*linear, ALL_LINEAR)]  # fmt: skip
    if problems:
        raise ConfigError(*problems)
    targets = ALL_LINEAR if ALL_LINEAR in lora.targets else list(lora.targets)
    config = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets, task_type="CAUSAL_LM",
        revision=getattr(model.config, "_commit_hash", None),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        adapted = peft.get_peft_model(model, config)
    config.base_model_name_or_path = source  # peft takes the folder that stood for it on this machine
    assert adapted.get_output_embeddings() is head
    return adapted.eval()


def _linear_names(model: nn.Module, head: nn.Module) -> list[str]:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    found = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D) and module is not head]
    return sorted({name.rsplit(".", 1)[-1] for name in found})


def has_adapter(model: Any) -> bool:
    """Whether `model` is a base model with an adapter on it."""
    return getattr(model, "peft_config", None) is not None


def adapter_off(model: Any) -> AbstractContextManager[None]:
    """Within it, `model` is its base."""
    off: AbstractContextManager[None] = model.disable_adapter()
    return off


def dropouts(model: Any) -> list[nn.Module]:
    """The adapter's dropout modules; none without adapter."""
    return [module for name, module in model.named_modules() if name.endswith("lora_dropout")] if has_adapter(model) else []


@contextmanager
def dropping(modules: list[nn.Module]) -> Iterator[None]:
    """Dropout is on within it, where gradients are taken; everything else (scores, teacher, rollouts, evaluation) goes without."""
    import torch

    for module in modules:
        module.train(torch.is_grad_enabled())
    try:
        yield
    finally:
        for module in modules:
            module.eval()


def save_student(model: Any, folder: Path, base: Mapping[str, str | None]) -> None:
    """The trained student as a Hugging Face folder; of an adapted one the adapter (peft's format) and `base`, what it belongs to."""
    if not has_adapter(model):
        model.save_pretrained(folder)
        return
    model.save_pretrained(folder, save_embedding_layers=False)
    write_json(folder / BASE, base)


def base_of(source: str) -> str | None:
    """Hub id or folder of the base that the adapter in the folder `source` belongs to; None where it holds no adapter."""
    folder = Path(source).expanduser()
    if not (folder / "adapter_config.json").is_file():
        return None
    base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    if not base:
        raise ConfigError(f"{folder / 'adapter_config.json'}: does not name its base model; add base_model_name_or_path")
    return str(base)


def load_adapter(model: Any, source: str, base: Mapping[str, str | None]) -> Any:
    """`model` with the adapter of the folder `source`, frozen. Raises ConfigError when `base` is not what it was trained on."""
    folder = Path(source).expanduser()
    if (folder / BASE).is_file():
        trained = read_json(folder / BASE)
        odd = [key for key in ("sha256", "commit") if base.get(key) and trained.get(key) and base[key] != trained[key]]
        if odd:
            raise ConfigError(
                f"{folder}: its adapter was trained on other weights of {base['source']} ({odd[0]} {trained[odd[0]]}, now "
                f"{base[odd[0]]}); restore the base model or train again"
            )
    return _peft().PeftModel.from_pretrained(model, str(folder)).eval()
