"""DeepPlanning's files, from a mirror and from the hub; what a model, and what a person, is told when something is wrong."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from selbench.tasks.deepplanning import data
from selbench.tasks.deepplanning.shopping import schema, score, tools, world

from selbench import ConfigError, UserError
from selbench.task import MIRROR
from tests.shopping_cases import REAL, answer_of, write_case


@pytest.fixture
def mirrored(benchmark_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(MIRROR, str(benchmark_data))
    return benchmark_data


def problem(action: Callable[[], object], kind: type[UserError] = ConfigError) -> str:
    """The one line that a user reads."""
    with pytest.raises(kind) as caught:
        action()
    assert len(caught.value.problems) == 1
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_real_case_is_there(mirrored: Path) -> None:
    assert [(level, name) for level in world.LEVELS for name in data.present("shopping", level)] == REAL
    sizes = [len(world.open_case(*each).products) for each in REAL]
    assert (min(sizes), max(sizes), sum(sizes)) == (148, 202, 1718)
    assert [len(data.queries("shopping", level)) for level in world.LEVELS] == [50, 50, 20]
    assert [len(data.present("travel", language)) for language in ("en", "zh")] == [8, 2]
    assert {row["id"] for row in data.queries("travel", "zh")} == set(data.part("travel", "zh").ids)
    for each in REAL:
        case = world.open_case(*each)
        assert case.query == answer_of(case)["query"]


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("serch_products", "{}", ["serch_products", "search_products"]), ("", "{}", ["unknown tool ''"]),
        ("search_products", "{}", ["'query'"]), ("filter_by_range", '{"value": 1}', ["'condition_key', 'operator'"]),
        ("search_products", "{query", ["not valid JSON", "{query"]), ("search_products", "", ["not valid JSON"]),
        ("search_products", '["query"]', ["JSON object", "query"]), ("search_products", '{"query": 5}', ["5"]),
        ("search_products", '{"query": "x", "limit": "3"}', ["'3'"]), ("filter_by_size", '{"sizes": [43]}', ["43"]),
        ("filter_by_size", '{"sizes": null}', ["sizes", "None"]), ("filter_by_brand", '{"brand_names": [], "product_ids": "zz"}', ["z, z"]),
        ("filter_by_range", '{"condition_key": "price", "operator": ">", "value": null}', ["None"]),
        ("filter_by_range", '{"condition_key": "", "operator": ">", "value": 1}', ["''"]),
        ("filter_by_range", '{"condition_key": "price", "operator": ">", "value": "dear"}', ["'dear'"]),
        ("sort_products", '{"sort_by": "weight"}', ["weight"]), ("get_product_details", '{"product_ids": 3}', ["3"]),
        ("calculate_transport_time", '{"product_id": "p01", "destination_address": 7}', ["7"]),
        ("calculate_transport_time", '{"product_id": "zz", "destination_address": "hubei"}', ["zz"]),
        ("add_product_to_cart", '{"product_id": "p01", "quantity": true}', ["True"]), ("add_product_to_cart", '{"product_id": []}', ["[]"]),
        ("add_product_to_cart", '{"product_id": "p01", "quantity": 1e999}', ["inf"]),
        ("delete_product_from_cart", '{"product_id": "p01"}', ["p01"]), ("add_coupon_to_cart", '{"coupon_name": ""}', ["coupon_name"]),
        ("add_coupon_to_cart", '{"coupon_name": "Cross-store: 30"}', ["Cross-store: 30"]), ("get_cart_info", "[", ["not valid JSON"]),
        ("search_products", "[" * 100_000, ["not valid JSON"]), ("search_products", '{"query": ' + "9" * 5000 + "}", ["not valid JSON"]),
    ],
)  # fmt: skip
def test_a_bad_call_is_answered_by_name(name: str, arguments: str, says: list[str], tmp_path: Path) -> None:
    now = world.World(world.load(write_case(tmp_path), level=1, query="shoes"))
    found = json.loads(tools.call(now, name, arguments))
    assert all(word in found["error"] for word in says), found
    assert now.text == (tmp_path / "cart.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("add_product", {}, "unknown tool 'add_product': did you mean add_product_to_cart"),
        ("add_product_to_cart", {}, "add_product_to_cart: needs product_id (Id of a product in the catalogue.)"),
        ("add_product_to_cart", {"product_id": "p01", "quantity": "2"}, "quantity takes an integer, not '2'"),
        ("add_product_to_cart", {"product_id": "p01", "count": 2}, "unknown argument 'count'"),
        ("sort_products", {"sort_by": "weight"}, "sort_by takes one of price,"), ("get_cart_info", {"x": 1}, "takes no argument"),
        ("filter_by_size", {"sizes": [43]}, "sizes takes a list of texts, not [43]"),
    ],
)  # fmt: skip
def test_a_person_is_told_in_one_line(name: str, arguments: dict[str, Any], says: str) -> None:
    assert says in problem(lambda: schema.refuse(name, arguments), UserError)
    schema.refuse("add_product_to_cart", {"product_id": "p01", "quantity": 2})


def test_unknown_cases_and_missing_databases(mirrored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "unknown case '51'; cases are 1 to 50" in problem(lambda: world.open_case(1, 51))
    assert "unknown part 'shopping' '4'; known: shopping 1, shopping 2" in problem(lambda: world.open_case(4, 1))
    text = problem(lambda: world.open_case(1, 9))
    for expected in ("level 1", "no database for case 9", "4 of 50 are there: 1, 2, 3, 4", "database_level1.tar.gz", data.HUB):
        assert expected in text
    monkeypatch.setenv(MIRROR, str(tmp_path))
    assert f"{MIRROR}={tmp_path}: no folder deepplanning there" in problem(lambda: world.open_case(1, 1))
    (tmp_path / "deepplanning").mkdir()
    assert "level_1_query_meta.json: no such file" in problem(lambda: world.open_case(1, 1))
    shutil.copytree(mirrored / "deepplanning/shoppingplanning/data", tmp_path / "deepplanning/shoppingplanning/data")
    assert "level 1: missing database folder" in problem(lambda: world.open_case(1, 1))
    file = tmp_path / "deepplanning/shoppingplanning/data/level_1_query_meta.json"
    file.chmod(0o644)
    file.write_text(file.read_text(encoding="utf-8").replace("orange", "red"), encoding="utf-8")
    assert "not the 50 queries of data version 1.1" in problem(lambda: world.open_case(1, 1))


@pytest.mark.parametrize("archived", [True, False], ids=["folder inside", "bare"])
def test_without_a_mirror_the_hub_and_the_repository_are_asked(
    archived: bool, mirrored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    asked: list[str] = []

    class Manager:
        """Stands for the downloads: an archive unpacked, a file of the repository."""

        def download_and_extract(self, address: str) -> str:
            asked.append(address)
            place = mirrored / "deepplanning/shoppingplanning"
            if address.startswith("hf://"):
                return str(place if archived else place / "database_level3")
            return str(place / address.partition("/shoppingplanning/")[2])

    monkeypatch.delenv(MIRROR)
    monkeypatch.setattr(datasets, "DownloadManager", Manager)
    monkeypatch.setattr(data, "hub_revision", lambda hub_id: "c0ffee")
    monkeypatch.setattr(data, "_fetched", data._fetched.__wrapped__)  # no cache between tests
    assert len(world.open_case(3, 2).products) == 172
    source = "https://raw.githubusercontent.com/QwenLM/Qwen-Agent/31a4d36d123688581a9e9744427272b33ce940e0/benchmark/deepplanning"
    assert asked == [
        f"{source}/shoppingplanning/data/level_3_query_meta.json", "hf://datasets/Qwen/DeepPlanning@c0ffee/database_level3.tar.gz",
    ]  # fmt: skip

    def fail(self: Manager, address: str) -> str:
        raise ConnectionError("no route to host\nand three pages more")

    monkeypatch.setattr(Manager, "download_and_extract", fail)
    text = problem(lambda: world.open_case(3, 2))
    for expected in ("no route to host", MIRROR, "deepplanning/shoppingplanning/data/level_3_query_meta.json"):
        assert expected in text
    assert "three pages" not in text


def test_without_its_library_the_search_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The person is told; the model is not answered as if its call were wrong."""
    monkeypatch.setitem(sys.modules, "rank_bm25", None)
    now = world.World(world.load(write_case(tmp_path), level=1, query="shoes"))
    assert "pip install 'selbench[agent]'" in problem(lambda: tools.call(now, "search_products", '{"query": "shoes"}'))
    assert "error" not in json.loads(tools.call(now, "get_cart_info", ""))


