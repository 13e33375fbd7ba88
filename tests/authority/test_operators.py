"""Operators that are shut out stay out: whatever was under way, whatever they held before."""

import asyncio

import pytest

from legation.authority.issuing.certifier import Certifier, Order
from legation.authority.model import Actor, Role
from legation.authority.store import Issuance
from legation.errors import NotAuthenticated
from legation.pki import build_request, certificate_from_der, generate_key
from tests.support.authority import ADMIN, World


def csr() -> bytes:
    """Make a request with a new key."""
    return build_request(generate_key())


@pytest.fixture
def signing(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Hold up every signature that eve has asked for until the event is set."""
    goes_on, certify = asyncio.Event(), Certifier.certify_one

    async def certify_one(self: Certifier, order: Order) -> Issuance:
        if order.requester.endswith("/eve"):
            await goes_on.wait()
        return await certify(self, order)

    monkeypatch.setattr(Certifier, "certify_one", certify_one)
    return goes_on


async def test_one_that_is_disabled_while_it_renews_stays_disabled(
    world: World, signing: asyncio.Event
) -> None:
    """On record as well: or the next start of the authority would let it in again."""
    operators = world.services.operators
    eve, _ = await operators.create("eve", Role.ADMIN, csr(), lifetime_s=600, actor=ADMIN)
    renewal = asyncio.create_task(
        operators.renew(csr(), actor=Actor(spiffe_id=eve.spiffe_id, role=Role.ADMIN))
    )
    await asyncio.sleep(0)
    await operators.disable("eve", actor=ADMIN)
    signing.set()
    with pytest.raises(NotAuthenticated, match="was disabled meanwhile"):
        await renewal
    rows = {row.spiffe_id: row for row in await operators.list()}
    assert rows[eve.spiffe_id].disabled_at is not None


async def test_one_that_is_made_less_while_it_renews_stays_less(
    world: World, signing: asyncio.Event
) -> None:
    """It gets its certificate, and the role that it has by then."""
    operators = world.services.operators
    eve, _ = await operators.create("eve", Role.ADMIN, csr(), lifetime_s=600, actor=ADMIN)
    renewal = asyncio.create_task(
        operators.renew(csr(), actor=Actor(spiffe_id=eve.spiffe_id, role=Role.ADMIN))
    )
    await asyncio.sleep(0)
    await operators.create("eve", Role.VIEWER, csr(), lifetime_s=600, actor=ADMIN)
    signing.set()
    assert len(await renewal) == 2
    rows = {row.spiffe_id: row for row in await operators.list()}
    assert rows[eve.spiffe_id].role is Role.VIEWER


async def test_one_that_is_enabled_again_has_new_certificates_only(world: World) -> None:
    """Whoever took the old one, for which it was disabled perhaps, is not let in with it."""
    operators = world.services.operators
    eve, chain = await operators.create("eve", Role.ADMIN, csr(), lifetime_s=60, actor=ADMIN)
    stolen = certificate_from_der(chain[0]).serial_number
    await operators.disable("eve", actor=ADMIN)
    _, chain = await operators.create("eve", Role.ADMIN, csr(), lifetime_s=60, actor=ADMIN)
    with pytest.raises(NotAuthenticated, match="was revoked"):
        operators.authenticate(eve.spiffe_id, stolen, issuer_name="")
    new = certificate_from_der(chain[0]).serial_number
    assert operators.authenticate(eve.spiffe_id, new, issuer_name="").role is Role.ADMIN
