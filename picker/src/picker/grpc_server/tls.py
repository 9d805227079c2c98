"""TLS of the server: certificates from files, read again when they change."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import structlog

from picker.cli_error import CliError

log = structlog.get_logger(__name__)


class CertificatesUnusable(CliError):
    """The files cannot be used for TLS; the message names the file and the reason."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. With `client_ca`, clients must present a certificate signed by it."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Returns a context for TLS 1.2 or later that offers only HTTP/2 (ALPN `h2`). Raises CertificatesUnusable."""
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
        """Returns a value that changes when a file is written or replaced; None for a missing file."""
        return tuple(_state(path) for path in (self.certificate, self.key, self.client_ca) if path is not None)


class WatchedTls:
    """The TLS of a server whose certificate files are replaced while it runs."""

    def __init__(self, files: TlsFiles | None) -> None:
        """None: a server without TLS. Raises CertificatesUnusable."""
        self._files = files
        self._state = files.state() if files is not None else ()
        self.context = files.context() if files is not None else None
        """Of the newest files that match. None without TLS."""

    def has_changed(self) -> bool:
        """Reads files that were written since the last call. Files that do not match keep the previous context."""
        if self._files is None or (state := self._files.state()) == self._state:
            return False
        self._state = state
        try:
            self.context = self._files.context()
        except CertificatesUnusable as error:
            log.warning("grpc_server.certificates_unusable", detail=str(error))
            return False
        log.info("grpc_server.certificates_reloaded", certificate=str(self._files.certificate))
        return True


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
