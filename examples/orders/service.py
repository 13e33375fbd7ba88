"""A service: it keeps orders, and lets those read them that a policy allows to."""

from fastapi import FastAPI, Request

from legation.sdk import Source
from legation.sdk.authorize import authorize_member_of, authorize_policy
from legation.sdk.integrations.asgi import PolicyMiddleware, peer_of
from legation.sdk.integrations.uvicorn import Config, Server

TRUST_DOMAIN = "example.org"


def application(source: Source) -> FastAPI:
    app = FastAPI()
    app.add_middleware(PolicyMiddleware, authorizer=authorize_policy(source))

    @app.get("/orders/{number}")
    async def order(number: int, request: Request) -> dict[str, str | int]:
        return {"number": number, "read_by": str(peer_of(request.scope).spiffe_id)}

    return app


def server(source: Source, *, host: str = "127.0.0.1", port: int = 8443) -> Server:
    return Server(
        Config(
            application(source),
            source=source,
            authorize=authorize_member_of(TRUST_DOMAIN),
            host=host,
            port=port,
        )
    )


def main() -> None:
    from legation.sdk import X509Source

    with X509Source() as source:  # the agent's socket, from SPIFFE_ENDPOINT_SOCKET
        source.wait_ready(timeout=30)
        server(source).run()


if __name__ == "__main__":
    main()
