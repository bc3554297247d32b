"""The status as metrics for Prometheus; needs the package prometheus_client.

Counters are those of the whole server, since it was started and over all reloads.  There is no
label for a client: clients come and go, and a monitoring system would keep them all.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

_COUNTERS = {
    "clients": ("nbdfork_clients", "Clients that were served, those that still are included."),
    "requests": ("nbdfork_requests", "Requests that were carried out, or failed."),
    "bytes_read": ("nbdfork_read_bytes", "Bytes of READ requests that succeeded."),
    "bytes_written": ("nbdfork_written_bytes", "Bytes of WRITE requests that succeeded."),
    "errors": ("nbdfork_request_errors", "Requests that failed."),
}


class _Collector(Collector):
    """Makes metrics of one status document."""

    def __init__(self, status: Mapping[str, Any]) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        status = self._status
        server, totals = status["server"], status["totals"]
        yield InfoMetricFamily(
            "nbdfork", "Of which version the server is.", {"version": str(server["version"])}
        )
        yield GaugeMetricFamily(
            "nbdfork_start_time_seconds", "When it was started.", value=server["started"]
        )
        yield GaugeMetricFamily(
            "nbdfork_generation", "How many programs it has had.", value=status["generation"]
        )
        yield GaugeMetricFamily(
            "nbdfork_draining", "1: it lets nobody in any more.", value=int(status["draining"])
        )
        yield GaugeMetricFamily(
            "nbdfork_max_clients", "The most clients at once.", value=server["max_clients"]
        )
        for key, (name, help_) in _COUNTERS.items():
            yield CounterMetricFamily(name, help_, value=totals[key])
        yield _latency(totals["latency"])
        yield from self._gauges()

    def _gauges(self) -> Iterator[Metric]:
        clients = GaugeMetricFamily(
            "nbdfork_clients_connected", "Clients that are served now.", labels=["export"]
        )
        for export, count in Counter(one["export"] for one in self._status["clients"]).items():
            clients.add_metric([export], count)
        yield clients
        workers = GaugeMetricFamily(
            "nbdfork_workers", "Processes that serve clients, or wait for them.", labels=["state"]
        )
        states = Counter(one["state"] for one in self._status["workers"])
        for state in ("starting", "idle", "serving"):
            workers.add_metric([state], states[state])
        yield workers
        busy = [one["busy_seconds"] for one in self._status["clients"]]
        yield GaugeMetricFamily(
            "nbdfork_longest_busy_seconds",
            "For how long the plugin has been at work on the oldest request.",
            value=max(busy, default=0.0),
        )


def _latency(counts: list[dict[str, int | None]]) -> Metric:
    """Return the histogram.  It has no sum, which is not known."""
    total = 0
    buckets: list[tuple[str, float]] = []
    for bucket in counts:
        total += bucket["requests"] or 0
        bound = bucket["up_to_ns"]
        buckets.append(("+Inf" if bound is None else repr(bound / 1e9), total))
    metric = HistogramMetricFamily(
        "nbdfork_batch_duration_seconds",
        "How long it took to carry out requests, with those that came together.",
    )
    metric.add_metric([], buckets, sum_value=None)
    return metric


def exposition(status: Mapping[str, Any]) -> tuple[str, bytes]:
    """Return the type of the content, and the text that Prometheus reads."""
    registry = CollectorRegistry()
    registry.register(_Collector(status))
    return CONTENT_TYPE_LATEST, generate_latest(registry)
