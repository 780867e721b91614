"""Travel scores on generated plans, tables and tasks, beside a second implementation of the published rules; speed; no surprise."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selbench.tasks.deepplanning import data
from selbench.tasks.deepplanning.travel.commonsense import CHECKS
from selbench.tasks.deepplanning.travel.parse import parse
from selbench.tasks.deepplanning.travel.plan import bare, equal_price, from_to
from selbench.tasks.deepplanning.travel.score import score_plan
from selbench.tasks.deepplanning.travel.tools import TOOLS, Tools
from selbench.tasks.deepplanning.travel.world import TABLES, World, load_world
from selbench.tasks.deepplanning.travel.write import write_plan

from selbench.seeding import derive
from selbench.task import MIRROR
from tests.deepplanning_mutations import buffer, damage, drop_act, move, mutated, push, swap, visit
from tests.deepplanning_reference import failures, read
from tests.deepplanning_scenarios import ROWS, Json, scenario
from tests.deepplanning_world import base_plan, base_text, meta, translated, translated_plan, write_case

pytestmark = [pytest.mark.slow, pytest.mark.deep]


def draw(seed: int, purpose: str) -> random.Random:
    return random.Random(derive(seed, 0, purpose))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {code: write_case(tmp_path_factory.mktemp(code), code) for code in ("en", "zh")}


@pytest.fixture(scope="module")
def rows(folders: dict[str, Path]) -> dict[str, Any]:
    """The tables as the second implementation reads them."""
    return {code: read(folder) for code, folder in folders.items()}


@pytest.fixture(scope="module")
def worlds(folders: dict[str, Path]) -> dict[str, World]:
    return {code: load_world(folder, code) for code, folder in folders.items()}


def outcome(plan: Json, info: Json, world: World) -> set[str]:
    score = score_plan(plan, info, world)
    assert score.status == "evaluated", score.error
    failing = set(score.failing())
    assert score.commonsense_score * 8 == sum(score.dimensions.values())
    assert score.composite_score == (score.commonsense_score + score.personalized_score) / 2
    assert score.case_acc == int(bool(score.constraints) and not failing)
    if not plan["daily_plans"]:
        failing.add("avoidance_of_closure_days")  # absent, not passed
    return failing


@pytest.mark.parametrize("code", ["en", "zh"])
@pytest.mark.parametrize("seed", range(10))
def test_generated_plans_score_as_the_rules_say(seed: int, code: str, worlds: dict[str, World], rows: dict[str, Any]) -> None:
    """2,000 plans; scored twice alike, and untouched."""
    for number in range(100):
        plan, info = mutated(draw(seed * 1000 + number, f"travel-plans-{code}"))
        if code == "zh":
            plan, info = translated_plan(plan), translated(info)
        before = repr((plan, info))
        found = outcome(plan, info, worlds[code])
        assert found == failures(plan, info, rows[code]), f"seed {seed}, plan {number}"
        assert outcome(plan, info, worlds[code]) == found
        assert repr((plan, info)) == before


@pytest.mark.parametrize("seed", range(60))
def test_damaged_tables_score_as_the_rules_say(seed: int, tmp_path: Path) -> None:
    """Columns, cells and files missing, rows repeated: the same outcome, and no crash."""
    source = draw(seed, "travel-tables")
    folder = write_case(tmp_path)
    for name in source.sample(["hotels", "attractions", "restaurants"], source.randint(1, 3)):
        damage(folder / TABLES[name], source)
    if source.random() < 0.2:
        (folder / TABLES[source.choice(["trains", "flights", "locations", "roads"])]).unlink()
    world, tables = load_world(folder, "en"), read(folder)
    for number in range(4):
        plan, info = (base_plan(), meta()) if number == 0 else mutated(draw(seed * 10 + number, "travel-tables-plans"))
        assert outcome(plan, info, world) == failures(plan, info, tables)


KEYS = (
    "daily_plans", "activities", "details", "name", "cost", "type", "time_slot", "accommodation", "budget_summary", "number", "from", "to",
    "current_city", "total_estimated_budget", "price", "mode", "start_time", "end_time",
)  # fmt: skip
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON = st.recursive(
    LEAVES | st.sampled_from(["-", "09:00-10:00", "hotel", 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_json_makes_the_scorer_crash(given_by: st.DataObject) -> None:
    """Anywhere in a plan: the outcome is a score or an evaluation error with one line."""
    plan: Any = base_plan()
    holders = [plan, plan["budget_summary"], *plan["daily_plans"], *(act for day in plan["daily_plans"] for act in day["activities"])]
    holders += [act["details"] for day in plan["daily_plans"] for act in day["activities"]]
    holder = given_by.draw(st.sampled_from(holders))
    holder[given_by.draw(st.sampled_from(sorted(holder)))] = given_by.draw(JSON)
    score = score_plan(plan, meta(), _world())
    assert score.status in ("evaluated", "error")
    assert (score.error is None) == (score.status == "evaluated")
    assert "\n" not in (score.error or "")
    assert 0 <= score.composite_score <= 1
    score_plan(given_by.draw(JSON), meta(), _world())


def _world() -> World:
    """A case without tables but for hotels and trains: what needs others fails."""
    return World("en", {"hotels": [{"name": "Harbor Hotel", "price": "300"}], "trains": [{"train_no": "G101", "price": "200"}]}, {})


@given(
    st.floats() | st.integers() | st.sampled_from([0.5, 1.5, 2.5, 420.5, 44.5, 10**400]),
    st.sampled_from(["0", "420.5", "44.5", "2", "", "inf", "x"]),
)
def test_prices_round_to_even(value: float, cell: str) -> None:
    try:
        equal = round(value) == round(float(cell))
    except (ValueError, OverflowError):
        equal = False
    assert equal_price(value, cell) == equal
    assert not equal_price(str(value), cell)


@given(st.text(alphabet="fromt ABab,()（）", max_size=30))
def test_cities_read_the_same_twice(text: str) -> None:
    name = bare(text)
    assert name is not None
    assert bare(name) == (name if "(" not in name and "（" not in name else bare(name))
    ends = from_to(text)
    assert ends is None or (ends[0] and "," not in ends[1] and ends[0] in text and ends[1] in text)


def test_more_constraints_never_raise_the_personalised_score(worlds: dict[str, World]) -> None:
    """Once one is evaluated; and a constraint alone fails whenever it fails among others."""
    for number in range(200):
        plan, info = mutated(draw(number, "travel-monotone"))
        if not plan["daily_plans"]:
            continue
        whole = score_plan(plan, info, worlds["en"])
        for key in info["hard_constraints"]:
            rest = {name: rule for name, rule in info["hard_constraints"].items() if name != key}
            score = score_plan(plan, {**info, "hard_constraints": rest}, worlds["en"])
            assert not score.constraints or score.personalized_score >= whole.personalized_score
            alone = score_plan(plan, {**info, "hard_constraints": {key: info["hard_constraints"][key]}}, worlds["en"])
            assert alone.constraints.get(key) == whole.constraints.get(key)
            assert alone.checks == whole.checks, "commonsense does not look at constraints"


def test_a_higher_budget_never_fails_more(worlds: dict[str, World]) -> None:
    for number in range(100):
        plan, info = mutated(draw(number, "travel-budget"))
        held = []
        for most in (0, 1000, 2588, 2589, 3000, 1e9):
            info["hard_constraints"] = {"budget_constraint": {"max_budget": most}}
            held.append(score_plan(plan, info, worlds["en"]).personalized_score)
        assert held == sorted(held)


def test_order_of_checks_and_extra_keys_do_not_matter(worlds: dict[str, World]) -> None:
    for name, change, *_ in ROWS:
        plan, info = scenario(change, "en")
        plain = score_plan(plan, info, worlds["en"]).failing()
        for day in plan["daily_plans"]:
            day["note"] = {"weather": "fine"}
            for act in day["activities"]:
                act["comment"] = [1]
                if "details" in act:
                    act["details"]["extra"] = {"a": 1}
        shuffled = json.loads(json.dumps(plan, sort_keys=True))
        assert score_plan(shuffled, info, worlds["en"]).failing() == plain, name


@pytest.mark.parametrize("code", ["en", "zh"])
def test_generated_plans_survive_the_text(code: str, worlds: dict[str, World]) -> None:
    """What can be written in the official format is read back as it was."""
    for number in range(100):
        source = draw(number, f"travel-text-{code}")
        plan, info = base_plan(), meta()
        for _ in range(3):
            source.choice([move, push, visit, swap, buffer, drop_act])(plan, info, source)
        plan = plan if code == "en" else translated_plan(plan)
        found = parse(write_plan(plan, code), worlds[code].spots)
        assert (found.plan, found.unread) == (plan, [])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([*"Day 1:|,-¥￥，：｜0123459.\n*#", "Old Fort", "travel_city", "meal", "Lunch", "min", "km"]), max_size=200)
)
def test_no_text_makes_the_parser_crash(words: list[str]) -> None:
    noise = "".join(words)
    found = parse(noise, {"Old Fort"})
    assert all(source.line <= len(noise.splitlines()) for source in [*found.unread, *found.sources.values()])
    mixed = parse(base_text() + "\n" + noise, {"Old Fort"})
    assert mixed.plan["daily_plans"][:3] == parse(base_text(), {"Old Fort"}).plan["daily_plans"]


def values_of(world: World) -> list[str]:
    """Texts that calls may carry: cells of the tables, coordinates, and oddities."""
    cells = {cell for rows in world.tables.values() for row in rows[:40] for cell in row.values()}
    return sorted(cells | set(list(world.ends)[:50])) + ["", " ", "nan", "\x00", "{}", "{0}", "%s", "a" * 5000, "🏯", "../../etc"]


@pytest.mark.parametrize(("code", "case"), [("en", 67), ("zh", 36)])
def test_random_calls_neither_crash_nor_write(code: str, case: int, benchmark_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 a language: always a text, the same one again, and not a byte of the database changed."""
    monkeypatch.setenv(MIRROR, str(benchmark_data))
    folder = data.database("travel", code, case)
    before = data.digest(folder)
    world = load_world(folder, code)
    random_calls(world, 1000, f"travel-tools-{code}")
    assert data.digest(folder) == before


