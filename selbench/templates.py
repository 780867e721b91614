"""Answer-format instructions by name. A name never changes its text: another wording is another name, and records carry it."""

from __future__ import annotations

__all__ = ["TEMPLATES", "template_text"]

TEMPLATES: dict[str, tuple[str, str]] = {  # name: (user message, where it is from)
    "plain": ("{problem}", "none: the problem alone"),
    "boxed-tip": (
        "{problem}\n\nLet's think step by step and output the final answer within \\boxed{}.",
        "TIP, math script (HJSang/OPSD_OnPolicyDistillation @ 65ad87b)",
    ),
    "boxed-qwen": (
        "{problem}\n\nPlease reason step by step, and put your final answer within \\boxed{}.",
        "Qwen model cards, section on mathematics",
    ),
    "think-revisiting": (
        "Math problem: {problem}\n\nPlease carefully reason about the problem. Conduct your reasoning inside <think> and </think> "
        "and give the final answer within \\boxed{}.",
        "Revisiting OPD (arXiv:2603.25562), wording abridged in the source we read",
    ),
}


def template_text(name_or_text: str) -> str:
    """The user message of a named template, or the text itself when it holds `{problem}`. Raises KeyError for an unknown name."""
    return name_or_text if "{problem}" in name_or_text else TEMPLATES[name_or_text][0]
