"""Sinks in an agent's configuration."""

from pathlib import Path

import pytest

from legation.config import AgentConfig, load
from legation.errors import InvalidInput

WEB = """
[[sink]]
name = "web"
directory = "/etc/nginx/identity"
group = "www-data"
check = ["/usr/sbin/nginx", "-t"]

[sink.files]
chain = "chain.pem"
key = "key.pem"
bundle = "bundle.pem"
crl = "crl.pem"

[sink.reload]
kind = "nginx"

[sink.probe]
address = "127.0.0.1:443"
"""


POSTGRESQL = 'kind = "postgresql"\ndata_directory = "/var/lib/postgresql"\n'


def read(tmp_path: Path, text: str) -> AgentConfig:
    file = tmp_path / "agent.toml"
    file.write_text(text)
    return load(AgentConfig, path=file, environment={}).config


def test_a_sink_is_read(tmp_path: Path) -> None:
    """Names, files, reload and probe are there, and the rest has defaults."""
    (web,) = read(tmp_path, WEB).sink
    assert (web.name, web.file_mode, web.reload.kind) == ("web", 0o640, "nginx")
    assert web.selectors == {"sink:name:web"}
    assert web.probe is not None
    assert web.probe.timeout.total_seconds() == 10
    assert read(tmp_path, "").sink == ()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('group = "www-data"', 'groop = "x"', "groop"),
        ('kind = "nginx"', 'kind = "apache"', "apache|tag"),
        ('kind = "nginx"', 'kind = "nginx"\nsocket = "/run/x"', "socket"),
        ('"/usr/sbin/nginx", "-t"', '"nginx", "-t"', "absolute path"),
        ('"/usr/sbin/nginx", "-t"', "", "a program and its arguments"),
        ('key = "key.pem"', "", "nothing names a key"),
        ('key = "key.pem"', 'key = "chain.pem"', "two files have one name"),
        ('key = "key.pem"', 'key = "../key.pem"', "files.key"),
        ('key = "key.pem"', 'key = ".generation.json"', "files.key"),
        ('key = "key.pem"', 'key = "key.pem"\npkcs12 = "a.p12"', "go together"),
        ('directory = "/etc/nginx/identity"', 'directory = "identity"', "absolute path"),
        ('directory = "/etc/nginx/identity"', 'directory = "/etc/../x"', "absolute path"),
        ('group = "www-data"', 'mode = "0644"', "at most 0660"),
        ('group = "www-data"', 'spiffe_id = "https://x"', "spiffe_id"),
        ('kind = "nginx"', 'kind = "redis"', "Redis has no revocation lists"),
        ('kind = "nginx"', 'kind = "haproxy"', "HAProxy needs files.combined"),
        ('crl = "crl.pem"', 'revoked = "revoked.map"', "goes with it"),
        ('kind = "nginx"', 'kind = "haproxy"\ntable = "a b"', "table"),
        (
            'crl = "crl.pem"\n\n[sink.reload]\nkind = "nginx"',
            'combined = "both.pem"\n\n[sink.reload]\nkind = "haproxy"\ntable = "peers"',
            "files.revoked keeps them ended",
        ),
        (
            'crl = "crl.pem"\n\n[sink.reload]\nkind = "nginx"',
            f"[sink.reload]\n{POSTGRESQL}sessions = {{}}",
            "sessions ends what files.crl refuses",
        ),
        ('kind = "nginx"', f'{POSTGRESQL}sessions = {{password = "x"}}', "password"),
        ('kind = "nginx"', f'{POSTGRESQL}sessions = {{database = "host=x"}}', "database"),
        ('kind = "nginx"', 'kind = "http"\nurl = "http://example.org/x"', "url"),
        ('kind = "nginx"', 'kind = "signal"\npid_file = "/run/x"\nsignal = "KILL"', "signal"),
        ('address = "127.0.0.1:443"', 'address = "127.0.0.1:0"', "not 0"),
    ],
)
def test_a_sink_that_cannot_work_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    """Each mistake is one line that names the key."""
    with pytest.raises(InvalidInput, match=said):
        read(tmp_path, WEB.replace(old, new))


@pytest.mark.parametrize(("what", "other"), [("name", "/elsewhere"), ("directory", "")])
def test_two_sinks_share_nothing(tmp_path: Path, what: str, other: str) -> None:
    """One name or one directory for two sinks is refused."""
    second = WEB.replace("/etc/nginx/identity", other) if other else WEB.replace('"web"', '"w2"')
    with pytest.raises(InvalidInput, match=f"two sinks have one {what}"):
        read(tmp_path, WEB + second)
