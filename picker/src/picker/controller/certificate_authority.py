"""The authority of the gateway's certificates, and how a new one takes its place without an interruption.

A change has two steps, OVERLAP apart. First both authorities are trusted and the old one signs. Then the new one signs
and both are trusted. Then the old one is dropped. So each side trusts what the other shows, in whichever order the two
read their Secrets."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from picker.controller.certificates import KeyPair, is_due, new_authority

OVERLAP = timedelta(days=1)
"""Of a step. Judgement: a proxy or a picker that has not read a new Secret for a day is down, not late."""

TRUSTED, SIGNING_KEY, NEXT_KEY, CHANGED = "ca.crt", "ca.key", "next.key", "ca.changed"
"""Keys in the Secret: the trusted certificates, the signing one first; its key; the key of the second one while that
does not sign yet; when the last step was, in ISO 8601."""


@dataclass(frozen=True, slots=True)
class Authorities:
    """Which authorities are trusted, and which one signs."""

    signing: KeyPair
    """Its key is empty where the Secret has no usable one: it signs nothing, and is trusted until it is replaced."""
    next: KeyPair | None
    """The one that signs after the next step."""
    previous: bytes | None
    """The certificate of the one that signed before."""
    changed: datetime
    """When the last step was."""

    @classmethod
    def of(cls, contents: Mapping[str, bytes]) -> "Authorities | None":
        """As the Secret's contents say; None where they hold no authority."""
        try:
            found = x509.load_pem_x509_certificates(contents.get(TRUSTED, b""))
        except ValueError:
            return None
        signing, *others = (each.public_bytes(Encoding.PEM) for each in found)
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
        """All trusted certificates, PEM."""
        other = self.next.certificate if self.next is not None else self.previous
        return self.signing.certificate + (other or b"")

    @property
    def issuer(self) -> KeyPair:
        """The one that signs now."""
        return self.signing if self.signing.key or self.next is None else self.next

    def contents(self) -> Mapping[str, bytes]:
        """What the Secret has to say of them."""
        return {
            TRUSTED: self.bundle,
            SIGNING_KEY: self.signing.key,
            NEXT_KEY: self.next.key if self.next is not None else b"",
            CHANGED: self.changed.isoformat().encode(),
        }

    def has_issued(self, certificate: bytes) -> bool:
        """Whether `certificate` is of the signing authority."""
        try:
            read = x509.load_pem_x509_certificate(certificate)
            read.verify_directly_issued_by(x509.load_pem_x509_certificate(self.signing.certificate))
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True


def advanced(held: Authorities | None, now: datetime) -> Authorities:
    """`held` after the steps that are due; a first authority where there is none."""
    if held is None:
        return Authorities(new_authority(now), None, None, now)
    if held.next is not None:
        if now < held.changed + OVERLAP:
            return held
        return Authorities(held.next, None, held.signing.certificate, now)
    if not held.signing.key or is_due(held.signing.certificate, now):
        return replace(held, next=new_authority(now), previous=None, changed=now)
    if held.previous is not None and now >= held.changed + OVERLAP:
        return replace(held, previous=None, changed=now)
    return held


def _usable(key: bytes) -> bytes:
    """`key` if it is a private key in PEM, else none."""
    try:
        load_pem_private_key(key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return b""
    return key


def _time(text: bytes) -> datetime:
    """Long ago for what is no time."""
    try:
        return datetime.fromisoformat(text.decode())
    except (ValueError, UnicodeDecodeError):
        return datetime.fromtimestamp(0, UTC)
