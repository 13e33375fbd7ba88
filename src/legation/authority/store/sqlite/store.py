"""The store on SQLite: which function runs where."""

from collections.abc import Mapping, Sequence, Set
from datetime import datetime

from legation.authority.model import (
    AuditEntry,
    IssuedRecord,
    JoinToken,
    Operator,
    RevocationOutcome,
)
from legation.authority.revoking.scopes import BannedKey, RevocationRequest, Scope
from legation.authority.store.protocols import Deliver, Sign
from legation.authority.store.records import (
    AuditDraft,
    AuthorityIdentity,
    BegunRevocation,
    CommittedEvent,
    CurrentPart,
    EnrolledAgent,
    EventDraft,
    FeedPosition,
    InitialState,
    Issuance,
    KeyChange,
    NewlyRevoked,
    Requester,
    RevokedRow,
    Spend,
    StoredCRL,
    WrappedKey,
)
from legation.authority.store.sqlite import (
    beginnings,
    certificates,
    drills,
    feed,
    keys,
    lists,
    people,
    retention,
    revocation_requests,
    revocations,
)
from legation.authority.store.sqlite.issuer_methods import SQLiteIssuers
from legation.authority.store.sqlite.recovery import SQLiteRecovery
from legation.authority.store.sqlite.signal_methods import SQLiteSignals
from legation.errors import NotPermitted
from legation.wire.drill import DrillRecord, DrillReport, DrillSummary
from legation.wire.feed import Revocation


