"""Which certificate a proxy is given, takes and refuses; no Envoy."""

import os
from datetime import timedelta

from legation.agent.discovery.offered import OfferedIdentity, places_to_look
from legation.clock import FixedClock
from legation.envoy import Inbound, ProxySpec
from tests.support.envoy import API, Authorities

AUTHORITIES = Authorities()


def offered():
    clock = FixedClock(AUTHORITIES.identity(API).not_before + timedelta(minutes=70))
    first, second = AUTHORITIES.identity(API), AUTHORITIES.identity(API)
    subject = OfferedIdentity(first, now=clock.now)
    subject.pushed("1")
    subject.accepted("1")
    subject.renew(second)
    subject.pushed("2")
    return subject, clock, first, second


def test_what_is_taken_is_current():
    """A certificate that the proxy takes is the one it holds."""
    subject, _, _, second = offered()
    subject.accepted("2")
    assert subject.taken is subject.current is subject.newest is second


def test_what_is_refused_gives_way_to_the_one_before():
    """A proxy that refuses the newest is given the one before, and keeps it while it is told of
    the same certificate again.
    """
    subject, _, first, second = offered()
    assert subject.refused("2", "no")
    assert subject.current is first
    assert (subject.newest, subject.problem) == (second, "no")
    subject.renew(second)
    assert subject.current is first


def test_what_is_said_changes_with_what_happens_alone():
    """Being told of the same certificate again is no news; to take or to refuse one is."""
    subject, _, _, second = offered()
    said = [subject.said]
    subject.renew(second)
    assert subject.said == said[0]
    subject.refused("2", "no")
    said.append(subject.said)
    subject.renew(AUTHORITIES.identity(API))
    said.append(subject.said)
    subject.pushed("3")
    subject.accepted("3")
    said.append(subject.said)
    assert len(set(map(repr, said))) == 4


def test_another_certificate_is_another_chance():
    """The next certificate is offered, and the words about the one before are forgotten."""
    subject, _, _, _ = offered()
    subject.refused("2", "no")
    third = AUTHORITIES.identity(API)
    subject.renew(third)
    assert subject.current is third
    assert subject.problem == ""


def test_a_refusal_of_other_secrets_is_not_the_certificates():
    """A refusal while the proxy holds this very certificate says nothing about it."""
    subject, _, _, second = offered()
    subject.accepted("2")
    subject.pushed("3")
    assert not subject.refused("3", "a list that it dislikes")
    assert subject.current is second
    assert subject.problem == ""


def test_an_expired_certificate_is_not_gone_back_to():
    """When the one before is over there is nothing to go back to."""
    subject, clock, _, second = offered()
    clock.advance(2 * 3600)
    assert not subject.refused("2", "no")
    assert subject.current is second
    assert subject.problem == "no"


def test_an_answer_to_something_older_is_passed_over():
    """A refusal of a version that is not known is nobody's."""
    subject, _, _, second = offered()
    assert not subject.refused("unknown", "no")
    assert subject.current is second


def test_where_to_look():
    """Inbound ports are looked at where this process reaches them; a stranger's are not."""
    inbounds = ("0.0.0.0:8443", "[::]:8444", "127.0.0.2:8445")
    spec = ProxySpec(
        name="api",
        inbound=tuple(Inbound(listen=listen, app="127.0.0.1:80") for listen in inbounds),
    )
    here = [str(place) for place in places_to_look(spec, os.getpid())]
    assert here == ["127.0.0.1:8443", "[::1]:8444", "127.0.0.2:8445"]
    assert places_to_look(spec, 2**30) == ()
