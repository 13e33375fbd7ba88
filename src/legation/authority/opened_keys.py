"""What the key-encryption key opens when the authority starts."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from legation.authority.issuers.making import issuer_of
from legation.authority.issuers.states import IssuerState
from legation.authority.keystore import (
    ISSUING_KEY,
    ROOT_KEY,
    KeyEncryptionKey,
    KeyStore,
    feed_key,
)
from legation.authority.store import InitialisationStore
from legation.errors import InternalError
from legation.pki import Issuer, PrivateKey, certificate_from_der
from legation.wire.feed import FeedSigner


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedKeys:
    """The authority's keys, in memory.

    Attributes:
        issuers: roots and issuing CAs, by key id; `IssuerChanges` adds and removes.
        issuing: the one that signed when the authority started; None if it may not any more.
        signer: signs the feed.
        private_keys: all of them, by id.
        keystore: wraps new ones.
    """

    issuers: dict[str, Issuer] = field(repr=False)
    issuing: Issuer | None = field(repr=False)
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
    issuers = {
        record.key_id: issuer_of(
            certificate_from_der(record.der), keys[record.key], root=record.role == ROOT_KEY
        )
        for record in records
    }
    issuing = [record for record in records if record.role == ISSUING_KEY]
    if not issuing:
        raise InternalError("this authority has no issuing certificate")
    signing = [record for record in issuing if record.life.state is IssuerState.ACTIVE]
    return OpenedKeys(
        issuers=issuers,
        issuing=issuers[signing[-1].key_id] if signing else None,
        signer=FeedSigner(feed_key(wrapped, keys)),
        private_keys=keys,
        keystore=keystore,
    )
