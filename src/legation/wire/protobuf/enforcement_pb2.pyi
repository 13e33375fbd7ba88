from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FollowRequest(_message.Message):
    __slots__ = ("hello", "applied", "refusals", "in_force", "sightings")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    IN_FORCE_FIELD_NUMBER: _ClassVar[int]
    SIGHTINGS_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    applied: Applied
    refusals: Refusals
    in_force: InForce
    sightings: Sightings
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., applied: _Optional[_Union[Applied, _Mapping]] = ..., refusals: _Optional[_Union[Refusals, _Mapping]] = ..., in_force: _Optional[_Union[InForce, _Mapping]] = ..., sightings: _Optional[_Union[Sightings, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("kind", "name", "version", "spiffe_id")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    kind: str
    name: str
    version: str
    spiffe_id: str
    def __init__(self, kind: _Optional[str] = ..., name: _Optional[str] = ..., version: _Optional[str] = ..., spiffe_id: _Optional[str] = ...) -> None: ...

class Applied(_message.Message):
    __slots__ = ("revision", "capabilities", "notes")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    revision: int
    capabilities: _containers.RepeatedScalarFieldContainer[str]
    notes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, revision: _Optional[int] = ..., capabilities: _Optional[_Iterable[str]] = ..., notes: _Optional[_Iterable[str]] = ...) -> None: ...

class Refusals(_message.Message):
    __slots__ = ("refusals",)
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    refusals: _containers.RepeatedCompositeFieldContainer[Refusal]
    def __init__(self, refusals: _Optional[_Iterable[_Union[Refusal, _Mapping]]] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("cause", "peer", "serial", "raw", "count")
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    cause: str
    peer: str
    serial: str
    raw: str
    count: int
    def __init__(self, cause: _Optional[str] = ..., peer: _Optional[str] = ..., serial: _Optional[str] = ..., raw: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class Sightings(_message.Message):
    __slots__ = ("sightings", "overflow")
    SIGHTINGS_FIELD_NUMBER: _ClassVar[int]
    OVERFLOW_FIELD_NUMBER: _ClassVar[int]
    sightings: _containers.RepeatedCompositeFieldContainer[Sighting]
    overflow: int
    def __init__(self, sightings: _Optional[_Iterable[_Union[Sighting, _Mapping]]] = ..., overflow: _Optional[int] = ...) -> None: ...

class Sighting(_message.Message):
    __slots__ = ("peer", "serial", "address", "count", "first_ms_ago", "last_ms_ago")
    PEER_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    FIRST_MS_AGO_FIELD_NUMBER: _ClassVar[int]
    LAST_MS_AGO_FIELD_NUMBER: _ClassVar[int]
    peer: str
    serial: str
    address: str
    count: int
    first_ms_ago: int
    last_ms_ago: int
    def __init__(self, peer: _Optional[str] = ..., serial: _Optional[str] = ..., address: _Optional[str] = ..., count: _Optional[int] = ..., first_ms_ago: _Optional[int] = ..., last_ms_ago: _Optional[int] = ...) -> None: ...

class InForce(_message.Message):
    __slots__ = ("spiffe_id", "serial", "endpoint")
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    serial: str
    endpoint: str
    def __init__(self, spiffe_id: _Optional[str] = ..., serial: _Optional[str] = ..., endpoint: _Optional[str] = ...) -> None: ...

class FollowResponse(_message.Message):
    __slots__ = ("changes", "policies", "freshness", "staple")
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    FRESHNESS_FIELD_NUMBER: _ClassVar[int]
    STAPLE_FIELD_NUMBER: _ClassVar[int]
    changes: Changes
    policies: Policies
    freshness: Freshness
    staple: Staple
    def __init__(self, changes: _Optional[_Union[Changes, _Mapping]] = ..., policies: _Optional[_Union[Policies, _Mapping]] = ..., freshness: _Optional[_Union[Freshness, _Mapping]] = ..., staple: _Optional[_Union[Staple, _Mapping]] = ...) -> None: ...

class Changes(_message.Message):
    __slots__ = ("snapshot", "complete", "revision", "revoked", "forgotten", "banned", "unbanned", "revoked_long", "forgotten_long")
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    FORGOTTEN_FIELD_NUMBER: _ClassVar[int]
    BANNED_FIELD_NUMBER: _ClassVar[int]
    UNBANNED_FIELD_NUMBER: _ClassVar[int]
    REVOKED_LONG_FIELD_NUMBER: _ClassVar[int]
    FORGOTTEN_LONG_FIELD_NUMBER: _ClassVar[int]
    snapshot: bool
    complete: bool
    revision: int
    revoked: bytes
    forgotten: bytes
    banned: _containers.RepeatedScalarFieldContainer[str]
    unbanned: _containers.RepeatedScalarFieldContainer[str]
    revoked_long: bytes
    forgotten_long: bytes
    def __init__(self, snapshot: _Optional[bool] = ..., complete: _Optional[bool] = ..., revision: _Optional[int] = ..., revoked: _Optional[bytes] = ..., forgotten: _Optional[bytes] = ..., banned: _Optional[_Iterable[str]] = ..., unbanned: _Optional[_Iterable[str]] = ..., revoked_long: _Optional[bytes] = ..., forgotten_long: _Optional[bytes] = ...) -> None: ...

class Policies(_message.Message):
    __slots__ = ("first", "last", "documents")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    first: bool
    last: bool
    documents: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, first: _Optional[bool] = ..., last: _Optional[bool] = ..., documents: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Freshness(_message.Message):
    __slots__ = ("as_of_ms", "bound_ms", "action", "age_ms", "policy")
    class Action(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REFUSE: _ClassVar[Freshness.Action]
        CONTINUE: _ClassVar[Freshness.Action]
    REFUSE: Freshness.Action
    CONTINUE: Freshness.Action
    AS_OF_MS_FIELD_NUMBER: _ClassVar[int]
    BOUND_MS_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    AGE_MS_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    as_of_ms: int
    bound_ms: int
    action: Freshness.Action
    age_ms: int
    policy: str
    def __init__(self, as_of_ms: _Optional[int] = ..., bound_ms: _Optional[int] = ..., action: _Optional[_Union[Freshness.Action, str]] = ..., age_ms: _Optional[int] = ..., policy: _Optional[str] = ...) -> None: ...

class Staple(_message.Message):
    __slots__ = ("serial", "response")
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    serial: str
    response: bytes
    def __init__(self, serial: _Optional[str] = ..., response: _Optional[bytes] = ...) -> None: ...
