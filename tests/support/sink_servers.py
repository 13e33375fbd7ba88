"""Real servers that use the files of a sink. Each is ended by the process that began it."""

import asyncio
import contextlib
import os
import pwd
import signal
import subprocess
from pathlib import Path
from typing import ClassVar

from legation.agent.sinks import Outcome
from legation.config.ports import unused_port
from legation.config.sinks import Sink
from tests.support.sinks import RunningSinks

NGINX, HAPROXY, REDIS = "/usr/sbin/nginx", "/usr/sbin/haproxy", "/usr/bin/redis-server"
NATS_SERVER, PROMETHEUS = "/usr/sbin/nats-server", "/usr/bin/prometheus"
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))


class ServerProcess:
    """One server in a directory of its own.

    Attributes:
        directory: of its configuration.
        port: where it serves TLS, on 127.0.0.1.
    """

    files: ClassVar = {
        "chain": "chain.pem",
        "key": "key.pem",
        "bundle": "bundle.pem",
        "crl": "crl.pem",
    }
    starttls = None
    user = None

    def __init__(self, directory: Path):
        self.directory = directory
        self.port = unused_port()
        self.process = None

    @property
    def sink_directory(self):
        return self.directory / "identity"

    @property
    def current(self):
        return self.sink_directory / "current"

    def sink(self, **changes):
        """Return the sink that this server uses."""
        probe = {"address": f"127.0.0.1:{self.port}", "timeout": "5s"}
        if self.starttls:
            probe["starttls"] = self.starttls
        return Sink.model_validate(
            {
                "name": "web",
                "directory": str(self.sink_directory),
                "files": self.files,
                "reload": self.reload,
                "probe": probe,
                **({"owner": self.user} if self.user else {}),
                **changes,
            }
        )

    async def begin(self, issued):
        """Deliver the first generation while there is nobody to tell, then start."""
        async with RunningSinks(issued, self.sink(probe=None, reload={"kind": "none"})) as first:
            event = await first.next_event()
            assert event.outcome is Outcome.DELIVERED, event
        await self.start()

    async def start(self):
        """Start it, and wait until it listens."""
        self.configure()
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self.identity()
            )
        async with asyncio.timeout(20):
            while not await self._listens():
                assert self.process.poll() is None, self.log
                await asyncio.sleep(0.02)

    def identity(self):
        """Return under whom it runs: not as root, where it refuses that."""
        if self.user is None:
            return {}
        account = pwd.getpwnam(self.user)
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}

    def stop(self):
        """End it."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(20)

    @property
    def log(self):
        return (self.directory / "server.log").read_text(errors="replace")[-2000:]

    def configure(self):
        """Write its configuration."""

    async def _listens(self):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.transport.abort()
            return True
        return False


class Nginx(ServerProcess):
    """nginx with two workers, answering every request itself, below /slow for ever.

    Attributes:
        main: further directives of its main context.
    """

    main = ""

    @property
    def reload(self):
        return {"kind": "nginx", "pid_file": str(self.directory / "nginx.pid")}

    @property
    def check(self):
        return [NGINX, "-t", "-q", "-e", "stderr", "-c", str(self.directory / "nginx.conf")]

    @property
    def command(self):
        return [NGINX, "-e", "stderr", "-c", str(self.directory / "nginx.conf")]

    def configure(self):
        here, current = self.directory, self.current
        (here / "nginx.conf").write_text(
            f"""
            {self.main} worker_processes 2; daemon off; pid {here}/nginx.pid; error_log stderr;
            events {{ worker_connections 256; }}
            http {{
              access_log off;
              client_body_temp_path {here}/b; proxy_temp_path {here}/p;
              fastcgi_temp_path {here}/f; uwsgi_temp_path {here}/u; scgi_temp_path {here}/s;
              keepalive_requests 100000;
              server {{
                listen 127.0.0.1:{self.port} ssl http2;
                ssl_protocols TLSv1.3; ssl_session_tickets off; ssl_session_cache off;
                ssl_certificate {current}/chain.pem; ssl_certificate_key {current}/key.pem;
                ssl_client_certificate {current}/bundle.pem; ssl_crl {current}/crl.pem;
                ssl_verify_client on; ssl_verify_depth 2;
                location / {{ return 200 "ok"; }}
                location /slow {{ limit_rate 500; alias {NGINX}; }}
              }}
            }}
            """
        )


class HAProxy(ServerProcess):
    """HAProxy with two threads, answering every request itself."""

    files: ClassVar = {
        "combined": "combined.pem",
        "bundle": "bundle.pem",
        "crl": "crl.pem",
        "revoked": "revoked.map",
    }

    def __init__(self, directory: Path, *, tcp: int = 1, grpc: int = 1):
        """Pass connections to `tcp_port` on to the port `tcp`, and gRPC calls to `grpc`."""
        super().__init__(directory)
        self.tcp_port, self.tcp, self.grpc = unused_port(), tcp, grpc

    @property
    def socket(self):
        return self.directory / "admin.sock"

    @property
    def reload(self):
        return {
            "kind": "haproxy",
            "socket": str(self.socket),
            "master_socket": str(self.directory / "master.sock"),
            "table": "peers",
        }

    @property
    def command(self):
        return [
            HAPROXY,
            "-W",
            "-db",
            "-S",
            f"{self.directory}/master.sock,mode,600",
            "-f",
            str(self.directory / "haproxy.cfg"),
        ]

    def configure(self):
        current = self.current
        (self.directory / "haproxy.cfg").write_text(
            f"""global
    nbthread 2
    stats socket {self.socket} level admin mode 600
    tune.bufsize 65536
    ssl-default-bind-options ssl-min-ver TLSv1.3 no-tls-tickets
