"""The benches of selection and of the loop run end to end, and compare like with like. Nothing is said of speed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from selbench.bench import loop, select
from selbench.bench.loop_child import PHASES
from selbench.errors import ConfigError
from selbench.strategy import STRATEGIES
from tests.draws import DECLARED

METHODS = {
    "teachability": "Dn·Cn", "incompatible": "Dn·(1-Cn)", "ca_softor": "1-(1-Hn)(1-DCn)", "entropy": "Hn",
    "teachability@server": "Dn·Cn, minimum 1",
}  # fmt: skip


def test_signals_are_drawn_as_in_training() -> None:
    seen = select.draw(20_000, DECLARED)
    assert len(seen) == 20_000
    for name in DECLARED:
        values = getattr(seen, name)
        assert values.shape == (20_000,)
        assert values.dtype == torch.float32
        assert bool(values.isfinite().all())
    lengths = seen.sample.bincount()
    assert 150 < float(lengths.median()) < 450
    assert bool((seen.position < lengths[seen.sample]).all())
    assert float((seen.student_entropy < 0.05).float().mean()) > 0.5  # most tokens are nearly certain
    assert float(seen.reverse_kl.mean()) > 3 * float(seen.reverse_kl.median())  # heavy tails
    assert torch.equal(select.draw(500, ["reverse_kl"], 3).reverse_kl, select.draw(500, ["reverse_kl"], 3).reverse_kl)


def test_registered_rules_are_measured_beside_the_method_of_the_same_definition() -> None:
    assert {s.name: select.same_rule(s) for s in STRATEGIES if select.same_rule(s)} == METHODS


@pytest.mark.parametrize("name", METHODS)
def test_the_released_procedure_keeps_the_same_tokens(name: str) -> None:
    found = select.beside(STRATEGIES.get(name), select.PUBLISHED[METHODS[name]], 3000, seed=1)
    assert found["jaccard_float64"] == 1
    assert found["jaccard_float32"] > 0.99  # a near tie may fall to the other side


def test_the_released_procedure_on_a_batch_worked_by_hand() -> None:
    """Two responses; every quantile interpolated; the minimum adds the better token of the response that is left out."""
    method = select.PUBLISHED["Dn·Cn, minimum 1"]
    columns = {"sample": [0, 0, 0, 1, 1], "tok_pos": [0, 1, 2, 0, 1], "D": [4, 4, 3, 0, 1], "C": [1, 1, 1, 0, 0.5], "H": [0, 0, 0, 0, 1]}
    rows = [dict(zip(columns, map(float, row), strict=True)) for row in zip(*columns.values(), strict=True)]
    assert select.published(rows, method, 0.2) == {0, 4}  # 0 before 1: equal scores, the earlier position
    assert rows[4]["Dn"] == pytest.approx((1 - 0.2) / (4 - 0.2))  # Q05 = 0.2 and Q95 = 4 by linear interpolation


def test_bench_select() -> None:
    found = select.measure([400, 800], cap=0.0)
    assert set(found["strategies"]) == {strategy.name for strategy in STRATEGIES}
    rate = found["strategies"]["entropy"]["sizes"]["800"]
    assert rate["tokens_per_second"] == 800 / rate["seconds"]
    assert rate["kept"] == 400
    runs = found["published"]["runs"]["teachability"]
    assert runs["800"] is None  # the smaller one was already expected to take longer than the cap
    assert runs["400"]["jaccard_float64"] == 1
    assert torch.get_num_threads() == 1
    select.render(found)
    assert len(select.markdown(found).splitlines()) == 2 + len(found["strategies"])
    json.dumps(found)


@pytest.mark.slow
def test_bench_loop(tmp_path: Path) -> None:
    """Two steps of each system in a process of its own, asked the same prompts: the child itself compares the token ids."""
    pytest.importorskip("trl", reason="the rival; pip install trl==1.16.0")
    found = loop.measure(2, 1, batch=4, tokens=24)
    for (run,) in found["runs"].values():
        assert len(run["losses"]) == 2
        for step in run["steps"]:
            assert step["tokens"] > 4
            assert sum(step[phase] for phase in PHASES) == pytest.approx(step["seconds"])
            assert min(step[phase] for phase in PHASES) > 0
    first = [each["first_loss"] for each in found["summary"].values()]
    assert max(first) < 1.5 * min(first)  # the same weights and prompts; GKD by its own labels would be far off
    loop.render(found)
    loop.figure(found, tmp_path / "loop.svg")
    assert (tmp_path / "loop.svg").stat().st_size > 1000
    json.dumps(found)


def trained(losses: list[float], seconds: float = 1.0) -> dict[str, Any]:
    step = dict.fromkeys(PHASES, seconds / len(PHASES)) | {"seconds": seconds, "tokens": 50.0}
    return {"losses": losses, "steps": [step | {"seconds": 9.0}, *[step] * (len(losses) - 1)], "peak_bytes": 3e8, "loaded_bytes": 1e8}


def test_the_loops_are_compared_seed_by_seed() -> None:
    alike = [trained([0.3, 0.2 + noise]) for noise in (0.0, 0.02, 0.01)]
    shifted = [trained([0.5, 0.4 + noise], seconds=0.5) for noise in (0.0, 0.02, 0.01)]
    runs = {"selbench": alike, "trl-gkd": alike[::-1], "trl-distillation": shifted}
    compared = loop.comparison(runs)
    assert compared["trl-gkd"]["all"]["same"]
    assert compared["trl-gkd"]["last"]["difference"] == pytest.approx(0)
    assert not compared["trl-distillation"]["all"]["same"]
    assert compared["trl-distillation"]["all"]["difference"] == pytest.approx(-0.2)
    summary = {name: loop.summary(each) for name, each in runs.items()}
    assert summary["selbench"]["steps_per_second"]["median"] == 1  # the first step counts for no speed
    text = loop.markdown({"summary": summary, "comparison": compared})
    assert "| 1.00 (1.00 to 1.00) | 1.00 (1.00 to 1.00) | 2.00 (2.00 to 2.00) | trl-distillation |" in text
    assert "| 300 | 300 | 300 | even |" in text
    assert "trl-distillation: all steps -0.2000" in text
    assert "NOT the same" in text


def test_an_unknown_system_is_named() -> None:
    with pytest.raises(ConfigError, match="'gkd': did you mean trl-gkd"):
        loop.measure(1, 1, ["gkd"])
