"""Puts the authority together. The one module that names a concrete store."""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from legation.authority.agent_api import AgentAPI, AgentServer
from legation.authority.certifier import Certifier
from legation.authority.crl_publisher import CRLPublisher, is_root
from legation.authority.enrolment import Enrolments, Tokens
from legation.authority.entries import Entries
from legation.authority.events import EventBus, JSONLog
from legation.authority.feed import FeedHub
from legation.authority.initialisation import FirstOperator, Initialised
from legation.authority.initialisation import initialise as _initialise
from legation.authority.inventory import Audit, Certificates
from legation.authority.issuance import IssuanceService
from legation.authority.keystore import KeyEncryptionKey, KeyStore, feed_key
from legation.authority.maintenance import Maintenance
from legation.authority.model import AUTHORITY_PATH, Services
from legation.authority.operators import Operators
from legation.authority.policies import Policies
from legation.authority.propagation import PropagationBoard
from legation.authority.revocation import Revocations
from legation.authority.serials import SerialAllocator
from legation.authority.serving import ServingIdentity
from legation.authority.settings import AuthoritySettings
from legation.authority.status import Status
from legation.authority.store import IssuerRecord, Store
from legation.authority.store.sqlite import SQLiteStore
from legation.clock import Clock
from legation.errors import Conflict, InternalError, InvalidInput, Unavailable
from legation.pki import Issuer, PrivateKey, SpiffeID, certificate_from_der
from legation.wire.feed import FeedSigner

_GRACE_S = 3.0


class Authority:
    """A running authority.

    Attributes:
        services: what the REST, HTTP and command-line edges may ask.
        serving: the authority's own certificate, for further servers.
        events: what happens, for logs and metrics.
        agents_port: where agents connect.
    """

    def __init__(
        self,
        services: Services,
        serving: ServingIdentity,
        events: EventBus,
        agents_port: int,
    ) -> None:
        self.services = services
        self.serving = serving
        self.events = events
        self.agents_port = agents_port
