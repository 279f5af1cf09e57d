"""The Prometheus metrics of a server."""

import prometheus_client as prometheus

CONTENT_TYPE = prometheus.CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """The metrics of one server, in a separate registry."""

    def __init__(self) -> None:
        self.registry = registry = prometheus.CollectorRegistry()
        self.requests = prometheus.Counter(
            "keras_resnet_requests",
            "Requests to :predict; signature is 'none' if it is not known.",
            ["signature", "code"],
            registry=registry,
        )
        self.seconds = prometheus.Histogram(
            "keras_resnet_request_seconds",
            "Time of requests to :predict, from their headers to the answer.",
            ["signature"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_rows = prometheus.Histogram(
            "keras_resnet_batch_rows",
            "Rows per batch.",
            buckets=[2**power for power in range(9)],
            registry=registry,
        )
        self.refused = prometheus.Counter(
            "keras_resnet_rows_refused",
            "Rows of images that are unreadable or have too many pixels.",
            ["reason"],
            registry=registry,
        )
        self.queue = prometheus.Gauge(
            "keras_resnet_queue",
            "Requests that are being read, wait in the queue or run.",
            registry=registry,
        )
        self.version = prometheus.Gauge(
            "keras_resnet_loaded_version",
            "The version that is served; 0 if there is none.",
            registry=registry,
        )
        prometheus.ProcessCollector(registry=registry)

    def text(self) -> bytes:
        """Returns the metrics in Prometheus's exposition format."""
        return prometheus.generate_latest(self.registry)
