"""The nine travel tools: results, error texts, what is ignored; the real cases; the oracle; nothing of a task's answer is ever shown."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from selbench.tasks.deepplanning import data
from selbench.tasks.deepplanning.travel.convert import convert
from selbench.tasks.deepplanning.travel.oracle import Episode, oracle, play
from selbench.tasks.deepplanning.travel.prompt import agent_messages
from selbench.tasks.deepplanning.travel.score import score_plan
from selbench.tasks.deepplanning.travel.tools import TOOLS, Tools, tool_schemas
from selbench.tasks.deepplanning.travel.world import World, load_world

from selbench.task import MIRROR
from tests.deepplanning_world import SPOTS, meta, tables, translated, write_case

OUT = {"origin": "Northvale", "destination": "Southport", "depDate": "2025-11-12"}
BACK = {"origin": "Southport", "destination": "Northvale", "depDate": "2025-11-14"}
STAY = {"destination": "Southport", "checkinDate": "2025-11-12", "checkoutDate": "2025-11-14"}
MUSEUM, BISTRO = (",".join(SPOTS[name]) for name in ("City Museum", "Pier Bistro"))
REAL = [("en", case) for case in (0, 4, 7, 24, 36, 59, 67, 109)] + [("zh", case) for case in (0, 36)]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    return {code: load_world(write_case(tmp_path_factory.mktemp(code), code), code) for code in ("en", "zh")}


@pytest.fixture(scope="module")
def tools(worlds: dict[str, World]) -> Tools:
    return Tools(worlds["en"])


@pytest.fixture(scope="module")
def chinese(worlds: dict[str, World]) -> Tools:
    return Tools(worlds["zh"])


def result(tools: Tools, name: str, **arguments: Any) -> Any:
    return json.loads(tools.call(name, arguments))


@pytest.fixture
def mirrored(benchmark_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(MIRROR, str(benchmark_data))
    return benchmark_data


def test_trains(tools: Tools, chinese: Tools) -> None:
    """Routes by index; a route with a change has two segments and the first one's price; blank seats read as available."""
    found = result(tools, "query_train_info", **OUT)
    assert [[list(route) for route in entry] for entry in found] == [
        [["Segment 1", "price"]], [["Segment 1", "price"]], [["Segment 1", "Segment 2", "price"]],
    ]  # fmt: skip
    first = found[0][0]["Segment 1"]
    assert first == {
        "arrCityName": "Southport", "arrStationCode": "SOU", "arrStationName": "Southport Station", "depCityName": "Northvale",
        "depStationCode": "NOR", "depStationName": "Northvale Station", "duration": 150, "arrDateTime": "2025-11-12 09:30:00",
        "depDateTime": "2025-11-12 07:00:00", "marketingTransportName": "High Speed", "marketingTransportNo": "G101",
        "seatClassName": "Second Class Seat", "Remaining Seats": "Sufficient",
    }  # fmt: skip
    change = found[2][0]
    assert (change["price"], change["Segment 1"]["Remaining Seats"]) == (150, "Available")
    assert (change["Segment 1"]["arrCityName"], change["Segment 2"]["depCityName"]) == ("Southport", "Midway")
    assert result(tools, "query_train_info", **OUT, seatClassName="") == found
    assert tools.call("query_train_info", {**OUT, "seatClassName": "First Class Seat"}).startswith("No trains found")
    zh = result(chinese, "query_train_info", **translated(OUT))
    assert (list(zh[2][0]), zh[2][0]["第1段"]["剩余票数量"], zh[2][0]["第2段"]["depCityName"]) == (
        ["第1段", "第2段", "price"],
        "充足",
        "中途",
    )


def test_routes_come_in_the_order_of_their_index_as_a_text(tmp_path: Path) -> None:
    folder = write_case(tmp_path)
    path = folder / "trains/trains.csv"
    path.write_text(re.sub(r",1,1\n", ",1,10\n", path.read_text().replace("\r\n", "\n"), count=1))
    numbers = [
        entry[0]["Segment 1"]["marketingTransportNo"] for entry in result(Tools(load_world(folder, "en")), "query_train_info", **OUT)
    ]
    assert numbers == ["G101", "G103", "D111"], "10 before 2"


def test_flights(tools: Tools) -> None:
    (route,) = result(tools, "query_flight_info", **OUT)
    assert route["price"] == 553
    assert list(route["Segment 1"])[-4:] == ["Remaining Seats", "equipSize", "equipType", "manufacturer"]
    assert tools.call("query_flight_info", BACK).startswith("No flights found from Southport to Northvale")


def test_hotels_ignore_destination_and_dates(tools: Tools) -> None:
    everywhere = result(tools, "query_hotel_info", destination="Moon", checkinDate="", checkoutDate="never")
    assert everywhere == result(tools, "query_hotel_info", **STAY)
    assert [hotel["name"] for hotel in everywhere] == ["Harbor Hotel", "Plaza Hotel"]
    assert everywhere[0]["services"] == ["Gym", "Swimming Pool"]
    assert everywhere[1]["price"] == "420.5"
    assert [hotel["name"] for hotel in result(tools, "query_hotel_info", **STAY, hotelStar="4")] == ["Plaza Hotel"]
    assert tools.call("query_hotel_info", {**STAY, "hotelBrands": "Hilton"}) == "No hotels found for these conditions."


