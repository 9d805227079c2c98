"""TLS from Envoy to pickers.

This project's pickers and Envoy present certificates of one CA. Other pickers use self-signed certificates, which
cannot be verified."""

from dataclasses import dataclass

from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, tls_pb2
from envoy.type.matcher.v3 import string_pb2

from picker.resources.names import ObjectName
from picker.xds.protobuf import pack_any


@dataclass(frozen=True, slots=True)
class PickerTls:
    """Envoy's TLS for one picker. All PEM."""

    service: ObjectName
    authority: bytes
    certificate: bytes
    key: bytes


def transport_socket(tls: PickerTls, host: str) -> base_pb2.TransportSocket:
    """Returns the transport socket for servers with a certificate for `host`. The private key is part of the cluster.
    Envoy Gateway sends it to Envoy over its own TLS."""
    validation = common_pb2.CertificateValidationContext(
        trusted_ca=base_pb2.DataSource(inline_bytes=tls.authority),
        match_typed_subject_alt_names=[
            common_pb2.SubjectAltNameMatcher(
                san_type=common_pb2.SubjectAltNameMatcher.DNS, matcher=string_pb2.StringMatcher(exact=host)
            )
        ],
    )
    own = common_pb2.TlsCertificate(
        certificate_chain=base_pb2.DataSource(inline_bytes=tls.certificate),
        private_key=base_pb2.DataSource(inline_bytes=tls.key),
    )
    common = tls_pb2.CommonTlsContext(alpn_protocols=["h2"], tls_certificates=[own], validation_context=validation)
    return _socket(tls_pb2.UpstreamTlsContext(sni=host, common_tls_context=common))


def unverified_socket() -> base_pb2.TransportSocket:
    """Returns the transport socket for servers with self-signed certificates, the default of upstream's picker.

    The connection is encrypted, but the server is not authenticated."""
    common = tls_pb2.CommonTlsContext(
        alpn_protocols=["h2"],
        validation_context=common_pb2.CertificateValidationContext(
            trust_chain_verification=common_pb2.CertificateValidationContext.ACCEPT_UNTRUSTED
        ),
    )
    return _socket(tls_pb2.UpstreamTlsContext(common_tls_context=common))


def _socket(context: tls_pb2.UpstreamTlsContext) -> base_pb2.TransportSocket:
    return base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack_any(context))
