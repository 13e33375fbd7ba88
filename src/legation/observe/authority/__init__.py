"""The authority's metrics."""

from legation.observe.authority.serving import authority_metrics

__all__ = ["authority_metrics"]
