"""From reply to plan: the line parser and what it refuses, strict JSON, the prompts."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from selbench.tasks.deepplanning.travel.convert import Conversion, convert, plan_blocks
from selbench.tasks.deepplanning.travel.parse import Source, parse
from selbench.tasks.deepplanning.travel.plan import PlanError, strict
from selbench.tasks.deepplanning.travel.prompt import FORMATS, agent_messages, example_plan, system_prompt
from selbench.tasks.deepplanning.travel.score import score_plan
from selbench.tasks.deepplanning.travel.world import World, load_world
from selbench.tasks.deepplanning.travel.write import write_plan

from selbench import ConfigError
from tests.deepplanning_scenarios import COST, TRAIN
from tests.deepplanning_world import TEXT, base_plan, base_text, meta, write_case

LIMIT = "The call limit was reached before the plan was finished."


@pytest.fixture(scope="module", params=["en", "zh"])
def language(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def world(language: str, tmp_path_factory: pytest.TempPathFactory) -> World:
    return load_world(write_case(tmp_path_factory.mktemp(language), language), language)


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> World:
    return load_world(write_case(tmp_path_factory.mktemp("english")), "en")


def lines(world: World, text: str, reply: str = "<plan>{}</plan>", *, limit: bool = False) -> Conversion:
    found: Conversion = convert("lines", reply.format(text), places=world.spots, limit=limit)
    return found


def failing(world: World, text: str) -> list[str]:
    found: list[str] = score_plan(lines(world, text).plan, meta(), world).failing()
    return found


def one(world: World, line: str) -> dict[str, Any]:
    """The activity that a line of a first day gives."""
    (day,) = parse(f"Day 1:\nCurrent City: Southport\n{line}", world.spots).plan["daily_plans"]
    (found,) = day["activities"]
    return dict(found)


def test_the_published_text_reads_as_the_plan(language: str, world: World) -> None:
    """(a), (b), (c): full-width signs in Chinese; the last day's accommodation is left out."""
    found = lines(world, base_text(language))
    assert found.plan == base_plan(language)
    assert (found.status, found.unread, found.flags, found.converter) == ("delivered", (), (), "lines-1")
    score = score_plan(found.plan, meta(language), world)
    assert (score.failing(), score.composite_score, score.case_acc) == ([], 1, 1)
    assert "accommodation" not in found.plan["daily_plans"][2]


def test_signs_of_full_width(english: World) -> None:
    text = TEXT.replace(" | ", "｜").replace(", ", "，").replace("¥", "￥").replace("Current City:", "Current City：")
    assert lines(english, text).plan == base_plan()


@pytest.mark.parametrize("dress", ["**{}**", "- {}", "### {}", "  {}", "- **{}**"])
def test_marks_around_lines(dress: str, english: World) -> None:
    text = "\n".join(dress.format(line) if line else line for line in TEXT.splitlines())
    assert lines(english, text).plan == base_plan()


def test_every_value_has_its_source(language: str, world: World) -> None:
    text = base_text(language)
    found = parse(text, world.spots)
    raw = text.splitlines()
    paths = set()
    for number, day in enumerate(found.plan["daily_plans"]):
        paths |= {f"daily_plans[{number}].{key}" for key in day if key != "activities"}
        for at, entry in enumerate(day["activities"]):
            path = f"daily_plans[{number}].activities[{at}]"
            values = {key for key, value in entry["details"].items() if key != "city" and value is not None}
            paths |= {f"{path}.time_slot", f"{path}.type", *(f"{path}.details.{key}" for key in values)}
    paths |= {f"budget_summary.{key}" for key in found.plan["budget_summary"]}
    assert set(found.sources) == paths
    assert all(source.text in raw[source.line - 1] for source in found.sources.values())
    assert found.sources["daily_plans[0].activities[4].details.cost"].line == 8


