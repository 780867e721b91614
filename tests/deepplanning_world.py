"""The synthetic travel case: tables written to a folder in either language, the task's meta_info, and its full-mark plan as text and JSON.

The Chinese version is the English one with every name and label replaced, so that both must score alike. `base_plan` reads the text
with a few lines of its own: the parser is tested against it.
"""

from __future__ import annotations

import copy
import csv
import re
from itertools import permutations
from pathlib import Path
from typing import Any

TEXT = """Day 1:
Current City: from Northvale to Southport
Accommodation: Harbor Hotel, ¥300/room/night
07:00-09:30 | travel_intercity_public | train G101, Northvale Station - Southport Station, ¥200/person
09:30-09:50 | travel_city | Southport Station - Harbor Hotel, 6km, 20min, ¥20
09:50-10:20 | hotel | Check-in, Harbor Hotel
10:20-10:40 | travel_city | Harbor Hotel - City Museum, 6km, 20min, ¥20
10:40-12:40 | attraction | City Museum, ¥50/person
12:40-12:48 | travel_city | City Museum - Pier Bistro, 0.5km, 8min, ¥0
12:48-13:48 | meal | Lunch, Pier Bistro, ¥80/person
13:48-14:08 | travel_city | Pier Bistro - Old Fort, 6km, 20min, ¥20
14:08-16:08 | attraction | Old Fort, ¥0/person
16:08-16:28 | travel_city | Old Fort - Fish House, 6km, 20min, ¥20
16:28-17:00 | buffer | wait for the table
17:00-18:30 | meal | Dinner, Fish House, ¥120/person
18:30-18:50 | travel_city | Fish House - Harbor Hotel, 6km, 20min, ¥20
18:50-24:00 | hotel | Rest, Harbor Hotel

Day 2:
Current City: Southport
Accommodation: Harbor Hotel, ¥300/room/night
08:30-09:00 | hotel | Rest, Harbor Hotel
09:00-09:20 | travel_city | Harbor Hotel - Sea Garden, 6km, 20min, ¥20
09:20-11:20 | attraction | Sea Garden, ¥30/person
11:20-11:40 | travel_city | Sea Garden - Noodle Corner, 6km, 20min, ¥20
11:40-12:40 | meal | Lunch, Noodle Corner, ¥40/person
12:40-13:00 | travel_city | Noodle Corner - Lake Park, 6km, 20min, ¥20
13:00-15:00 | attraction | Lake Park, ¥0/person
15:00-15:20 | travel_city | Lake Park - Fort Cafe, 6km, 20min, ¥20
15:20-16:20 | meal | Dinner, Fort Cafe, ¥44.5/person
16:20-16:40 | travel_city | Fort Cafe - Harbor Hotel, 6km, 20min, ¥20
16:40-24:00 | hotel | Rest, Harbor Hotel

Day 3:
Current City: from Southport to Northvale
Accommodation: -
08:30-09:00 | hotel | Check-out, Harbor Hotel
09:00-09:20 | travel_city | Harbor Hotel - Lighthouse, 6km, 20min, ¥20
09:20-10:50 | attraction | Lighthouse, ¥20/person
10:50-11:10 | travel_city | Lighthouse - Garden Table, 6km, 20min, ¥20
11:10-12:10 | meal | Lunch, Garden Table, ¥60/person
12:10-12:30 | travel_city | Garden Table - Art Hall, 6km, 20min, ¥20
12:30-15:30 | attraction | Art Hall, ¥10/person
15:30-15:50 | travel_city | Art Hall - Southport Station, 6km, 20min, ¥20
15:50-16:30 | buffer | security check
16:30-19:00 | travel_intercity_public | train G202, Southport Station - Northvale Station, ¥200/person

Budget Summary:
Transportation: 1080 RMB
Accommodation: 600 RMB
Meals: 689 RMB
Attractions & Tickets: 220 RMB
Total Estimated Budget: 2589 RMB
"""
META: dict[str, Any] = {
    "org": "Northvale", "dest": ["Southport"], "days": 3, "depart_date": "2025-11-12", "return_date": "2025-11-14", "people_number": 2,
    "room_number": 1, "depart_weekday": 3,
    "hard_constraints": {
        "train_seat_status": {"outbound_train_no": "G101", "inbound_train_no": "G202"},
        "hotel_star_service_required": {"hotel_name": "Harbor Hotel"},
        "restaurant_specific_tag_nearby": {"restaurant_name": "Pier Bistro"},
        "attraction_must_visit_named": {"attraction_names": ["City Museum", "Old Fort"]},
        "budget_constraint": {"max_budget": 3000},
    },
}  # fmt: skip
CHINESE = {  # longest first where one holds another
    "Northvale Central": "中央站", "Northvale Station": "北谷站", "Southport Station": "南港站", "Midway Station": "中途站",
    "Northvale Airport": "北谷机场",
    "Southport Airport": "南港机场", "Northvale": "北谷", "Southport": "南港", "Eastvale": "东谷", "Harbor Hotel": "海港酒店",
    "Plaza Hotel": "广场酒店", "City Museum": "城市博物馆", "Old Fort": "古堡", "Sea Garden": "海洋花园", "Lake Park": "湖滨公园",
    "Lighthouse": "灯塔", "Art Hall": "美术馆", "Night Market": "夜市", "Hidden Cove": "隐湾", "Pier Bistro": "码头小馆",
    "Fish House": "鱼馆", "Noodle Corner": "面馆", "Fort Cafe": "古堡咖啡", "Garden Table": "花园餐桌", "Quiet Table": "静餐厅",
    "Open 24 Hours": "全天开放", "Thursday": "周四", "Monday": "周一", "Sunday": "周日", "Second Class Seat": "二等座",
    "First Class Seat": "一等座", "Economy Class": "经济舱", "Sufficient": "充足", "Historical and Cultural": "历史文化",
    "City Landmark": "城市地标", "Natural Scenery": "自然风光", "Art Exhibition": "艺术展览", "Leisure Experience": "休闲体验",
    "Check-in": "办理入住", "Check-out": "退房", "Rest,": "休息,", "Lunch,": "午餐,", "Dinner,": "晚餐,",
}  # fmt: skip
LINE = (
    "origin_city,destination_city,dep_date,dep_station_code,dep_station_name,arr_station_code,arr_station_name,dep_datetime,arr_datetime,"
    "duration,{},seat_class,seat_status,{}price,segment_index,route_index"
)
HEADS = {
    "trains/trains.csv": LINE.format("train_no,train_type", ""),
    "flights/flights.csv": LINE.format("flight_no,airline", "equip_type,equip_size,manufacturer,"),
    "hotels/hotels.csv": "city,name,address,latitude,longitude,decoration_time,hotel_star,price,score,brand,services",
    "attractions/attractions.csv": "city,attraction_name,attraction_id,description,attraction_type,address,latitude,longitude,rating,"
    "opening_time,closing_time,closing_dates,min_visit_hours,max_visit_hours,ticket_price",
    "restaurants/restaurants.csv": "restaurant_name,city,latitude,longitude,price_per_person,cuisine,opening_time,closing_time,"
    "nearby_attraction_name,nearby_attraction_coords,query_latitude,query_longitude,rating,tags",
    "locations/locations_coords.csv": "poi_name,latitude,longitude,address,poi_type",
    "transportation/distance_matrix.csv": "origin,destination,distance_meters,duration_minutes,cost",
}
TRAINS = [  # number, from, to, back, departure, arrival, minutes, class, seats, price, segment, route
    ("G101", "Northvale", "Southport", 0, "11-12 07:00", "11-12 09:30", 150, "Second Class Seat", "Sufficient", "200.0", 1, 1),
    ("G103", "Northvale", "Southport", 0, "11-12 12:00", "11-12 14:30", 150, "Second Class Seat", "1", "180.5", 1, 2),
    ("D111", "Northvale", "Midway", 0, "11-12 06:00", "11-12 07:10", 70, "Second Class Seat", "", "150.0", 1, 3),
    ("D112", "Midway", "Southport", 0, "11-12 07:50", "11-12 09:30", 100, "Second Class Seat", "", "150.0", 2, 3),
    ("G202", "Southport", "Northvale", 1, "11-14 16:30", "11-14 19:00", 150, "Second Class Seat", "Sufficient", "200.0", 1, 4),
    ("G204", "Southport", "Northvale", 1, "11-14 08:00", "11-14 10:30", 150, "First Class Seat", "2", "320.0", 1, 5),
]
ATTRACTIONS = [  # name, opens, closes, closed, least, most, ticket, type
    ("City Museum", "09:00", "17:00", "Thursday", "1.5", "3.0", "50.0", "Historical and Cultural"),
    ("Old Fort", "Open 24 Hours", "Open 24 Hours", "", "1.0", "2.5", "0.0", "City Landmark"),
    ("Sea Garden", "08:00", "18:00", "Monday,Sunday", "1.0", "2.5", "30.0", "Natural Scenery"),
    ("Lake Park", "06:00", "22:00", "", "1.0", "2.5", "0.0", "Natural Scenery"),
    ("Lighthouse", "08:00", "17:00", "", "0.5", "2.0", "20.0", "City Landmark"),
    ("Art Hall", "10:00", "18:00", "", "1.5", "3.5", "10.0", "Art Exhibition"),
    ("Night Market", "18:00", "02:00", "", "0.5", "2.0", "0.0", "Leisure Experience"),
    ("Hidden Cove", "", "", "", "1.0", "2.5", "", "Natural Scenery"),
]
RESTAURANTS = [  # name, opens, closes, price, near, tags
    ("Pier Bistro", "11:00", "21:00", "80.0", "City Museum", "Birthday Package;Waiting Area"),
    ("Fish House", "16:30", "02:00", "120.0", "Old Fort", ""),
    ("Noodle Corner", "10:00", "22:00", "40.0", "Sea Garden", "Waiting Area"),
    ("Fort Cafe", "10:00", "20:00", "44.5", "Lake Park", ""),
    ("Garden Table", "10:30", "14:00", "60.0", "Lighthouse", ""),
    ("Quiet Table", "", "", "", "Art Hall", ""),
]
SOUTH = ["Southport Station", "Southport Airport", "Harbor Hotel", "Plaza Hotel"]
SOUTH += [row[0] for row in (*ATTRACTIONS[:-1], *RESTAURANTS)]
SPOTS = {name: (f"30.00000{k}" if k < 10 else f"30.0000{k}", f"120.0000{k:02}") for k, name in enumerate(SOUTH, 1)}
SPOTS |= {"Northvale Station": ("31.000001", "121.000001"), "Northvale Airport": ("31.000002", "121.000002")}


