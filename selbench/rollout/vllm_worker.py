"""For vLLM's worker in a server: what it is asked about itself, and how it takes weights from a file.

The server is started with `--worker-extension-cls selbench.rollout.vllm_worker.Weights`, which gives its worker the methods of this
class; `/collective_rpc` calls them by name, with what JSON can carry, on servers with VLLM_SERVER_DEV_MODE=1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selbench.rollout.vllm_common import take
from selbench.rollout.vllm_package import PLATFORMS
from selbench.rollout.weights import unaccounted

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Weights"]


class _File(Mapping[str, "Tensor"]):
    """The tensors of an open safetensors file, each read when it is asked for: a device never holds the weights twice."""

    def __init__(self, handle: Any) -> None:
        self.handle, self.names = handle, dict.fromkeys(handle.keys())

    def __getitem__(self, name: str) -> Tensor:
        return self.handle.get_tensor(name)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class Weights:
    """Methods of a worker; `self` is the worker."""

    vllm_config: Any
    model_runner: Any
    device: Any

    def selbench_about(self, note: str, word: str) -> dict[str, Any]:
        """What this server is, and whether it sees the file `note` with `word` in it."""
        from selbench import __version__

        config, package = self.vllm_config, PLATFORMS[self.device.type].package
        model, path = config.model_config, Path(note)
        return {
            "config": json.loads(json.dumps(model.hf_text_config.to_dict(), default=str)), "dtype": str(model.dtype).removeprefix("torch."),
            "room": int(model.max_model_len), "batch": int(config.scheduler_config.max_num_seqs), "device": self.device.type,
            "chunked": bool(config.scheduler_config.enable_chunked_prefill), "logprobs": str(model.logprobs_mode),
            "workers": int(config.parallel_config.world_size_across_dp), "tokens": (config.additional_config or {}).get("selbench_tokens"),
            "package": package, "version": version(package), "selbench": __version__,
            "sees": path.is_file() and path.read_text(encoding="utf-8") == word,
        }  # fmt: skip

    def selbench_take(self, path: str, mark: str, prove: bool) -> dict[str, Any]:
        """Take the weights of the file, which must bear this mark. prove: compare every layer with it (`weights.unaccounted`) then.

        Returns what the comparison found, or {} without one.
        """
        import torch
        from safetensors import safe_open

        with safe_open(path, "pt", device=str(self.device)) as handle, torch.no_grad():
            if (held := (handle.metadata() or {}).get("mark")) != mark:
                raise ValueError(f"{path} holds the weights {held}, not {mark}")
            file = _File(handle)
            take(self, iter(file.items()), PLATFORMS[self.device.type].after_reload)
            if not prove:
                return {}
            return asdict(unaccounted(self.model_runner.get_model(), file, str(self.vllm_config.model_config.dtype).removeprefix("torch.")))
