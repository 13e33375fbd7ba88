"""Metrics as declarations: what the pages of the reference, the rules and the code agree on."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as Family

OTHER: Final = "other"
# The kinds of enforcement points. What an agent says beyond them is one more kind, not many.
POINT_KINDS: Final = frozenset({"agent", "envoy", "envoy-sds", "sdk", "sink"})


class Type(StrEnum):
    """Prometheus' types, as far as they are used."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric.

    Attributes:
        name: as it is exposed; a counter's ends in ``_total``.
        type: of it.
        help: one sentence. Units are in the name.
        labels: by name; each has few values, whatever happens.
        buckets: of a histogram.
    """

    name: str
    type: Type
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def counter(name: str, help_text: str, *labels: str) -> Metric:
    """Declare a counter."""
    return Metric(name=name, type=Type.COUNTER, help=help_text, labels=labels)


def gauge(name: str, help_text: str, *labels: str) -> Metric:
    """Declare a gauge."""
    return Metric(name=name, type=Type.GAUGE, help=help_text, labels=labels)


def histogram(name: str, help_text: str, *labels: str, buckets: tuple[float, ...]) -> Metric:
    """Declare a histogram."""
    return Metric(name=name, type=Type.HISTOGRAM, help=help_text, labels=labels, buckets=buckets)


def known(word: str, words: Iterable[str]) -> str:
    """Return a word that may be a label, or `OTHER` for one that came from elsewhere."""
    return word if word in words else OTHER


class Instruments:
    """Counters and histograms that are moved by events, in a registry of their own kind."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def counter(self, metric: Metric) -> Counter:
        """Make a counter; one without labels begins at 0."""
        return Counter(metric.name, metric.help, metric.labels, registry=self._registry)

    def histogram(self, metric: Metric) -> Histogram:
        """Make a histogram."""
        return Histogram(
            metric.name,
            metric.help,
            metric.labels,
            registry=self._registry,
            buckets=metric.buckets,
        )


class Look:
    """Values that one look at a role has found."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        """Expose some metrics, those that turn out to have no values included."""
        self._families = {metric.name: _family(metric) for metric in metrics}

    def put(self, metric: Metric, value: float, *labels: str) -> None:
        """Note one value."""
        self._families[metric.name].add_metric(labels, value)

    def __iter__(self) -> Iterator[Family]:
        return iter(self._families.values())


def _family(metric: Metric) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if metric.type is Type.COUNTER else GaugeMetricFamily
    return kind(metric.name, metric.help, labels=metric.labels)
