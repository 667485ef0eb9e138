"""What Prometheus reads: how the tomograms stand, as the ledger has it, and this process's memory and open files.

Names follow https://prometheus.io/docs/practices/naming/: base units, and counters that end in ``_total``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.ledger_queries import latencies, totals

__all__ = ["CONTENT_TYPE", "render"]

CONTENT_TYPE = CONTENT_TYPE_LATEST
"""The media type of what `render` returns."""

_QUANTILES = {"p50": "0.5", "p90": "0.9", "p99": "0.99"}


def render(ledger_path: Path) -> bytes:
    """Return all metrics in Prometheus's text format.

    Counters are of the ledger, so that they go on where they were when a watcher is started again.

    Args:
        ledger_path: the ledger.

    Raises:
        LedgerError: it cannot be read.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    with Ledger(ledger_path) as ledger:
        registry.register(_LedgerCollector(ledger))
        return generate_latest(registry)


class _LedgerCollector(Collector):
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def describe(self) -> list[Metric]:
        # Or the registry would collect everything once more to know the names.
        return []

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("tomoscribe", "The version that runs.", {"version": version("tomoscribe")})
        states = GaugeMetricFamily("tomoscribe_tomograms", "Tomograms by their state.", labels=["state"])
        for state, count in self._ledger.states().items():
            states.add_metric([state.value], count)
        yield states
        yield from self._finished()
        yield self._latency()
        yield from self._watchers()

    def _finished(self) -> Iterator[Metric]:
        finished = totals(self._ledger)
        for name, what, value in (
            ("tomoscribe_labelled_tomograms", "Tomograms that were labelled.", finished["tomograms"]),
            ("tomoscribe_labelled_voxels", "Voxels of them.", finished["voxels"]),
            ("tomoscribe_labelling_seconds", "How long labelling them took.", finished["seconds"]),
        ):
            yield CounterMetricFamily(name, what, value)

    def _latency(self) -> Metric:
        latency = GaugeMetricFamily(
            "tomoscribe_latency_seconds",
            "From a complete file to its first picture (preview) and its labels, of the tomograms finished last.",
            labels=["until", "quantile"],
        )
        for until, percentiles in latencies(self._ledger).items():
            for name, quantile in _QUANTILES.items():
                value = percentiles[name]  # type: ignore[literal-required]
                if value is not None:
                    latency.add_metric([until, quantile], value)
        return latency

    def _watchers(self) -> Iterator[Metric]:
        watchers = self._ledger.watchers(time.time())
        paused = sum(watcher.get("paused") is not None for watcher in watchers)
        yield GaugeMetricFamily("tomoscribe_watchers", "Watchers that are at work.", len(watchers))
        yield GaugeMetricFamily("tomoscribe_watchers_paused", "Those that wait for space.", paused)
        free = [watcher["free_bytes"] for watcher in watchers if watcher.get("free_bytes") is not None]
        if free:
            yield GaugeMetricFamily("tomoscribe_free_bytes", "Free on the disk of the outputs.", min(free))