defaults
    mode http
    timeout client 30s
    timeout http-keep-alive 30s
    timeout connect 5s
    timeout server 30s
backend peers
    stick-table type string len 160 size 10k expire 10s
frontend web
    bind 127.0.0.1:{self.port} {self._tls} alpn h2,http/1.1
    {self._peers}
    http-request reject if {{ ssl_c_serial,hex,map_str({current}/revoked.map) -m found }}
    http-request return status 200 content-type text/plain string ok if !{{ path_beg /test. }}
    default_backend grpc
backend grpc
    server grpc 127.0.0.1:{self.grpc} proto h2
frontend tcp
    mode tcp
    bind 127.0.0.1:{self.tcp_port} {self._tls}
    {self._peers}
    tcp-request content reject if {{ ssl_c_serial,hex,map_str({current}/revoked.map) -m found }}
    default_backend tcp
backend tcp
    mode tcp
    server tcp 127.0.0.1:{self.tcp}
"""
        )

    @property
    def _tls(self):
        current = self.current
        return (
            f"ssl crt {current}/combined.pem ca-file {current}/bundle.pem "
            f"crl-file {current}/crl.pem verify required"
        )

    _peers = """tcp-request session set-var(sess.address) src
    tcp-request session set-var(sess.port) src_port
    tcp-request session set-var(sess.frontend) fe_name
    tcp-request session track-sc0 ssl_c_serial,hex,concat(@,sess.address),concat(@,sess.port),\
concat(@,sess.frontend) table peers"""


class PostgreSQL(ServerProcess):
    """PostgreSQL: whoever shows a valid certificate is let in as `app`."""

    starttls = "postgres"
    user = "postgres" if os.geteuid() == 0 else None
    local = "local postgres postgres,legation peer map=agent\n"
    hba = "hostssl all app 127.0.0.1/32 trust clientcert=verify-ca\n"
    idents = ""
    roles = (
        "create role app login; create role legation login;"
        "grant pg_read_all_stats, pg_signal_backend to legation"
    )

    @property
    def data(self):
        return self.directory / "data"

    @property
    def reload(self):
        sessions = {"socket_directory": str(self.sockets), "port": self.port}
        return {"kind": "postgresql", "data_directory": str(self.data), "sessions": sessions}

    @property
    def sockets(self):
        return self.directory / "sockets"

    async def start(self):
        await super().start()
        self.as_administrator(self.roles)

    def as_administrator(self, statements):
        """Run statements as the superuser, over the Unix socket."""
        psql = ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", str(self.sockets), "-p",
                str(self.port), "-U", "postgres", "-d", "postgres", "-c", statements]  # fmt: skip
        return subprocess.run(psql, check=True, capture_output=True, text=True).stdout

    @property
    def tls(self):
        """What its configuration says of TLS."""
        current = self.current
        return f"""
