"""What Prometheus reads of a server."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class ServerMetrics:
    """The counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "lm_requests", "Requests by path and status", ["path", "status"], registry=registry
        )
        self.cancelled = Counter(
            "lm_cancelled_requests",
            "Answers whose client left",
            registry=registry,
        )
        self.prompt_tokens = Counter("lm_prompt_tokens", "Tokens of prompts", registry=registry)
        self.generated_tokens = Counter(
            "lm_generated_tokens", "Tokens that were generated", registry=registry
        )
        self.first_token = Histogram(
            "lm_time_to_first_token_seconds",
            "From a request to its first token, waiting included",
            buckets=_SECONDS,
            registry=registry,
        )
        self.between_tokens = Histogram(
            "lm_time_between_tokens_seconds",
            "From a token to the next of the same text",
            buckets=_SECONDS,
            registry=registry,
        )
        self.running = Gauge("lm_running_texts", "Texts in slots", registry=registry)
        self.waiting = Gauge("lm_waiting_texts", "Texts that wait", registry=registry)

    def page(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)
