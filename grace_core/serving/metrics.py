"""Prometheus metrics of one server, in a registry of their own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """What ``/metrics`` shows. Labels take few values, whatever clients send."""

    def __init__(self):
        self.registry = CollectorRegistry()
        own = {"registry": self.registry}
        self.requests = Counter("grace_requests", "Requests by route and status.", ["route", "code"], **own)
        self.seconds = Histogram(
            "grace_request_seconds", "From a request's head to the answer's end.", ["route"], buckets=SECONDS, **own
        )
        self.active = Gauge("grace_requests_active", "Requests that are not answered yet.", **own)
        self.queued = Gauge("grace_queue_texts", "Texts and chats that are not begun with.", **own)
        self.batch = Histogram(
            "grace_batch_texts", "Texts that are begun with together.", ["kind"], buckets=SIZES, **own
        )
        self.step = Histogram("grace_step_texts", "Texts whose rationales a step goes on with.", buckets=SIZES, **own)
        self.tokens = Counter("grace_tokens", "Tokens read and written for answers.", ["kind"], **own)
        self.cached = Counter("grace_cache", "Texts that were found in the cache, or were not.", ["result"], **own)
        kinds = {
            self.batch: ("rationale", "text", "chat"),
            self.tokens: ("text", "rationale", "prompt", "completion"),
            self.cached: ("hit", "miss"),
        }
        for metric, labels in kinds.items():
            for label in labels:  # so that they are 0 and not missing before the first time
                metric.labels(label)
        ProcessCollector(registry=self.registry)

    def text(self) -> bytes:
        return generate_latest(self.registry)