def test_random_calls_of_the_synthetic_cases(worlds: dict[str, World]) -> None:
    for code, world in worlds.items():
        random_calls(world, 1000, f"travel-synthetic-{code}")


def random_calls(world: World, count: int, purpose: str) -> None:
    draw = random.Random(derive(0, 0, purpose))
    tools, values = Tools(world), values_of(world)
    odd: list[Any] = [None, 3, 2.5, True, [], {}, ["a"], {"a": "b"}]
    for _ in range(count):
        name = draw.choice([*TOOLS, "book"])
        keys = draw.sample([*TOOLS[name]["all"], "extra"], draw.randint(0, len(TOOLS[name]["all"]))) if name in TOOLS else ["x"]
        keys = list(TOOLS[name]["all"]) if name in TOOLS and draw.random() < 0.7 else keys
        arguments = {key: draw.choice(values) if draw.random() < 0.9 else draw.choice(odd) for key in keys}
        text = json.dumps(arguments)
        answer = tools.call(name, draw.choice([text, text, arguments, text[: draw.randint(0, len(text))]]))
        assert isinstance(answer, str)
        assert answer
        assert tools.call(name, text) == tools.call(name, arguments)
        valid = name in TOOLS and set(TOOLS[name]["required"]) <= set(arguments)
        valid = valid and all(isinstance(value, str) for key, value in arguments.items() if key in TOOLS[name]["all"])
        fault = tools.call(name, text)
        assert ('"error"' in fault and set(json.loads(fault)) == {"error"}) != valid


def test_scoring_is_fast(worlds: dict[str, World]) -> None:
    """At least 2,000 plans a second on one core: processor time, the best of several rounds, since neighbours share the core."""
    plan, info = base_plan(), meta()
    assert len(score_plan(plan, info, worlds["en"]).checks) == len(CHECKS)
    rates = []
    for _ in range(60):
        start = time.process_time()
        for _ in range(25):
            assert score_plan(plan, info, worlds["en"]).composite_score == 1
        rates.append(25 / (time.process_time() - start))
    assert max(rates) > 2000
