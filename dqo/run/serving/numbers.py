"""What ``GET /metrics`` shows, in Prometheus' form."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from dqo.capabilities import Counting

Item = TypeVar("Item")
Result = TypeVar("Result")
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


class Numbers:
    """The service's numbers; the stages' counters of tolerated failures are among them."""

    def __init__(self, stages: Mapping[str, Any]):
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "dqo_requests", "Answers by path and status", ["path", "status"], registry=self.registry
        )
        self._texts = Histogram("dqo_batch_texts", "Texts of a batch", ["stage"], buckets=SIZES, registry=self.registry)
        self._seconds = Histogram(
            "dqo_batch_seconds", "Seconds of a batch", ["stage"], buckets=SECONDS, registry=self.registry
        )
        self._waiting = Gauge("dqo_waiting_texts", "Texts that are not answered", ["stage"], registry=self.registry)
        self.registry.register(_Failures(stages))

    def waiting(self, stage: str, count: Callable[[], int]) -> None:
        """Show a number of waiting texts."""
        self._waiting.labels(stage).set_function(count)

    def timed(
        self, stage: str, work: Callable[[list[Item]], Sequence[Result]], texts: Callable[[Item], int]
    ) -> Callable[[list[Item]], Sequence[Result]]:
        """``work``, of which each call is measured."""

        def measured(items: list[Item]) -> Sequence[Result]:
            began = perf_counter()
            try:
                return work(items)
            finally:
                self._seconds.labels(stage).observe(perf_counter() - began)
                self._texts.labels(stage).observe(sum(map(texts, items)))

        return measured


class _Failures(Collector):
    """Failures that stages tolerate."""

    def __init__(self, stages: Mapping[str, Any]):
        self._stages = {name: stage for name, stage in stages.items() if isinstance(stage, Counting)}

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Called for each scrape."""
        family = CounterMetricFamily("dqo_failures", "Failures that a stage tolerated", labels=["stage", "name"])
        for stage, counting in self._stages.items():
            for name, count in counting.counters().items():
                family.add_metric([stage, name], count)
        yield family