def test_attractions_ignore_the_city(tools: Tools, chinese: Tools) -> None:
    text = tools.call("recommend_attractions", {"city": "Moon"})
    assert text.splitlines()[1:3] == ["", "City Museum: City Museum described. Type: Historical and Cultural"]
    assert len(text.splitlines()) == 10
    assert len(tools.call("recommend_attractions", {"city": "x", "attraction_type": "City Landmark"}).splitlines()) == 4
    details = tools.call("query_attraction_details", {"attraction_name": "City Museum"}).splitlines()
    assert len(details) == 13
    assert "Opening hours：09:00 to 17:00" in details
    assert "Closed on：Thursday" in details
    assert "Opening hours：Open 24 Hours" in tools.call("query_attraction_details", {"attraction_name": "Old Fort"})
    assert "开放时间：全天开放" in chinese.call("query_attraction_details", {"attraction_name": "古堡"})
    assert "Ticket price：nan" in tools.call("query_attraction_details", {"attraction_name": "Hidden Cove"})
    assert tools.call("query_attraction_details", {"attraction_name": "Fort"}) == "Attraction not found: Fort"


def test_places_and_roads(tools: Tools) -> None:
    place = result(tools, "search_location", place_name="City Museum")
    assert place == {"place_name": "City Museum", "latitude": SPOTS["City Museum"][0], "longitude": SPOTS["City Museum"][1]}
    assert tools.call("search_location", {"place_name": "Hidden Cove"}) == "Location not found: Hidden Cove"
    assert result(tools, "query_road_route_info", origin=MUSEUM, destination=BISTRO) == {
        "origin": MUSEUM, "destination": BISTRO, "distance_in_meters": 500, "duration_in_minutes": 8, "cost": 0,
    }  # fmt: skip
    for origin, goal, says in [(MUSEUM, MUSEUM, "No road found"), ("1,2", MUSEUM, "1,2"), (MUSEUM, MUSEUM.replace(",", ", "), ", ")]:
        assert says in tools.call("query_road_route_info", {"origin": origin, "destination": goal})


def test_restaurants(tools: Tools) -> None:
    near = dict(zip(("latitude", "longitude"), SPOTS["City Museum"], strict=True))
    (found,) = result(tools, "recommend_restaurants", **near)
    assert list(found) == [
        "name", "latitude", "longitude", "price_per_person", "cuisine", "opening_time", "closing_time", "nearby_attraction_name", "rating",
        "tags",
    ]  # fmt: skip
    assert found["tags"] == ["Birthday Package", "Waiting Area"]
    assert list(result(tools, "query_restaurant_details", restaurant_name="Fish House"))[:2] == ["id", "name"]
    blank = result(tools, "query_restaurant_details", restaurant_name="Quiet Table")
    assert math.isnan(blank["opening_time"]), "a bare NaN, as published"
    assert blank["price_per_person"] == "nan"
    assert "tags" not in blank
    assert result(tools, "query_restaurant_details", restaurant_name="Nowhere") == {
        "message": "Restaurant not found", "restaurant_name": "Nowhere",
    }  # fmt: skip
    assert tools.call("recommend_restaurants", {"latitude": "1", "longitude": "2"}) == "No restaurants found near 1,2."


def test_the_first_row_of_a_name_answers(tmp_path: Path) -> None:
    folder = write_case(tmp_path)
    with (folder / "restaurants/restaurants.csv").open("a") as handle:
        handle.write("Pier Bistro,Southport,30,120,95.0,Local,11:00,21:00,Old Fort,x,30,120,4.1,\n")
    found = result(Tools(load_world(folder, "en")), "query_restaurant_details", restaurant_name="Pier Bistro")
    assert found["price_per_person"] == "80.0"


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("book_hotel", "{}", "unknown tool: book_hotel"),
        ("recommend_around_restaurants", "{}", "unknown tool"),
        ("query_train_info", "not json", "'origin' is a required property"),
        ("query_train_info", None, "'origin' is a required property"),
        ("query_train_info", json.dumps({"origin": "A", "destination": "B"}), "'depDate' is a required property"),
        ("query_hotel_info", json.dumps({**STAY, "hotelStar": 3}), "hotelStar: 3 is not of type 'string'"),
        ("query_hotel_info", json.dumps({**STAY, "hotelBrands": None}), "hotelBrands: None is not of type 'string'"),
        ("search_location", json.dumps({"place_name": ["City Museum"]}), "place_name: ['City Museum'] is not of type 'string'"),
        ("search_location", "[1]", "[1] is not of type 'object'"),
        ("search_location", "[" * 100_000, "'place_name' is a required property"),
    ],
)
def test_calls_that_fail_their_schema(name: str, arguments: str | None, says: str, tools: Tools) -> None:
    answer = json.loads(tools.call(name, arguments))
    assert list(answer) == ["error"]
    assert says in answer["error"]
    assert name in answer["error"]


