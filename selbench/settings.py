"""The sections of a protocol: what can be set, its type, its default. `selbench.config` puts them together."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from selbench.errors import nearest
from selbench.templates import TEMPLATES

__all__ = ["Agent", "Budget", "Evaluation", "Filters", "Frozen", "Lora", "Loss", "Margin", "Model", "PairEntry", "Published", "Training"]

Budget = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(gt=0, le=1)]
Margin = Annotated[float, Field(gt=0, lt=100)]  # points
DType = Literal["float32", "bfloat16", "float16"]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def known_template(value: str | None) -> str | None:
    """A template as it was given. Raises ValueError for what is neither a name of templates.py nor a text with a place for the problem."""
    if value is not None and "{problem}" not in value and value not in TEMPLATES:
        raise ValueError(f"no template of that name; {nearest(value, TEMPLATES)} (or give a text with {{problem}})")
    return value


class Model(Frozen):
    """How both models are loaded and prompted."""

    template: str = Field(default="{problem}", description="user message: a name of templates.py, or a text; {problem} is replaced")
    system: str | None = Field(default=None, description="system message")
    thinking: bool | None = Field(default=None, description="enable_thinking of the chat template; none: not passed")
    chat_template: str | None = Field(default=None, description="name among the tokenizer's, or teacher: its own; none: the student's")
    student_dtype: DType = "float32"
    teacher_dtype: DType = "float32"
    student_revision: str | None = Field(default=None, description="commit, tag or branch on the hub")
    teacher_revision: str | None = Field(default=None, description="commit, tag or branch on the hub")

    _known = field_validator("template")(known_template)


class Training(Frozen):
    """Rollout and optimiser. One optimiser step per rollout batch."""

    steps: Count = 100
    prompts_per_step: Count = 32
    samples_per_prompt: Count = 1
    micro_batch: Count = Field(default=32, description="sequences per forward pass; no effect on the result")
    micro_batch_tokens: Count | None = Field(default=None, description="padded tokens per forward pass at most; no effect on the result")
    rollout_batch: Count = Field(default=256, description="sequences generated together; another number draws other tokens")
    gradient_checkpointing: bool = Field(default=False, description="backward computes activations again; no effect on the result")
    max_prompt_tokens: Count = Field(default=2048, description="longer prompts are an error, never cut")
    max_response_tokens: Count = 1024
    temperature: NonNegative = 1.0
    top_p: Probability = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    learning_rate: Annotated[float, Field(gt=0)] = 1e-6
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    weight_decay: NonNegative = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    optimiser: Literal["adamw", "adamw8bit", "adamw_offload"] = Field(default="adamw", description="the others through selbench[optim]")
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    precision: Literal["auto", "no", "bf16"] = Field(default="auto", description="autocast of the forward passes; auto: bf16 on a GPU")
    checkpoint_every: Annotated[int, Field(ge=0)] = Field(default=20, description="steps between resumable states; 0: only the end")


class Loss(Frozen):
    """What a kept token costs (methods 1)."""

    kind: Literal["reverse_kl", "forward_kl", "jsd", "skew_kl", "skew_reverse_kl", "policy_gradient", "k2", "k3", "local_support"] = (
        "reverse_kl"  # not k1: its own gradient teaches nothing (methods 1.2)
    )
    beta: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.5, description="jsd")
    alpha: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.1, description="skew_kl, skew_reverse_kl: share of the first in the mix")
    top_k: Count = Field(default=32, description="local_support")
    tail: Literal["renormalise", "append", "sampled", "none"] = Field(default="renormalise", description="local_support: mass outside")
    temperature: Annotated[float, Field(gt=0)] = Field(default=1.0, description="divides both models' logits inside the loss")
    normaliser: Literal["kept_tokens", "per_sample_kept", "all_valid"] = "kept_tokens"
    importance_cap: Annotated[float, Field(ge=1)] | None = Field(
        default=None, description="policy_gradient: most that a token's p_trainer / p_engine weighs; none: off"
    )
    special_token_mask: tuple[str, ...] = Field(default=(), description="first occurrence of each of their ids leaves the candidates")

    @model_validator(mode="after")
    def _importance(self) -> Loss:
        if self.importance_cap is not None and self.kind != "policy_gradient":
            raise ValueError(f"importance_cap weighs the sampled tokens of policy_gradient; {self.kind} is exact whatever was sampled")
        return self


class Evaluation(Frozen):
    """How the tasks are answered. `samples` and `problems`: none takes the task's own."""

    template: str | None = Field(default=None, description="answer-format instruction, by name or text; none: model.template")
    samples: Count | None = Field(default=None, description="answers per problem; greedy decoding gives one")
    problems: Count | None = Field(default=None, description="only the first so many")
    max_tokens: Count = 1024
    temperature: NonNegative = Field(default=1.0, description="0: greedy")
    top_p: Probability = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    stop: tuple[str, ...] = Field(default=(), description="a response ends before the first of these strings")
    batch: Count = Field(default=256, description="sequences generated together")
    grader_timeout_seconds: Annotated[float, Field(gt=0)] = 5.0

    _known = field_validator("template")(known_template)

    @model_validator(mode="after")
    def _greedy_once(self) -> Evaluation:
        if self.temperature == 0 and (self.samples or 1) > 1:
            raise ValueError(f"samples = {self.samples} at temperature 0 would be {self.samples} times the same answer; use samples=1")
        return self

    def samples_of(self, default: int) -> int:
        """Answers per problem: what is set, else one if greedy, else the task's own number."""
        return self.samples or (1 if self.temperature == 0 else default)


