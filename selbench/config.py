"""The protocol: one frozen tree of everything that decides a result. Defaults, then file, then command line; unknown keys raise."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from selbench.errors import ConfigError, nearest
from selbench.settings import Agent, Budget, Evaluation, Filters, Frozen, Lora, Loss, Margin, Model, PairEntry, Published, Training

__all__ = [
    "DOCUMENTATION", "Agent", "Budget", "Cell", "Evaluation", "Filters", "Frozen", "Lora", "Loss", "Model", "PairEntry", "Protocol",
    "Published", "Training", "digest", "evaluation_content", "load_protocol", "protocol_names", "sentence", "stored_fingerprint",
]  # fmt: skip

DOCUMENTATION = ("summary", "sources", "published", "criteria", "margins", "family")  # keys of a protocol that decide no record
APART = {*DOCUMENTATION, "name", "strategies", "seeds", "budget"}  # what the cells of a protocol need not share
LATER = ("agent",)  # sections without which a protocol has the fingerprint that it had before there were any

TRAINED = {"prompts", "filters", "model", "training", "loss", "lora", "engine", "agent"}  # keys that decide the trained weights
EVALUATED = {"evaluation", "model", "engine", "agent"}  # keys that decide a task's records, besides the weights


class Protocol(Frozen):
    """A whole comparison. Its fingerprint is the hash of the resolved content."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
    summary: str = ""
    pairs: Annotated[tuple[PairEntry, ...], Field(min_length=1)]
    prompts: str = Field(description="training prompts: .jsonl file, selbench:<file in the package>, or hub dataset id")
    strategies: Annotated[tuple[str, ...], Field(min_length=1)] = ("all",)
    budget: Budget | None = Field(default=None, description="share of tokens kept, for every strategy but the full-token reference")
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2)
    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    model: Model = Model()
    filters: Filters = Filters()
    training: Training = Training()
    loss: Loss = Loss()
    evaluation: Evaluation = Evaluation()
    agent: Agent | None = Field(default=None, description="how tasks that are acted on are played; none: the defaults")
    lora: Lora | None = Field(default=None, description="none: all weights of the student are trained")
    engine: Literal["auto", "hf", "vllm", "vllm-server"] = Field(
        default="auto", description="auto: vllm where it is installed and faster, else hf; vllm-server: at SELBENCH_VLLM_SERVER"
    )
    parameters: dict[str, dict[str, float]] = Field(default={}, description="strategy: {parameter: value}")
    sources: dict[str, str] = Field(default={}, description="dotted key: where its value is from; documentation, not content")
    published: tuple[Published, ...] = Field(default=(), description="numbers that a reproduction should meet; documentation")
    criteria: tuple[str, ...] = Field(default=(), description="when a reproduction counts as met; documentation")
    margins: dict[str, Margin] = Field(default={}, description="task or pool: points; smaller differences are equivalent; none: 1 point")
    family: Literal["both", "baseline"] = Field(
        default="both", description="comparisons corrected together, of a pair and task: against both baselines, or against each apart"
    )

    @field_validator("pairs", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return [{"name": entry} if isinstance(entry, str) else entry for entry in value] if isinstance(value, list | tuple) else value

    @field_validator("seeds", "tasks", "strategies")
    @classmethod
    def _distinct(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        repeated = sorted({entry for entry in value if value.count(entry) > 1})
        if repeated:
            raise ValueError(f"{', '.join(map(str, repeated))} is given more than once")
        return value

    @model_validator(mode="after")
    def _recomputable(self) -> Protocol:
        if self.training.gradient_checkpointing and self.lora is not None and self.lora.dropout > 0:
            raise ValueError("gradient_checkpointing cannot repeat a dropout; set lora.dropout=0 or leave it off")
        return self

    def core(self) -> dict[str, Any]:
        """The content that all cells share: everything but which strategies, budgets and seeds are run."""
        return self.model_dump(mode="json", exclude=APART | self.unset())

    def unset(self) -> set[str]:
        """Sections that came after records were published: where they are not given, nothing says that they exist."""
        return {name for name in LATER if getattr(self, name) is None}

    def fingerprint(self) -> str:
        """SHA-256 of the shared content."""
        return digest(self.core())


class Cell(Frozen):
    """One (pair, strategy@budget, training seed) of a protocol."""

    protocol: Protocol
    pair: PairEntry
    strategy: str
    version: int
    budget: Budget
    seed: int
    role: str
    source: str
    context: str = Field(default="", description="what the teacher reads in place of the student's prompt, as a hash; none: the same")

    @property
    def folder(self) -> str:
        """Relative to the protocol's folder."""
        return f"{self.pair.name}/{self.strategy}-v{self.version}@{self.budget:g}/seed{self.seed}"

    def training_fingerprint(self) -> str:
        """What decides the trained weights: never the tasks or how they are answered."""
        shared = self.protocol.model_dump(mode="json", include=TRAINED - self.protocol.unset())
        own = self.model_dump(mode="json", exclude={"protocol", "role", "source"})
        return digest({**shared, **own, "parameters": self.protocol.parameters.get(self.strategy, {})})

    def evaluation_fingerprint(self, task: str, version: int) -> str:
        """What decides one task's records of this cell."""
        return digest({"trained": self.training_fingerprint(), **evaluation_content(self.protocol, task, version)})


def evaluation_content(protocol: Protocol, task: str, version: int) -> dict[str, Any]:
    return {"task": task, "version": version, **protocol.model_dump(mode="json", include=EVALUATED - protocol.unset())}


def stored_fingerprint(content: Mapping[str, Any]) -> str:
    """The fingerprint of a protocol as it was stored in a config.yaml, whatever keys this selbench has added since."""
    return digest({key: value for key, value in content.items() if key not in APART and (key not in LATER or value is not None)})


def digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def protocol_names() -> list[str]:
    """Protocols shipped with the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in (files("selbench") / "protocols").iterdir() if entry.name.endswith(".yaml"))


def load_protocol(
    source: str, overrides: Sequence[str] = (), *, also: Callable[[dict[str, Any]], list[str]] = lambda content: [],
    beneath: Callable[[dict[str, Any]], Mapping[str, Mapping[str, Any]]] = lambda content: {}, **given: Any,
) -> Protocol:  # fmt: skip
    """A protocol by name or YAML path, with `key=value` overrides and keyword arguments on top (None means not given).

    A protocol whose content was changed gets its fingerprint into its name, so that it never shares a folder with the
    original. `beneath` gives the settings of each pair that the raw content names, by dotted key: they hold where the content
    says nothing. Raises ConfigError with every problem at once, those that `also` finds in the raw content included.
    """
    path = Path(source)
    if source in protocol_names():
        text = (files("selbench") / "protocols" / f"{source}.yaml").read_text(encoding="utf-8")
    elif path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ConfigError(f"protocol {source}: no such file")
        text = path.read_text(encoding="utf-8")
    else:
        raise ConfigError(f"unknown protocol {source!r}: {nearest(source, protocol_names())} (or give a .yaml file)")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"protocol {source}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"protocol {source}: not a mapping of keys to values")
    changed = _merge(content, overrides, {key: value for key, value in given.items() if value is not None})
    problems = also(changed)
    changed, disagreements = _fill(changed, beneath(changed))
    problems += [f"protocol {source}: {text}" for text in disagreements]
    try:
        protocol = Protocol.model_validate(changed)
    except ValidationError as error:
        problems = [f"protocol {source}: {sentence(item)}" for item in error.errors()] + problems
    if problems:
        raise ConfigError(*problems)
    try:
        original = Protocol.model_validate(_fill(content, beneath(content))[0]).fingerprint()
    except ValidationError:
        original = ""
    moved = {key for key in protocol.sources if _at(changed, key) != _at(content, key)}
    if moved:
        stated = {key: "given in this run" if key in moved else text for key, text in protocol.sources.items()}
        protocol = protocol.model_copy(update={"sources": stated})
    if protocol.fingerprint() != original and "name" not in given:
        protocol = protocol.model_copy(update={"name": f"{protocol.name}-{protocol.fingerprint()[:8]}"})
    return protocol


def _at(content: Any, key: str) -> Any:
    for part in key.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content


def _merge(content: dict[str, Any], overrides: Iterable[str], given: dict[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = json.loads(json.dumps({**content, **given}))
    problems = []
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            problems.append(f"override {override!r}: write key=value, as in training.steps=100")
            continue
        *parents, last = key.strip().split(".")
        place: Any = merged
        for parent in parents:
            place = place.setdefault(parent, {}) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place[last] = yaml.safe_load(value)
        else:
            problems.append(f"override {override!r}: {'.'.join(parents)} is no section")
    if problems:
        raise ConfigError(*problems)
    return merged


def _fill(content: dict[str, Any], settings: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """The content with what its pairs' settings say about keys that it leaves open, and where they disagree."""
    filled: dict[str, Any] = json.loads(json.dumps(content))
    problems = []
    for key in sorted({key for values in settings.values() for key in values}):
        *parents, last = key.split(".")
        place: Any = filled
        for parent in parents:
            place = place.setdefault(parent, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last in place:
            continue
        said = {name: values[key] for name, values in settings.items() if key in values}
        if len({json.dumps(value) for value in said.values()}) > 1:
            each = ", ".join(f"{name}: {json.dumps(value)}" for name, value in said.items())
            problems.append(f"its pairs want different values of {key} ({each}); set {key} in the protocol, or run them apart")
        else:
            place[last] = next(iter(said.values()))
    return filled, problems


def sentence(item: Any) -> str:
    """One of pydantic's complaints as one of ours: where, what was given, what is wanted."""
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"unknown key {where!r}: {nearest(str(item['loc'][-1]), _keys(item['loc'][:-1]))}"
    if item["type"] == "missing":
        return f"key {where!r} is missing"
    reason = item["msg"].removeprefix("Value error, ")
    return f"{where} = {item['input']!r}: {reason[0].lower()}{reason[1:]}"


def _keys(location: tuple[int | str, ...]) -> list[str]:
    sections: dict[str, type[BaseModel]] = {
        "model": Model,
        "filters": Filters,
        "training": Training,
        "loss": Loss,
        "evaluation": Evaluation,
        "agent": Agent,
        "lora": Lora,
        "pairs": PairEntry,
        "published": Published,
    }
    return list(sections.get(str(location[0]) if location else "", Protocol).model_fields)
