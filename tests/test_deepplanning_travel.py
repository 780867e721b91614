"""DeepPlanning's travel scores: every published scenario with its outcome, coverage rules alone, sets of tasks, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from selbench.tasks.deepplanning.travel.case import read_case
from selbench.tasks.deepplanning.travel.commonsense import CHECKS, DIMENSIONS
from selbench.tasks.deepplanning.travel.cost import calculated_cost
from selbench.tasks.deepplanning.travel.coverage import lacks_attractions, lacks_meals, visiting_minutes
from selbench.tasks.deepplanning.travel.hard import KEYS
from selbench.tasks.deepplanning.travel.score import Score, aggregate, average_accuracy, read_plans, score_plan, score_set
from selbench.tasks.deepplanning.travel.timing import gap_bounds
from selbench.tasks.deepplanning.travel.world import World, load_world

from selbench import ConfigError, UserError
from tests.deepplanning_scenarios import COST, OPEN, ROWS, STAY, TRAIN, Edit, Json, of_plan, scenario, total
from tests.deepplanning_world import base_plan, meta, write_case


@pytest.fixture(scope="module", params=["en", "zh"])
def language(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def world(language: str, tmp_path_factory: pytest.TempPathFactory) -> World:
    return load_world(write_case(tmp_path_factory.mktemp(language) / "id_0", language), language)


@pytest.mark.parametrize(("change", "failing", "cs", "ps"), [pytest.param(*row[1:], id=row[0]) for row in ROWS])
def test_published_scenarios(change: Edit, failing: list[str], cs: float, ps: int, language: str, world: World) -> None:
    plan, info = scenario(change, language)
    before = json.dumps([plan, info])
    score = score_plan(plan, info, world)
    assert set(score.failing()) == set(failing)
    assert (score.commonsense_score, score.personalized_score) == (cs, ps)
    assert score.composite_score == (cs + ps) / 2
    assert score.case_acc == int(cs == ps == 1)
    assert score.status == "evaluated"
    assert json.dumps([plan, info]) == before, "a plan is only read"
    assert len(score.checks) == (20 if not plan["daily_plans"] else 21)


def test_an_unknown_station_with_a_chinese_name(tmp_path: Path) -> None:
    """Its first two characters are its city; of other names nothing follows."""
    world = load_world(write_case(tmp_path / "id_0", "zh"), "zh")
    names = {"北谷南站": "北谷", "北谷站": "北谷", "中途站": "北谷", "北 谷": None, "Northvale South": None}
    assert {name: world.city_of(name) for name in names} == names


@pytest.mark.parametrize("plan", [[], [1], "plan", None, 3, {"daily_plans": "Monday"}, {"daily_plans": [7]}])
def test_a_plan_that_cannot_be_walked(plan: object, world: World) -> None:
    """T80: delivered, an evaluation error, all scores 0."""
    score = score_plan(plan, meta(), world)
    assert (score.status, score.commonsense_score, score.personalized_score, score.case_acc) == ("error", 0, 0, 0)
    assert score.error
    assert "\n" not in score.error


def test_dimensions_hold_the_21_checks_once() -> None:
    assert [check for checks in DIMENSIONS.values() for check in checks] == list(CHECKS)
    assert (len(DIMENSIONS), len(CHECKS), len(KEYS), len(set(KEYS))) == (8, 21, 38, 38)


def test_the_published_cost_formula(world: World) -> None:
    """800 intercity, 280 city, 600 hotel, 689 meals, 220 attractions."""
    assert calculated_cost(read_case(base_plan(), meta(), world)) == 2589


@pytest.mark.parametrize(
    ("minutes", "least", "most"),
    [
        (0, 0, 5), (3, 0, 10), (5, 0, 10), (8, 0, 13), (10, 5, 15), (13, 8, 20), (15, 10, 20), (16, 10, 21), (20, 15, 25), (24, 19, 30),
        (61, 56, 70),
    ],
)  # fmt: skip
def test_gaps_that_a_road_allows(minutes: int, least: int, most: int) -> None:
    assert gap_bounds(minutes) == (least, most)


MEALS = ["11:00-12:00", "18:00-19:00", "20:00-21:00"]
LEAVE, ARRIVE, FULL = "from Southport to Northvale", "from Northvale to Southport", "Southport"


def one_day(city: str, *acts: tuple[str, str, Json], journey: str | None = None) -> Any:
    """The second day of a plan whose first goes to Southport, or its first day."""
    activities = [{"time_slot": slot, "type": kind, "details": details} for kind, slot, details in acts]
    if journey:
        activities.append({"time_slot": journey, "type": "travel_intercity_public", "details": {}})
    entry = {"current_city": city, "activities": activities}
    days = [entry] if city == ARRIVE else [{"current_city": ARRIVE, "activities": []}, entry]
    return read_case({"daily_plans": days}, {"org": "Northvale"}, World("en", {}, None)).days[-1]


@pytest.mark.parametrize(
    ("city", "journey", "passes"),
    [
        pytest.param(LEAVE, "08:59-12:00", "yes no no no", id="U01"),
        pytest.param(LEAVE, "09:00-12:00", "yes yes no no", id="U02-09:00"),
        pytest.param(LEAVE, "14:59-18:00", "yes yes no no", id="U02-14:59"),
        pytest.param(LEAVE, "15:00-18:00", "no yes yes yes", id="U03"),
        pytest.param(ARRIVE, "07:00-09:59", "no no yes yes", id="U04"),
        pytest.param(ARRIVE, "07:00-10:00", "no yes yes yes", id="U05-10:00"),
        pytest.param(ARRIVE, "07:00-14:59", "no yes yes yes", id="U05-14:59"),
        pytest.param(ARRIVE, "07:00-15:00", "yes yes no no", id="U06"),
        pytest.param(FULL, None, "no no yes yes", id="U07"),
        pytest.param(LEAVE, "whenever", "yes yes yes yes", id="no-readable-time"),
    ],
)
def test_meals_that_a_day_needs(city: str, journey: str | None, passes: str) -> None:
    found = [
        lacks_meals(one_day(city, *(("meal", slot, {"name": slot}) for slot in MEALS[:count]), journey=journey), "Northvale")
        for count in range(4)
    ]
    assert ["no" if fault else "yes" for fault in found] == passes.split()


@pytest.mark.parametrize(("start", "passes"), [("13:59", False), ("14:00", True)])
def test_meals_stand_apart(start: str, passes: bool) -> None:
    """U08: 119 and 120 minutes."""
    day = one_day(FULL, ("meal", "11:00-12:00", {}), ("meal", f"{start}-15:00", {}))
    assert (lacks_meals(day, "Northvale") is None) == passes


@pytest.mark.parametrize(
    ("city", "journey", "passes"),
    [(LEAVE, "16:00-18:00", True), (LEAVE, "16:01-18:00", False), (ARRIVE, "07:00-12:00", True), (ARRIVE, "07:00-11:59", False)],
)
def test_a_transfer_day_with_time_for_an_attraction(city: str, journey: str, passes: bool) -> None:
    """U09."""
    assert (lacks_attractions(one_day(city, journey=journey), "Northvale") is None) == passes


@pytest.mark.parametrize(
    ("slots", "minutes", "passes"),
    [
        (["09:00-13:00"], 240, True), (["09:00-12:59"], None, False), (["05:08-09:08"], 239, False),
        (["08:00-08:10", "09:00-09:10"], None, True),
    ],
)  # fmt: skip
def test_attractions_of_a_full_day(slots: list[str], minutes: int | None, passes: bool) -> None:
    """U10 and U12: two, or four hours at one in truncating arithmetic."""
    day = one_day(FULL, *(("attraction", slot, {"name": slot}) for slot in slots))
    assert (lacks_attractions(day, "Northvale") is None) == passes
    assert minutes is None or visiting_minutes(day) == minutes


def test_the_ways_to_an_attraction_count() -> None:
    """U11: 20 + 200 + 19 minutes."""
    ways = [("travel_city", "08:40-09:00", {"from": "Inn", "to": "Fort"}), ("travel_city", "12:20-12:40", {"from": "Fort", "to": "Inn"})]
    day = one_day(FULL, ways[0], ("attraction", "09:00-12:20", {"name": "Fort"}), ways[1])
    assert visiting_minutes(day) == 239
    assert lacks_attractions(day, "Northvale")


def write_plans(folder: Path, plans: dict[str, object]) -> Path:
    folder.mkdir()
    for name, plan in plans.items():
        (folder / f"id_{name}_converted.json").write_text(plan if isinstance(plan, str) else json.dumps(plan), encoding="utf-8")
    return folder


def test_a_set_of_tasks(language: str, tmp_path: Path) -> None:
    """Section 9.5: of five tasks one undelivered, one a list, one without tables; a sixth plan belongs to no task."""
    for case in (0, 1, 2, 3):
        write_case(tmp_path / f"database_{language}" / f"id_{case}", language)
    plan, cheap = base_plan(language), base_plan(language)
    cheap["budget_summary"]["total_estimated_budget"] = 1
    folder = write_plans(tmp_path / "plans", {"0": plan, "1": cheap, "2": [], "4": plan, "9": plan})
    queries = [{"id": str(case), "meta_info": meta(language)} for case in range(5)]
    summary, scores = score_set(
        queries, read_plans(folder), lambda case: load_world(tmp_path / f"database_{language}" / f"id_{case}", language)
    )
    counts = [summary[key] for key in ("total_test_samples", "plan_files_found", "evaluation_success_count", "evaluation_failed_count")]
    assert counts == [5, 4, 2, 2]
    metrics = summary["metrics"]
    assert [metrics[key] for key in ("delivery_rate", "commonsense_score", "personalized_score", "composite_score", "case_acc")] == [
        .8, .375, .4, .3875, .2,
    ]  # fmt: skip
    assert metrics["commonsense_dimensions"]["Cost Calculation Accuracy"] == {"score": 1 / 5, "perfect_count": 1}
    assert [score.status for score in scores.values()] == ["evaluated", "evaluated", "error", "undelivered", "error"]
    assert set(summary["errors"]) == {"2", "4"}
    assert all("\n" not in line for line in summary["errors"].values())
    assert "no travel database; cases there: 0, 1, 2, 3" in summary["errors"]["4"]
    assert summary["error_statistics"][0] == {
        "rank": 1, "error_type": COST, "count": 1, "affected_samples": ["1"], "sample_messages": ["the plan costs 2589, its total says 1"],
    }  # fmt: skip


def test_no_plan_at_all_scores_zero_and_is_counted(world: World) -> None:
    summary, _ = score_set([{"id": "0", "meta_info": meta()}], {}, lambda case: world)
    assert (summary["plan_files_found"], summary["metrics"]["delivery_rate"], summary["metrics"]["composite_score"]) == (0, 0, 0)


def test_languages_and_domains_together() -> None:
    def language(accuracy: float) -> Json:
        metrics = dict.fromkeys(("delivery_rate", "commonsense_score", "personalized_score", "composite_score"), 0.0)
        return {"total_test_samples": 120, "evaluation_success_count": 100, "metrics": {**metrics, "case_acc": accuracy}}

    travel = aggregate({"zh": language(0.2), "en": language(0.1)})
    assert travel["case_acc"] == pytest.approx(0.15)
    assert (travel["total_cases"], travel["evaluated"], travel["languages_completed"]) == (240, 200, ["en", "zh"])
    assert average_accuracy(0.4, travel["case_acc"]) == pytest.approx(0.275)
    assert average_accuracy(0.4, None) is average_accuracy(None, 0.2) is None
    with pytest.raises(UserError, match="no language was evaluated"):
        aggregate({})


def test_the_record_of_a_plan(world: World, language: str) -> None:
    plan, info = scenario(total(1), language)
    record = score_plan(plan, info, world).record("7")
    assert record["scores"] == {"commonsense_weighted_score": 0.875, "personalized_score": 1, "composite_score": 0.9375, "case_acc": 0}
    details = record["commonsense_dimension_details"]["Cost Calculation Accuracy"]
    assert (details["passed"], details["total"], details["weight"], details["score"]) == (0, 1, 0.125, 0)
    assert details["checks"] == [{"name": COST, "passed": False, "message": "the plan costs 2589, its total says 1"}]
    assert record["personalized_dimension_score"]["constraints"][TRAIN] == {"passed": True, "message": "ok"}
    assert json.loads(json.dumps(record)) == record
    assert Score(status="undelivered").record("7")["scores"]["composite_score"] == 0


def test_a_plan_of_the_wrong_number_of_days_says_so(world: World, language: str) -> None:
    plan, info = scenario(of_plan(lambda plan: plan["daily_plans"].pop()), language)
    assert score_plan(plan, info, world).checks["valid_trip_duration"] == "the plan has 2 days, the trip 3"


def test_missing_databases_and_files(tmp_path: Path) -> None:
    write_case(tmp_path / "id_12")
    for folder, code, says in [
        ("id_5", "en", "no travel database; cases there: 12"),
        ("id_12", "fr", "language 'fr': unknown; known: en, zh"),
    ]:
        with pytest.raises(ConfigError, match=re.escape(says)) as caught:
            load_world(tmp_path / folder, code)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no such folder"):
        read_plans(tmp_path / "nowhere")
    plans = read_plans(write_plans(tmp_path / "plans", {"0": "{half", "1": {}}))
    assert isinstance(plans["0"], UserError)
    assert "id_0_converted.json: not readable as JSON" in str(plans["0"])


def test_a_missing_table_is_an_empty_index(tmp_path: Path) -> None:
    folder = write_case(tmp_path / "id_0")
    (folder / "restaurants/restaurants.csv").unlink()
    (folder / "hotels/hotels.csv").write_bytes(b"\xff\xfe\x00\x81")
    (folder / "attractions/attractions.csv").write_text("")
    failing = score_plan(base_plan(), meta(), load_world(folder, "en")).failing()
    assert set(failing) == {
        STAY, "validated_attractions", "validated_meals", OPEN, "dining_within_service_hours", "avoidance_of_closure_days",
        "reasonable_duration_at_attractions",
    }  # fmt: skip


def test_the_last_row_of_a_name_counts(tmp_path: Path) -> None:
    folder = write_case(tmp_path / "id_0")
    with (folder / "restaurants/restaurants.csv").open("a") as handle:
        handle.write("Pier Bistro,Southport,30,120,95.0,Local,11:00,21:00,Old Fort,x,30,120,4.1,\n")
    assert score_plan(base_plan(), meta(), load_world(folder, "en")).failing() == ["validated_meals"]