def tables() -> dict[str, list[list[str]]]:
    """Rows of the seven files, headings left out."""
    trains = []
    for number, origin, goal, back, leaves, comes, minutes, seat, left, price, segment, route in TRAINS:
        cities = ["Southport", "Northvale"] if back else ["Northvale", "Southport"]
        ends = [origin[:3].upper(), f"{origin} Station", goal[:3].upper(), f"{goal} Station"]
        times = [f"2025-{leaves}:00", f"2025-{comes}:00", str(minutes)]
        trains.append([*cities, f"2025-{leaves[:5]}", *ends, *times, number, "High Speed", seat, left, price, str(segment), str(route)])
    flight = [
        "Northvale", "Southport", "2025-11-12", "NVL", "Northvale Airport", "SPT", "Southport Airport", "2025-11-12 07:00:00",
        "2025-11-12 09:30:00", "150", "ZZ900", "Zed Air", "Economy Class", "9", "320NEO", "Medium Aircraft", "Airbus", "553", "1", "7",
    ]  # fmt: skip
    hotels = [
        ["Southport", name, "1 Quay", *SPOTS[name], "2020", star, price, "4.5", "Home Inn", services]
        for name, star, price, services in [("Harbor Hotel", "3", "300", "Gym;Swimming Pool"), ("Plaza Hotel", "4", "420.5", "TV Casting")]
    ]
    attractions = [
        ["Southport", name, f"B{k}", f"{name} described.", kind, "", *SPOTS.get(name, ("", "")), "4.5", *facts]
        for k, (name, *facts, kind) in enumerate(ATTRACTIONS)
    ]
    restaurants = [
        [name, "Southport", *SPOTS[name], price, "Local", opens, closes, near, ",".join(reversed(SPOTS[near])), *SPOTS[near], "4.1", tags]
        for name, opens, closes, price, near, tags in RESTAURANTS
    ]
    roads = []
    for here, there in permutations(SOUTH, 2):
        way = {frozenset(("City Museum", "Pier Bistro")): ("500", "8", "0"), frozenset(("City Museum", "Old Fort")): ("3900", "13", "15")}
        roads.append([",".join(SPOTS[here]), ",".join(SPOTS[there]), *way.get(frozenset((here, there)), ("6000", "20", "20"))])
    kinds = [[name, *spot, "", "place"] for name, spot in SPOTS.items()]
    return dict(zip(HEADS, (trains, [flight], hotels, attractions, restaurants, kinds, roads), strict=True))


