"""DeepPlanning's shopping tools and score on generated calls and carts, beside a second implementation of the published rules."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selbench.tasks.deepplanning.shopping import calls, score, tools, world

from selbench import ConfigError
from selbench.seeding import derive
from selbench.task import MIRROR
from tests.draws import seeds
from tests.shopping_cases import EMPTY, REAL, USER, catalogue, write_case
from tests.shopping_reference import COUPONS, WORDS, Bad, Shop

pytestmark = [pytest.mark.slow, pytest.mark.deep]

SINGLE = {"search_products": "product_ids", "sort_products": "sorted_product_ids", "get_product_details": "products"}
DROPPED = ["brand", "color", "size", "applicable_coupons", "rating", "sales_volume", "shipping_info", "stock_quantity", "collar_type"]
ODD_VALUES: list[Any] = [None, 43, 0, "4.5", "many", [], {}, True, 1e308, "内蒙古", ""]
ORIGINS = ["Tibet", "Inner Mongolia", "neimenggu", "Guangdong Province", "Beijing City", "杭州", "", "shaanxi", "Hong Kong"]


def draw(seed: int, purpose: str) -> random.Random:
    return random.Random(derive(seed, 0, purpose))


def world_of(products: list[dict[str, Any]], user: dict[str, Any]) -> Any:
    return world.World(world.Case(3, "1", Path("nowhere"), "q", tuple(products), user, json.dumps(EMPTY)))


def damaged(source: random.Random) -> list[dict[str, Any]]:
    """A catalogue with columns missing, or of another type, in some products."""
    products = copy.deepcopy(catalogue(source.choice([0, 3, 24])))
    for product in products:
        for field in DROPPED:
            if source.random() < 0.04:
                product.pop(field, None)
            elif field in product and source.random() < 0.04:
                product[field] = source.choice(ODD_VALUES)
        if product.get("shipping_info") and isinstance(product["shipping_info"], dict):
            product["shipping_info"]["origin"] = source.choice([product["shipping_info"]["origin"], *ORIGINS])
        if isinstance(product.get("stock_quantity"), int):
            product["stock_quantity"] = source.choice([product["stock_quantity"], 0, 40])
    return products


def rich(source: random.Random) -> dict[str, Any]:
    return {**USER, "is_vip": source.random() < 0.5, "coupons": {name: source.randint(0, 3) for name in COUPONS}}


def expected(shop: Shop, tool: str, text: str) -> tuple[bool, Any]:
    """Whether an error is due, and the result. A rejected call leaves the reference's cart as it was."""
    held = dict(shop.rows), dict(shop.used), shop.shown
    try:
        arguments = {} if tool == "get_cart_info" and not text else json.loads(text)
        if not isinstance(arguments, dict):
            raise Bad
        return False, shop.answer(tool, arguments)
    except Exception:
        shop.rows, shop.used, shop.shown = held
        return True, None


def compare(tool: str, answer: str, result: Any, shop: Shop) -> None:
    found = json.loads(answer)
    if tool.endswith("_cart") or tool == "get_cart_info":
        assert {row["product_id"]: row["quantity"] for row in found["items"]} == shop.rows
        assert {row["coupon_name"]: row["quantity"] for row in found["used_coupons"]} == shop.used
        assert found["summary"] == {"total_items_count": sum(shop.rows.values()), "total_price": pytest.approx(shop.shown, abs=0.005)}
        assert all(isinstance(row["price"], float) and row["name"] == shop.product(row["product_id"])["name"] for row in found["items"])
    elif tool == "calculate_transport_time":
        assert found["estimated_delivery_days"] == result
    elif tool == "get_user_info":
        assert found == result
    else:
        assert found == {SINGLE.get(tool, "filtered_products_ids"): result}


