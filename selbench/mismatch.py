"""Where teacher and student of a pair disagree about the text between them, found before training and without weights.

Teacher and student score the very same token ids. A difference in vocabulary makes that meaningless; a difference in chat
template or end token makes a handful of tokens dominate the divergence (Revisiting OPD, arXiv:2603.25562: the student gives
'<|im_end|>' a log-probability of -0.00, the teacher -58.71). Each finding is one sentence that says what will happen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from selbench.errors import ConfigError
from selbench.renderer import OTHER, make_renderer, render, understands_thinking, vocabulary
from selbench.sources import Unreachable, is_local, open_config, open_endings, open_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from selbench.models import PairSpec

__all__ = ["Finding", "check_pair", "compare_pair"]

ASKED = [{"role": "user", "content": "What is 1+1?"}]
ANSWERED = [*ASKED, {"role": "assistant", "content": "2"}]
DEFAULTS: dict[str, Any] = {
    "template": "{problem}", "system": None, "thinking": None, "chat_template": None, "teacher_revision": None, "student_revision": None,
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One sentence about a pair.

    severity: "error" forbids training; "unreachable": could not be checked, the hub is needed; "warning": trains, but a few tokens
    may dominate the loss; "note": harmless, said once.
    """

    severity: Literal["error", "unreachable", "warning", "note"]
    text: str


def check_pair(spec: PairSpec, settings: Mapping[str, Any] | None = None) -> list[str]:
    """What stands in the way of training this pair, found without loading weights: one sentence each."""
    return [f"pair {spec.name}: {finding.text}" for finding in compare_pair(spec, settings) if finding.severity in ("error", "unreachable")]


def compare_pair(spec: PairSpec, settings: Mapping[str, Any] | None = None) -> list[Finding]:
    """All findings about a pair under a protocol's `model` settings, the grave ones first. Loads tokenizers and configurations."""
    model = DEFAULTS | dict(settings or {})
    tokenizers: dict[str, PreTrainedTokenizerBase] = {}
    found: list[Finding] = []
    for role in ("student", "teacher"):
        source, revision = getattr(spec, role), model[f"{role}_revision"]
        try:
            tokenizers[role] = open_tokenizer(source, revision)
        except ConfigError as error:
            found += [Finding("unreachable" if isinstance(error, Unreachable) else "error", f"{role}: {text}") for text in error.problems]
            continue
        if revision and is_local(source) and not _from_hub(source):
            found.append(Finding("warning", f"model.{role}_revision = {revision}: not checked, {source!r} is read from local files"))
    if len(tokenizers) < 2:
        return found
    student, teacher = tokenizers["student"], tokenizers["teacher"]
    renderer = _renderer_findings(spec, model, student, teacher)
    unlike = _vocabularies(spec, student, teacher)
    found += [*unlike, *renderer, *_heads(spec, model, student)]
    if not any(finding.severity == "error" for finding in renderer):
        found += _chat_templates(spec, model, student, teacher)
    if not unlike:  # ids of two vocabularies cannot be compared
        found += [*_endings(spec, model, student, teacher), *_special_tokens(student, teacher)]
    order = ("error", "unreachable", "warning", "note")
    return sorted(found, key=lambda finding: order.index(finding.severity))


def _from_hub(source: str) -> bool:
    from pathlib import Path

    from selbench.sources import locate

    return not Path(locate(source)).exists()


def _renderer_findings(
    spec: PairSpec, model: Mapping[str, Any], student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase
) -> list[Finding]:
    keys = ("template", "system", "thinking", "chat_template")
    ends = (0,)  # end tokens have findings of their own
    try:
        made = make_renderer(student, spec.student, teacher=teacher, end_ids=ends, **{key: model[key] for key in keys})
    except ConfigError as error:
        return [Finding("error", text) for text in error.problems]
    text = made.chat_template or str(student.chat_template)
    if "strftime_now" in text and "date_string" not in text:
        return [Finding("warning", f"student {spec.student!r}: its chat template prints today's date, so prompts change from day to day")]
    return []


def _vocabularies(spec: PairSpec, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> list[Finding]:
    ours, theirs = vocabulary(student), vocabulary(teacher)
    odd = sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))
    if not odd:
        return []
    return [Finding("error",
        f"the tokenizers differ in {len(odd)} tokens, first {odd[0]!r} (teacher id {theirs.get(odd[0])}, "
        f"student id {ours.get(odd[0])}); token-level distillation needs one shared tokenizer",
    )]  # fmt: skip


def _heads(spec: PairSpec, model: Mapping[str, Any], student: PreTrainedTokenizerBase) -> list[Finding]:
    sizes = {}
    for role in ("student", "teacher"):
        try:
            sizes[role] = int(open_config(getattr(spec, role), model[f"{role}_revision"]).get_text_config().vocab_size)
        except ConfigError as error:
            return [Finding("unreachable" if isinstance(error, Unreachable) else "error", f"{role}: {text}") for text in error.problems]
    shared, tokens = min(sizes.values()), 1 + max(vocabulary(student).values())
    if tokens > shared:
        return [Finding("error",
            f"the tokenizer has {tokens} tokens, the output heads {sizes['student']} (student) and {sizes['teacher']} "
            f"(teacher) columns; a token past the smaller head has no probability",
        )]  # fmt: skip
    if sizes["student"] == sizes["teacher"]:
        return []
    return [Finding("note",
        f"output heads of {sizes['student']} (student) and {sizes['teacher']} (teacher) columns for {tokens} tokens: columns from {shared} "
        f"on are padding and left out on both sides",
    )]  # fmt: skip


