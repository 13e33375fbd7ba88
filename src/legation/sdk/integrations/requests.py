"""Mutual TLS for requests.

::

    session = requests.Session()
    session.mount("https://", SourceAdapter(source, authorize=authorize_id(...)))
"""

from typing import Any

from requests.adapters import HTTPAdapter

from legation.sdk.authorize import Authorizer
from legation.sdk.model import Source
from legation.sdk.tls import client_context


class SourceAdapter(HTTPAdapter):
    """Carries requests over mutual TLS by a source.

    `verify` and `cert` of sessions and requests have no effect on it: whoever passes
    ``verify=False`` is not let out of verification.

    Args:
        source: identity, trust and revocations.
        authorize: which servers to speak with; host names are not compared.
        options: every argument of `requests.adapters.HTTPAdapter`.
    """

    def __init__(self, source: Source, *, authorize: Authorizer, **options: Any) -> None:
        """Make the pools."""
        # Before the base class, which makes the pools.
        self._tls = {
            "ssl_context": client_context(source, authorize=authorize),
            "assert_hostname": False,
        }
        super().__init__(**options)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Make the pools for direct connections."""
        super().init_poolmanager(*args, **{**options, **self._tls})

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Return the pools for connections through a proxy."""
        return super().proxy_manager_for(proxy, **{**options, **self._tls})

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Do nothing: the context verifies."""

    def build_connection_pool_key_attributes(
        self, request: Any, verify: Any, cert: Any = None
    ) -> Any:
        """Choose the pool; what the request says of TLS makes no difference."""
        del verify, cert
        host, _ = super().build_connection_pool_key_attributes(request, True, None)
        return host, {}