@pytest.mark.parametrize(
    ("line", "details"),
    [
        ("10:40-12:40 | attraction | Old Fort, free", {"name": "Old Fort", "city": "Southport", "cost": 0}),
        ("10:40-12:40 | attraction | Old Fort, 免费", {"name": "Old Fort", "city": "Southport", "cost": 0}),
        ("12:48-13:48 | meal | Lunch, Pier Bistro, ¥80/person (near museum)", {"meal_type": "Lunch", "name": "Pier Bistro", "cost": 80}),
        ("12:48-13:48 | meal | Lunch, Pier Bistro", {"meal_type": "Lunch", "name": "Pier Bistro", "cost": None}),
        ("12:48-13:48 | meal | Lunch, A, B and C, ¥1,280.50/person", {"meal_type": "Lunch", "name": "A, B and C", "cost": 1280.5}),
        ("10:40-12:40 | attraction | Old Fort (again), ¥0/person", {"name": "Old Fort (again)", "city": "Southport", "cost": 0}),
        ("10:40-12:40 | attraction | Old Fort, a fine view", {"name": "Old Fort", "city": "Southport", "cost": None}),
        ("10:40-12:40 | attraction | Fort | East, ¥5/person", {"name": "Fort | East", "city": "Southport", "cost": 5}),
        ("07:00-09:30 | travel_intercity_public | 高铁G729, A - B, ¥200/person",
         {"mode": "高铁G729", "number": "", "from": "A", "to": "B", "cost": 200}),
        ("07:00-09:30 | travel_intercity_public | flight ZZ 900",
         {"mode": "flight", "number": "ZZ 900", "from": None, "to": None, "cost": None}),
        ("09:50-10:20 | hotel | Check-in, Harbor Hotel", {"activity": "Check-in", "name": "Harbor Hotel"}),
        ("09:50-10:20 | hotel | Harbor Hotel", {"activity": "Harbor Hotel", "name": ""}),
        ("09:50-10:20 | buffer | wait, then walk", {"description": "wait, then walk"}),
        ("09:30-09:50 | travel_city | A - B, 1.5公里，20分钟，￥20", {"from": "A", "to": "B", "distance": 1.5, "duration": 20, "cost": 20}),
        ("09:30-09:50 | travel_city | A - B, 20min, 800m, ¥0", {"from": "A", "to": "B", "distance": 800, "duration": 20, "cost": 0}),
        ("09:30-09:50 | travel_city | A to B, 20min", {"from": None, "to": None, "distance": None, "duration": 20, "cost": None}),
        ("09:30-09:50 | travel_city | Harbor Hotel - Old Fort, by taxi, 6km, 20min, ¥20",
         {"from": "Harbor Hotel", "to": "Old Fort", "distance": 6, "duration": 20, "cost": 20}),
    ],
)  # fmt: skip
def test_lines(line: str, details: dict[str, Any], english: World) -> None:
    """(d), (e), (f), (g) and fields that are absent: null or empty, never filled in."""
    assert one(english, line)["details"] == details


def test_known_places_choose_the_split() -> None:
    """(l): names with " - " and commas; without known ones the first dash counts."""
    line = "09:30-09:50 | travel_city | Inn - North - Fort, West - Gate, 6km, 20min, ¥20"
    for places, ends in [
        ({"Inn - North", "Fort, West - Gate"}, ("Inn - North", "Fort, West - Gate")),
        ((), ("Inn", "North - Fort, West - Gate")),
    ]:
        (day,) = parse(f"Day 1:\n{line}", places).plan["daily_plans"]
        details = day["activities"][0]["details"]
        assert (details["from"], details["to"]) == ends


@pytest.mark.parametrize(
    ("old", "new", "fails"),
    [
        ("Old Fort, ¥0", "Old Fort (second visit), ¥0", ["validated_attractions", "attraction_must_visit_named"]),
        ("train G101", "高铁G101", ["validated_transportation", TRAIN]),
        (TEXT[TEXT.index("Budget") :], "", [COST]),
        ("Old Fort, ¥0/person", "Old Fort, free", []),
        ("Pier Bistro, ¥80/person", "Pier Bistro, ¥80/person (near museum)", []),
        ("Total Estimated Budget: 2589 RMB", "总预算：1080 + 600 + 689 + 220 = 2,589元", []),
        ("Total Estimated Budget: 2589 RMB", "Grand total: 2589 RMB", [COST]),
        ("10:40-12:40 | attraction", "10:40–12:40 | attraction", [
            "reasonable_transfer_time", "attraction_visit_within_opening_hours", "reasonable_duration_at_attractions"]),
    ],
)  # fmt: skip
def test_texts_and_what_fails_then(old: str, new: str, fails: list[str], english: World) -> None:
    assert old in TEXT
    assert set(failing(english, TEXT.replace(old, new))) == set(fails)


def test_what_cannot_be_read_is_listed_and_left_out(english: World) -> None:
    text = TEXT.replace("\n\nDay 2", "\nNote: bring water\n18:00-19:00 | shopping | Mall, ¥10\n\nDay 2")
    found = lines(english, "07:00-08:00 | buffer | before any day\n" + text)
    assert [source.text for source in found.unread] == [
        "07:00-08:00 | buffer | before any day", "Note: bring water", "18:00-19:00 | shopping | Mall, ¥10",
    ]  # fmt: skip
    assert found.unread[1] == Source(19, "Note: bring water")
    assert found.plan == base_plan()


