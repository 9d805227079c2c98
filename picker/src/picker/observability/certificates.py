"""How long certificates are still valid."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from picker.observability.prometheus_families import gauge

SOON_S = 30 * 86_400
"""Before its end a certificate is worth a warning. The extension renews its own four months before."""


class CertificateExpiry(Collector):
    """Reads the certificates again at each scrape: a renewal replaces them."""

    def __init__(
        self, read: Callable[[], Mapping[str, bytes]], now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """`read`: the certificates by what they are called, PEM."""
        self._read = read
        self._now = now

    def left_s(self) -> dict[str, float]:
        """Seconds by name, negative after the end. What is no certificate has none left."""
        now = self._now()
        return {name: _left_s(pem, now) for name, pem in self._read().items()}

    def soon(self) -> dict[str, float]:
        """Those of `left_s` that end within SOON_S."""
        return {name: left_s for name, left_s in self.left_s().items() if left_s < SOON_S}

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        yield gauge(
            "inference_gateway_certificate_expiry_seconds",
            "Until the certificate expires with which the gateway's parts trust each other; negative after that.",
            ("certificate",),
            [((name,), left_s) for name, left_s in self.left_s().items()],
        )


def read_files(paths: Mapping[str, Path | None]) -> dict[str, bytes]:
    """The contents by name, without those that have no path; empty for a file that cannot be read."""
    return {name: _read(path) for name, path in paths.items() if path is not None}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _left_s(pem: bytes, now: datetime) -> float:
    """Of several certificates the last to end counts: two authorities are trusted while one replaces the other."""
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except ValueError:
        return 0.0
    return max((each.not_valid_after_utc - now).total_seconds() for each in certificates)
