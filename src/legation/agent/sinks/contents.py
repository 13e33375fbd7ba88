"""From a material to the bytes of its files."""

from legation.agent.sinks.model import Material
from legation.config.sinks import SinkFiles
from legation.errors import InternalError
from legation.pki import (
    KeyStore,
    certificate_from_der,
    certificates_to_pem,
    private_key_from_der,
    private_key_to_pem,
    to_pkcs12,
)
from legation.pki.pem import encode


def serial_in_map(serial: int) -> str:
    """Write a serial number as HAProxy and nginx do: whole octets in hexadecimal."""
    return serial.to_bytes(max(1, (serial.bit_length() + 7) // 8)).hex().upper()


def render(files: SinkFiles, material: Material, *, password: bytes | None) -> dict[str, bytes]:
    """Return the contents of the named files, by name.

    Args:
        files: which, and what they are called.
        material: what they hold.
        password: for the PKCS #12 file.

    Raises:
        InvalidInput: the key does not fit into PKCS #12, or the password is empty.
    """
    chain = tuple(certificate_from_der(der) for der in material.served)
    key = private_key_from_der(material.identity.private_key)
    chain_pem, key_pem = certificates_to_pem(chain), private_key_to_pem(key)
    contents = {
        files.chain: chain_pem,
        files.key: key_pem,
        files.combined: chain_pem + key_pem,
        files.bundle: material.bundle.to_pem(),
        files.crl: b"".join(encode("X509 CRL", known.der) for known in material.lists),
        files.revoked: b"".join(
            b"%s 1;\n" % serial_in_map(serial).encode() for serial in sorted(material.revoked)
        ),
    }
    contents[files.ocsp_staple] = material.staple
    if files.pkcs12 is not None:
        if password is None:
            raise InternalError("a PKCS #12 file without a password")
        store = KeyStore(private_key=key, certificate=chain[0], chain=chain[1:])
        contents[files.pkcs12] = to_pkcs12(
            store, password=password, name=material.identity.spiffe_id
        )
    return {name: content for name, content in contents.items() if name is not None}
