"""The metrics of a server, for Prometheus."""

import prometheus_client as prometheus

CONTENT_TYPE = prometheus.CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """Metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = prometheus.CollectorRegistry()
        self.requests = prometheus.Counter(
            "keras_resnet_requests",
            "Requests to predict; a signature that is not known is 'none'.",
            ["signature", "code"],
            registry=registry,
        )
        self.seconds = prometheus.Histogram(
            "keras_resnet_request_seconds",
            "From the first byte read to the answer.",
            ["signature"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_rows = prometheus.Histogram(
            "keras_resnet_batch_rows",
            "Rows that were run together.",
            buckets=[2**power for power in range(9)],
            registry=registry,
        )
        self.refused = prometheus.Counter(
            "keras_resnet_rows_refused",
            "Rows whose bytes are no picture that the model reads.",
            ["reason"],
            registry=registry,
        )
        self.queue = prometheus.Gauge(
            "keras_resnet_queue",
            "Requests that are read, wait or run.",
            registry=registry,
        )
        self.version = prometheus.Gauge(
            "keras_resnet_loaded_version",
            "The version that is served; 0 for none.",
            registry=registry,
        )
        prometheus.ProcessCollector(registry=registry)

    def text(self) -> bytes:
        """The metrics in Prometheus's exposition format."""
        return prometheus.generate_latest(self.registry)
