"""The metric of the remaining validity of certificates."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from picker.observability.prometheus_families import gauge

SOON_S = 30 * 86_400
"""Remaining validity below which a certificate is logged with a warning. The extension renews its own four months
before their end."""


class CertificateExpiry(Collector):
    """The remaining validity of certificates. They are read at each scrape, because a renewal replaces them."""

    def __init__(
        self, read: Callable[[], Mapping[str, bytes]], now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """`read`: returns the certificates by name, as PEM."""
        self._read = read
        self._now = now

    def left_s(self) -> dict[str, float]:
        """Returns the remaining seconds by name, negative after the end; 0 for bytes that are not a certificate."""
        now = self._now()
        return {name: _left_s(pem, now) for name, pem in self._read().items()}

    def soon(self) -> dict[str, float]:
        """Returns those of `left_s` that are below SOON_S."""
        return {name: left_s for name, left_s in self.left_s().items() if left_s < SOON_S}

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        yield gauge(
            "inference_gateway_certificate_expiry_seconds",
            "Seconds until a certificate between the gateway's parts expires; negative after that.",
            ("certificate",),
            [((name,), left_s) for name, left_s in self.left_s().items()],
        )


def read_files(paths: Mapping[str, Path | None]) -> dict[str, bytes]:
    """Reads the files by name, without those that have no path. The content is empty if a file cannot be read."""
    return {name: _read(path) for name, path in paths.items() if path is not None}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _left_s(pem: bytes, now: datetime) -> float:
    """The remaining seconds of the certificate that ends last. While an authority is replaced, both are trusted."""
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except ValueError:
        return 0.0
    return max((certificate.not_valid_after_utc - now).total_seconds() for certificate in certificates)
