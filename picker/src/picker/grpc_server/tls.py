"""TLS for the edge: certificates from files, read again when they change."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from picker.cli_error import CliError


class CertificatesUnusable(CliError):
    """The files do not make a server's TLS; the message says which and why."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. With `client_ca` a client has to show a certificate that it has signed."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 or later, HTTP/2 alone. Raises CertificatesUnusable."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise CertificatesUnusable(f"certificate {self.certificate} with key {self.key}: {error}") from error
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
            except (OSError, ssl.SSLError) as error:
                raise CertificatesUnusable(f"client CA {self.client_ca}: {error}") from error
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def state(self) -> tuple[tuple[int, int, int] | None, ...]:
        """Differs when a file has been written or replaced; None for one that is not there."""
        return tuple(_state(path) for path in (self.certificate, self.key, self.client_ca) if path is not None)


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