class SQLiteStore(SQLiteIssuers, SQLiteRecovery, SQLiteSignals):
    """Implements `legation.authority.store.Store` in one file.

    Writes go through `GroupCommit`. Reads have a connection and a thread of their own and
    see what is committed. One process at a time may hold a file open like this.
    """

    # Beginnings

    async def initialise(self, state: InitialState) -> None:
        await self._append(beginnings.initialise, state)

    async def identity(self) -> AuthorityIdentity:
        return await self._read(beginnings.identity)

    async def begin_feed(self, feed_id: str, *, audit: AuditDraft) -> None:
        await self._write(beginnings.begin_feed, feed_id, audit=audit)

    async def wrapped_keys(self) -> Sequence[WrappedKey]:
        return await self._read(keys.wrapped_keys)

    async def change_keys(
        self, change: KeyChange, bundle: EventDraft, *, expected: int, audit: AuditDraft
    ) -> CommittedEvent:
        return await self._append(
            beginnings.change_keys, change, bundle, expected=expected, audit=audit
        )

    # The feed

    def attach(self, *, sign: Sign, deliver: Deliver | None = None) -> None:
        self._commits.sign = sign
        self._commits.deliver = deliver

    async def position(self) -> FeedPosition:
        return await self._read(feed.position)

    async def current_part(self, revision: int, *, limit: int) -> CurrentPart | None:
        return await self._read(feed.current_part, revision, limit)

    async def events_after(self, revision: int, *, limit: int) -> Sequence[CommittedEvent]:
        return await self._read(feed.events_after, revision, limit)

    async def set_value(
        self, draft: EventDraft, *, expected: int, at: datetime, audit: AuditDraft
    ) -> CommittedEvent:
        return await self._append(feed.set_value, draft, expected=expected, at=at, audit=audit)

    async def compact(self, *, upto: int, at: datetime, limit: int) -> int:
        return await self._append(feed.compact, upto=upto, at=at, limit=limit)

    # Issuance and the inventory

    async def reserve_serials(self, issuer: str, shard: int, count: int) -> int:
        return await self._write(certificates.reserve_serials, issuer, shard, count)

    async def record_issuance(
        self, items: Sequence[Issuance], *, requester: Requester
    ) -> Mapping[int, NotPermitted]:
        return await self._commits.run_together(certificates.record_all, (items, requester))

    async def record_token(
        self, spiffe_id: str, *, requester: Requester, audit: AuditDraft
    ) -> None:
        await self._write(certificates.record_token, spiffe_id, requester=requester, audit=audit)

    async def certificate(self, serial: int) -> IssuedRecord:
        return await self._read(certificates.certificate, serial)

    async def search(
        self,
        *,
        spiffe_id: str | None,
        state: str | None,
        after: int | None,
        limit: int,
        at: datetime,
    ) -> Sequence[IssuedRecord]:
        return await self._read(
            certificates.search,
            spiffe_id=spiffe_id,
            state=state,
            after=after,
            limit=limit,
            at=at,
        )

    # Enrolment

    async def create_token(self, token: JoinToken, *, digest: bytes, audit: AuditDraft) -> None:
        await self._write(people.create_token, token, digest=digest, audit=audit)

    async def delete_token(self, token_id: str, *, audit: AuditDraft) -> None:
        await self._write(people.delete_token, token_id, audit=audit)

    async def tokens(self) -> Sequence[JoinToken]:
        return await self._read(people.tokens)

    async def find_token(self, digest: bytes) -> tuple[JoinToken, bytes] | None:
        return await self._read(people.find_token, digest)

    async def enrol(
        self,
        agent: EnrolledAgent,
        certificate: Issuance,
        *,
        spend: Spend,
        at: datetime,
        audit: AuditDraft,
    ) -> None:
        await self._write(people.enrol, agent, certificate, spend=spend, at=at, audit=audit)

    async def agents(self) -> Sequence[EnrolledAgent]:
        return await self._read(people.agents)

    # Revocation

    async def revoke_serial(
        self, serial: int, *, reason: str, at: datetime, audit: AuditDraft
    ) -> RevocationOutcome:
        return await self._append(
            revocations.revoke_serial, serial, reason=reason, at=at, audit=audit
        )

    async def revoke_identity(
        self, spiffe_id: str, *, reason: str, ban: bool, at: datetime, audit: AuditDraft
    ) -> RevocationOutcome:
        return await self._append(
            revocations.revoke_identity, spiffe_id, reason=reason, ban=ban, at=at, audit=audit
        )

    async def lift_ban(self, spiffe_id: str, *, at: datetime, audit: AuditDraft) -> int:
        return await self._append(revocations.lift_ban, spiffe_id, at=at, audit=audit)

    async def preview_revocation(
        self, scope: Scope, *, reason: str, at: datetime, most: int
    ) -> tuple[Sequence[tuple[int, str, str]], Sequence[IssuedRecord]]:
        return await self._read(revocations.preview, scope, reason=reason, at=at, most=most)

    async def begin_revocation(
        self, request: RevocationRequest, *, ask_above: int | None, most: int, audit: AuditDraft
    ) -> RevocationRequest | BegunRevocation:
        return await self._append(
            revocation_requests.begin, request, ask_above=ask_above, most=most, audit=audit
        )

    async def approve_revocation(
        self, request_id: str, *, at: datetime, most: int, audit: AuditDraft
    ) -> RevocationRequest | BegunRevocation:
        return await self._append(
            revocation_requests.approve, request_id, at=at, most=most, audit=audit
        )

    async def reject_revocation(
        self, request_id: str, *, at: datetime, audit: AuditDraft
    ) -> RevocationRequest:
        return await self._write(revocation_requests.reject, request_id, at=at, audit=audit)

    async def go_on_revoking(
        self, request_id: str, ids: Sequence[int], *, last: bool, at: datetime
    ) -> RevocationOutcome:
        return await self._append(revocation_requests.go_on, request_id, ids, last=last, at=at)

    async def unfinished_revocations(
        self, *, at: datetime
    ) -> Sequence[tuple[RevocationRequest, Sequence[int]]]:
        return await self._read(revocation_requests.unfinished, at=at)

    async def revocation_requests(self, *, at: datetime) -> Sequence[RevocationRequest]:
        return await self._read(revocation_requests.requests, at=at)

    async def revocation_request(self, request_id: str, *, at: datetime) -> RevocationRequest:
        return await self._read(revocation_requests.find, request_id, at=at)

    async def release_held(
        self, scope: Scope, *, most: int, at: datetime, audit: AuditDraft
    ) -> tuple[RevocationOutcome, bool]:
        return await self._append(revocations.release, scope, most=most, at=at, audit=audit)

    async def revocations(self, *, after: str | None, limit: int) -> Sequence[Revocation]:
        return await self._read(revocations.revocations, after=after, limit=limit)

    async def banned_keys(self) -> Sequence[BannedKey]:
        return await self._read(revocations.banned_key_rows)

    async def revoked(
        self, issuer: str, shard: int, *, unexpired_at: datetime
    ) -> Sequence[RevokedRow]:
        return await self._read(lists.revoked, issuer, shard, unexpired_at=unexpired_at)

    async def newly_revoked(
        self, issuer: str, shard: int, *, after: int, unexpired_at: datetime
    ) -> NewlyRevoked | None:
        return await self._read(
            lists.newly_revoked, issuer, shard, after=after, unexpired_at=unexpired_at
        )

    async def unlisted(self) -> Set[tuple[str, int]]:
        return await self._read(lists.unlisted)

    async def publish_crl(
        self, crl: StoredCRL, draft: EventDraft, *, audit: AuditDraft, in_full: bool = True
    ) -> CommittedEvent:
        return await self._append(lists.publish_crl, crl, draft, audit=audit, in_full=in_full)

    async def crls(self) -> Sequence[StoredCRL]:
        return await self._read(lists.crls)

    # Operators, drills and the audit log

    async def operators(self) -> Sequence[Operator]:
        return await self._read(people.operators)

    async def certify_operator(
        self, operator: Operator, certificate: Issuance, *, audit: AuditDraft
    ) -> RevocationOutcome | None:
        return await self._append(people.certify_operator, operator, certificate, audit=audit)

    async def renew_operator(
        self, spiffe_id: str, certificate: Issuance, *, audit: AuditDraft
    ) -> None:
        await self._write(people.renew_operator, spiffe_id, certificate, audit=audit)

    async def disable_operator(self, spiffe_id: str, *, at: datetime, audit: AuditDraft) -> None:
        await self._write(people.disable_operator, spiffe_id, at=at, audit=audit)

    async def record_drill(self, report: DrillReport, *, by: str, audit: AuditDraft) -> DrillRecord:
        return await self._write(drills.record_drill, report, by=by, audit=audit)

    async def drills(self, *, before: int | None, limit: int) -> Sequence[DrillSummary]:
        return await self._read(drills.drills, before=before, limit=limit)

    async def drill(self, drill_id: int) -> DrillRecord:
        return await self._read(drills.drill, drill_id)

    async def audit_entries(self, *, after: int, limit: int) -> Sequence[AuditEntry]:
        return await self._read(feed.audit_entries, after=after, limit=limit)

    async def audit_size(self) -> int:
        return await self._read(feed.audit_size)

    # What has had its time

    async def prune_certificates(
        self, *, expired_before: datetime, limit: int, audit: AuditDraft
    ) -> int:
        return await self._write(
            retention.prune_certificates, expired_before=expired_before, limit=limit, audit=audit
        )

    async def has_valid(self, agent: str, *, at: datetime) -> bool:
        return await self._read(retention.has_valid, agent, at=at)

    async def prune_agents(self, *, limit: int, audit: AuditDraft) -> Sequence[str]:
        # Looked for by a reader: whoever writes does not wait for a walk through all of them.
        names = await self._read(retention.lapsed_agents, limit)
        if not names:
            return ()
        return await self._write(retention.prune_agents, names, audit=audit)

    async def prune_tokens(self, *, expired_before: datetime, limit: int, audit: AuditDraft) -> int:
        return await self._write(
            retention.prune_tokens, expired_before=expired_before, limit=limit, audit=audit
        )

    async def prune_audit(self, *, before: datetime, limit: int, audit: AuditDraft) -> int:
        return await self._write(retention.prune_audit, before=before, limit=limit, audit=audit)
