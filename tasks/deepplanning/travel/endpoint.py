"""The official conversion: a chat model behind an OpenAI-compatible endpoint turns a plan text into JSON. Standard library only."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from selbench import UserError

__all__ = ["EXAMPLE_BUDGETS", "INSTRUCTIONS", "OFFICIAL_MODEL", "Endpoint", "ask"]

OFFICIAL_MODEL = "qwen-plus"  # which converted the plans of the published leaderboard
TAGGED = re.compile(r"<JSON>(.*?)</JSON>", re.DOTALL)
AGAIN = (408, 409, 425, 429)  # of the 4xx, those that may pass
BUDGET_KEYS = ("transportation", "accommodation", "meals", "attractions_and_tickets", "other", "total_estimated_budget")
EXAMPLE_BUDGETS = [  # of the published converter's example, which it copies into plans without a budget, and of ours
    dict(zip(BUDGET_KEYS, amounts, strict=True)) for amounts in ((2400, 2000, 1500, 500, 300, 6700), (611, 1234, 387, 73, 19, 2324))
]
EXAMPLE = {
    "budget_summary": {**EXAMPLE_BUDGETS[1], "currency": "CNY"},
    "daily_plans": [{
        "day_number": 1, "current_city": "from Alderton to Birchham",
        "accommodation": {"name": "Example Inn", "price_per_night": 617},
        "activities": [
            {"time_slot": "08:15-10:05", "type": "travel_intercity_public", "details": {
                "mode": "train", "number": "X11", "from": "Alderton Station", "to": "Birchham Station", "cost": 271}},
            {"time_slot": "10:05-10:20", "type": "travel_city", "details": {
                "from": "Birchham Station", "to": "Example Gallery", "distance": 4.2, "duration": 15, "cost": 17}},
            {"time_slot": "10:20-12:00", "type": "attraction", "details": {"name": "Example Gallery", "city": "Birchham", "cost": 73}},
            {"time_slot": "12:00-12:30", "type": "buffer", "details": {"description": "walk to lunch"}},
            {"time_slot": "12:30-13:30", "type": "meal", "details": {"meal_type": "Lunch", "name": "Example Table", "cost": 61}},
            {"time_slot": "13:30-14:00", "type": "hotel", "details": {"activity": "Check-in", "name": "Example Inn"}},
        ],
    }],
}  # fmt: skip
INSTRUCTIONS = f"""You convert a travel plan into JSON. Copy what the plan says; never correct, complete or invent anything.

Rules:
- One entry of daily_plans per day, in order; one activity per activity line, in order.
- time_slot is "HH:MM-HH:MM". Names are copied exactly, without prices and notes.
- Amounts are bare numbers without currency or unit; free is 0.
- current_city is "from A to B" on days between cities, else the city.
- Leave out accommodation where the plan says "-".
- Leave out what the plan does not say, the budget included.
- Types and their details: travel_intercity_public (mode: flight or train, number, from, to, cost); travel_city (from, to, distance,
  duration, cost); attraction (name, city, cost); meal (meal_type, name, cost); hotel (activity, name); buffer (description).

The structure, shown on one day of an invented plan:
<JSON>
{json.dumps(EXAMPLE, ensure_ascii=False, indent=1)}
</JSON>

Answer with the JSON between <JSON> and </JSON> alone."""


@dataclass(frozen=True)
class Endpoint:
    """A chat model. `url` ends before /chat/completions; `key` may be None. Seconds in `pause` and `timeout_seconds`."""

    url: str
    model: str = OFFICIAL_MODEL
    key: str | None = field(default=None, repr=False)
    attempts: int = 31
    pause: float = 1.0
    timeout_seconds: float = 300.0
    max_tokens: int = 10240


def ask(endpoint: Endpoint, report: str) -> tuple[Any, int | None]:
    """The JSON that the model makes of a plan text, and the attempts it took; (None, None) if none of its replies holds JSON.

    Raises UserError, one line, where the endpoint refuses the call, or has not answered in all attempts.
    """
    if not endpoint.url.startswith(("http://", "https://")):
        raise UserError(f"{_place(endpoint)}: no address of the web; give one as in https://host/v1")
    silence = ""
    for attempt in range(1, endpoint.attempts + 1):
        if attempt > 1:
            time.sleep(endpoint.pause)
        try:
            reply = _reply(endpoint, report)
        except _Silent as error:
            silence = str(error)
            continue
        silence = ""
        found = TAGGED.search(reply)
        try:
            return json.loads(found[1] if found else reply), attempt
        except (ValueError, RecursionError):
            continue
    if silence:
        raise UserError(f"{_place(endpoint)}: no answer in {endpoint.attempts} attempts ({silence}); try again later")
    return None, None


class _Silent(Exception):
    """A failure that may pass: a time-out, a busy server, a reply that is no chat completion."""


def _place(endpoint: Endpoint) -> str:
    return f"plan converter {endpoint.model} at {endpoint.url}"


def _reply(endpoint: Endpoint, report: str) -> str:
    messages = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": report}]
    body = json.dumps({"model": endpoint.model, "messages": messages, "max_tokens": endpoint.max_tokens}).encode()
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {})}
    try:
        request = Request(f"{endpoint.url.rstrip('/')}/chat/completions", body, headers)
        with urlopen(request, timeout=endpoint.timeout_seconds) as answer:
            content = json.loads(answer.read())["choices"][0]["message"]["content"]
    except HTTPError as error:
        said = f"HTTP {error.code} {' '.join(error.read(300).decode(errors='replace').split())}".strip()
        if error.code < 500 and error.code not in AGAIN:
            raise UserError(f"{_place(endpoint)}: refused the call ({said}); check the address, the model's name and the key") from error
        raise _Silent(said) from error
    except URLError as error:
        if isinstance(error.reason, TimeoutError | ConnectionResetError):
            raise _Silent(str(error.reason)) from error
        raise UserError(f"{_place(endpoint)}: cannot be reached ({error.reason}); check the address") from error
    except (OSError, HTTPException, LookupError, TypeError, ValueError) as error:
        raise _Silent(f"{type(error).__name__}: {error}") from error
    if not isinstance(content, str):
        raise _Silent("a reply without text")
    return content
