"""A server by the SDK behind a real agent, for the bench of propagation.

It answers every line with another. Its port is a line on standard output; it ends when standard
input does.
"""

import argparse
import asyncio
import contextlib
import sys

import uvloop

from legation.pki import SpiffeID
from legation.sdk import AsyncX509Source
from legation.sdk.authorize import authorize_member_of
from legation.sdk.integrations.engines import Engine
from legation.sdk.integrations.streams import start_server

QUESTION, ANSWER = b"?\n", b"!\n"


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    # Cut, or the end of the bench.
    with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.CancelledError):
        while await reader.readline():
            writer.write(ANSWER)


async def serve(socket: str, spiffe_id: SpiffeID, engine: Engine) -> None:
    async with AsyncX509Source(f"unix://{socket}", spiffe_id=str(spiffe_id)) as source:
        await source.wait_ready(30)
        authorize = authorize_member_of(spiffe_id.trust_domain)
        server = await start_server(
            answer, "127.0.0.1", 0, source=source, authorize=authorize, engine=engine
        )
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)
        server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("socket")
    parser.add_argument("spiffe_id", type=SpiffeID.parse)
    parser.add_argument("engine", choices=["stdlib", "pyopenssl"])
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(arguments.socket, arguments.spiffe_id, arguments.engine))
