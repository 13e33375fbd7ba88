"""Serial numbers that never repeat, crash or no crash.

Indices are set aside in durable blocks, then used from memory. A crash wastes what is
left of a block: an index that may have been used must not be used again.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from legation.authority.store import IssuanceStore
from legation.pki.serials import INDEX_BITS, SHARD_BITS, SerialNumber

BLOCK = 4096


@dataclass(slots=True)
class _Block:
    next_index: int = 0
    end: int = 0


class SerialAllocator:
    """Serial numbers of one issuer, spread evenly over its shards."""

    def __init__(self, store: IssuanceStore, issuer: str, *, shards: int = 1) -> None:
        """Allocate for the issuer with this key id (hexadecimal)."""
        self._store = store
        self._issuer = issuer
        self._blocks = [_Block() for _ in range(shards)]
        self._turn = 0
        self._refilling = asyncio.Lock()

    async def allocate(self, count: int) -> Sequence[int]:
        """Return `count` serial numbers that were never returned before.

        Raises:
            Unavailable: the store cannot set more indices aside.
        """
        serials: list[int] = []
        while len(serials) < count:
            shard = self._turn
            self._turn = (shard + 1) % len(self._blocks)
            block = self._blocks[shard]
            while block.next_index == block.end:
                await self._refill(shard, block)
            index = block.next_index
            block.next_index += 1
            serials.append(SerialNumber.generate(shard=shard, index=index).to_int())
        return serials

    async def _refill(self, shard: int, block: _Block) -> None:
        async with self._refilling:
            if block.next_index == block.end:
                first = await self._store.reserve_serials(self._issuer, shard, BLOCK)
                block.next_index, block.end = first, first + BLOCK


def shard_of(serial: int) -> int:
    """Return the shard that a serial number names, without taking the rest apart."""
    return serial >> INDEX_BITS & (1 << SHARD_BITS) - 1
