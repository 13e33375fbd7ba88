"""Attestation: what can be established about the process at the other end of a socket."""

from legation.agent.attestation.attestor import UnixAttestor
from legation.agent.attestation.executables import Executable, ExecutableReader
from legation.agent.attestation.peers import PeerProcess, peer_of

__all__ = ["Executable", "ExecutableReader", "PeerProcess", "UnixAttestor", "peer_of"]
