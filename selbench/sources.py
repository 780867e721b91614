"""Where a model comes from: a hub id, a folder, a GGUF file, or a local copy under SELBENCH_MODELS; opened one way by everyone."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selbench.errors import ConfigError
from selbench.provenance import hash_folder

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["MODELS", "Unreachable", "identity", "is_local", "locate", "open_config", "open_endings", "open_model", "open_tokenizer"]

MODELS = "SELBENCH_MODELS"  # a folder of models, as <org>/<name> or <name>: folders or .gguf files that stand for the hub's
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


class Unreachable(ConfigError):
    """A hub id that is not on this machine, while the hub cannot be reached."""


def locate(source: str) -> str:
    """The folder, .gguf file or hub id that is opened for `source`. Raises ConfigError when it can be none of them.

    A path is taken as it stands. A hub id is looked up under the folder SELBENCH_MODELS first, whatever its case. A folder
    without config.json that holds one .gguf file stands for that file.
    """
    path = Path(source).expanduser()
    if path.is_dir() or (path.suffix == ".gguf" and path.is_file()):
        return str(_model_in(path))
    if path.suffix == ".gguf" or not HUB_ID.fullmatch(source) or source.startswith("."):
        raise ConfigError(f"model {source!r}: no such folder or .gguf file; give a path that exists, or a hub id as in org/name")
    home = os.environ.get(MODELS)
    if not home:
        return source
    root = Path(home).expanduser()
    if not root.is_dir():
        raise ConfigError(f"{MODELS}={home}: no such folder; set it to a folder of models, or unset it")
    *parents, name = source.split("/")
    places = [place for parent in parents for place in _like(root, parent) if place.is_dir()]
    found = [entry for place in [*places, root] for entry in _like(place, name)]
    return str(_model_in(found[0])) if found else source


def _like(folder: Path, name: str) -> list[Path]:
    """Entries called `name` or `name`.gguf, whatever their case; the exact name first, folders before files."""
    wanted = (name.lower(), f"{name}.gguf".lower())
    return sorted(
        (entry for entry in folder.iterdir() if entry.name.lower() in wanted),
        key=lambda entry: (entry.name.removesuffix(".gguf") != name, entry.is_file(), entry.name),
    )


def _model_in(path: Path) -> Path:
    files = sorted(path.glob("*.gguf")) if path.is_dir() and not (path / "config.json").exists() else []
    if len(files) > 1:
        raise ConfigError(f"{path}: holds {len(files)} .gguf files ({', '.join(f.name for f in files)}); give the path of one")
    return files[0] if files else path


def is_local(source: str) -> bool:
    """Whether the model's configuration is on this machine: a path, a copy under SELBENCH_MODELS, or the hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    place = locate(source)
    return Path(place).exists() or isinstance(try_to_load_from_cache(place, "config.json"), str)


