"""Real PostgreSQL and Redis servers that demand a certificate of a trust domain in memory."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from legation.config.ports import unused_port
from legation.testing import Identity

POSTGRES = max(Path("/usr/lib/postgresql").glob("*/bin"))
_OWNER = "postgres" if os.geteuid() == 0 else None


@contextlib.contextmanager
def postgresql(directory: Path, identity: Identity) -> Iterator[int]:
    """Run PostgreSQL with a database and a user ``app``; yield its port."""
    port = unused_port()
    data = directory / "data"
    data.mkdir(mode=0o700, parents=True)
    files = identity.write_to(directory)
    account = pwd.getpwnam(_OWNER) if _OWNER else None
    options = (
        {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}
    )
    if account:
        directory.chmod(0o711)
        for path in (data, files.certificate, files.private_key, files.trust_bundle):
            os.chown(path, account.pw_uid, account.pw_gid)
    subprocess.run(
        [POSTGRES / "initdb", "-D", data, "-N", "-A", "trust", "-U", "app", "--no-instructions",
         "--locale=C", "-E", "UTF8"],
        check=True, capture_output=True, cwd="/", **options,
    )  # fmt: skip
    with (data / "postgresql.conf").open("a") as file:
        file.write(
            f"""
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
fsync = off
shared_buffers = 16MB
ssl = on
ssl_min_protocol_version = 'TLSv1.3'
ssl_cert_file = '{files.certificate}'
ssl_key_file = '{files.private_key}'
ssl_ca_file = '{files.trust_bundle}'
"""
        )
    (data / "pg_hba.conf").write_text("hostssl all app 127.0.0.1/32 trust clientcert=verify-ca\n")
    with _running([POSTGRES / "postgres", "-D", data], directory, options):
        yield port


@contextlib.contextmanager
def redis_server(directory: Path, identity: Identity) -> Iterator[int]:
    """Run Redis; yield its port."""
    port = unused_port()
    files = identity.write_to(directory)
    command = [
        shutil.which("redis-server"), "--port", "0", "--tls-port", str(port),
        "--bind", "127.0.0.1", "--save", "", "--dir", directory,
        "--tls-cert-file", files.certificate, "--tls-key-file", files.private_key,
        "--tls-ca-cert-file", files.trust_bundle, "--tls-auth-clients", "yes",
        "--tls-session-caching", "no",
    ]  # fmt: skip
    with _running(command, directory, {}):
        yield port


@contextlib.contextmanager
def _running(command: list, directory: Path, options: dict) -> Iterator[None]:
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **options
        )
    try:
        deadline = time.monotonic() + 20
        while True:
            # Both listen before they serve, and both say when they do.
            said = (directory / "log").read_text()
            if "eady to accept connections" in said:
                break
            assert process.poll() is None, said[-2000:]
            assert time.monotonic() < deadline, said[-2000:]
            time.sleep(0.02)
        yield
    finally:
        # PostgreSQL: fast shutdown, without waiting for what clients have left behind.
        process.send_signal(signal.SIGINT)
        process.wait(20)