def test_a_name_that_is_no_text(tools: Tools) -> None:
    name: Any = ["search_location"]
    assert "unknown tool" in json.loads(tools.call(name, "{}"))["error"]


def test_unknown_arguments_are_let_through(tools: Tools) -> None:
    assert tools.call("search_location", {"place_name": "Old Fort", "zoom": 3}) == tools.call("search_location", {"place_name": "Old Fort"})


def test_without_files_the_tools_say_so(tmp_path: Path) -> None:
    for code in ("en", "zh"):
        tools = Tools(load_world(tmp_path, code))
        for name, tool in TOOLS.items():
            text = tools.call(name, dict.fromkeys(tool["required"], "x"))
            assert text == tools.call(name, dict.fromkeys(tool["all"], ""))
            assert not text.startswith(("{", "["))


@pytest.mark.parametrize("code", ["en", "zh"])
def test_schemas_are_the_published_ones_but_for_the_words(code: str, mirrored: Path) -> None:
    ours, published = tool_schemas(code), data.schema("travel", code)
    assert [bare(tool) for tool in ours] == [bare(tool) for tool in published]


def bare(tool: dict[str, Any]) -> Any:
    function = tool["function"]
    properties = {name: entry["type"] for name, entry in function["parameters"]["properties"].items()}
    return tool["type"], function["name"], properties, function["parameters"]["required"]


@pytest.mark.parametrize(("code", "case"), REAL)
def test_real_cases_can_be_solved_through_the_tools(code: str, case: int, mirrored: Path) -> None:
    """The oracle plans with the published tables alone and reaches 1.0 in both formats; the database is as it was."""
    folder = data.database("travel", code, case)
    before = data.digest(folder)
    world, task = load_world(folder, code), data.query("travel", code, case)
    assert {table for table in ("hotels", "attractions", "restaurants", "locations") if world.tables.get(table)} == {
        "hotels", "attractions", "restaurants", "locations",
    }  # fmt: skip
    assert world.tables.get("trains") or world.tables.get("flights")
    assert world.ends == {f"{row['latitude']},{row['longitude']}" for row in world.tables["locations"]}
    for plan_format, converter in (("text", "lines"), ("json", "json")):
        episode = play(Tools(world), oracle(task["meta_info"], code, plan_format), agent_messages(task["query"], code, plan_format))
        found = convert(converter, episode.reply, places=world.spots)
        assert (found.status, found.unread) == ("delivered", ())
        score = score_plan(found.plan, task["meta_info"], world)
        assert (score.failing(), score.composite_score, score.case_acc) == ([], 1, 1)
        no_leak(episode, task["meta_info"], task["query_with_constraints"])
    assert data.digest(folder) == before


@pytest.mark.parametrize("code", ["en", "zh"])
@pytest.mark.parametrize("plan_format", ["text", "json"])
def test_the_oracle_solves_the_synthetic_case(code: str, plan_format: str, worlds: dict[str, World]) -> None:
    world = worlds[code]
    episode = play(Tools(world), oracle(meta(code), code, plan_format), agent_messages("Plan.", code, plan_format))
    found = convert("lines" if plan_format == "text" else "json", episode.reply, places=world.spots)
    score = score_plan(found.plan, meta(code), world)
    assert (score.composite_score, score.case_acc, score.failing()) == (1, 1, [])


def no_leak(episode: Episode, info: dict[str, Any], told: str) -> None:
    """No constraint's key or wording, and none of the other words of a task's answer, in what the agent read."""
    read = "\n".join(message["content"] for message in episode.history if message["role"] in ("system", "user", "tool"))
    secrets = ["hard_constraints", "meta_info", "query_with_constraints", "max_budget", "outbound_", "inbound_", told]
    for key, rule in info["hard_constraints"].items():
        secrets += [key, rule.get("constraint_context") or key, rule.get("constraint_type") or key]
    assert not [secret for secret in secrets if secret in read]


def test_agents_never_see_what_scores_them(mirrored: Path) -> None:
    """In the first messages of all 240 tasks stand the prompt and the query, nothing of meta_info."""
    for code in ("en", "zh"):
        for task in data.queries("travel", code):
            opening = agent_messages(task["query"], code, "text")
            no_leak(Episode(opening, "", False), task["meta_info"], task["query_with_constraints"])
            assert opening[1]["content"] == task["query"]


def test_an_episode_ends_at_its_budget(tools: Tools) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "search_location", "arguments": "{}"}}
    episode = play(tools, lambda history: {"role": "assistant", "content": "", "tool_calls": [call, call]}, [], max_calls=3)
    assert (episode.limit, len(episode.history)) == (True, 9)
    assert convert("lines", episode.reply, limit=episode.limit).status == "limit"


def test_a_chinese_case_holds_the_english_facts(worlds: dict[str, World]) -> None:
    for file, rows in tables().items():
        table = {"transportation/distance_matrix.csv": "roads", "locations/locations_coords.csv": "locations"}.get(file, file.split("/")[0])
        if table != "roads":
            assert [list(row.values()) for row in worlds["zh"].tables[table]] == translated(rows)
    assert worlds["zh"].roads == worlds["en"].roads
