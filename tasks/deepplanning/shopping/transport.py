"""Days of delivery between provinces by the benchmark's table, with its free-text addresses and their misplacements.

An address that is no alias goes to the first province one of whose aliases occurs in it, and some aliases are one letter long:
"inner mongolia", less its space, is no alias and lands in hubei by its "e"; only "neimenggu" is Inner Mongolia.
"""

from __future__ import annotations

__all__ = ["days", "province"]

PROVINCES = {  # in the order in which they are tried: region, then aliases
    "beijing": "NC beijing bj 北京", "shanghai": "EC shanghai sh 上海", "tianjin": "NC tianjin tj 天津",
    "chongqing": "SW chongqing cq 重庆", "hebei": "NC hebei ji 河北", "shanxi": "NC shanxi jin 山西",
    "liaoning": "NE liaoning liao 辽宁", "jilin": "NE jilin ji_ln 吉林",
    "heilongjiang": "NE heilongjiang hei 黑龙江", "jiangsu": "EC jiangsu su 江苏", "zhejiang": "EC zhejiang zhe 浙江",
    "anhui": "EC anhui wan 安徽", "fujian": "EC fujian min 福建", "jiangxi": "EC jiangxi gan 江西", "shandong": "EC shandong lu 山东",
    "henan": "CC henan yu 河南", "hubei": "CC hubei e 湖北", "hunan": "CC hunan xiang 湖南", "guangdong": "SC guangdong yue gd 广东",
    "hainan": "SC hainan qiong 海南", "sichuan": "SW sichuan chuan shu 四川", "guizhou": "SW guizhou qian gui_gz 贵州",
    "yunnan": "SW yunnan yun dian 云南", "shaanxi": "NW shaanxi shan qin 陕西", "gansu": "NW gansu gan_gs 甘肃",
    "qinghai": "NW qinghai qing 青海", "inner mongolia": "NC neimenggu meng 内蒙古", "guangxi": "SC guangxi gui 广西",
    "tibet": "SW tibet xizang zang 西藏", "ningxia": "NW ningxia ning 宁夏", "xinjiang": "NW xinjiang xin 新疆",
    "hongkong": "SC hongkong hk xianggang 香港", "macau": "SC macau mo aomen 澳门", "taiwan": "SC taiwan tw 台湾",
}  # fmt: skip
ALIASES = [(alias, name) for name, row in PROVINCES.items() for alias in row.split()[1:]]
EXACT = dict(reversed(ALIASES))  # the first province stands where two share an alias
REGIONS = ("NC", "NE", "EC", "CC", "SC", "SW", "NW")
BASE = {
    (start, end): int(value)
    for start, row in zip(REGIONS, ("1222333", "2133444", "2312234", "2321223", "3422134", "3432313", "3443431"), strict=True)
    for end, value in zip(REGIONS, row, strict=True)
}
REMOTE = {"tibet", "xinjiang", "qinghai", "inner mongolia"}
MODIFIER = {
    "sf express": -2, "sf": -2, "jd logistics": -1, "yto express": 1, "zto express": 1, "sto express": 1, "yunda express": 1, "cainiao": 1,
    "china post": 2,
}  # fmt: skip


def province(address: str) -> str | None:
    """The province of an address in any of the forms above; None when no alias occurs in it."""
    plain = address.lower().replace(" ", "").replace("province", "").replace("city", "")
    return EXACT.get(plain) or next((name for alias, name in ALIASES if alias in plain), None)


def days(origin: str, destination: str, provider: str) -> int:
    """Estimated days, at least 1, between two provinces; an unknown provider neither hurries nor delays."""
    base = BASE[_region(origin), _region(destination)]
    return max(1, base + (2 if {origin, destination} & REMOTE else 0) + MODIFIER.get(provider.lower(), 0))


def _region(name: str) -> str:
    return PROVINCES[name].split()[0]
