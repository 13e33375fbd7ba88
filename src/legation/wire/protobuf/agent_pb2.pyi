from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class IssueRequest(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[IssueItem]
    def __init__(self, items: _Optional[_Iterable[_Union[IssueItem, _Mapping]]] = ...) -> None: ...

class IssueItem(_message.Message):
    __slots__ = ("entry_id", "csr")
    ENTRY_ID_FIELD_NUMBER: _ClassVar[int]
    CSR_FIELD_NUMBER: _ClassVar[int]
    entry_id: str
    csr: bytes
    def __init__(self, entry_id: _Optional[str] = ..., csr: _Optional[bytes] = ...) -> None: ...

class IssueResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[IssueResult]
    def __init__(self, results: _Optional[_Iterable[_Union[IssueResult, _Mapping]]] = ...) -> None: ...

class IssueResult(_message.Message):
    __slots__ = ("certificate", "problem")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    certificate: CertificateChain
    problem: Problem
    def __init__(self, certificate: _Optional[_Union[CertificateChain, _Mapping]] = ..., problem: _Optional[_Union[Problem, _Mapping]] = ...) -> None: ...

class CertificateChain(_message.Message):
    __slots__ = ("certificates",)
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    certificates: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, certificates: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Problem(_message.Message):
    __slots__ = ("code", "message", "remedy")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    remedy: str
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., remedy: _Optional[str] = ...) -> None: ...

class IssueJWTRequest(_message.Message):
    __slots__ = ("entry_id", "audience", "certificate_thumbprint")
    ENTRY_ID_FIELD_NUMBER: _ClassVar[int]
    AUDIENCE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_THUMBPRINT_FIELD_NUMBER: _ClassVar[int]
    entry_id: str
    audience: _containers.RepeatedScalarFieldContainer[str]
    certificate_thumbprint: str
    def __init__(self, entry_id: _Optional[str] = ..., audience: _Optional[_Iterable[str]] = ..., certificate_thumbprint: _Optional[str] = ...) -> None: ...

class IssueJWTResponse(_message.Message):
    __slots__ = ("token", "expires_at_ms")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_MS_FIELD_NUMBER: _ClassVar[int]
    token: str
    expires_at_ms: int
    def __init__(self, token: _Optional[str] = ..., expires_at_ms: _Optional[int] = ...) -> None: ...

class RenewAgentRequest(_message.Message):
    __slots__ = ("csr",)
    CSR_FIELD_NUMBER: _ClassVar[int]
    csr: bytes
    def __init__(self, csr: _Optional[bytes] = ...) -> None: ...

class RenewAgentResponse(_message.Message):
    __slots__ = ("certificate", "feed_keys")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    FEED_KEYS_FIELD_NUMBER: _ClassVar[int]
    certificate: CertificateChain
    feed_keys: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, certificate: _Optional[_Union[CertificateChain, _Mapping]] = ..., feed_keys: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ChallengeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ChallengeResponse(_message.Message):
    __slots__ = ("nonce",)
    NONCE_FIELD_NUMBER: _ClassVar[int]
    nonce: bytes
    def __init__(self, nonce: _Optional[bytes] = ...) -> None: ...

class RenewExpiredRequest(_message.Message):
    __slots__ = ("certificate", "csr", "nonce", "signature")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    CSR_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    csr: bytes
    nonce: bytes
    signature: bytes
    def __init__(self, certificate: _Optional[bytes] = ..., csr: _Optional[bytes] = ..., nonce: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class SupersededRequest(_message.Message):
    __slots__ = ("serials",)
    SERIALS_FIELD_NUMBER: _ClassVar[int]
    serials: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, serials: _Optional[_Iterable[str]] = ...) -> None: ...

class SupersededResponse(_message.Message):
    __slots__ = ("revision",)
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    def __init__(self, revision: _Optional[int] = ...) -> None: ...

class StaplesRequest(_message.Message):
    __slots__ = ("serials",)
    SERIALS_FIELD_NUMBER: _ClassVar[int]
    serials: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, serials: _Optional[_Iterable[str]] = ...) -> None: ...

class StaplesResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[StapleResult]
    def __init__(self, results: _Optional[_Iterable[_Union[StapleResult, _Mapping]]] = ...) -> None: ...

class StapleResult(_message.Message):
    __slots__ = ("response", "problem")
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    response: bytes
    problem: Problem
    def __init__(self, response: _Optional[bytes] = ..., problem: _Optional[_Union[Problem, _Mapping]] = ...) -> None: ...

class KeptResponse(_message.Message):
    __slots__ = ("recorded",)
    RECORDED_FIELD_NUMBER: _ClassVar[int]
    recorded: int
    def __init__(self, recorded: _Optional[int] = ...) -> None: ...

class SyncRequest(_message.Message):
    __slots__ = ("hello", "acknowledgement", "reports", "rotation", "sightings", "places", "alive")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGEMENT_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    ROTATION_FIELD_NUMBER: _ClassVar[int]
    SIGHTINGS_FIELD_NUMBER: _ClassVar[int]
    PLACES_FIELD_NUMBER: _ClassVar[int]
    ALIVE_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    acknowledgement: Acknowledgement
    reports: Reports
    rotation: RotationStatement
    sightings: Sightings
    places: Places
    alive: Alive
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., acknowledgement: _Optional[_Union[Acknowledgement, _Mapping]] = ..., reports: _Optional[_Union[Reports, _Mapping]] = ..., rotation: _Optional[_Union[RotationStatement, _Mapping]] = ..., sightings: _Optional[_Union[Sightings, _Mapping]] = ..., places: _Optional[_Union[Places, _Mapping]] = ..., alive: _Optional[_Union[Alive, _Mapping]] = ...) -> None: ...

class Alive(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Hello(_message.Message):
    __slots__ = ("revision", "version", "feed_id", "instance")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FEED_ID_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    revision: int
    version: str
    feed_id: str
    instance: bytes
    def __init__(self, revision: _Optional[int] = ..., version: _Optional[str] = ..., feed_id: _Optional[str] = ..., instance: _Optional[bytes] = ...) -> None: ...

class Acknowledgement(_message.Message):
    __slots__ = ("revision", "points")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    revision: int
    points: _containers.RepeatedCompositeFieldContainer[EnforcementPoint]
    def __init__(self, revision: _Optional[int] = ..., points: _Optional[_Iterable[_Union[EnforcementPoint, _Mapping]]] = ...) -> None: ...

class EnforcementPoint(_message.Message):
    __slots__ = ("id", "kind", "spiffe_id", "revision", "applied_at_ms", "capabilities", "notes")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    APPLIED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: str
    spiffe_id: str
    revision: int
    applied_at_ms: int
    capabilities: _containers.RepeatedScalarFieldContainer[str]
    notes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[str] = ..., spiffe_id: _Optional[str] = ..., revision: _Optional[int] = ..., applied_at_ms: _Optional[int] = ..., capabilities: _Optional[_Iterable[str]] = ..., notes: _Optional[_Iterable[str]] = ...) -> None: ...

class Reports(_message.Message):
    __slots__ = ("refusals",)
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    refusals: _containers.RepeatedCompositeFieldContainer[Refusal]
    def __init__(self, refusals: _Optional[_Iterable[_Union[Refusal, _Mapping]]] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("point", "cause", "peer", "serial", "count", "raw")
    POINT_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    point: str
    cause: str
    peer: str
    serial: str
    count: int
    raw: str
    def __init__(self, point: _Optional[str] = ..., cause: _Optional[str] = ..., peer: _Optional[str] = ..., serial: _Optional[str] = ..., count: _Optional[int] = ..., raw: _Optional[str] = ...) -> None: ...

class Sightings(_message.Message):
    __slots__ = ("sightings", "overflow")
    SIGHTINGS_FIELD_NUMBER: _ClassVar[int]
    OVERFLOW_FIELD_NUMBER: _ClassVar[int]
    sightings: _containers.RepeatedCompositeFieldContainer[Sighting]
    overflow: int
    def __init__(self, sightings: _Optional[_Iterable[_Union[Sighting, _Mapping]]] = ..., overflow: _Optional[int] = ...) -> None: ...

class Sighting(_message.Message):
    __slots__ = ("point", "service", "peer", "serial", "address", "cause", "count", "first_ms_ago", "last_ms_ago")
    POINT_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    FIRST_MS_AGO_FIELD_NUMBER: _ClassVar[int]
    LAST_MS_AGO_FIELD_NUMBER: _ClassVar[int]
    point: str
    service: str
    peer: str
    serial: str
    address: str
    cause: str
    count: int
    first_ms_ago: int
    last_ms_ago: int
    def __init__(self, point: _Optional[str] = ..., service: _Optional[str] = ..., peer: _Optional[str] = ..., serial: _Optional[str] = ..., address: _Optional[str] = ..., cause: _Optional[str] = ..., count: _Optional[int] = ..., first_ms_ago: _Optional[int] = ..., last_ms_ago: _Optional[int] = ...) -> None: ...

class Places(_message.Message):
    __slots__ = ("addresses",)
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    addresses: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, addresses: _Optional[_Iterable[str]] = ...) -> None: ...