@pytest.mark.parametrize(
    ("reply", "limit", "status"),
    [
        ("no plan at all", False, "no_plan"), ("<plan>Day 1:", False, "no_plan"), ("<plan> </plan>", False, "no_plan"),
        ("<think><plan>Day 1:</plan></think> none", False, "no_plan"), (LIMIT, True, "limit"), (LIMIT, False, "no_plan"),
        ("<plan>I could not finish.</plan>", False, "unreadable"), ("", False, "no_plan"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("converter", ["lines", "json"])
def test_replies_that_are_not_delivered(converter: str, reply: str, limit: bool, status: str) -> None:
    """(j), (k): each has a status of its own and no plan."""
    found = convert(converter, reply, limit=limit)
    assert (found.status, found.plan) == (status, None)
    assert found.reason


def test_the_last_plan_counts(english: World) -> None:
    """(i)"""
    reply = "<think>x</think>First <plan>Day 1:\nCurrent City: Eastvale</plan> then <PLAN>\n{}</PLAN> done"
    found = lines(english, TEXT, reply)
    assert (found.plan, found.flags, found.blocks) == (base_plan(), ("several_plans",), 2)
    assert lines(english, TEXT, "In <plan> I write: <plan>{}</plan>").plan == base_plan()
    assert plan_blocks("a</think><plan>1</plan></THINK><plan> 2 </plan><plan></plan>") == ["2"]


def test_plans_as_json(language: str, world: World) -> None:
    content = json.dumps(base_plan(language), ensure_ascii=False)
    for reply in (f"<plan>{content}</plan>", f"<plan>\n```json\n{content}\n```\n</plan>", f"<plan>```\n{content}```</plan>"):
        found = convert("json", reply)
        assert (found.status, found.plan, found.converter) == ("delivered", base_plan(language), "json-1")
    assert score_plan(found.plan, meta(language), world).case_acc == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "a JSON list, expected an object"), ("3", "a JSON int"), ("{}", "daily_plans is no list"),
        ('{"daily_plans": {}}', "no list"),
        ('{"daily_plans": [NaN]}', "NaN is no JSON number"), ('{"daily_plans": [],}', "not strict JSON"),
        ("// plan\n{}", "not strict JSON"),
        ('{"daily_plans": []} and more', "not strict JSON"), ("[" * 100_000, "not strict JSON"), ("", "not strict JSON"),
        ('{"daily_plans": [' + "9" * 5000 + "]}", "not strict JSON"),
    ],
)  # fmt: skip
def test_what_is_no_strict_json(text: str, says: str) -> None:
    with pytest.raises(PlanError, match=says) as caught:
        strict(text)
    assert "\n" not in str(caught.value)
    found = convert("json", f"<plan>{text or 'x'}</plan>")
    assert (found.status, found.plan) == ("unreadable", None)


@pytest.mark.parametrize(
    "text",
    [
        "<plan>" * 20_000, "<plan>```\n" + " \n" * 50_000 + "```</plan>", "</plan>" * 20_000,
        "<plan>Day 1:\n10:00-11:00 | travel_city | " + "a - " * 3000 + "</plan>", "<plan>Day 1:\n" + "# " * 50_000 + "</plan>",
        "<plan>Day 1:\n10:00-11:00 | meal | " + ",   " * 20_000 + "</plan>",
    ],
    ids=range(6),
)  # fmt: skip
def test_a_looping_model_does_not_hold_up_the_reader(text: str) -> None:
    start = time.process_time()
    for name in ("lines", "json"):
        convert(name, text)
    assert time.process_time() - start < 2


@pytest.mark.parametrize("city", ["from " * 20_000, "from" + " " * 100_000, "(" * 100_000, "from a to" + " " * 50_000 + ","], ids=range(4))
def test_nor_does_a_looping_city(city: str, english: World) -> None:
    plan, start = base_plan(), time.process_time()
    plan["daily_plans"][0]["current_city"] = city
    assert "seamless_intercity_transfers" in score_plan(plan, meta(), english).failing()
    assert time.process_time() - start < 2


def test_writing_is_the_inverse_of_reading(language: str, world: World) -> None:
    assert parse(write_plan(base_plan(language), language), world.spots).plan == base_plan(language)


@pytest.mark.parametrize("plan_format", FORMATS)
def test_prompts(language: str, plan_format: str, world: World) -> None:
    """The worked example is a plan that the matching converter reads without a rest; no query enters but the user's."""
    example = example_plan(language, plan_format)
    found = convert("lines" if plan_format == "text" else "json", f"<plan>{example}</plan>")
    assert (found.status, found.unread, len(found.plan["daily_plans"])) == ("delivered", (), 3)
    messages = agent_messages("Take me away.", language, plan_format)
    assert [message["role"] for message in messages] == ["system", "user"]
    assert messages[0]["content"] == system_prompt(language, plan_format)
    assert example in messages[0]["content"]
    assert not [name for name in world.spots if name in messages[0]["content"]], "the synthetic case is another one"
    for wrong in (("fr", "text"), ("en", "yaml")):
        with pytest.raises(ConfigError, match="known:"):
            system_prompt(*wrong)


def test_plans_survive_a_file(tmp_path: Path, english: World) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(lines(english, TEXT).plan), encoding="utf-8")
    assert score_plan(json.loads(path.read_text()), meta(), english).case_acc == 1
