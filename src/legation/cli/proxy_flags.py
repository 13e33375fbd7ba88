"""What ``--inbound`` and ``--outbound`` say."""

from collections.abc import Iterable

from legation.envoy.spec import Inbound, Outbound, Protocol, ProxySpec
from legation.errors import InvalidInput, LegationError, nearest

_OPTIONS = ("protocol", "spiffe-id")


def proxy_spec(
    name: str, *, inbound: Iterable[str], outbound: Iterable[str], spiffe_id: str | None
) -> ProxySpec:
    """Build a proxy's specification from its flags.

    Raises:
        InvalidInput: a flag is malformed; the message quotes it.
    """
    return ProxySpec(
        name=name,
        inbound=tuple(_inbound(text) for text in inbound),
        outbound=tuple(_outbound(text) for text in outbound),
        spiffe_id=spiffe_id,
    )


def _inbound(text: str) -> Inbound:
    flag = f"--inbound {text}"
    listen, app, options = _parts(text, flag, "LISTEN=APP[,protocol=http|http2|tcp]")
    try:
        return Inbound(
            listen=listen,
            app=app,
            protocol=_protocol(options),
            spiffe_id=options.get("spiffe-id"),
        )
    except LegationError as error:
        raise InvalidInput(f"{flag}: {error.message}", remedy=error.remedy) from None


def _outbound(text: str) -> Outbound:
    flag = f"--outbound {text}"
    form = "LISTEN=SPIFFE-ID@HOST:PORT[,protocol=http|http2|tcp]"
    listen, peer, options = _parts(text, flag, form)
    spiffe_id, at, upstream = peer.rpartition("@")
    if not at or "spiffe-id" in options:
        raise InvalidInput(f"{flag}: it does not say who must answer", remedy=f"write {form}")
    try:
        return Outbound(
            listen=listen, upstream=upstream, spiffe_id=spiffe_id, protocol=_protocol(options)
        )
    except LegationError as error:
        raise InvalidInput(f"{flag}: {error.message}", remedy=error.remedy) from None


def _parts(text: str, flag: str, form: str) -> tuple[str, str, dict[str, str]]:
    addresses, *settings = text.split(",")
    listen, equals, rest = addresses.partition("=")
    if not (listen and equals and rest):
        raise InvalidInput(f"{flag}: not of the form {form}")
    options: dict[str, str] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in _OPTIONS or key in options or not value:
            meant = nearest(key, _OPTIONS)
            raise InvalidInput(
                f"{flag}: {key!a} has no place here"
                + (f", did you mean {meant}?" if meant else ""),
                remedy=f"write {form}",
            )
        options[key] = value
    return listen, rest, options


def _protocol(options: dict[str, str]) -> Protocol:
    word = options.get("protocol", Protocol.HTTP)
    if word not in set(Protocol):
        known = ", ".join(Protocol)
        meant = nearest(word, Protocol)
        hint = f", did you mean {meant}?" if meant else ""
        raise InvalidInput(f"{word!a} is not a protocol{hint}", remedy=f"known: {known}")
    return Protocol(word)
