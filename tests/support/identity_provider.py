"""An OpenID Connect issuer with real keys, over real HTTPS when a test wants it."""

import contextlib
import http.server
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

DEFAULT_ISSUER = "https://issuer.example"
AUDIENCE = "legation:example.org"


class IdentityProvider:
    """Signs tokens.

    Attributes:
        keys: published ones by id.
        fetched: how often something was fetched.
        down: whether it is out of reach.
    """

    def __init__(self, issuer: str = DEFAULT_ISSUER) -> None:
        self.issuer = issuer
        self.keys: dict[str, Any] = {}
        self.fetched: list[str] = []
        self.down = False
        self.configured_issuer = issuer
        self.add_key("k1")

    def add_key(self, key_id: str, kind: str = "EC") -> None:
        """Publish a new key."""
        key = ECKey.generate_key("P-256") if kind == "EC" else RSAKey.generate_key(2048)
        self.keys[key_id] = key

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Return the claims of a good token; None takes one away."""
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": AUDIENCE,
            "sub": "repo:octo/app:ref:refs/heads/main",
            "repository": "octo/app",
            "ref": "refs/heads/main",
            "run_id": "17",
            "iat": now,
            "nbf": now,
            "exp": now + 300,
            "jti": f"id-{len(self.fetched)}-{time.monotonic_ns()}",
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(
        self, *, key: Any = None, header: dict[str, Any] | None = None, **changes: Any
    ) -> str:
        """Return a token."""
        fields = {"alg": "ES256", "kid": "k1", **(header or {})}
        key = key or self.keys[fields["kid"]]
        payload = json.dumps(self.claims(**changes))
        return jws.serialize_compact(fields, payload, key, algorithms=[fields["alg"]])

    def fetch(self, url: str) -> Any:
        """Return what is published under a URL; stands for HTTPS."""
        self.fetched.append(url)
        if self.down:
            from legation.errors import Unavailable

            raise Unavailable("down")
        return self.documents()[url.removeprefix(self.issuer)]

    def documents(self) -> dict[str, Any]:
        """Return what is published, by path."""
        keys = [
            {**key.as_dict(private=False), "kid": key_id, "use": "sig"}
            for key_id, key in self.keys.items()
        ]
        return {
            "/.well-known/openid-configuration": {
                "issuer": self.configured_issuer,
                "jwks_uri": f"{self.issuer}/keys",
            },
            "/keys": {"keys": keys},
        }


class Served(IdentityProvider):
    """The same, over HTTPS on 127.0.0.1.

    Attributes:
        roots: file of the certificate to trust.
    """

    def __init__(self, certificate: Path, *, roots: Path) -> None:
        outer = self
        self.roots = roots

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.fetched.append(self.path)
                found = outer.documents().get(self.path)
                body = outer.body or json.dumps(found).encode()
                self.send_response(outer.status if found is not None else 404)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.status = 200
        self.body: bytes | None = None
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        super().__init__(f"https://localhost:{self.server.server_port}")

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@contextlib.contextmanager
def served_in(folder: Path) -> Iterator["Served"]:
    """Serve one over HTTPS, with a certificate that openssl makes in a folder."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", folder / "key", "-out", folder / "crt", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    (folder / "both").write_bytes((folder / "crt").read_bytes() + (folder / "key").read_bytes())
    issuer = Served(folder / "both", roots=folder / "crt")
    try:
        yield issuer
    finally:
        issuer.stop()
