"""Random numbers that are a pure function of where they are used: no stream to save or restore."""

from __future__ import annotations

import hashlib

import torch


def seed_of(*key: object) -> int:
    """A 63-bit seed from the names and numbers of a place (seed, stage, step, item, ...)."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*key: object) -> torch.Generator:
    """A fresh generator for one place."""
    return torch.Generator().manual_seed(seed_of(*key))


def uniform(*key: object) -> float:
    """One number in [0, 1) for one place."""
    return (seed_of(*key) >> 10) / 2**53


def permutation(n: int, *key: object) -> list[int]:
    """An order of n things for one place."""
    return torch.randperm(n, generator=generator(*key)).tolist()