@pytest.mark.parametrize("seed", range(60))
def test_calls_have_the_reference_outcome(seed: int) -> None:
    """60 x 100 calls: sensible, of wrong types, extreme, cut short; every second catalogue lacks columns."""
    source = draw(seed, "shopping catalogues")
    products = damaged(source) if seed % 2 else catalogue(24)
    now = world_of(products, rich(source))
    shop = Shop(copy.deepcopy(products), copy.deepcopy(now.case.user))
    accepted = 0
    for number, (tool, text) in enumerate(calls.random_calls(now.case, seed=seed, count=100, odd=0.1)):
        answer = tools.call(now, tool, text)
        failed, result = expected(shop, tool, text)
        assert ("error" in json.loads(answer)) == failed, (number, tool, text, answer)
        accepted += not failed
        if not failed:
            compare(tool, answer, result, shop)
    assert accepted > (25 if seed % 2 else 50), "most calls of a whole catalogue have a result"
    assert list(now.case.products) == products, "no tool changes the catalogue"
    assert {row["product_id"]: row["quantity"] for row in json.loads(now.text)["items"]} == shop.rows


@given(seeds)
@settings(max_examples=60)
def test_reading_twice_is_reading_once_and_filters_narrow(seed: int) -> None:
    """Tools that read give the same answer twice; a filter of its own result keeps all; two filters commute; a wider range holds more."""
    source = draw(seed, "shopping filters")
    now = world_of(catalogue(24), rich(source))

    def kept(tool: str, ids: list[str] | None = None, **arguments: Any) -> list[str]:
        text = json.dumps(arguments | ({} if ids is None else {"product_ids": ids}))
        answer = tools.call(now, tool, text)
        assert tools.call(now, tool, text) == answer
        return next(iter(json.loads(answer).values()))  # type: ignore[no-any-return]

    brand = {"brand_names": source.sample(["Acme", "borealis", "CIRRUS", "Brand01"], 2)}
    size = {"sizes": source.sample(["43", "l", "M", "S01"], 2)}
    ids = source.sample(list(now.case.by_id), 20)
    once = kept("filter_by_brand", ids, **brand)
    assert [key for key in ids if key in once] == once
    if once:
        assert kept("filter_by_brand", once, **brand) == once
        both = kept("filter_by_size", once, **size)
        narrowed = kept("filter_by_size", ids, **size)
        assert both == (kept("filter_by_brand", narrowed, **brand) if narrowed else [])
    low, high = sorted(source.uniform(0, 800) for _ in range(2))
    rising = [kept("filter_by_range", ids, condition_key="price", operator="<=", value=value) for value in (low, high)]
    assert set(rising[0]) <= set(rising[1])
    above = kept("filter_by_range", ids, condition_key="price", operator=">", value=low)
    assert sorted(rising[0] + above) == sorted(ids)
    ordered = kept("sort_products", ids, sort_by="price", order="asc")
    assert sorted(ordered) == sorted(ids)
    assert kept("sort_products", ordered, sort_by="price", order="asc") == ordered
    found = kept("search_products", query=source.choice(["wool cap", "trail runner", "filler item07", "acme"]), limit=30)
    assert [kept("search_products", query="wool cap", limit=n) for n in (1, 2)] == [["p05"], ["p05", "p06"]]
    assert len(found) == len(set(found))


