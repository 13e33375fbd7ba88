"""A workload that asks its agent who it is, as any SPIFFE client would."""

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from grpclib.client import Channel, UnaryStreamMethod

from legation.pki import (
    certificates_from_der,
    certificates_to_pem,
    private_key_from_der,
    private_key_to_pem,
)
from legation.wire.protobuf import workload_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedIdentity:
    """One X.509-SVID as the Workload API gave it.

    Attributes:
        credential: file with key and chain, readable by its owner only.
        bundle_pem: the authorities of the own trust domain.
    """

    spiffe_id: str
    serial: int
    not_after: datetime
    credential: Path
    bundle_pem: str


async def fetch_identities(socket: Path, directory: Path) -> dict[str, FetchedIdentity]:
    """Ask the agent at `socket` for every identity of this process.

    Raises:
        grpclib.exceptions.GRPCError: the agent refuses, for example because no entry matches.
    """
    channel = Channel(path=str(socket))
    method: UnaryStreamMethod[workload_pb2.X509SVIDRequest, workload_pb2.X509SVIDResponse]
    method = UnaryStreamMethod(
        channel,
        "/SpiffeWorkloadAPI/FetchX509SVID",
        workload_pb2.X509SVIDRequest,
        workload_pb2.X509SVIDResponse,
    )
    try:
        async with method.open(metadata={"workload.spiffe.io": "true"}) as stream:
            await stream.send_message(workload_pb2.X509SVIDRequest(), end=True)
            response = await stream.recv_message()
            await stream.cancel()
    finally:
        channel.close()
    svids = response.svids if response is not None else ()
    return {svid.spiffe_id: _keep(svid, directory) for svid in svids}


def _keep(svid: workload_pb2.X509SVID, directory: Path) -> FetchedIdentity:
    chain = certificates_from_der(svid.x509_svid)
    leaf = chain[0]
    path = directory / f"{svid.spiffe_id.rsplit('/', 1)[-1]}-{leaf.serial_number:x}.pem"
    key = private_key_to_pem(private_key_from_der(svid.x509_svid_key))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(key + certificates_to_pem(chain))
    return FetchedIdentity(
        spiffe_id=svid.spiffe_id,
        serial=leaf.serial_number,
        not_after=leaf.not_valid_after_utc,
        credential=path,
        bundle_pem=certificates_to_pem(certificates_from_der(svid.bundle)).decode(),
    )
