"""Proves from outside, over the network, that a revoked identity is refused.

A decoy is certified, let in, revoked, and watched until it is refused; a second decoy that is
not revoked goes on meanwhile. `run` is the whole of it, and `targets` says where.
"""

from legation.drill.exercise import Certified, DrillAuthority, Recorded, run
from legation.drill.targets import Target, parse_target

__all__ = ["Certified", "DrillAuthority", "Recorded", "Target", "parse_target", "run"]
