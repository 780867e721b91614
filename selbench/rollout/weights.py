"""The student's weights on their way into an engine, and the proof that all of them arrived.

What an engine makes of a weight (fused, transposed, packed for the processor) is its own business; what counts is that each of its
layers computes with the trainer's numbers. So every layer is asked for its product with one fixed vector, a checksum of its weights
that needs no access to how they are stored, and every parameter of either side must be accounted for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from selbench.adapter import has_adapter
from selbench.seeding import derive

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Arrival", "bits", "named_weights", "unaccounted"]

TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 5e-3}  # of a layer's product, relative to its norm


@dataclass(frozen=True)
class Arrival:
    """What a comparison of an engine's weights with the trainer's found. error: the largest relative one of a layer's checksum."""

    tensors: int
    layers: int
    error: float
    problems: tuple[str, ...]


def named_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) under the names of a checkpoint: a tied output head once, an adapter added to the weights that it adapts.

    model: of transformers, or a PeftModel around one. Tensors are the trained ones themselves where nothing is added to them.
    """
    if not has_adapter(model):
        yield from ((name, parameter.detach()) for name, parameter in model.named_parameters())
        return
    base = model.get_base_model()
    layers = {name: module for name, module in base.named_modules() if hasattr(module, "get_delta_weight")}
    for name, parameter in base.named_parameters():
        owner, _, last = name.rpartition(".base_layer.")
        if owner in layers:
            layer, weight = layers[owner], parameter.detach()
            if last == "weight":
                for adapter in layer.active_adapters:
                    weight = weight + layer.get_delta_weight(adapter).detach().to(weight.dtype)
            yield f"{owner}.{last}", weight
        elif ".lora_" not in name:
            yield name, parameter.detach()


def bits(model: nn.Module) -> tuple[int, ...]:
    """For each parameter the sum of its elements' bits, read as integers: exact, so that the smallest update shows. One pass over memory.

    torch's own count of writes will not do: the fused optimisers do not raise it.
    """
    import torch

    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums = [p.detach().contiguous().view(whole[p.element_size()]).sum(dtype=torch.int64) for p in model.parameters()]
    return tuple(torch.stack(sums).tolist()) if sums else ()


def unaccounted(engine: nn.Module, weights: Mapping[str, Tensor], dtype: str) -> Arrival:
    """Compare each layer of a vLLM model with the trainer's weights (`named_weights`), by value or by its product with a fixed vector.

    A linear layer holds one matrix of a checkpoint or, by the model's own `packed_modules_mapping`, several one below the other;
    rows that it adds to fill up a vocabulary are ignored. dtype: that of the engine.
    """
    import torch
    from vllm.model_executor.layers.linear import LinearBase
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

    packed: Mapping[str, list[str]] = getattr(engine, "packed_modules_mapping", {})
    left, problems, worst, layers = dict.fromkeys(weights), [], 0.0, 0
    generator = torch.Generator().manual_seed(derive(0, 0, "checksum of weights"))

    def parts(name: str, kind: str) -> list[Tensor]:
        """The checkpoint's tensors behind a parameter of the engine, in order; empty where there are none."""
        owner, _, last = name.rpartition(".")
        names = [f"{owner}.{part}.{kind}".lstrip(".") for part in packed.get(last, [last])]
        for each in names:
            left.pop(each, None)
        return [weights[each] for each in names] if all(each in weights for each in names) else []

    def compare(name: str, got: Tensor, want: Tensor, shape: tuple[int, ...]) -> None:
        nonlocal worst, layers
        layers += 1
        if got.shape != want.shape:
            problems.append(f"{name}: {tuple(got.shape)} in the engine, {shape} in training")
            return
        error = float((got.double() - want.double()).norm() / want.double().norm().clamp_min(1e-12))
        worst = max(worst, error)
        if not error <= TOLERANCE[dtype]:  # a NaN is one too
            problems.append(f"{name}: its values differ by {error:.1e} of their norm")

    for name, module in engine.named_modules():
        if isinstance(module, LinearBase | VocabParallelEmbedding):
            tied = isinstance(module, ParallelLMHead) and f"{name}.weight" not in weights
            source = next((n for n in weights if n.endswith("embed_tokens.weight")), "") if tied else name
            found = [weights[source]] if tied and source else parts(name, "weight")
            if not found:
                problems.append(f"{name}: the student has no such weights")
                continue
            whole = torch.cat([each.to(getattr(torch, dtype)) for each in found])
            if isinstance(module, VocabParallelEmbedding) and not isinstance(module, ParallelLMHead):
                compare(name, module.weight[: len(whole)], whole, tuple(whole.shape))
                continue
            x = torch.randn(1, whole.shape[1], generator=generator).to(whole)
            product = module.quant_method.apply(module, x)[0]
            product = product[: len(whole)] if isinstance(module, ParallelLMHead) else product
            compare(name, product, whole.float() @ x[0].float(), tuple(whole.shape))
            if getattr(module, "bias", None) is not None and (biases := parts(name, "bias")):
                compare(f"{name}.bias", module.bias, torch.cat(biases).to(module.bias.dtype), tuple(module.bias.shape))
        else:
            for own, parameter in module.named_parameters(recurse=False):
                full = f"{name}.{own}".lstrip(".")
                if full in weights:
                    left.pop(full, None)
                    compare(full, parameter, weights[full].to(parameter.dtype), tuple(weights[full].shape))
                else:
                    problems.append(f"{full}: the student has no such weights")
    problems += [f"{name}: no layer of the engine holds it" for name in left]
    return Arrival(len(weights), layers, worst, tuple(problems))
