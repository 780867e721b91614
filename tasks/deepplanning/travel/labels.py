"""What the travel tools say, by language, and their parameters. Wording is selbench's own; keys of results are the published ones."""

from __future__ import annotations

from typing import Any

__all__ = ["LABELS", "TOOLS"]

LABELS: dict[str, dict[str, str]] = {
    "en": {
        "segment": "Segment {}", "seats": "Remaining Seats", "available": "Available", "station": " Station", "hours": "{} to {}",
        "no_trains": "No train database for this case.", "none_trains": "No trains found from {} to {} on {}.",
        "no_flights": "No flight database for this case.", "none_flights": "No flights found from {} to {} on {}.",
        "no_hotels": "No hotel database for this case.", "none_hotels": "No hotels found for these conditions.",
        "no_attractions": "No attraction database for this case.", "none_attractions": "No attractions found in {} for these conditions.",
        "attractions": "Attractions recommended in {}:", "attraction": "{}: {} Type: {}", "none_attraction": "Attraction not found: {}",
        "no_locations": "No location database for this case.", "none_location": "Location not found: {}",
        "no_roads": "No road database for this case.", "none_coordinate": "Coordinates not in the road database: {}",
        "none_road": "No road found from {} to {}.",
        "no_restaurants": "No restaurant database for this case.", "none_restaurants": "No restaurants found near {},{}.",
        "none_restaurant": "Restaurant not found",
        "details": "Attraction ID|Name|City|Address|Coordinates|Description|Rating|Opening hours|Closed on|Minimum visit (hours)"
        "|Maximum visit (hours)|Ticket price|Type",
    },
    "zh": {
        "segment": "第{}段", "seats": "剩余票数量", "available": "充足", "station": "站", "hours": "{}至{}",
        "no_trains": "本题没有火车数据。", "none_trains": "未找到{}到{}在{}的火车。",
        "no_flights": "本题没有航班数据。", "none_flights": "未找到{}到{}在{}的航班。",
        "no_hotels": "本题没有酒店数据。", "none_hotels": "未找到符合条件的酒店。",
        "no_attractions": "本题没有景点数据。", "none_attractions": "未找到{}符合条件的景点。",
        "attractions": "{}的推荐景点：", "attraction": "{}：{} 类型：{}", "none_attraction": "未找到景点：{}",
        "no_locations": "本题没有地点数据。", "none_location": "未找到地点：{}",
        "no_roads": "本题没有道路数据。", "none_coordinate": "道路数据中没有该坐标：{}", "none_road": "未找到从{}到{}的路线。",
        "no_restaurants": "本题没有餐厅数据。", "none_restaurants": "未找到{},{}附近的餐厅。", "none_restaurant": "未找到餐厅",
        "details": "景点ID|名称|城市|地址|坐标|简介|评分|开放时间|闭馆日期|最短游玩时长（小时）|最长游玩时长（小时）|门票价格|类型",
    },
}  # fmt: skip
_LINE = ("origin", "destination", "depDate", "seatClassName")
_LINE_EN = ("city of departure", "city of arrival", "day of departure, YYYY-MM-DD", "class of seat; left out, all classes")
_LINE_ZH = ("出发城市", "到达城市", "出发日期，YYYY-MM-DD", "座位等级；不填则不限")
TOOLS: dict[str, dict[str, Any]] = {
    "query_train_info": {
        "all": _LINE, "required": _LINE[:3],
        "en": "Trains between two cities on a day: numbers, stations, times, seats left, price per person; a change is shown by segments.",
        "en_all": _LINE_EN, "zh": "查询某日两城市之间的火车：车次、车站、时间、余票、每人价格；中转方案分段显示。", "zh_all": _LINE_ZH,
    },
    "query_flight_info": {
        "all": _LINE, "required": _LINE[:3],
        "en": "Flights between two cities on a day: numbers, airports, times, seats left, aircraft, price per person.",
        "en_all": _LINE_EN, "zh": "查询某日两城市之间的航班：航班号、机场、时间、余票、机型、每人价格。", "zh_all": _LINE_ZH,
    },
    "query_hotel_info": {
        "all": ("destination", "checkinDate", "checkoutDate", "hotelStar", "hotelBrands"),
        "required": ("destination", "checkinDate", "checkoutDate"),
        "en": "Hotels of the destination with price per room and night, stars, brand, services.",
        "en_all": ("city", "first night, YYYY-MM-DD", "day of leaving, YYYY-MM-DD", "stars, one of 1 to 5", "one brand"),
        "zh": "查询目的地的酒店：每间每晚价格、星级、品牌、服务。",
        "zh_all": ("城市", "入住日期，YYYY-MM-DD", "离店日期，YYYY-MM-DD", "星级，1至5之一", "一个品牌"),
    },
    "query_attraction_details": {
        "all": ("attraction_name",), "required": ("attraction_name",),
        "en": "All that is known of one attraction: coordinates, opening hours, closing days, length of a visit, ticket price.",
        "en_all": ("its name, exactly",),
        "zh": "查询一个景点的详情：坐标、开放时间、闭馆日期、游玩时长、门票价格。", "zh_all": ("景点名称，须完全一致",),
    },
    "recommend_attractions": {
        "all": ("city", "attraction_type"), "required": ("city",), "en": "The attractions of a city: name, description, type.",
        "en_all": ("city", "one type; left out, all types"),
        "zh": "推荐城市的景点：名称、简介、类型。", "zh_all": ("城市", "一种类型；不填则不限"),
    },
    "search_location": {
        "all": ("place_name",), "required": ("place_name",), "en": "Coordinates of a place by its exact name.",
        "en_all": ("its name, exactly",), "zh": "按名称查询地点坐标。", "zh_all": ("地点名称，须完全一致",),
    },
    "query_road_route_info": {
        "all": ("origin", "destination"), "required": ("origin", "destination"),
        "en": "Road between two coordinates: metres, minutes, price of one vehicle with 4 seats; up to 2 km on foot, free.",
        "en_all": ("coordinates, latitude,longitude", "coordinates, latitude,longitude"),
        "zh": "查询两坐标之间的道路：米、分钟、一辆车（4座）的费用；2公里以内步行，免费。",
        "zh_all": ("坐标，纬度,经度", "坐标，纬度,经度"),
    },
    "recommend_restaurants": {
        "all": ("latitude", "longitude"), "required": ("latitude", "longitude"),
        "en": "Restaurants near the coordinates of an attraction: price per person, hours, rating, tags.",
        "en_all": ("latitude, as stored", "longitude, as stored"), "zh": "推荐景点坐标附近的餐厅：人均价格、营业时间、评分、标签。",
        "zh_all": ("纬度，与数据一致", "经度，与数据一致"),
    },
    "query_restaurant_details": {
        "all": ("restaurant_name",), "required": ("restaurant_name",), "en": "All that is known of one restaurant.",
        "en_all": ("its name, exactly",), "zh": "查询一家餐厅的详情。", "zh_all": ("餐厅名称，须完全一致",),
    },
}  # fmt: skip