def open_tokenizer(source: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer at `source`. Raises ConfigError, Unreachable where the hub would be needed and cannot be reached."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = _open("tokenizer", AutoTokenizer.from_pretrained, source, revision)
    return tokenizer


def open_config(source: str, revision: str | None = None) -> PreTrainedConfig:
    """The model's configuration: its shapes, without weights. Raises as `open_tokenizer`."""
    from transformers import AutoConfig

    config: PreTrainedConfig = _open("configuration", AutoConfig.from_pretrained, source, revision)
    return config


def open_endings(source: str, revision: str | None = None) -> tuple[int, ...]:
    """Ids with which the model's generation_config ends a response; of its configuration where it has no generation_config."""
    from transformers import GenerationConfig

    if _lacks(locate(source), "generation_config.json", revision):
        return end_ids_of(open_config(source, revision).get_text_config())
    return end_ids_of(_open("generation settings", GenerationConfig.from_pretrained, source, revision))


def _lacks(place: str, name: str, revision: str | None) -> bool:
    """Whether the model is known to have no file of that name."""
    from huggingface_hub import file_exists, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    if Path(place).exists():
        return not (Path(place) / name).exists()
    cached = try_to_load_from_cache(place, name, revision=revision)
    if isinstance(cached, str) or not hub_reachable():
        return cached is not None and not isinstance(cached, str)
    try:
        return not file_exists(place, name, revision=revision)
    except (HfHubHTTPError, OSError):
        return False


def end_ids_of(config: GenerationConfig | PreTrainedConfig | None) -> tuple[int, ...]:
    """The end tokens that a configuration declares, in its order."""
    declared = getattr(config, "eos_token_id", None)
    return tuple(declared) if isinstance(declared, list | tuple) else () if declared is None else (int(declared),)


def open_model(source: str, dtype: str, revision: str | None = None) -> PreTrainedModel:
    """A causal LM on the CPU in `dtype`; GGUF weights are dequantised. Raises as `open_tokenizer`."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig
    from transformers.utils.logging import disable_progress_bar

    if not sys.stderr.isatty():  # else each of its updates is a line of a log
        disable_progress_bar()
    flags: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    if locate(source).endswith(".gguf"):
        flags["quantization_config"] = GgufConfig(dequantize=True)
    model: PreTrainedModel = _open("model", AutoModelForCausalLM.from_pretrained, source, revision, **flags)
    return model


def _open(what: str, load: Callable[..., Any], source: str, revision: str | None, **flags: Any) -> Any:
    place = locate(source)
    if place.endswith(".gguf"):
        if importlib.util.find_spec("gguf") is None:
            raise ConfigError(f"model {source!r}: a GGUF file needs the gguf package; pip install 'selbench[gguf]'")
        flags["gguf_file"] = Path(place).name
    elif not Path(place).exists():
        flags |= {"revision": revision} if revision else {}
        if not hub_reachable():
            flags["local_files_only"] = True
    try:
        return load(str(Path(place).parent) if "gguf_file" in flags else place, **flags)
    except Exception as error:  # transformers, the hub's client and tokenizers raise dozens of types
        if isinstance(error, MemoryError):
            raise
        pinned = f" at revision {revision}" if revision and not Path(place).exists() else ""
        if flags.get("local_files_only") or _is_offline(error):
            raise Unreachable(
                f"model {source!r}{pinned}: not on this machine, and the hub cannot be reached; "
                f"put it under the folder {MODELS} as {source}, or give a folder"
            ) from error
        raise ConfigError(f"model {source!r}{pinned}: no {what} can be loaded there ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _is_offline(error: BaseException | None) -> bool:
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    while error is not None:
        if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
            return True
        error = error.__cause__ or error.__context__
    return False


@cache
def hub_reachable() -> bool:
    """Whether the hub answers, asked once a process. If not, its clients are told: they try a dead name for half a minute per file."""
    import socket
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if getproxies():
        return True
    address = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((address.hostname, address.port or (80 if address.scheme == "http" else 443)), timeout=5).close()
    except OSError:
        constants.HF_HUB_OFFLINE = True
        return False
    return True


def identity(source: str, model: PreTrainedModel | None = None, revision: str | None = None) -> dict[str, str | None]:
    """What a passport says of a model: its source, the hub's commit, and for local files the hash of configuration and weights.

    `commit` is None where no hub commit is known; it is never inferred. `file` names the local copy that stood for a hub id.
    """
    place = Path(locate(source))
    if not place.exists():
        return {"source": source, "commit": _commit(source, model, revision), "sha256": None}
    package = Path(__file__).parent
    inside = place.resolve().is_relative_to(package)
    name = f"selbench/{place.resolve().relative_to(package).as_posix()}" if inside else place.resolve().name
    if place.is_dir():
        digest = hash_folder(place, "*.json", "*.safetensors", "*.bin", "*.jinja")
    else:
        with place.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
    if Path(source).expanduser().exists():
        return {"source": name, "commit": None, "sha256": digest}
    return {"source": source, "commit": None, "sha256": digest, "file": name}


def _commit(source: str, model: PreTrainedModel | None, revision: str | None) -> str | None:
    """The commit that the hub's cache resolved for this source; asked of the hub where the cache does not say."""
    from huggingface_hub import model_info, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    known = getattr(getattr(model, "config", None), "_commit_hash", None)
    if known:
        return str(known)
    cached = try_to_load_from_cache(source, "config.json", revision=revision)
    if isinstance(cached, str):
        return Path(cached).parent.name
    if not hub_reachable():
        return None
    try:
        return model_info(source, revision=revision, timeout=10).sha
    except (HfHubHTTPError, OSError):
        return None
