"""The only source of randomness: seeds derived by hashing (run seed, step, purpose)."""

from __future__ import annotations

import hashlib

__all__ = ["derive"]


def derive(run_seed: int, step: int, purpose: str) -> int:
    """A seed in [0, 2**63) for one purpose at one step of one run.

    A stable hash: no consumer shifts another, adding one leaves the others alone, and nothing depends on call order.
    """
    digest = hashlib.blake2b(f"{run_seed}\x00{step}\x00{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
