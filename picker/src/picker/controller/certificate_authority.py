"""The CA of the gateway's certificates, and its rotation without an interruption.

A rotation has three steps, OVERLAP apart. First both CAs are trusted and the old one signs. Then the new one signs and
both are trusted. Then the old one is dropped. Each side therefore trusts the other's certificate, in whichever order
the two read their Secrets."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from picker.controller.certificates import KeyPair, is_due, new_authority

OVERLAP = timedelta(days=1)
"""Duration of a step. Judgement: a proxy or a picker that has not read a new Secret for a day is down."""

TRUSTED, SIGNING_KEY, NEXT_KEY, CHANGED = "ca.crt", "ca.key", "next.key", "ca.changed"
"""Keys in the Secret. TRUSTED: the trusted certificates, the signing one first. SIGNING_KEY: its private key. NEXT_KEY:
the private key of the second one until that signs. CHANGED: the time of the last step, in ISO 8601."""


@dataclass(frozen=True, slots=True)
class Authorities:
    """The CAs that are trusted, and the one that signs."""

    signing: KeyPair
    """The signing CA. Its key is empty if the Secret has no usable one: it signs nothing, and is trusted until it is
    replaced."""
    next: KeyPair | None
    """The CA that signs after the next step."""
    previous: bytes | None
    """The certificate of the CA that signed before."""
    changed: datetime
    """Time of the last step."""

    @classmethod
    def of(cls, contents: Mapping[str, bytes]) -> "Authorities | None":
        """Parses the Secret's contents; returns None if they hold no CA."""
        try:
            certificates = x509.load_pem_x509_certificates(contents.get(TRUSTED, b""))
        except ValueError:
            return None
        signing, *others = (certificate.public_bytes(Encoding.PEM) for certificate in certificates)
        other = others[0] if others else None
        next_key = _usable(contents.get(NEXT_KEY, b""))
        is_next = other is not None and next_key != b""
        return cls(
            KeyPair(signing, _usable(contents.get(SIGNING_KEY, b""))),
            KeyPair(other, next_key) if other is not None and is_next else None,
            None if is_next else other,
            _time(contents.get(CHANGED, b"")),
        )

    @property
    def bundle(self) -> bytes:
        """All trusted certificates, in PEM."""
        other = self.next.certificate if self.next is not None else self.previous
        return self.signing.certificate + (other or b"")

    @property
    def issuer(self) -> KeyPair:
        """The CA that signs now."""
        return self.signing if self.signing.key or self.next is None else self.next

    def contents(self) -> Mapping[str, bytes]:
        """Returns the contents of the Secret."""
        return {
            TRUSTED: self.bundle,
            SIGNING_KEY: self.signing.key,
            NEXT_KEY: self.next.key if self.next is not None else b"",
            CHANGED: self.changed.isoformat().encode(),
        }

    def has_issued(self, certificate: bytes) -> bool:
        """Returns whether the signing CA has issued `certificate`."""
        try:
            parsed = x509.load_pem_x509_certificate(certificate)
            parsed.verify_directly_issued_by(x509.load_pem_x509_certificate(self.signing.certificate))
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True


def advanced(current: Authorities | None, now: datetime) -> Authorities:
    """Returns `current` after the steps that are due; a first CA if there is none."""
    if current is None:
        return Authorities(new_authority(now), None, None, now)
    if current.next is not None:
        if now < current.changed + OVERLAP:
            return current
        return Authorities(current.next, None, current.signing.certificate, now)
    if not current.signing.key or is_due(current.signing.certificate, now):
        return replace(current, next=new_authority(now), previous=None, changed=now)
    if current.previous is not None and now >= current.changed + OVERLAP:
        return replace(current, previous=None, changed=now)
    return current


def _usable(key: bytes) -> bytes:
    """Returns `key` if it is a private key in PEM, else empty bytes."""
    try:
        load_pem_private_key(key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return b""
    return key


def _time(text: bytes) -> datetime:
    """Parses a time; returns 1970 if it is invalid."""
    try:
        return datetime.fromisoformat(text.decode())
    except (ValueError, UnicodeDecodeError):
        return datetime.fromtimestamp(0, UTC)
