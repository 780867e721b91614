"""One renderer for rollout, teacher and evaluation: problem text to token ids and back, by the student's chat template."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from selbench.errors import ConfigError, nearest
from selbench.sources import open_tokenizer
from selbench.templates import TEMPLATES, template_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["OTHER", "Renderer", "load_renderer", "make_renderer", "render", "understands_thinking", "vocabulary"]

OTHER = "teacher"  # model.chat_template: render with the teacher's chat template
DATE = "26 Jul 2024"  # what templates that print today's date would print otherwise; the default of Llama 3.1


@dataclass(frozen=True)
class Renderer:
    """Problem text to token ids and back, the same for rollout, teacher and evaluation.

    chat_template: Jinja text that replaces the tokenizer's own; None keeps that.
    """

    tokenizer: PreTrainedTokenizerBase
    template: str  # with {problem}
    system: str | None
    thinking: bool | None
    end_ids: tuple[int, ...]
    chat_template: str | None = None

    def text(self, problem: str) -> str:
        """The whole prompt as the chat template renders it, special tokens included."""
        messages = [{"role": "user", "content": self.template.replace("{problem}", problem)}]
        if self.system:
            messages.insert(0, {"role": "system", "content": self.system})
        return render(self.tokenizer, messages, self.chat_template, self.thinking)

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
        """Id that fills up shorter sequences; always masked."""
        pad = self.tokenizer.pad_token_id
        return int(self.end_ids[0] if pad is None else pad)

    def sha256(self) -> str:
        """Hash of a rendered probe: template, system prompt, thinking flag and special tokens in one number."""
        return hashlib.sha256(self.text("1+1").encode()).hexdigest()


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    chat_template: str | None,
    thinking: bool | None,
    *,
    ask: bool = True,
    tools: Sequence[Mapping[str, Any]] = (),
) -> str:
    """A conversation as text. `thinking` None: the flag is not passed; `ask`: the assistant's turn is opened; tools: JSON schemas."""
    flags: dict[str, Any] = {} if thinking is None else {"enable_thinking": thinking}
    if "date_string" in (chat_template or str(tokenizer.chat_template)):
        flags["date_string"] = DATE  # a prompt must not depend on the day on which it is rendered
    if tools:
        flags["tools"] = list(tools)
    said: Any = list(messages)  # annotated there for messages of texts alone
    return str(tokenizer.apply_chat_template(said, chat_template=chat_template, add_generation_prompt=ask, tokenize=False, **flags))


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Token to id, without the fillers `[PAD<id>]` by which a GGUF file names the padding of its head."""
    return {token: i for token, i in tokenizer.get_vocab().items() if token != f"[PAD{i}]"}


def understands_thinking(tokenizer: PreTrainedTokenizerBase, chat_template: str | None = None) -> bool:
    """Whether the thinking flag changes anything: a template that does not know it ignores it silently."""
    for ask in (True, False):
        messages = [{"role": "user", "content": "1+1"}] + ([] if ask else [{"role": "assistant", "content": "2"}])
        if len({render(tokenizer, messages, chat_template, thinking, ask=ask) for thinking in (True, False)}) > 1:
            return True
    return False


def template_of(tokenizer: PreTrainedTokenizerBase, name: str, source: str) -> str:
    """A chat template of the tokenizer by its name. Raises ConfigError with the nearest names."""
    own = tokenizer.chat_template
    known = own if isinstance(own, dict) else {} if own is None else {"default": own}
    if name not in known:
        raise ConfigError(f"model.chat_template = {name!r}: {source!r} has no such chat template; {nearest(name, [*known, OTHER])}")
    return str(known[name])


def load_renderer(
    source: str, *, template: str, system: str | None, thinking: bool | None, end_ids: tuple[int, ...] = (),
    chat_template: str | None = None, teacher: str | None = None, revision: str | None = None,
) -> Renderer:  # fmt: skip
    """The renderer of the student at `source`; `end_ids` are end tokens besides the tokenizer's own. Raises as `make_renderer`.

    teacher: where the teacher's tokenizer is opened, should `chat_template` ask for its template.
    """
    other = open_tokenizer(teacher) if chat_template == OTHER and teacher else None
    return make_renderer(
        open_tokenizer(source, revision), source, template=template, system=system, thinking=thinking, end_ids=end_ids,
        chat_template=chat_template, teacher=other,
    )  # fmt: skip


def make_renderer(
    tokenizer: PreTrainedTokenizerBase, source: str, *, template: str, system: str | None, thinking: bool | None,
    end_ids: tuple[int, ...] = (), chat_template: str | None = None, teacher: PreTrainedTokenizerBase | None = None,
) -> Renderer:  # fmt: skip
    """The renderer of a tokenizer that was opened at `source`.

    template: a name of `templates.TEMPLATES`, or a text with {problem}. chat_template: a name among the tokenizer's, or "teacher"
    for that of `teacher`. Raises ConfigError for a name nobody knows, a thinking flag that the chat template ignores, and a
    conversation that it refuses.
    """
    text = _chat_template(tokenizer, source, chat_template, teacher)
    if text is None and tokenizer.chat_template is None:
        raise ConfigError(
            f"student {source!r}: its tokenizer has no chat template; add one (chat_template.jinja), or set model.chat_template={OTHER}"
        )
    own = () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)
    renderer = Renderer(tokenizer, _message(template), system, thinking, tuple(dict.fromkeys((*own, *end_ids))), text)
    try:
        renderer.text("1+1")
    except Exception as error:  # what a template's author raises
        raise ConfigError(f"student {source!r}: its chat template refuses the conversation ({error}); see model.system") from error
    if thinking is not None and not understands_thinking(tokenizer, text):
        raise ConfigError(
            f"model.thinking = {str(thinking).lower()}: the chat template of {source!r} does not know enable_thinking; set it to null"
        )
    if not renderer.end_ids:
        raise ConfigError(f"student {source!r}: neither tokenizer nor generation_config names an end token, so no response would ever stop")
    return renderer


def _message(template: str) -> str:
    try:
        return template_text(template)
    except KeyError:
        raise ConfigError(f"model.template = {template!r}: {nearest(template, TEMPLATES)} (or give a text with {{problem}})") from None


def _chat_template(
    tokenizer: PreTrainedTokenizerBase, source: str, name: str | None, teacher: PreTrainedTokenizerBase | None
) -> str | None:
    if name is None:
        return None
    if name == OTHER and teacher is not None:
        if teacher.chat_template is None:
            raise ConfigError(f"model.chat_template = {OTHER!r}: the teacher has no chat template; leave it out to use the student's")
        return template_of(teacher, "default", OTHER)
    return template_of(tokenizer, name, source)
