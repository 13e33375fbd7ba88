"""An authority in a process of its own that revokes as fast as it can, to be killed at it.

It is given a directory and a number of callers. On standard output it says ``ready``, then
``begin NAME SERIAL`` before each call and ``done NAME`` when it has returned.
"""

import asyncio
import itertools
import os
import sys
from pathlib import Path

from legation.authority.services import Services
from legation.authority.wiring import build
from legation.clock import SystemClock
from legation.pki import build_request, certificate_from_der, generate_key
from tests.support.authority import ADMIN, KEK, settings_for


def say(*words: str) -> None:
    """Write one line, and leave nothing in a buffer that a kill would take along."""
    os.write(sys.stdout.fileno(), (" ".join(words) + "\n").encode())


async def revoke(services: Services, csr: bytes, names: "itertools.count[int]") -> None:
    """Certify decoys and revoke them, one after the other, for ever."""
    while True:
        name = f"d{os.getpid()}-{next(names)}"
        spiffe_id, chain = await services.decoys.certify(name, csr, lifetime_s=600, actor=ADMIN)
        say("begin", str(spiffe_id), format(certificate_from_der(chain[0]).serial_number, "x"))
        await services.revocations.revoke_identity(
            spiffe_id, reason="keyCompromise", ban=True, actor=ADMIN
        )
        say("done", str(spiffe_id))


async def main(directory: Path, callers: int) -> None:
    """Run until killed."""
    csr, names = build_request(generate_key()), itertools.count()
    async with build(settings_for(directory), clock=SystemClock(), kek=KEK) as authority:
        say("ready")
        await asyncio.gather(*(revoke(authority.services, csr, names) for _ in range(callers)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
