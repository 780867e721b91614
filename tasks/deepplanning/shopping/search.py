"""Product search: BM25 Okapi (k1 1.5, b 0.75, epsilon 0.25) through rank-bm25, whose formula is the benchmark's to the last bit.

A term in more than half of the documents has a negative idf; it is replaced by epsilon times the mean raw idf of all terms.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from selbench import ConfigError

__all__ = ["FIELDS", "THRESHOLD", "Index", "tokens"]

FIELDS = (
    "brand", "color", "size", "thickness", "elasticity", "version_type", "collar_type", "suitable_season", "target_demographic", "name",
)  # fmt: skip
THRESHOLD = 2.0  # a score must exceed it, so that a catalogue of a few products never answers


def tokens(text: str) -> list[str]:
    """Lower-cased words between white space."""
    return text.lower().split()


class Index:
    """The products of one catalogue, ready to be searched. Raises ConfigError without rank-bm25, ValueError without any word."""

    def __init__(self, products: Iterable[dict[str, Any]]) -> None:
        try:
            from rank_bm25 import BM25Okapi
        except ImportError as error:
            raise ConfigError("deepplanning's product search needs rank-bm25, not installed: pip install 'selbench[agent]'") from error
        products = list(products)
        self.ids = [product["product_id"] for product in products]
        documents = [tokens(" ".join(_text(product.get(field)) for field in FIELDS)) for product in products]
        if not any(documents):
            raise ValueError("the catalogue has no searchable text")
        self._bm25 = BM25Okapi(documents, k1=1.5, b=0.75, epsilon=0.25)

    def search(self, query: str, limit: int) -> list[str]:
        """At most `limit` ids with a score above the threshold, best first, equal scores in catalogue order."""
        words = tokens(query)
        if not words:
            return []
        scores = self._bm25.get_scores(words).tolist()
        hits = [n for n, score in enumerate(scores) if score > THRESHOLD]
        hits.sort(key=scores.__getitem__, reverse=True)
        return [self.ids[n] for n in hits[: max(0, limit)]]


def _text(value: Any) -> str:
    return "" if value is None else str(value)
