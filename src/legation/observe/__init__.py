"""What Prometheus sees: the one place that knows a metrics library.

The roles tell what happens as typed events and show boards; this layer counts the events and
reads the boards when it is asked. See docs/decisions/metrics.md.
"""
