"""Attestation: what can be established about the process at the other end of a socket."""

from legation.agent.attestation.attestor import PeerAttestor
from legation.agent.attestation.executables import Executable, ExecutableReader
from legation.agent.attestation.peers import PeerProcess, peer_of
from legation.agent.attestation.registration import NO_OTHERS, AttestationSettings, attestors_of
from legation.agent.attestation.unix import UnixAttestor
from legation.agent.attestation.workload import WorkloadAttestor

__all__ = [
    "NO_OTHERS",
    "AttestationSettings",
    "Executable",
    "ExecutableReader",
    "PeerAttestor",
    "PeerProcess",
    "UnixAttestor",
    "WorkloadAttestor",
    "attestors_of",
    "peer_of",
]
