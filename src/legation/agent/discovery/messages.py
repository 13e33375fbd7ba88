"""Envoy's messages at the edge: resources from plain dicts to bytes, each set once."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

from envoy.config.accesslog.v3 import accesslog_pb2 as _accesslog  # noqa: F401
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import extension_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.rbac.v3 import rbac_pb2 as _rbac  # noqa: F401
from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2 as _cel  # noqa: F401
from envoy.extensions.access_loggers.grpc.v3 import als_pb2 as _grpc_log  # noqa: F401
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as _http_rbac  # noqa: F401
from envoy.extensions.filters.http.router.v3 import router_pb2 as _router  # noqa: F401
from envoy.extensions.filters.http.set_filter_state.v3 import (  # noqa: F401
    set_filter_state_pb2 as _set_filter_state,
)
from envoy.extensions.filters.listener.tls_inspector.v3 import (  # noqa: F401
    tls_inspector_pb2 as _tls_inspector,
)
from envoy.extensions.filters.network.ext_authz.v3 import (  # noqa: F401
    ext_authz_pb2 as _ext_authz,
)
from envoy.extensions.filters.network.http_connection_manager.v3 import (  # noqa: F401
    http_connection_manager_pb2 as _hcm,
)
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as _network_rbac  # noqa: F401
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2 as _tcp  # noqa: F401
from envoy.extensions.matching.common_inputs.network.v3 import (  # noqa: F401
    network_inputs_pb2 as _network_inputs,
)
from envoy.extensions.matching.common_inputs.ssl.v3 import (  # noqa: F401
    ssl_inputs_pb2 as _ssl_inputs,
)
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_pb2
from envoy.extensions.upstreams.http.v3 import (  # noqa: F401
    http_protocol_options_pb2 as _http_options,
)
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2, json_format
from google.protobuf.message import DecodeError, Message

from legation.envoy import type_urls
from legation.errors import InternalError, InvalidInput

__all__ = ["Encoder", "RawMessage", "Strict", "tls_pb2"]

_CACHED_SETS = 64

_MESSAGES: Mapping[str, type[Message]] = {
    type_urls.CLUSTER: cluster_pb2.Cluster,
    type_urls.SECRET: secret_pb2.Secret,
    type_urls.LISTENER: listener_pb2.Listener,
    type_urls.EXTENSION: extension_pb2.TypedExtensionConfig,
}


class RawMessage:
    """A message that is bytes already; grpclib sends it as it is."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def SerializeToString(self) -> bytes:  # noqa: N802 - the name that grpclib calls
        """Return the bytes."""
        return self._data


class Encoder:
    """Turns resources into bytes; each distinct set once, however many proxies share it."""

    def __init__(self) -> None:
        self._sets: OrderedDict[tuple[str, str], dict[str, bytes]] = OrderedDict()

    def resources(
        self, type_url: str, digest: str, resources: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, bytes]:
        """Serialise the set of `resources` that `digest` stands for, as `Any` messages.

        Raises:
            InternalError: Legation built something that Envoy's schema does not have.
        """
        key = (type_url, digest)
        if key in self._sets:
            self._sets.move_to_end(key)
            return self._sets[key]
        encoded = {name: _any(type_url, item) for name, item in resources.items()}
        self._sets[key] = encoded
        if len(self._sets) > _CACHED_SETS:
            self._sets.popitem(last=False)
        return encoded

    def response(
        self, type_url: str, version: str, nonce: str, resources: Iterable[bytes]
    ) -> RawMessage:
        """Build a DiscoveryResponse around serialised resources.

        Two serialised messages, one behind the other, are their merge in Protocol Buffers:
        so the bytes of the resources are copied, and never parsed.
        """
        head = discovery_pb2.DiscoveryResponse(
            version_info=version, nonce=nonce, type_url=type_url
        ).SerializeToString()
        return RawMessage(head + b"".join(resources))


def _any(type_url: str, resource: Mapping[str, Any]) -> bytes:
    try:
        message = json_format.ParseDict(dict(resource), _MESSAGES[type_url]())
    except json_format.ParseError as error:
        raise InternalError(f"not a {type_url.rpartition('.')[2]}: {error}") from None
    packed = any_pb2.Any(type_url=type_url, value=message.SerializeToString(deterministic=True))
    alone: bytes = discovery_pb2.DiscoveryResponse(resources=[packed]).SerializeToString()
    return alone


class Strict:
    """A request type for grpclib whose malformed messages are refused in words."""

    def __init__(self, kind: type[Message]) -> None:
        self._kind = kind

    def FromString(self, data: bytes) -> Message:  # noqa: N802 - the name that grpclib calls
        """Parse `data`.

        Raises:
            InvalidInput: it is something else.
        """
        try:
            return self._kind.FromString(data)
        except DecodeError:
            raise InvalidInput(f"not a {self._kind.DESCRIPTOR.full_name}") from None
