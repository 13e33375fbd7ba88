"""The names of Envoy's types, as `Any` messages carry them."""

_PREFIX = "type.googleapis.com/"

CLUSTER = _PREFIX + "envoy.config.cluster.v3.Cluster"
SECRET = _PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"
LISTENER = _PREFIX + "envoy.config.listener.v3.Listener"
EXTENSION = _PREFIX + "envoy.config.core.v3.TypedExtensionConfig"

# The order in which a change is sent: what is referred to goes before what refers to it.
# Secrets are first, so that a cluster whose pool is given up because its peer was revoked
# cannot connect again before the revocation list is in force.
PUSH_ORDER = (SECRET, CLUSTER, LISTENER, EXTENSION)

HTTP_RBAC = _PREFIX + "envoy.extensions.filters.http.rbac.v3.RBAC"
HTTP_ROUTER = _PREFIX + "envoy.extensions.filters.http.router.v3.Router"
HTTP_SET_FILTER_STATE = _PREFIX + "envoy.extensions.filters.http.set_filter_state.v3.Config"
HTTP_CONNECTION_MANAGER = (
    _PREFIX + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
)
HTTP_PROTOCOL_OPTIONS = _PREFIX + "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
NETWORK_RBAC = _PREFIX + "envoy.extensions.filters.network.rbac.v3.RBAC"
NETWORK_EXT_AUTHZ = _PREFIX + "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz"
TCP_PROXY = _PREFIX + "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
TLS_INSPECTOR = _PREFIX + "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
DOWNSTREAM_TLS = _PREFIX + "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
UPSTREAM_TLS = _PREFIX + "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
TCP_GRPC_ACCESS_LOG = _PREFIX + "envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig"
RBAC_ACTION = _PREFIX + "envoy.config.rbac.v3.Action"
FILTER_STATE_INPUT = _PREFIX + "envoy.extensions.matching.common_inputs.network.v3.FilterStateInput"
URI_SAN_INPUT = _PREFIX + "envoy.extensions.matching.common_inputs.ssl.v3.UriSanInput"
CEL_FILTER = _PREFIX + "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"
