"""Is this answer right? Extraction of the final answer and mathematical equality, with a typed outcome for everything else.

Integers and fractions are compared exactly; whatever else goes through math-verify and sympy in a worker process that is killed
at the wall-clock limit (a thread or a signal cannot stop sympy). Model text is parsed as LaTeX, never evaluated as Python.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

__all__ = ["GRADER", "Grade", "Verdict", "extract", "gold_answer", "grade", "grade_many"]

GRADER = "selbench-sympy-1"  # rises whenever a verdict may change; stands in every record
Verdict = Literal["correct", "incorrect", "truncated", "unparsed_answer", "unparsed_gold", "timeout", "error"]
MEMORY_LIMIT = 2 * 2**30  # bytes a worker may take beyond what it holds at the start
STARTUP_SECONDS = 60
LONGEST = 2000  # characters of an extracted answer that are still looked at

_MARKED = re.compile(r"(?:\banswer\s*(?:is|:)\s*:?|####)\s*(?P<value>[^\n]+)", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:/\d+)?")
_EXACT = re.compile(r"(-?)(\d+|\d{1,3}(?:,\d{3})+)(?:\.(\d+))?(?:/(\d+))?")


@dataclass(frozen=True)
class Grade:
    """One verdict: the extracted answer (None if there is none), the method that decided, seconds of wall clock."""

    verdict: Verdict
    extracted: str | None
    method: str
    seconds: float


def extract(response: str, *, truncated: bool = False) -> str | None:
    """The final answer a response states, or None: the last \\boxed{…}, else what follows "answer is" or `####`, else the last number.

    Only what follows a closed </think> counts; an unclosed think block holds no final answer. The last number of a
    truncated response is some intermediate one and never counts.
    """
    if "<think>" in response and "</think>" not in response:
        return None
    text = response.rsplit("</think>", 1)[-1]
    boxed = _last_boxed(text)
    if boxed is not None:
        return boxed.strip() or None
    marked = list(_MARKED.finditer(text))
    if marked:
        value = marked[-1]["value"]
        number = _NUMBER.search(value)
        return (number[0] if number and "$" not in value and "\\" not in value else value).strip().rstrip(".,").strip("$* ") or None
    numbers = [] if truncated else _NUMBER.findall(text)
    return numbers[-1].rstrip(",") if numbers else None


def _last_boxed(text: str) -> str | None:
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    depth, begin = 0, text.index("{", start)
    for place in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[begin + 1 : place]
    return None  # cut off inside the box


def gold_answer(answer: str) -> str:
    """The final answer of a data set's solution field: what follows `####` (GSM8K), else the last box, else the text itself."""
    if "####" in answer:
        return answer.rsplit("####", 1)[1].strip()
    return _last_boxed(answer) or answer.strip()


def grade(response: str, gold: str, *, truncated: bool = False, timeout: float = 5.0) -> Grade:
    """Judge a response against the gold answer.

    truncated: the response was cut at its length limit; without an answer in it the verdict is "truncated".
    timeout: wall-clock seconds for one symbolic comparison; beyond it the verdict is "timeout", never "incorrect".
    """
    began = time.perf_counter()
    answer, wanted = extract(response, truncated=truncated), gold_answer(gold)
    verdict: Verdict
    if answer is None:
        verdict, method = ("truncated" if truncated else "unparsed_answer"), "extraction"
    elif len(answer) > LONGEST:
        verdict, method = "unparsed_answer", "extraction"
    else:
        left, right = exact(answer), exact(wanted)
        if left is not None and right is not None:
            verdict, method = ("correct" if left == right else "incorrect"), "exact"
        else:
            verdict, method = _worker.compare(answer, wanted, timeout), "sympy"
    return Grade(verdict, answer, method, time.perf_counter() - began)


def grade_many(items: Sequence[tuple[str, str, bool]], *, timeout: float = 5.0) -> list[Grade]:
    """One grade per (response, gold, truncated), in order."""
    return [grade(response, gold, truncated=truncated, timeout=timeout) for response, gold, truncated in items]


def exact(text: str) -> Fraction | None:
    """A plain integer, decimal or fraction as an exact rational, or None if it is anything else."""
    match = _EXACT.fullmatch(text.strip().strip("$").replace("\\!", "").replace("{,}", ",").strip())
    if match is None or len(text) > 200 or (match[4] and not int(match[4])):
        return None
    sign, whole, decimals, denominator = match.groups()
    value = Fraction(f"{whole.replace(',', '')}.{decimals or '0'}") / int(denominator or 1)
    return -value if sign else value


def _compare(answer: str, gold: str) -> Verdict:
    """Runs in the worker: parse both as LaTeX, compare symbolically."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    configs = [LatexExtractionConfig(), ExprExtractionConfig()]
    left, right = ([*parse(f"\\boxed{{{text}}}", configs, parsing_timeout=None)] for text in (answer, gold))
    if not right:
        return "unparsed_gold"
    if not left:
        return "unparsed_answer"
    return "correct" if verify(right, left, timeout_seconds=None) else "incorrect"


def serve(handle: int) -> None:
    """The worker's main loop on an inherited socket; ends with its other end."""
    import logging
    import resource

    logging.disable(logging.CRITICAL)
    import math_verify  # noqa: F401  (imported before the limit is set, so that the limit is on the comparison)
    import psutil

    held = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY_LIMIT, held + MEMORY_LIMIT))
    pipe = Connection(handle)
    pipe.send("ready")
    with contextlib.suppress(EOFError):
        while True:
            asked = pipe.recv()
            try:
                pipe.send(_compare(*asked))
            except Exception:  # sympy raises dozens of types on hostile text; the verdict says so
                pipe.send("error")


class _Worker:
    """One killable process that compares; started at the first use, replaced whenever it had to be killed.

    A plain subprocess and not one of multiprocessing's: those import the caller's main module again, which a script without
    the usual guard does not survive.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def compare(self, answer: str, gold: str, timeout: float) -> Verdict:
        """The verdict on two texts, or "timeout" after that many seconds of wall clock."""
        pipe = self._started()
        try:
            pipe.send((answer, gold))
            if pipe.poll(timeout):
                verdict: Verdict = pipe.recv()
                return verdict
        except (EOFError, OSError):
            self.stop()
            return "error"
        self.stop()
        return "timeout"

    def _started(self) -> Connection:
        if self._process is not None and self._process.poll() is None and self._pipe is not None:
            return self._pipe
        self.stop()
        near, far = socket.socketpair()
        code = f"from selbench.grading import serve; serve({far.fileno()})"
        path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen([sys.executable, "-c", code], pass_fds=[far.fileno()], env={**os.environ, "PYTHONPATH": path})
        far.close()
        self._pipe = Connection(near.detach())
        if not self._pipe.poll(STARTUP_SECONDS) or self._pipe.recv() != "ready":
            self.stop()
            raise RuntimeError(f"the grading worker did not start within {STARTUP_SECONDS} s")
        return self._pipe

    def stop(self) -> None:
        """Kill the worker; the next comparison starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None


_worker = _Worker()
atexit.register(_worker.stop)
