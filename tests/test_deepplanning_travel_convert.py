"""Converters by name: the official way through an endpoint that answers, invents or refuses; counts; agreement between converters."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from selbench.tasks.deepplanning.travel.convert import agreement, convert, tally
from selbench.tasks.deepplanning.travel.endpoint import EXAMPLE, INSTRUCTIONS, Endpoint
from selbench.tasks.deepplanning.travel.score import Score, score_plan
from selbench.tasks.deepplanning.travel.world import World, load_world

from selbench import ConfigError, UserError
from tests.deepplanning_scenarios import act
from tests.deepplanning_world import TEXT, base_plan, meta, write_case

LIMIT = "The call limit was reached before the plan was finished."


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> World:
    return load_world(write_case(tmp_path_factory.mktemp("english")), "en")


def test_unknown_converters_and_missing_endpoints() -> None:
    with pytest.raises(ConfigError, match="'line': unknown; known: json, lines, llm"):
        convert("line", "")
    with pytest.raises(ConfigError, match="needs an endpoint"):
        convert("llm", "<plan>Day 1:</plan>")


Answers = list[tuple[int, str]]


@pytest.fixture
def served() -> Iterator[tuple[str, Answers, list[dict[str, Any]]]]:
    """A chat endpoint on this machine: its address, the answers it will give (the last one again and again), what it was sent."""
    answers: Answers = []
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
            code, text = answers.pop(0) if len(answers) > 1 else answers[0]
            content = text.encode() if code != 200 or text.startswith("raw") else chat(text)
            self.send_response(code)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1", answers, asked
    server.shutdown()
    server.server_close()
    thread.join()


def chat(text: str) -> bytes:
    return json.dumps({"choices": [{"message": {"content": text}}]}).encode()


Served = tuple[str, Answers, list[dict[str, Any]]]


def test_the_official_conversion(served: Served, english: World) -> None:
    url, answers, asked = served
    answers += [(200, "not yet"), (503, "busy"), (200, "raw"), (200, f"Here: <JSON>\n{json.dumps(base_plan())}\n</JSON>")]
    endpoint = Endpoint(url, "some-model", key="secret", pause=0)
    found = convert("llm", f"<plan>{TEXT}</plan> and <plan>more</plan>", endpoint=endpoint)
    assert (found.plan, found.converter, found.flags) == (base_plan(), "llm-1:some-model", ("several_plans",))
    assert len(asked) == 4
    assert (asked[0]["path"], asked[0]["key"], asked[0]["model"], asked[0]["max_tokens"]) == (
        "/v1/chat/completions", "Bearer secret", "some-model", 10240,
    )  # fmt: skip
    assert "temperature" not in asked[0]
    assert [message["content"] for message in asked[0]["messages"]] == [INSTRUCTIONS, f"{TEXT.strip()}\n\nmore"]
    assert score_plan(found.plan, meta(), english).case_acc == 1
    assert "secret" not in repr(endpoint)


def test_what_the_official_conversion_invents_is_flagged(served: Served) -> None:
    """A call-limit notice is converted like a plan, as published; amounts of a prompt's example are noticed."""
    url, answers, asked = served
    answers += [(200, json.dumps(EXAMPLE))]
    found = convert("llm", LIMIT, limit=True, endpoint=Endpoint(url, pause=0))
    assert (found.status, found.flags) == ("delivered", ("from_limit", "example_budget"))
    assert asked[0]["messages"][1]["content"] == LIMIT
    official = {"transportation": 2400, "accommodation": 2000, "meals": 1500, "attractions_and_tickets": 500, "other": 300}
    answers[:] = [(200, json.dumps({"budget_summary": {**official, "total_estimated_budget": 6700}, "daily_plans": []}))]
    assert convert("llm", "<plan>x</plan>", endpoint=Endpoint(url, pause=0)).flags == ("example_budget",)
    assert convert("llm", "nothing", endpoint=Endpoint(url)).status == "no_plan"


def test_an_endpoint_without_json(served: Served) -> None:
    url, answers, asked = served
    answers += [(200, "I cannot")]
    found = convert("llm", "<plan>x</plan>", endpoint=Endpoint(url, "m", pause=0, attempts=5))
    assert (found.status, found.plan, len(asked)) == ("unreadable", None, 5)


@pytest.mark.parametrize(
    ("answer", "url", "says"),
    [
        ((401, '{"error":\n"no key"}'), "", 'refused the call (HTTP 401 {"error": "no key"}); check the address'),
        ((404, ""), "", "refused the call (HTTP 404); check the address"),
        ((500, "down"), "", "no answer in 3 attempts (HTTP 500 down); try again later"),
        ((200, "x"), "http://127.0.0.1:9/v1", "cannot be reached"),
        ((200, "x"), "ftp://host", "no address of the web"),
        ((200, "x"), "host/v1", "no address of the web"),
    ],
)
def test_an_endpoint_that_refuses(answer: tuple[int, str], url: str, says: str, served: Served) -> None:
    served[1].append(answer)
    with pytest.raises(UserError) as caught:
        convert("llm", "<plan>x</plan>", endpoint=Endpoint(url or served[0], "m", pause=0, attempts=3))
    assert says in str(caught.value)
    assert "plan converter m at " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_counts_for_a_caption(english: World) -> None:
    found = [convert("lines", f"<plan>{text}</plan>", places=english.spots) for text in (TEXT, "odd\n" + TEXT)]
    found += [convert("json", "<plan>x</plan>"), convert("lines", LIMIT, limit=True)]
    assert tally(found) == {
        "n": 4, "delivered": 2, "no_plan": 0, "limit": 1, "unreadable": 1, "several_plans": 0, "from_limit": 0, "example_budget": 0,
        "with_unread_lines": 1, "unread_lines": 1,
    }  # fmt: skip


def test_agreement_between_converters(english: World) -> None:
    noted = base_plan()
    act(noted, "D1A9")["details"]["name"] = "Old Fort (again)"
    same = score_plan(base_plan(), meta(), english)
    first = {"0": same, "1": same, "2": same, "3": Score(status="undelivered")}
    second = {"0": same, "1": score_plan(noted, meta(), english), "2": Score(status="undelivered"), "3": Score(status="undelivered")}
    assert agreement(first, second) == {
        "n": 4, "evaluated_both": 2, "evaluated_one": 1, "commonsense_equal": 2, "personalized_equal": 2, "outcomes": 52,
        "outcomes_differing": 2, "differing": {"attraction_must_visit_named": 1, "validated_attractions": 1},
        "commonsense_means": [.75, .46875], "personalized_means": [.75, .25],
    }  # fmt: skip
    with pytest.raises(ConfigError, match="only one has 3"):
        agreement(first, dict.fromkeys("012", same))
