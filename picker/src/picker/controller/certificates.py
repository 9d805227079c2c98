"""Certificates of the gateway's own CA, for the connections from Envoy to the picker and from Envoy Gateway to the
extension."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFE = timedelta(days=3650)
LIFE = timedelta(days=365)
"""Lifetimes. Judgement: a proxy that gets no update for months still has a valid certificate."""

RENEW_AFTER = 2 / 3
"""Share of its lifetime after which a certificate is renewed."""

EXPIRES_SOON = timedelta(days=30)
"""Remaining lifetime that causes a warning. A certificate is renewed four months before its end, so something prevents
the renewal."""

_SKEW = timedelta(minutes=5)
"""Tolerated clock skew: a certificate is valid from a little before its creation."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key, in PEM."""

    certificate: bytes
    key: bytes


def new_authority(now: datetime) -> KeyPair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("inference-gateway")
    builder = (
        _builder(name, name, key.public_key(), now, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _key_pair(builder.sign(key, hashes.SHA256()), key)


def issue(
    authority: KeyPair, common_name: str, dns_names: Sequence[str], now: datetime, *, is_peer: bool = False
) -> KeyPair:
    """Issues a certificate for a server of `dns_names`; for a client if there are none. `is_peer`: the server is also a
    client of the other servers of its name."""
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    issuer_key = serialization.load_pem_private_key(authority.key, None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH] if dns_names else [ExtendedKeyUsageOID.CLIENT_AUTH]
    if is_peer:
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    names = list(dns_names) or [common_name]
    builder = (
        _builder(_name(common_name), issuer.subject, key.public_key(), now, LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    return _key_pair(builder.sign(issuer_key, hashes.SHA256()), key)


def is_due(certificate: bytes, now: datetime) -> bool:
    """Returns whether the certificate must be renewed; an invalid one must be, too."""
    try:
        parsed = x509.load_pem_x509_certificate(certificate)
    except ValueError:
        return True
    life = parsed.not_valid_after_utc - parsed.not_valid_before_utc
    return now >= parsed.not_valid_before_utc + life * RENEW_AFTER


def is_for_clients(certificate: bytes) -> bool:
    """Returns whether a client may present the certificate; False for an invalid one."""
    try:
        parsed = x509.load_pem_x509_certificate(certificate)
        return ExtendedKeyUsageOID.CLIENT_AUTH in parsed.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (ValueError, x509.ExtensionNotFound):
        return False


def expiry(certificate: bytes) -> datetime | None:
    """Returns when the first of the certificates in `certificate` (PEM) expires; None if they are invalid."""
    try:
        return min(parsed.not_valid_after_utc for parsed in x509.load_pem_x509_certificates(certificate))
    except ValueError:
        return None


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + life)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    return KeyPair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