def _chat_templates(
    spec: PairSpec, model: Mapping[str, Any], student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase
) -> list[Finding]:
    if teacher.chat_template is None:
        return [Finding("warning",
            f"teacher {spec.teacher!r} has no chat template (a base model?): it scores conversations in the student's format, which it may "
            f"not know; look at the gaps of the special tokens",
        )]  # fmt: skip
    if student.chat_template is None:
        return []
    follows, other = ("student", "teacher") if model["chat_template"] == OTHER else ("teacher", "student")
    remedy = "" if model["chat_template"] == OTHER else f"set model.chat_template={OTHER} to use the teacher's for both, or "
    for ask, part in ((True, "prompt"), (False, "end of a turn")):
        ours, theirs = (render(t, ASKED if ask else ANSWERED, None, _flag(t, model), ask=ask) for t in (student, teacher))
        if ours != theirs:
            same, a, b = _split(ours, theirs)
            return [Finding("warning",
                f"the chat templates differ in the {part}: after {same!r} the student's goes on with {a!r}, the "
                f"teacher's with {b!r}; both models read the {other}'s, so the {follows} works in a format that it was not tuned on; "
                f"{remedy}keep the template's tokens out of the loss (loss.special_token_mask)",
            )]  # fmt: skip
    known = [understands_thinking(tokenizer) for tokenizer in (student, teacher)]
    if known[0] != known[1]:
        knows, ignores = ("student", "teacher") if known[0] else ("teacher", "student")
        return [Finding("warning",
            f"the {knows}'s chat template knows a thinking switch, the {ignores}'s does not: with thinking on, the "
            f"{ignores} meets <think> text that it may not know; set model.thinking=false, or compare the gaps of '<think>'",
        )]  # fmt: skip
    if str(student.chat_template) != str(teacher.chat_template) and not known[0]:
        return [
            Finding("note", "the chat templates differ in their text, not in what they make of a plain conversation (tools may differ)")
        ]
    for thinking in (True, False) if known[0] else ():
        ours, theirs = (render(tokenizer, ASKED, None, thinking) for tokenizer in (student, teacher))
        if ours != theirs:
            same, a, b = _split(ours, theirs)
            return [Finding("note",
                f"the chat templates differ with model.thinking={str(thinking).lower()}, which is not set here: after {same!r} the "
                f"student's goes on with {a!r}, the teacher's with {b!r}",
            )]  # fmt: skip
    return []


def _flag(tokenizer: PreTrainedTokenizerBase, model: Mapping[str, Any]) -> bool | None:
    return model["thinking"] if understands_thinking(tokenizer) else None


def _split(one: str, other: str, width: int = 40) -> tuple[str, str, str]:
    """The end of what two texts share, and how each goes on."""
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[max(0, at - width // 2) : at], one[at : at + width], other[at : at + width]


def _endings(spec: PairSpec, model: Mapping[str, Any], student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> list[Finding]:
    ends: dict[str, list[int]] = {}
    for role, tokenizer in (("student", student), ("teacher", teacher)):
        own = () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)
        try:
            ends[role] = list(dict.fromkeys((*own, *open_endings(getattr(spec, role), model[f"{role}_revision"]))))
        except ConfigError as error:
            return [Finding("unreachable" if isinstance(error, Unreachable) else "error", f"{role}: {text}") for text in error.problems]
    if not ends["student"]:
        return [Finding("error", f"student {spec.student!r}: neither tokenizer nor generation_config names an end token")]
    first = ends["student"][0]
    if first not in ends["teacher"]:
        return [Finding("warning",
            f"the student ends a response with {_names(student, [first])}, the teacher with "
            f"{_names(teacher, ends['teacher'])}: at the end of every response the teacher gives the student's token next to no "
            f"probability, which dominates the loss and teaches the student not to stop; set "
            f"loss.special_token_mask=[{student.convert_ids_to_tokens(first)!r}]",
        )]  # fmt: skip
    found = []
    lacking = [end for end in ends["teacher"] if end not in ends["student"]]
    if lacking:
        names = _names(teacher, lacking)
        found.append(Finding("note", f"the teacher may also end with {names}, which does not stop the student's rollouts"))
    extra = [end for end in ends["student"] if end not in ends["teacher"]]
    if extra:
        found.append(Finding("note", f"the student's rollouts also stop at {_names(student, extra)}, which is no end token of the teacher"))
    return found


def _names(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int]) -> str:
    return " or ".join(repr(tokenizer.convert_ids_to_tokens(i)) for i in ids) or "none"


def _special_tokens(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> list[Finding]:
    found = []
    for name, effect in (("bos", "prompts come from the chat template, so neither is added"), ("pad", "padding is masked: no effect")):
        ours, theirs = (getattr(tokenizer, f"{name}_token") for tokenizer in (student, teacher))
        if ours != theirs:
            found.append(Finding("note", f"{name} tokens differ ({ours!r} in the student, {theirs!r} in the teacher); {effect}"))
    odd = sorted(set(student.all_special_tokens) ^ set(teacher.all_special_tokens))
    if odd:
        found.append(Finding("note",
            f"{', '.join(map(repr, odd[:5]))}{' …' if len(odd) > 5 else ''}: special in one tokenizer only; the text that is graded leaves "
            f"out the student's special tokens, ids and losses are not touched",
        ))  # fmt: skip
    return found
