"""What every node attestor owes to the enrolment."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from legation.authority.attestation.node import NodeAttestor
from legation.authority.attestation.refusal import EvidenceRefused
from legation.causes import Cause
from legation.pki import build_request, generate_key
from legation.wire.canonical import canonical_json
from tests.support.authority import agent_id

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def csr() -> bytes:
    return build_request(generate_key())


def now() -> datetime:
    return datetime.now(UTC)


class NodeAttestorContract:
    """The suite.

    A subclass provides the fixtures `attestor`, `document` (good evidence for `csr`), `forged`
    (the same, by someone else) and `over` (the same, when its time is over: evidence and
    moment), and `members`, the names that a document has.
    """

    members: tuple[str, ...]
    secret: str

    async def test_good_evidence_names_agent_and_source(
        self, attestor: NodeAttestor, document: Mapping[str, Any], csr: bytes
    ) -> None:
        """Who it is, what it showed, and what is spent; the audit log can hold all of it."""
        node = await attestor.attest(document, csr=csr, at=now())
        assert node.agent == agent_id("node-1")
        assert node.evidence.split()[0] == attestor.kind
        assert canonical_json(dict(node.facts))
        assert str(document[self.secret]) not in repr(node)

    async def test_judging_changes_nothing(
        self, attestor: NodeAttestor, document: Mapping[str, Any], csr: bytes
    ) -> None:
        """What is spent is the same each time, and spent by the store alone."""
        first = await attestor.attest(document, csr=csr, at=now())
        assert await attestor.attest(document, csr=csr, at=now()) == first

    async def test_forged_evidence_is_refused(
        self, attestor: NodeAttestor, forged: Mapping[str, Any], csr: bytes
    ) -> None:
        """By name of the cause, and without repeating what was shown."""
        with pytest.raises(EvidenceRefused) as caught:
            await attestor.attest(forged, csr=csr, at=now())
        assert caught.value.cause in {
            Cause.EVIDENCE_FORGED, Cause.UNKNOWN_AUTHORITY, Cause.BAD_SIGNATURE
        }  # fmt: skip
        assert caught.value.message.startswith(f"{caught.value.cause}: ")
        assert caught.value.remedy
        assert str(forged[self.secret]) not in str(caught.value)

    async def test_evidence_whose_time_is_over_is_refused(
        self, attestor: NodeAttestor, over: tuple[Mapping[str, Any], datetime], csr: bytes
    ) -> None:
        """However genuine it is."""
        document, at = over
        with pytest.raises(EvidenceRefused) as caught:
            await attestor.attest(document, csr=csr, at=at)
        assert caught.value.cause in {
            Cause.EVIDENCE_EXPIRED, Cause.CERTIFICATE_EXPIRED, Cause.WRONG_NONCE
        }  # fmt: skip

    async def test_each_member_is_needed(
        self, attestor: NodeAttestor, document: Mapping[str, Any], csr: bytes
    ) -> None:
        """Absent, of another type, empty or huge: refused as what cannot be read."""
        for name in self.members:
            for value in (None, 1, [], {}, "", "x" * 100_000, "\ud800"):
                with pytest.raises(EvidenceRefused):
                    await attestor.attest({**document, name: value}, csr=csr, at=now())

    @settings(
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.differing_executors,  # each implementation runs the suite
        ],
        max_examples=30,
    )
    @given(data=st.data())
    async def test_anything_else_is_refused(
        self, attestor: NodeAttestor, csr: bytes, data: st.DataObject
    ) -> None:
        """No document makes anything but a refusal of ours."""
        document = {name: data.draw(ANYTHING) for name in self.members}
        with pytest.raises(EvidenceRefused):
            await attestor.attest(document, csr=csr, at=now())


HOUR = timedelta(hours=1)
