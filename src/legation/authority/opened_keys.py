"""What the key-encryption key opens when the authority starts."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from legation.authority.keystore import ISSUING_KEY, KeyEncryptionKey, KeyStore, feed_key
from legation.authority.store import InitialisationStore, IssuerRecord
from legation.errors import InternalError
from legation.pki import Issuer, PrivateKey, certificate_from_der
from legation.wire.feed import FeedSigner


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedKeys:
    """The authority's keys, in memory.

    Attributes:
        issuers: roots and issuing CAs, by key id.
        issuing: the one that signs now.
        signer: signs the feed.
        private_keys: all of them, by id.
        keystore: wraps new ones.
    """

    issuers: Mapping[str, Issuer] = field(repr=False)
    issuing: Issuer = field(repr=False)
    signer: FeedSigner = field(repr=False)
    private_keys: Mapping[str, PrivateKey] = field(repr=False)
    keystore: KeyStore = field(repr=False)


async def open_keys(store: InitialisationStore, kek: KeyEncryptionKey, salt: bytes) -> OpenedKeys:
    """Unwrap every key of the store.

    Raises:
        InvalidInput: the key-encryption key is not this authority's.
        InternalError: a key is missing.
    """
    wrapped = await store.wrapped_keys()
    # Deriving the key from a passphrase takes a while, and threads to do it in.
    keystore = await asyncio.to_thread(KeyStore, kek, salt)
    keys = keystore.unwrap_all(wrapped)
    records = await store.issuers()
    issuers = {record.key_id: _issuer(record, keys) for record in records}
    issuing = [record for record in records if record.role == ISSUING_KEY]
    if not issuing:
        raise InternalError("this authority has no issuing certificate")
    return OpenedKeys(
        issuers=issuers,
        issuing=issuers[issuing[-1].key_id],
        signer=FeedSigner(feed_key(wrapped, keys)),
        private_keys=keys,
        keystore=keystore,
    )


def _issuer(record: IssuerRecord, keys: Mapping[str, PrivateKey]) -> Issuer:
    certificate = certificate_from_der(record.der)
    chain = (certificate,) if record.role == ISSUING_KEY else ()
    return Issuer(certificate, keys[record.key], chain=chain)
