"""The metric of the remaining validity of certificates."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from picker.controller.certificates import LIFE, issue, new_authority
from picker.grpc_server.tls import TlsFiles
from picker.observability.certificates import CertificateExpiry, read_files
from prometheus_client import CollectorRegistry, generate_latest

NOW = datetime.now(UTC)


def expiry(files: TlsFiles, now: datetime) -> CertificateExpiry:
    named = {"server": files.certificate, "client_ca": files.client_ca}
    return CertificateExpiry(lambda: read_files(named), lambda: now)


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    authority = new_authority(NOW)
    server = issue(authority, "picker", ["picker"], NOW)
    for name, content in (("tls.crt", server.certificate), ("tls.key", server.key), ("ca.crt", authority.certificate)):
        (tmp_path / name).write_bytes(content)
    return TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key", tmp_path / "ca.crt")


def test_the_seconds_until_a_certificate_expires_are_a_metric(files: TlsFiles) -> None:
    registry = CollectorRegistry()
    registry.register(expiry(files, NOW + LIFE - timedelta(days=10)))
    page = generate_latest(registry).decode()
    [line] = [line for line in page.splitlines() if 'certificate="server"' in line]
    assert line.startswith("inference_gateway_certificate_expiry_seconds{")
    assert float(line.split()[-1]) == pytest.approx(10 * 86_400, abs=2)


def test_only_certificates_that_end_within_a_month_end_soon(files: TlsFiles) -> None:
    assert expiry(files, NOW).soon() == {}
    assert list(expiry(files, NOW + LIFE - timedelta(days=29)).soon()) == ["server"]


def test_an_expired_certificate_has_negative_time_left(files: TlsFiles) -> None:
    assert expiry(files, NOW + LIFE + timedelta(seconds=60)).left_s()["server"] < 0


def test_a_file_without_a_certificate_has_no_time_left(files: TlsFiles) -> None:
    files.certificate.write_bytes(b"\x00 no certificate")
    assert expiry(files, NOW).soon() == {"server": 0.0}


def test_of_two_authorities_the_one_that_ends_last_counts(files: TlsFiles) -> None:
    assert files.client_ca is not None
    older = new_authority(NOW - timedelta(days=3640))
    files.client_ca.write_bytes(files.client_ca.read_bytes() + older.certificate)
    assert expiry(files, NOW).left_s()["client_ca"] > 3000 * 86_400
