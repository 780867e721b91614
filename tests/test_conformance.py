"""`selbench check`: every registered strategy passes, and each way to break the contract has its own sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from selbench.conformance import check_strategy
from selbench.strategy import STRATEGIES

ROOT = Path(__file__).parents[1]
BROKEN = {  # what the contributor's function does, and a part of the sentence that must answer it
    "wrong_shape": ("return s.reverse_kl[:-1]", "wrong shape"),
    "not_a_tensor": ("return 1.0", "wrong shape, returned float"),
    "nan": ("return (s.reverse_kl * 0 - 1).log()", "returned NaN or infinity"),
    "micro_batching": ("return torch.cat([min_max(part) for part in s.reverse_kl.split(16)])", "depends on micro-batching"),
    "row_number": ("return torch.arange(len(s)).float()", "depends on micro-batching"),
    "global_generator": ("return s.reverse_kl + torch.rand(len(s))", "global random generator of torch"),
    "python_generator": ("return s.reverse_kl * random.random()", "global random generator of random"),
    "undeclared": ("return s.student_entropy", "'student_entropy' is used but not declared"),
    "in_place": ("s.reverse_kl.mul_(2.0); return s.reverse_kl + 0", "changes the signal 'reverse_kl' in place"),
    "impure": ("calls.append(1); return s.reverse_kl * len(calls)", "other scores when called again"),
    "raises": ("return s.reverse_kl / [][0]", "raised IndexError"),
}
FILE = """import random
import torch
from selbench import Signals, min_max, register_strategy
calls = []

@register_strategy("{name}", version=1, needs=("reverse_kl",), source="none")
def broken(s):
    \"\"\"score = broken.\"\"\"
    {body}
"""


@pytest.mark.parametrize("name", [s.name for s in STRATEGIES])
def test_registered_strategies_conform(name: str) -> None:
    assert [f.problem for f in check_strategy(STRATEGIES.get(name)) if f.problem] == []


def test_each_broken_contract_has_its_own_sentence(tmp_path: Path) -> None:
    sentences = {}
    script = "import sys; from selbench import catalogue\nfor path in sys.argv[1:]: print('::', path, catalogue.check(path))"
    files = []
    for name, (body, _) in BROKEN.items():
        file = tmp_path / f"{name}.py"
        file.write_text(FILE.format(name=f"broken_{name}", body=body))
        files.append(str(file))
    done = subprocess.run([sys.executable, "-c", script, *files], cwd=ROOT, capture_output=True, text=True, check=True)
    text = done.stdout
    for path, (name, (_, expected)) in zip(files, BROKEN.items(), strict=True):
        report, text = text.split(f":: {path} ", 1)
        assert text.startswith("False"), name
        problems = [line.strip() for line in report.splitlines() if line.startswith("     ")]
        assert any(expected in problem for problem in problems), (name, report)
        assert "Traceback" not in report
        sentences[name] = problems[0]
        text = text.removeprefix("False\n")
    assert len(set(sentences.values())) == len(sentences)


def test_check_command_exit_codes(tmp_path: Path) -> None:
    broken, good = tmp_path / "bad.py", tmp_path / "good.py"
    broken.write_text(FILE.format(name="bad_one", body="return s.reverse_kl[:-1]"))
    good.write_text(FILE.format(name="good_one", body="return s.reverse_kl"))
    for file, code in ((broken, 1), (good, 0)):
        done = subprocess.run([sys.executable, "-m", "selbench", "check", str(file)], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stdout + done.stderr
