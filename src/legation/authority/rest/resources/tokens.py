"""Join tokens."""

from typing import Annotated, Self

from pydantic import Field

from legation.authority.model import JoinToken, Role
from legation.authority.rest.calls import Call, Reply, Route
from legation.authority.rest.fields import Moment, Request, Shown, SpiffeIDField, TokenID
from legation.authority.rest.paging import Page, PageQuery, page_of
from legation.errors import Conflict, NotFound
from legation.pki.spiffe_id import SpiffeID


class Token(Shown):
    """A join token, without its secret."""

    id: str
    agent: str
    created_at: Moment
    expires_at: Moment
    created_by: str
    used_at: Moment | None

    @classmethod
    def of(cls, token: JoinToken) -> Self:
        """Translate."""
        return cls(
            id=token.id,
            agent=str(token.agent),
            created_at=token.created_at,
            expires_at=token.expires_at,
            created_by=token.created_by,
            used_at=token.used_at,
        )


class TokenPage(Page[Token]):
    """Join tokens by id."""


class TokenCreate(Request):
    """A new join token, for one agent, good once."""

    agent: SpiffeIDField
    lifetime_s: Annotated[int, Field(ge=1, le=30 * 86400)] = 3600


class TokenCreated(Shown):
    """The token, and its secret, which is shown this once."""

    token: Token
    secret: str


class TokenKey(Request):
    """Which token."""

    id: TokenID


async def list_tokens(call: Call, parameters: PageQuery) -> Reply:
    """Return a page of tokens."""
    tokens = await call.services.tokens.list()
    items, after = page_of(tokens, parameters, key=lambda token: token.id)
    return Reply(value=TokenPage(items=[Token.of(token) for token in items], next=after))


async def create_token(call: Call, body: TokenCreate) -> Reply:
    """Create a token, and show its secret."""
    token, secret = await call.services.tokens.create(
        SpiffeID.parse(body.agent), lifetime_s=body.lifetime_s, actor=call.actor
    )
    return Reply(value=TokenCreated(token=Token.of(token), secret=secret))


async def delete_token(call: Call, parameters: TokenKey) -> Reply:
    """Delete a token."""
    await call.services.tokens.delete(parameters.id, actor=call.actor)
    return Reply()


ROUTES = (
    Route(
        method="GET",
        path="/v1/tokens",
        operation="listTokens",
        summary="List join tokens, without their secrets.",
        role=Role.VIEWER,
        handler=list_tokens,
        parameters=PageQuery,
        returns=TokenPage,
    ),
    Route(
        method="POST",
        path="/v1/tokens",
        operation="createToken",
        summary="Create a join token; its secret is shown this once.",
        role=Role.OPERATOR,
        handler=create_token,
        body=TokenCreate,
        returns=TokenCreated,
        status=201,
        errors=(NotFound, Conflict),
    ),
    Route(
        method="DELETE",
        path="/v1/tokens/{id}",
        operation="deleteToken",
        summary="Delete a join token.",
        role=Role.OPERATOR,
        handler=delete_token,
        parameters=TokenKey,
        status=204,
        errors=(NotFound,),
    ),
)