ssl = on
ssl_min_protocol_version = 'TLSv1.3'
ssl_cert_file = '{current}/chain.pem'
ssl_key_file = '{current}/key.pem'
ssl_ca_file = '{current}/bundle.pem'
ssl_crl_file = '{current}/crl.pem'
"""

    @property
    def command(self):
        return [str(POSTGRES[-1]), "-D", str(self.data)]

    def stop(self):
        """End it with its sessions, which SIGTERM would wait for."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(20)

    def configure(self):
        if (self.data / "PG_VERSION").exists():
            return
        self.directory.chmod(0o711)
        for made in (self.data, self.sockets):
            made.mkdir(mode=0o700 if made == self.data else 0o755)
            if self.user:
                account = pwd.getpwnam(self.user)
                os.chown(made, account.pw_uid, account.pw_gid)
        setup = [str(POSTGRES[-1].with_name("initdb")), "-D", str(self.data), "-N", "-A", "trust",
                 "-U", "postgres", "--no-instructions", "--locale=C", "-E", "UTF8"]  # fmt: skip
        subprocess.run(setup, check=True, capture_output=True, cwd="/", **self.identity())
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(
                f"""
listen_addresses = '127.0.0.1'
port = {self.port}
unix_socket_directories = '{self.sockets}'
fsync = off
shared_buffers = 16MB
{self.tls}"""
            )
        (self.data / "pg_hba.conf").write_text(self.local + self.hba)
        agent = pwd.getpwuid(os.geteuid()).pw_name
        own = "".join(f"agent {agent} {role}\n" for role in ("postgres", "legation"))
        (self.data / "pg_ident.conf").write_text(own + self.idents)


class Redis(ServerProcess):
    """Redis with TLS for clients, and a Unix socket for the agent."""

    files: ClassVar = {"chain": "chain.pem", "key": "key.pem", "bundle": "bundle.pem"}

    @property
    def socket(self):
        return self.directory / "redis.sock"

    @property
    def reload(self):
        return {"kind": "redis", "socket": str(self.socket)}

    @property
    def command(self):
        current = self.current
        return [REDIS, "--port", "0", "--tls-port", str(self.port), "--bind", "127.0.0.1",
                "--unixsocket", str(self.socket), "--save", "", "--dir", str(self.directory),
                "--tls-cert-file", f"{current}/chain.pem", "--tls-key-file", f"{current}/key.pem",
                "--tls-ca-cert-file", f"{current}/bundle.pem", "--tls-auth-clients", "yes",
                "--tls-session-caching", "no"]  # fmt: skip


class NATS(ServerProcess):
    """NATS with mutual TLS; it speaks first, so nobody looks at it from outside."""

    files: ClassVar = {"chain": "chain.pem", "key": "key.pem", "bundle": "bundle.pem"}

    def sink(self, **changes):
        return super().sink(**{"probe": None, **changes})

    @property
    def pid_file(self):
        return self.directory / "nats.pid"

    @property
    def reload(self):
        return {"kind": "signal", "pid_file": str(self.pid_file)}

    @property
    def command(self):
        return [NATS_SERVER, "-c", str(self.directory / "nats.conf"), "-P", str(self.pid_file)]

    def configure(self):
        current = self.current
        (self.directory / "nats.conf").write_text(
            f"""listen: 127.0.0.1:{self.port}
tls {{ cert_file: "{current}/chain.pem", key_file: "{current}/key.pem",
       ca_file: "{current}/bundle.pem", verify: true }}
"""
        )


class Prometheus(ServerProcess):
    """Prometheus: its own pages over mutual TLS, and the same certificate for scraping itself."""

    files: ClassVar = {"chain": "chain.pem", "key": "key.pem", "bundle": "bundle.pem"}
    reload: ClassVar = {"kind": "none"}

    @property
    def command(self):
        return [PROMETHEUS, f"--config.file={self.directory}/prometheus.yml",
                f"--web.config.file={self.directory}/web.yml",
                f"--storage.tsdb.path={self.directory}/data",
                f"--web.listen-address=127.0.0.1:{self.port}"]  # fmt: skip

    def configure(self):
        current = self.current
        (self.directory / "web.yml").write_text(
            f"""tls_server_config:
  cert_file: {current}/chain.pem
  key_file: {current}/key.pem
  client_ca_file: {current}/bundle.pem
  client_auth_type: RequireAndVerifyClientCert
"""
        )
        (self.directory / "prometheus.yml").write_text(
            f"""scrape_configs:
  - job_name: itself
    scheme: https
    scrape_interval: 200ms
    scrape_timeout: 200ms
    tls_config:
      cert_file: {current}/chain.pem
      key_file: {current}/key.pem
      ca_file: {current}/bundle.pem
      server_name: localhost
    static_configs: [{{targets: ["127.0.0.1:{self.port}"]}}]
"""
        )
