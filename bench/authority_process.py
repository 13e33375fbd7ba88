"""An authority in a process of its own, for benches and crash tests.

It is given a directory; what a client needs is a JSON line on standard output once the
authority answers. It ends when standard input does.
"""

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import uvloop

from legation.authority.http.listeners import api_listener, status_listener
from legation.authority.initialisation import FirstOperator
from legation.authority.keystore import create_key_file, read_key_file
from legation.authority.model import Actor, Evidence, Role
from legation.authority.settings import AuthoritySettings
from legation.authority.wiring import Authority, build, initialise
from legation.clock import SystemClock
from legation.pki import (
    SpiffeID,
    TrustDomain,
    build_request,
    certificate_from_der,
    certificates_to_pem,
    generate_key,
    private_key_to_pem,
)

TRUST_DOMAIN = TrustDomain("example.org")
AGENT = SpiffeID(TRUST_DOMAIN, "/legation/agent/bench")
ENTRY = "bench"


async def serve(directory: Path) -> None:
    settings = AuthoritySettings(trust_domain=TRUST_DOMAIN, data_dir=directory / "data")
    clock = SystemClock()
    key_file = directory / "kek"
    if key_file.exists():
        kek = read_key_file(key_file)
    else:
        kek = create_key_file(key_file)
        first = FirstOperator(name="admin", csr=build_request(generate_key()))
        await initialise(settings, clock=clock, kek=kek, operator=first)
    async with build(settings, clock=clock, kek=kek) as authority:
        api = api_listener(authority, host="127.0.0.1", port=0, clock=clock)
        status = status_listener(authority, host="127.0.0.1", port=0, clock=clock)
        await api.start()
        await status.start()
        welcome = await _welcome(authority, api.port) | {"status_port": status.port}
        print(json.dumps(welcome), flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await status.stop()
        await api.stop()


async def _welcome(authority: Authority, port: int) -> dict[str, Any]:
    """Enrol an agent, and return what it connects with."""
    actor = Actor(spiffe_id=SpiffeID(TRUST_DOMAIN, "/legation/operator/admin"), role=Role.ADMIN)
    services = authority.services
    if not services.entries.list():
        fields = {
            "id": ENTRY,
            "spiffe_id": f"spiffe://{TRUST_DOMAIN}/bench",
            "selectors": ["unix:uid:0"],
            "agents": [str(AGENT)],
        }
        await services.entries.create(fields, actor=actor)
    _, token = await services.tokens.create(AGENT, lifetime_s=60, actor=actor)
    key = generate_key()
    enrolment = await services.enrolment.enrol(Evidence.join_token(token), build_request(key))
    chain = certificates_to_pem(certificate_from_der(der) for der in enrolment.chain)
    return {
        "port": port,
        "chain": chain.decode(),
        "key": private_key_to_pem(key).decode(),
        "roots": authority.serving.credentials.authorities_pem.decode(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--cpu", type=int, help="the one core to run on")
    arguments = parser.parse_args()
    if arguments.cpu is not None:
        os.sched_setaffinity(0, {arguments.cpu})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(arguments.directory))
