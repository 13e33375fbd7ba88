"""Addresses, coarsened: two of one network are one place."""

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from legation.authority.misuse.recent import Recent

NOWHERE: Final = ""  # says nothing about where somebody is
_KEPT = 65_536


class Networks:
    """Names the network of an address; the same few addresses come again and again.

    Args:
        ipv4_prefix: length of the prefix that makes an IPv4 network one place.
        ipv6_prefix: likewise of IPv6.
        loopback_is_one_place: whether loopback addresses say nothing, because every one of them
            is the node itself.
    """

    def __init__(self, *, ipv4_prefix: int, ipv6_prefix: int, loopback_is_one_place: bool) -> None:
        self._prefixes = {4: ipv4_prefix, 6: ipv6_prefix}
        self._loopback_is_one_place = loopback_is_one_place
        self._known: Recent[str, str] = Recent(_KEPT)

    def of(self, address: str) -> str:
        """Return the network as text, ``192.0.2.0/24``, or `NOWHERE`."""
        known = self._known.get(address)
        return known if known is not None else self._known.put(address, self._named(address))

    def _named(self, address: str) -> str:
        try:
            parsed: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
        except ValueError:
            return NOWHERE
        if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        if parsed.is_unspecified or parsed.is_link_local:
            return NOWHERE  # of one link: the same numbers are everywhere (RFC 3927, RFC 4291)
        if parsed.is_loopback and self._loopback_is_one_place:
            return NOWHERE
        prefix = self._prefixes[parsed.version]
        dropped = parsed.max_prefixlen - prefix
        return f"{type(parsed)(int(parsed) >> dropped << dropped)}/{prefix}"