class RotationStatement(_message.Message):
    __slots__ = ("in_force", "orders")
    IN_FORCE_FIELD_NUMBER: _ClassVar[int]
    ORDERS_FIELD_NUMBER: _ClassVar[int]
    in_force: _containers.RepeatedCompositeFieldContainer[InForce]
    orders: _containers.RepeatedCompositeFieldContainer[OrderProgress]
    def __init__(self, in_force: _Optional[_Iterable[_Union[InForce, _Mapping]]] = ..., orders: _Optional[_Iterable[_Union[OrderProgress, _Mapping]]] = ...) -> None: ...

class InForce(_message.Message):
    __slots__ = ("spiffe_id", "point", "serial_issued", "serial_in_force", "since_ms", "problem")
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    POINT_FIELD_NUMBER: _ClassVar[int]
    SERIAL_ISSUED_FIELD_NUMBER: _ClassVar[int]
    SERIAL_IN_FORCE_FIELD_NUMBER: _ClassVar[int]
    SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    point: str
    serial_issued: str
    serial_in_force: str
    since_ms: int
    problem: str
    def __init__(self, spiffe_id: _Optional[str] = ..., point: _Optional[str] = ..., serial_issued: _Optional[str] = ..., serial_in_force: _Optional[str] = ..., since_ms: _Optional[int] = ..., problem: _Optional[str] = ...) -> None: ...

class OrderProgress(_message.Message):
    __slots__ = ("id", "remaining")
    ID_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    id: str
    remaining: int
    def __init__(self, id: _Optional[str] = ..., remaining: _Optional[int] = ...) -> None: ...

class SyncResponse(_message.Message):
    __slots__ = ("events", "heartbeat", "problem")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    events: Events
    heartbeat: Heartbeat
    problem: Problem
    def __init__(self, events: _Optional[_Union[Events, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., problem: _Optional[_Union[Problem, _Mapping]] = ...) -> None: ...

class Events(_message.Message):
    __slots__ = ("feed_id", "snapshot", "complete", "revision", "events", "pages", "signature")
    FEED_ID_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    feed_id: str
    snapshot: bool
    complete: bool
    revision: int
    events: _containers.RepeatedCompositeFieldContainer[Event]
    pages: _containers.RepeatedCompositeFieldContainer[RevocationPage]
    signature: bytes
    def __init__(self, feed_id: _Optional[str] = ..., snapshot: _Optional[bool] = ..., complete: _Optional[bool] = ..., revision: _Optional[int] = ..., events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ..., pages: _Optional[_Iterable[_Union[RevocationPage, _Mapping]]] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("body", "signature")
    BODY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    signature: bytes
    def __init__(self, body: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class RevocationPage(_message.Message):
    __slots__ = ("document", "signature")
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    document: bytes
    signature: bytes
    def __init__(self, document: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("now_ms", "revision", "acknowledged")
    NOW_MS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    now_ms: int
    revision: int
    acknowledged: int
    def __init__(self, now_ms: _Optional[int] = ..., revision: _Optional[int] = ..., acknowledged: _Optional[int] = ...) -> None: ...
