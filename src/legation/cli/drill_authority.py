"""The authority as a drill sees it: an operator's calls, made beside the event loop."""

import asyncio
from typing import Any

from legation.cli.api_client import APIClient
from legation.cli.operator_files import OperatorRequest
from legation.clock import from_rfc3339, to_rfc3339
from legation.drill import Certified, Recorded
from legation.drill.connection import Identity
from legation.pki import SpiffeID, certificates_from_pem
from legation.wire.drill import DrillReport

_MAX_DETAIL = 512


class OperatorAuthority:
    """Implements `legation.drill.DrillAuthority`."""

    def __init__(self, client: APIClient) -> None:
        self._client = client
        self.bundle_pem = client.bundle_pem

    async def certify(self, name: str, *, lifetime_s: int) -> Certified:
        """Make a key and have a decoy certified."""
        request = OperatorRequest.make()
        assert request.private_key is not None  # noqa: S101 - it made one
        body = {"name": name, "csr": request.pem, "lifetime_s": lifetime_s}
        answer = await asyncio.to_thread(self._client.post, "decoys", body=body)
        chain = tuple(certificates_from_pem(answer["chain_pem"]))
        return Certified(
            spiffe_id=SpiffeID.parse(answer["spiffe_id"]),
            identity=Identity(chain=chain, private_key=request.private_key),
            serial=chain[0].serial_number,
        )

    async def revoke(self, serial: int) -> Recorded:
        """Revoke a decoy's certificate."""
        # On a new connection: the authority may have ended an idle one while we prepared.
        self._client.close()
        body = {"serial": format(serial, "x"), "reason": "cessationOfOperation"}
        answer = await asyncio.to_thread(self._client.post, "revocations", body=body)
        return Recorded(at=from_rfc3339(answer["at"]), revision=answer["revision"])


def body_of(report: DrillReport) -> dict[str, Any]:
    """Render a report as the authority takes it."""
    return {
        "at": to_rfc3339(report.at),
        "serial": format(report.serial, "x"),
        "revision": report.revision,
        "timeout_s": report.timeout_s,
        "rows": [
            {
                "target": row.target,
                "spiffe_id": row.spiffe_id,
                "kind": row.kind,
                "outcome": row.outcome,
                "after_ms": row.after_ms,
                "detail": row.detail[:_MAX_DETAIL],
            }
            for row in report.rows
        ],
    }
