"""Random choices by hashes of names and contents, independent of order, number and process.

Every draw of the stages `data` and `poison` is keyed: the same parts give the same result on every
machine, and a missing row changes the result of no other row.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

Part = str | int | bytes


def keyed_digest(*parts: Part) -> bytes:
    """SHA-256 of the parts; no two lists of parts collide, for type and length precede each."""
    digest = hashlib.sha256()
    for part in parts:
        # The letter distinguishes 1 from "1".
        if isinstance(part, bytes):
            kind = "b"
            content = part
        else:
            kind = "s" if isinstance(part, str) else "i"
            content = str(part).encode()

        digest.update(f"{kind}{len(content)}:".encode() + content)
    return digest.digest()


def keyed_rng(*parts: Part) -> np.random.Generator:
    """Generator seeded by the parts alone."""
    # PCG64 by name, because numpy may change its `default_rng`.
    return np.random.Generator(np.random.PCG64(int.from_bytes(keyed_digest(*parts), "big")))


def keyed_order(keys: NDArray[np.uint8], *parts: Part) -> NDArray[np.int64]:
    """Positions of `keys` (N, 16) by keyed hashes: a missing row changes no other's order."""
    ranks = [keyed_digest(*parts, key.tobytes()) for key in keys]
    return np.array(sorted(range(len(ranks)), key=ranks.__getitem__), dtype=np.int64)


def keyed_subset(keys: NDArray[np.uint8], count: int, *parts: Part) -> NDArray[np.int64]:
    """The first `count` positions of the keyed order, (count,) int64 ascending; nested by count."""
    return np.sort(keyed_order(keys, *parts)[:count])