class Agent(Frozen):
    """How an episode with tools is played; `max_response_tokens` and `max_tokens` bound all that follows its opening."""

    max_turns: Count = Field(default=50, description="turns of the model until the user speaks again or the episode ends")
    max_turn_tokens: Count = Field(default=4096, description="a turn cut there ends its episode")
    max_result_characters: Count | None = Field(default=None, description="longer tool results lose their middle; none: whole")
    malformed: Literal["answer", "end"] = Field(
        default="answer", description="a tool call that cannot be read: answered with its error, or the turn counts as one without calls"
    )
    tool_timeout_seconds: Annotated[float, Field(gt=0)] = Field(default=30.0, description="a tool that takes longer ends its episode")
    concurrent: Count = Field(default=120, description="episodes under way together; another number draws the same tokens")


class Lora(Frozen):
    """The student as frozen weights plus a low-rank adapter (arXiv:2106.09685), through peft; the adapter alone is trained."""

    rank: Count = 16
    alpha: Annotated[float, Field(gt=0)] = Field(default=32.0, description="the update is alpha / rank times the product of its factors")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="in the pass of the loss alone; above 0 the loss depends on the micro-batches"
    )
    targets: tuple[str, ...] = Field(default=("all-linear",), description="names of linear layers; all-linear: each but the output head")


class Filters(Frozen):
    """Which training prompts are left out, whatever the strategy (selbench/prompts.py); repeats and conflicting answers always are."""

    overlap: Literal["exact", "ngram", "none"] = Field(default="ngram", description="with evaluation problems; ngram: equal or near")
    tasks: tuple[str, ...] | None = Field(default=None, description="whose problems are kept out; none: those of the protocol")
    ngram: Annotated[int, Field(ge=2)] = Field(default=13, description="words in a row that make a prompt near")
    jaccard: Probability = Field(default=0.2, description="of the 6-grams of prompt and problem, from which on they are near")
    containment: Probability = Field(default=0.6, description="share of the problem's 6-grams in the prompt, likewise")
    max_prompt_tokens: Count | None = Field(default=None, description="of the rendered prompt, by the students' tokenizers; none: off")
    require_answer: bool = Field(default=False, description="leave out rows without an answer")


class PairEntry(Frozen):
    """A pair by registered name, or by two hub ids or folders."""

    name: str
    teacher: str | None = None
    student: str | None = None


class Published(Frozen):
    """One number of a paper. `value` and `spread` are in `metric`'s unit; `strategy` is spelt as in the protocol's list."""

    task: str
    strategy: str
    value: float
    spread: float | None = None
    metric: str
    source: str
    note: str = ""