def translated(value: Any) -> Any:
    """English names and labels replaced by Chinese ones, anywhere in a text or structure."""
    if isinstance(value, str):
        for english, chinese in CHINESE.items():
            value = value.replace(english, chinese)
        return value
    if isinstance(value, list):
        return [translated(item) for item in value]
    return {key: translated(item) for key, item in value.items()} if isinstance(value, dict) else value


def write_case(folder: Path, language: str = "en") -> Path:
    """Writes the seven files; the Chinese ones begin with a byte-order mark, as published."""
    for file, rows in tables().items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8-sig" if language == "zh" else "utf-8", newline="") as handle:
            lines = rows if language == "en" else translated(rows)
            csv.writer(handle).writerows([HEADS[file].split(","), *lines])
    return folder


def meta(language: str = "en") -> dict[str, Any]:
    """A fresh copy of the task's meta_info."""
    found = copy.deepcopy(META)
    return found if language == "en" else translated(found)  # type: ignore[no-any-return]


def base_text(language: str = "en") -> str:
    return TEXT if language == "en" else translated(TEXT).replace(", ", "，").replace("¥", "￥")


def base_plan(language: str = "en") -> dict[str, Any]:
    """The plan of TEXT as JSON, a fresh copy."""
    days: list[dict[str, Any]] = []
    blocks = TEXT.strip().split("\n\n")
    for number, block in enumerate(blocks[:-1], 1):
        _, city, stay, *lines = block.splitlines()
        day: dict[str, Any] = {"day_number": number, "current_city": city.removeprefix("Current City: ")}
        if "¥" in stay:
            day["accommodation"] = {"name": "Harbor Hotel", "price_per_night": 300}
        days.append({**day, "activities": [_activity(*line.split(" | "), city=day["current_city"]) for line in lines]})
    amounts = [int(re.findall(r"\d+", line)[0]) for line in blocks[-1].splitlines()[1:]]
    names = ("transportation", "accommodation", "meals", "attractions_and_tickets", "total_estimated_budget")
    plan = {"budget_summary": dict(zip(names, amounts, strict=True)), "daily_plans": days}
    return plan if language == "en" else translated_plan(plan)


