"""The least that a thousand gRPC streams take: the same bytes to each, and an answer from each.

No TLS, no signatures, no store: what is beyond it is the price of what the authority does.
``serve`` prints its port, and the milliseconds of each round once `STREAMS` are open;
``follow`` opens its share of them.
"""

import argparse
import asyncio
import json
import time

import grpc
import grpc.aio
import uvloop
from grpclib.client import Channel, StreamStreamMethod

from legation.wire.protobuf import agent_pb2

METHOD = "/bench.FanOut/Follow"


class _Server(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, streams: int) -> None:
        self._queues: list[asyncio.Queue[bytes]] = []
        self._streams = streams
        self._left = 0
        self.open = asyncio.Event()
        self._answered = asyncio.Event()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        del details
        return grpc.stream_stream_rpc_method_handler(
            self._follow, request_deserializer=bytes, response_serializer=bytes
        )

    async def _follow(self, requests: object, context: grpc.aio.ServicerContext) -> None:
        del requests  # read from the context
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._queues.append(queue)
        if len(self._queues) == self._streams:
            self.open.set()
        while True:
            await context.write(await queue.get())
            await context.read()
            self._left -= 1
            if not self._left:
                self._answered.set()

    async def round(self, message: bytes) -> float:
        """Return how long it takes until all have answered, in milliseconds."""
        self._left = len(self._queues)
        self._answered.clear()
        begun = time.perf_counter()
        for queue in self._queues:
            queue.put_nowait(message)
        await self._answered.wait()
        return (time.perf_counter() - begun) * 1000


async def serve(streams: int, rounds: int, size: int) -> None:
    handler = _Server(streams)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((handler,))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await handler.open.wait()
    message = agent_pb2.SyncResponse(
        events=agent_pb2.Events(events=[agent_pb2.Event(body=bytes(size))])
    ).SerializeToString()
    times = []
    for _ in range(rounds + 2):
        times.append(await handler.round(message))
        await asyncio.sleep(0.05)
    print(json.dumps(times[2:]), flush=True)  # the first two warm up
    await server.stop(None)


async def follow(port: int, streams: int) -> None:
    async def one() -> None:
        channel = Channel("127.0.0.1", port)
        method = StreamStreamMethod(channel, METHOD, agent_pb2.SyncRequest, agent_pb2.SyncResponse)
        try:
            async with method.open() as stream:
                await stream.send_request()
                while await stream.recv_message() is not None:
                    await stream.send_message(agent_pb2.SyncRequest())
        finally:
            channel.close()

    await asyncio.gather(*(one() for _ in range(streams)), return_exceptions=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=["serve", "follow"])
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--size", type=int, default=600)
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if arguments.role == "serve":
            runner.run(serve(arguments.streams, arguments.rounds, arguments.size))
        else:
            runner.run(follow(arguments.port, arguments.streams))