@pytest.mark.parametrize(("level", "name"), REAL[::3])
def test_searches_of_real_catalogues_have_the_reference_outcome(
    level: int, name: str, benchmark_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Common words too: those in more than half of the products have the negative idf that is replaced."""
    monkeypatch.setenv(MIRROR, str(benchmark_data))
    case = world.open_case(level, name)
    source, shop = draw(level, "shopping searches"), Shop(list(case.products), case.user)
    words = [str(product[field]) for product in case.products for field in WORDS]
    common = 0
    for _ in range(60):
        query = " ".join(source.choices(words, k=source.randint(1, 3)) + source.choices(["regular", "fit", "crew", "neck", "men"], k=2))
        text = json.dumps({"query": query, "limit": 50})
        wanted = shop.answer("search_products", json.loads(text))
        assert json.loads(tools.call(world.World(case), "search_products", text))["product_ids"] == wanted
        common += len(wanted) == 50
    assert 0 < common < 60


def test_sorting_puts_products_without_a_value_last() -> None:
    """In both directions and in catalogue order; the first product must have one."""
    products = catalogue()
    del products[2]["price"]
    products[4]["price"] = None
    now = world_of(products, USER)
    for order, ids in (("asc", ["p06", "p04", "p01", "p02"]), ("desc", ["p02", "p01", "p04", "p06"])):
        found = json.loads(tools.call(now, "sort_products", json.dumps({"sort_by": "PRICE", "order": order})))
        assert found == {"sorted_product_ids": [*ids, "p03", "p05"]}
    for key in ("p03", "p05"):
        assert key in json.loads(tools.call(now, "sort_products", json.dumps({"sort_by": "price", "product_ids": [key, "p01"]})))["error"]
    names = json.loads(tools.call(now, "sort_products", '{"sort_by": "name", "order": "asc"}'))["sorted_product_ids"]
    assert names == ["p03", "p04", "p01", "p02", "p05", "p06"]


@given(seeds)
@settings(max_examples=60)
def test_taking_back_what_was_put_in(seed: int) -> None:
    """Adding and deleting the same quantity leaves items and coupons as they were."""
    source = draw(seed, "shopping undo")
    now = world_of(catalogue(), rich(source))
    for tool, text in calls.random_calls(now.case, seed=seed, count=60, odd=0.0):
        tools.call(now, tool, text)
    before = json.loads(now.text)
    for key, quantity in (("p05", 2), ("p01", 1)):
        arguments = json.dumps({"product_id": key, "quantity": quantity})
        if "error" not in json.loads(tools.call(now, "add_product_to_cart", arguments)):
            after = json.loads(tools.call(now, "delete_product_from_cart", arguments))
            assert (after["items"], after["used_coupons"]) == (before["items"], before["used_coupons"])


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", "nan", '"cart"', "[" * 100_000])
@pytest.mark.parametrize(("tool", "coupons"), [("add_product_to_cart", False), ("delete_coupon_from_cart", None), ("get_cart_info", False)])
def test_an_unreadable_cart_is_an_empty_one(text: str | None, tool: str, coupons: bool | None, tmp_path: Path) -> None:
    """Replaced at the first accepted call; without `used_coupons` when a product tool makes it; a rejected call leaves the file alone."""
    folder = write_case(tmp_path / "case", cart=text)
    own = tmp_path / "episode"
    own.mkdir()
    if text is not None:
        (own / "cart.json").write_text(text, encoding="utf-8")
    now = world.World(world.load(folder, level=3, query="q"), own)
    arguments = {"product_id": "p05"} if tool == "add_product_to_cart" else {"coupon_name": next(iter(COUPONS))} if coupons is None else {}
    found = json.loads(tools.call(now, tool, json.dumps(arguments)))
    assert ("error" in found) == (coupons is None)
    if tool == "add_product_to_cart":
        assert found["summary"] == {"total_items_count": 1, "total_price": 99.5}
        assert (found["user_id"], found["user_name"]) == ("u1", "Ann")
        assert "used_coupons" not in found
        assert json.loads((own / "cart.json").read_text(encoding="utf-8")) == found
    else:
        assert now.text == text
    assert [path.name for path in own.iterdir()] in ([], ["cart.json"]), "nothing else is left behind"


def test_half_a_piece_is_a_row_of_none() -> None:
    now = world_of(catalogue(), USER)
    cart = json.loads(tools.call(now, "add_product_to_cart", '{"product_id": "p04", "quantity": 0.5}'))
    assert [(row["product_id"], row["quantity"]) for row in cart["items"]] == [("p04", 0)]
    assert cart["summary"] == {"total_items_count": 0, "total_price": 0.0}


def test_a_shown_total_is_never_below_nothing() -> None:
    """Coupons outlive the products that carried them; the next coupon call would show a negative price."""
    now = world_of(catalogue(), USER)
    name = next(iter(COUPONS))
    for tool, arguments in (
        ("add_product_to_cart", {"product_id": "p01"}), ("add_coupon_to_cart", {"coupon_name": name, "quantity": 2}),
        ("delete_product_from_cart", {"product_id": "p01"}), ("delete_coupon_from_cart", {"coupon_name": name}),
    ):  # fmt: skip
        cart = json.loads(tools.call(now, tool, json.dumps(arguments)))
    assert cart["items"] == []
    assert cart["used_coupons"] == [{"coupon_name": name, "quantity": 1}]
    assert cart["summary"] == {"total_items_count": 0, "total_price": 0.0}


def test_episodes_do_not_share_a_cart(tmp_path: Path) -> None:
    case = world.load(write_case(tmp_path / "case"), level=3, query="q")
    first, second, third = world.World(case), world.World(case), world.World(case, tmp_path / "own")
    tools.call(first, "add_product_to_cart", '{"product_id": "p01"}')
    tools.call(third, "add_product_to_cart", '{"product_id": "p05"}')
    assert [len(json.loads(each.text)["items"]) for each in (first, second, third)] == [1, 0, 1]


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@given(st.recursive(LEAVES, lambda each: st.lists(each) | st.dictionaries(st.text(), each), max_leaves=12))
@settings(max_examples=40)
def test_answers_are_the_librarys_indented_json(value: Any) -> None:
    wanted = json.dumps(value, ensure_ascii=False, indent=2)
    assert world.render(value) == wanted.encode("utf-8", "backslashreplace").decode()


def scored(items: list[str], used: list[tuple[str, int]], wanted: list[str], coupons: dict[str, int]) -> tuple[int, int, float, int, int]:
    """Section by section from the published formulas: matched, expected, score, case score, extra."""
    matched = sum(1 for key in set(wanted) if key in items) + sum(1 for name, n in used if name in coupons and coupons[name] == n)
    total = len(set(wanted)) + len(coupons)
    return matched, total, matched / total if total else 0, int(matched == total), sum(1 for key in items if key not in wanted)


@pytest.mark.parametrize("seed", range(20))
def test_scores_have_the_reference_outcome(seed: int) -> None:
    """20 x 100 carts: empty, doubled rows, coupons beyond the wanted count, more matches than expected."""
    source = draw(seed, "shopping carts")
    names = list(COUPONS)[:4]
    for _ in range(100):
        items = source.choices("abcdef", k=source.randint(0, 7))
        used = [(source.choice(names), source.randint(0, 3)) for _ in range(source.randint(0, 3))]
        wanted = source.choices("abcdef", k=source.randint(0, 5))
        coupons = {name: source.randint(1, 2) for name in source.sample(names, source.randint(0, 3))}
        cart: dict[str, Any] = {"items": [{"product_id": key, "quantity": source.choice([0, 1, 10**9])} for key in items]}
        cart |= {"used_coupons": [{"coupon_name": name, "quantity": n} for name, n in used]} if used or source.random() < 0.5 else {}
        answer: dict[str, Any] = {"ground_truth_products": [{"product_id": key} for key in wanted]}
        answer |= {"ground_truth_coupons": coupons} if coupons or source.random() < 0.5 else {}
        found = score.score(cart, answer)
        keys = ("matched_count", "expected_count", "score", "case_score", "extra_products_count")
        assert tuple(found[key] for key in keys) == scored(items, used, wanted, coupons)
        assert score.score(cart, answer) == found
        more = copy.deepcopy(cart)
        more["items"].append({"product_id": source.choice("abcdefz"), "quantity": 1})
        assert score.score(more, answer)["matched_count"] >= found["matched_count"], "a further product never costs"
        assert score.score(cart, answer)["coupon_score"] >= 0


@pytest.mark.parametrize("value", [None, [], {}, "cart", 3, {"items": 3}, {"items": [3]}, {"items": [{}]}, {"used_coupons": "x"}])
def test_what_is_no_cart_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        score.score(value, {"ground_truth_products": []})
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="ground_truth_coupons"):
        score.score(EMPTY, {"ground_truth_coupons": ["x"]})
