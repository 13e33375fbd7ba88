"""Join tokens as evidence, by the contract."""

from datetime import timedelta

import pytest

from legation.authority.attestation.join_token import JoinTokenAttestor
from legation.authority.join_token import new_token, token_digest
from legation.authority.model import JoinToken
from tests.authority.attestation.node_attestor_contract import (
    HOUR,
    NodeAttestorContract,
    csr,
    now,
)
from tests.support.authority import agent_id

__all__ = ["csr"]


class Tokens:
    """A store that knows one token."""

    def __init__(self, secret):
        self.row = JoinToken(
            id="7",
            agent=agent_id("node-1"),
            created_at=now(),
            expires_at=now() + HOUR,
            created_by="x",
        )
        self.digest = token_digest(secret)

    async def find_token(self, digest):
        return (self.row, self.digest) if digest == self.digest else None


class TestJoinToken(NodeAttestorContract):
    """The suite."""

    members = ("token",)
    secret = "token"

    @pytest.fixture
    def document(self):
        return {"token": new_token()}

    @pytest.fixture
    def attestor(self, request):
        secret = "lgt_" + "a" * 32
        if "document" in request.fixturenames:
            secret = request.getfixturevalue("document")["token"]
        return JoinTokenAttestor(Tokens(secret))

    @pytest.fixture
    def forged(self):
        return {"token": new_token()}

    @pytest.fixture
    def over(self, document):
        return document, now() + HOUR + timedelta(seconds=1)
