"""gRPC channels that lead through a forwarder, and close it with themselves."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from legation.sdk.integrations.forwarding import Entrance


class _Forwarded:
    """What channels of either kind do alike."""

    def __init__(self, channel: Any, entrance: Entrance) -> None:
        """Take over both, to be closed together."""
        self._channel = channel
        self._entrance = entrance

    @property
    def refused(self) -> Exception | None:
        """Why the last attempt to connect failed, where calls say UNAVAILABLE; else None."""
        return self._entrance.refused

    def unary_unary(self, *args: Any, **options: Any) -> Any:
        """As gRPC's own `Channel.unary_unary`."""
        return self._channel.unary_unary(*args, **options)

    def unary_stream(self, *args: Any, **options: Any) -> Any:
        """As gRPC's own `Channel.unary_stream`."""
        return self._channel.unary_stream(*args, **options)

    def stream_unary(self, *args: Any, **options: Any) -> Any:
        """As gRPC's own `Channel.stream_unary`."""
        return self._channel.stream_unary(*args, **options)

    def stream_stream(self, *args: Any, **options: Any) -> Any:
        """As gRPC's own `Channel.stream_stream`."""
        return self._channel.stream_stream(*args, **options)


class ForwardedChannel(_Forwarded, grpc.Channel):  # type: ignore[misc]
    """A channel over mutual TLS. Made by `legation.sdk.integrations.grpc.secure_channel`."""

    def subscribe(
        self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool = False
    ) -> None:
        """As `grpc.Channel.subscribe`."""
        self._channel.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """As `grpc.Channel.unsubscribe`."""
        self._channel.unsubscribe(callback)

    def close(self) -> None:
        """End all calls, and the connection."""
        self._channel.close()
        self._entrance.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class ForwardedAioChannel(_Forwarded, grpc.aio.Channel):  # type: ignore[misc]
    """The same of `grpc.aio`. Made by `legation.sdk.integrations.grpc.secure_aio_channel`."""

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """As `grpc.aio.Channel.get_state`."""
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """As `grpc.aio.Channel.wait_for_state_change`."""
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """As `grpc.aio.Channel.channel_ready`."""
        await self._channel.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """End all calls, after so many seconds, and the connection."""
        await self._channel.close(grace)
        self._entrance.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