def test_byte_order_marks_are_no_data(tmp_path: Path) -> None:
    write_case(tmp_path)
    for file in tmp_path.iterdir():
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    case = world.load(tmp_path, level=1, query="shoes")
    assert json.loads(tools.call(world.World(case), "add_product_to_cart", '{"product_id": "p01"}'))["used_coupons"] == []
    assert score.case_report(tmp_path)["expected_count"] == 4


@pytest.mark.parametrize("text", ["{", "", "cart", "[]", '{"items": 3}'])
def test_a_cart_that_cannot_be_scored(text: str, tmp_path: Path) -> None:
    report = score.case_report(write_case(tmp_path / "case_1", cart=text))
    assert str(tmp_path / "case_1") in report["error"]
    assert "\n" not in report["error"]
    assert not report["completed"]


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("products.jsonl", None, "not readable"), ("products.jsonl", "\n", "no product"),
        ("products.jsonl", "{}\n", "line 1 is not an object"),
        ("products.jsonl", '{"product_id": "a"}\n{"product_id"\n', "line 2 is not JSON"),
        ("products.jsonl", '{"product_id": "a"}\n{"product_id": "a"}\n', "line 2 repeats product 'a'"),
        ("user_info.json", None, "no such file"), ("user_info.json", "[]", "not a JSON object"),
        ("user_info.json", "{", "not readable as JSON"),
    ],
)  # fmt: skip
def test_a_broken_database(file: str, content: str | None, says: str, tmp_path: Path) -> None:
    write_case(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_text(content, encoding="utf-8")
    text = problem(lambda: world.load(tmp_path, level=1, query="shoes"))
    assert says in text
    assert str(tmp_path / file) in text
    assert "no such folder" in problem(lambda: world.load(tmp_path / "none", level=1, query="shoes"))
