"""A certificate authority of somebody else, made with the openssl command."""

import subprocess
from pathlib import Path

from legation.agent.evidence import X509Possession
from legation.pki import certificates_from_pem, private_key_from_pem

_CONFIG = """
[ca]
default_ca = own
[own]
database = index
serial = serial
crlnumber = crlnumber
new_certs_dir = .
default_md = sha256
default_days = 30
default_crl_days = 30
policy = any
unique_subject = no
[any]
organizationName = optional
commonName = supplied
[req]
distinguished_name = none
[none]
[root]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[device]
basicConstraints = CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = {usage}
subjectAltName = DNS:{name}.dc.example
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[list]
authorityKeyIdentifier = keyid
"""


class DeviceCA:
    """Certifies devices, and revokes them."""

    def __init__(self, directory: Path, name: str = "Maker") -> None:
        self.directory = directory
        directory.mkdir()
        (directory / "index").touch()
        (directory / "serial").write_text("1000\n")
        (directory / "crlnumber").write_text("01\n")
        self._configure("clientAuth", "x")
        self._run("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "ca.key")
        self._run(
            *("req", "-new", "-x509", "-key", "ca.key", "-out", "ca.pem", "-days", "365"),
            *("-subj", f"/CN={name}", "-config", "config", "-extensions", "root"),
        )

    @property
    def root(self) -> Path:
        return self.directory / "ca.pem"

    @property
    def crl(self) -> Path:
        return self.directory / "crl.pem"

    def device(
        self, name: str, *, days: tuple[str, str] | None = None, usage: str = "clientAuth"
    ) -> X509Possession:
        """Certify a device of our organization."""
        self._configure(usage, name)
        self._run("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.key")
        self._run(
            *("req", "-new", "-key", f"{name}.key", "-out", f"{name}.csr", "-config", "config"),
            *("-subj", f"/O=Example/CN={name}"),
        )
        period = ("-startdate", days[0], "-enddate", days[1]) if days else ()
        self._run(
            *("ca", "-batch", "-config", "config", "-keyfile", "ca.key", "-cert", "ca.pem"),
            *("-in", f"{name}.csr", "-out", f"{name}.pem", "-notext", "-extensions", "device"),
            *period,
        )
        return X509Possession(
            chain=tuple(certificates_from_pem((self.directory / f"{name}.pem").read_bytes())),
            key=private_key_from_pem((self.directory / f"{name}.key").read_bytes()),
        )

    def publish(self, *revoked: str) -> None:
        """Revoke devices and write the list."""
        keys = ("-config", "config", "-keyfile", "ca.key", "-cert", "ca.pem")
        for name in revoked:
            self._run("ca", *keys, "-revoke", f"{name}.pem")
        self._run("ca", *keys, "-gencrl", "-crlexts", "list", "-out", "crl.pem")

    def _configure(self, usage: str, name: str) -> None:
        (self.directory / "config").write_text(_CONFIG.format(usage=usage, name=name))

    def _run(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self.directory, check=True, capture_output=True)