def translated_plan(plan: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = translated(plan)
    for day in found["daily_plans"]:
        for act in day["activities"]:
            for key, words in (("meal_type", ("Lunch", "Dinner")), ("activity", ("Rest",))):
                if act.get("details", {}).get(key) in words:
                    act["details"][key] = {"Lunch": "午餐", "Dinner": "晚餐", "Rest": "休息"}[act["details"][key]]
    return found


def _activity(slot: str, kind: str, rest: str, *, city: str) -> dict[str, Any]:
    *fields, last = rest.split(", ")
    price = float(last.strip("¥").split("/")[0]) if last.startswith("¥") else None
    cost = int(price) if price is not None and price.is_integer() else price
    details: dict[str, Any]
    if kind == "travel_intercity_public":
        (mode, number), (origin, goal) = fields[0].split(" "), fields[1].split(" - ")
        details = {"mode": mode, "number": number, "from": origin, "to": goal, "cost": cost}
    elif kind == "travel_city":
        origin, goal = fields[0].split(" - ")
        distance = float(fields[1].removesuffix("km"))
        details = {"from": origin, "to": goal, "distance": distance, "duration": int(fields[2].removesuffix("min")), "cost": cost}
    elif kind == "attraction":
        details = {"name": fields[0], "city": city, "cost": cost}
    elif kind == "meal":
        details = {"meal_type": fields[0], "name": fields[1], "cost": cost}
    else:
        details = {"activity": fields[0], "name": last} if kind == "hotel" else {"description": rest}
    return {"time_slot": slot, "type": kind, "details": details}
