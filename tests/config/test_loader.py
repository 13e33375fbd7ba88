"""Tests of the configuration loader: order, origins, and one clear line per problem."""

import json
import os
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legation.config import Address, AgentConfig, ServerConfig, config_schema, load, shown
from legation.config.values import parse_duration, render_duration
from legation.errors import InvalidInput, LegationError, LimitExceeded, NotFound

MINIMAL = 'trust_domain = "example.org"\n'


def write(path: Path, text: str) -> Path:
    file = path / "server.toml"
    file.write_text(text)
    return file


def problems(tmp_path: Path, text: str, **more: object) -> list[str]:
    """Load a bad file and return its problem lines, without the file's folder."""
    file = write(tmp_path, text)
    with pytest.raises(InvalidInput) as caught:
        load(ServerConfig, path=file, environment=more.get("environment", {}))
    return caught.value.message.replace(f"{tmp_path}/", "").split("\n")


def test_each_source_overrides_the_one_before_it(tmp_path: Path) -> None:
    """A flag beats the environment, which beats the file, which beats the default."""
    file = write(
        tmp_path,
        MINIMAL + '[listen]\napi = "127.0.0.1:1"\nstatus = "127.0.0.1:3"\n',
    )
    loaded = load(
        ServerConfig,
        path=file,
        environment={"LEGATION_LISTEN__API": "[::1]:22", "LEGATION_LISTEN__STATUS": "h:33"},
        flags={"listen.status": "h:333", "log.level": None},
    )
    assert loaded.config.listen.api == Address("::1", 22)
    assert str(loaded.config.listen.api) == "[::1]:22"
    assert loaded.config.listen.status == Address("h", 333)
    assert loaded.origins["trust_domain"] == str(file)
    assert loaded.origins["listen.api"] == "LEGATION_LISTEN__API"
    assert loaded.origins["listen.status"] == "flag"
    assert loaded.origins["log.level"] == "default"


def test_every_shown_value_has_an_origin_and_is_plain(tmp_path: Path) -> None:
    """`shown` lists every key once, with an origin, in terms that JSON has."""
    loaded = load(ServerConfig, path=write(tmp_path, MINIMAL), environment={})
    settings = {setting.path: setting for setting in shown(loaded)}
    assert settings["trust_domain"].value == "example.org"
    assert settings["certificates.default_lifetime"].value == "1h"
    assert settings["crl.shards"].origin == "default"
    json.dumps([setting.value for setting in settings.values()])


def test_an_unknown_key_is_one_line_with_the_nearest_name(tmp_path: Path) -> None:
    """A misspelt key names the file, the path and what was meant; so does a misspelt table."""
    assert problems(tmp_path, MINIMAL + '[listen]\napii = "x:1"\n') == [
        'server.toml: listen.apii: unknown key; did you mean "api"?'
    ]
    assert problems(tmp_path, MINIMAL + "[certificate]\n") == [
        'server.toml: certificate: unknown key; did you mean "certificates"?'
    ]
    assert problems(tmp_path, MINIMAL + "[crl]\nzzz = 1\n") == [
        "server.toml: crl.zzz: unknown key; known: validity, refresh, shards, delta, compact"
    ]


def test_a_hostile_key_cannot_break_the_line(tmp_path: Path) -> None:
    """Control characters in a key are quoted, so that one problem stays one line."""
    (line,) = problems(tmp_path, MINIMAL + '"a\\nb\\u001b[31m" = 1\n')
    assert line.startswith("server.toml: 'a\\nb\\x1b[31m': unknown key")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[listen]\napi = "x"\n', 'listen.api: not an address; write "host:port"'),
        ('[listen]\napi = "x:65536"\n', "listen.api: a port is at most 65535"),
        (
            '[listen]\napi = "::1:80"\n',
            'listen.api: not a host; write "host:port", an IPv6 host in brackets',
        ),
        (
            '[certificates]\ndefault_lifetime = "1 hour"\n',
            'certificates.default_lifetime: not a duration; write "90s", "1h30m", "30d"',
        ),
        (
            "[certificates]\ndefault_lifetime = 0\n",
            "certificates.default_lifetime: a duration is positive and at most 36500d",
        ),
        ("[crl]\nshards = 0\n", "crl.shards: Input should be greater than or equal to 1"),
        ("[crl]\nshards = [1]\n", "crl.shards: Input should be a valid integer"),
        ("log = 3\n", "log: Input should be a valid dictionary or instance of Log"),
        ('status_url = "https://x/"\n', "status_url: String should match pattern"),
        (
            '[crl]\nvalidity = "1h"\nrefresh = "45m"\n',
            "crl.refresh is more than half of crl.validity",
        ),
        (
            '[certificates]\ndefault_lifetime = "2d"\n',
            "certificates: default_lifetime is longer than max_lifetime",
        ),
        (
            '[keys]\nkek_file = "a"\npassphrase_env = "B"\n',
            "keys: kek_file and passphrase_env exclude each other",
        ),
    ],
)
def test_a_wrong_value_is_one_line_with_its_path(tmp_path: Path, text: str, expected: str) -> None:
    """A value of the wrong kind is refused in one line that names its key path."""
    (line,) = problems(tmp_path, MINIMAL + text)
    assert expected in line


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    """Three wrong values are three lines; the file's name is on those that came from it."""
    lines = problems(
        tmp_path,
        'trust_domain = "Bad Domain"\n[crl]\nshards = "many"\n',
        environment={"LEGATION_LISTEN__API": "nowhere"},
    )
    assert len(lines) == 3
    assert lines[0].startswith("server.toml: trust_domain: 'Bad Domain' is not a trust domain")
    assert lines[1].startswith("LEGATION_LISTEN__API: listen.api:")
    assert lines[2].startswith("server.toml: crl.shards:")


def test_a_missing_required_key_is_named() -> None:
    """Without a trust domain there is no authority, and the line says so."""
    with pytest.raises(InvalidInput, match=r"^trust_domain: required, and not given$"):
        load(ServerConfig, environment={})


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a = 1\nb = \n", "at line 2, column 5"),
        (b"a = 1\n\nb = '\xff'\n", "line 3: not UTF-8"),
        (b"a = " + b"[" * 5000, "nested too deep"),
        (b"a = " + b"9" * 5000, "integer"),
        (b"a = 2026-02-31\n", "server.toml: "),
        (b"a = 1\na = 2\n", "Cannot overwrite a value"),
    ],
)
def test_malformed_toml_names_the_file_and_line(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    """What is not TOML is refused in one line, without a traceback."""
    file = tmp_path / "server.toml"
    file.write_bytes(content)
    with pytest.raises(InvalidInput) as caught:
        load(ServerConfig, path=file, environment={})
    assert expected in caught.value.message
    assert "\n" not in caught.value.message


def test_a_file_that_is_missing_too_large_or_no_file_is_refused(tmp_path: Path) -> None:
    """Absence, size, directories and pipes each have their own exact error; a pipe never blocks."""
    with pytest.raises(NotFound, match="there is no configuration file"):
        load(ServerConfig, path=tmp_path / "none.toml", environment={})
    big = tmp_path / "big.toml"
    big.write_bytes(b"#" * (256 * 1024 + 1))
    with pytest.raises(LimitExceeded, match="larger than 262144 bytes"):
        load(ServerConfig, path=big, environment={})
    with pytest.raises(InvalidInput, match="Is a directory"):
        load(ServerConfig, path=tmp_path, environment={})
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InvalidInput, match="trust_domain: required"):
        load(ServerConfig, path=pipe, environment={})


def test_environment_lists_are_split_at_commas() -> None:
    """A variable of a list key holds its items with commas between."""
    config = load(
        ServerConfig,
        environment={"LEGATION_TRUST_DOMAIN": "a.example", "LEGATION_NAMES": "CA.example, ::1"},
    ).config
    assert config.names == ("ca.example", "::1")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("LEGATION_LISTEN__APII", 'listen.apii: unknown key; did you mean "api"?'),
        ("LEGATION_LISTN__API", 'listn: unknown key; did you mean "listen"?'),
        ("LEGATION_TRUST_DOMIAN", 'trust_domian: unknown key; did you mean "trust_domain"?'),
        ("LEGATION_LISTEN__API__X", "listen.api: a single value, not a table"),
        ("LEGATION_KEYS__PASSPHRASE", "keys.passphrase: unknown key; did you mean"),
        ("LEGATION_", None),
        ("LEGATION_PORT_8443_TCP", None),
        ("LEGATION_SERVICE_HOST", None),
        ("LEGATION_JOIN_TOKEN", None),
        ("LEGATION_LISTEN", None),
        ("OTHER_LISTEN__APII", None),
    ],
)
def test_a_misspelt_variable_is_refused_and_a_foreign_one_is_not(
    name: str, expected: str | None
) -> None:
    """Our misspelt variables are errors; what Kubernetes or others set is passed over."""
    environment = {"LEGATION_TRUST_DOMAIN": "a.example", name: "s3cret-value"}
    if expected is None:
        assert load(ServerConfig, environment=environment).config.trust_domain.name == "a.example"
        return
    with pytest.raises(InvalidInput) as caught:
        load(ServerConfig, environment=environment)
    assert caught.value.message.startswith(f"{name}: {expected}")
    assert "s3cret-value" not in str(caught.value)


def test_an_unknown_flag_path_is_refused() -> None:
    """A flag that names no key is refused as a misspelt key is."""
    with pytest.raises(InvalidInput, match=r'^flag: log.lvl: unknown key; did you mean "level"\?$'):
        load(AgentConfig, environment={}, flags={"log.lvl": "debug"})


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"server.api": "h:0"}, "the port of a server is not 0"),
        ({"socket.mode": "0466"}, "owner at least read and write"),
        ({"socket.mode": "rw"}, 'not a file mode; write "0660"'),
        ({"socket.path": "/" + "x" * 107}, "at most 107 bytes"),
        ({"rotation.renew_at_remaining": 1.0}, "less than or equal to 0.95"),
        ({"trust_bundle_file": "a", "ca_fingerprint": "0" * 64}, "exclude each other"),
        ({"ca_fingerprint": "abc"}, "String should match pattern"),
        ({"join_token_file": "a", "join_token_credential": "b"}, "exclude each other"),
        ({"join_token_credential": "../etc/passwd"}, "String should match pattern"),
    ],
)
def test_the_agents_configuration_refuses_what_cannot_work(
    flags: dict[str, object], expected: str
) -> None:
    """Each impossible agent setting is refused with its reason."""
    with pytest.raises(InvalidInput) as caught:
        load(AgentConfig, environment={}, flags=flags)
    assert expected in caught.value.message


def test_an_agent_needs_no_configuration_at_all() -> None:
    """An agent's defaults are complete."""
    config = load(AgentConfig, environment={}).config
    assert config.socket.mode == 0o666
    assert load(AgentConfig, environment={}, flags={"socket.mode": "0660"}).config.socket.mode == (
        0o660
    )


def test_the_status_url_defaults_to_where_the_port_is_reachable() -> None:
    """The URL in certificates names a reachable host, never the wildcard address."""

    def config(**more: str) -> ServerConfig:
        return load(ServerConfig, environment={"LEGATION_TRUST_DOMAIN": "a", **more}).config

    assert config().status_base_url() == "http://127.0.0.1:8080"
    assert config(LEGATION_LISTEN__STATUS="127.0.0.1:0").status_base_url(9) == "http://127.0.0.1:9"
    assert (
        config(LEGATION_LISTEN__STATUS="[::]:80", LEGATION_NAMES="ca.example").status_base_url()
        == "http://ca.example:80"
    )
    assert config(LEGATION_STATUS_URL="http://pki.example/x/").status_base_url() == (
        "http://pki.example/x"
    )


@pytest.mark.parametrize("model", [ServerConfig, AgentConfig])
def test_the_schema_describes_every_key_with_its_default_as_a_file_writes_it(
    model: type[ServerConfig | AgentConfig],
) -> None:
    """The JSON Schema forbids unknown keys, and its defaults load again."""
    schema = config_schema(model)
    json.dumps(schema)
    assert schema["additionalProperties"] is False
    flags: dict[str, object] = {"trust_domain": "example.org"}
    for name, part in schema["properties"].items():
        table = schema["$defs"].get(part.get("$ref", "").rpartition("/")[2])
        if table:
            flags |= {f"{name}.{key}": leaf["default"] for key, leaf in table["properties"].items()}
    fresh = load(model, environment={}, flags=flags).config
    assert fresh == load(model, environment={}, flags={"trust_domain": "example.org"}).config


@given(st.integers(1, 36500 * 86400))
def test_a_duration_renders_to_what_parses_to_it(seconds: int) -> None:
    """Rendering and parsing a duration are inverse."""
    duration = timedelta(seconds=seconds)
    assert parse_duration(render_duration(duration)) == duration
    assert parse_duration(seconds) == parse_duration(str(seconds)) == duration


@given(st.binary(max_size=300))
def test_any_file_loads_or_is_refused(content: bytes) -> None:
    """No content of a file raises anything but our errors."""
    from tests.fuzz.fuzz_config import one_input

    one_input(content)
    with pytest.raises(LegationError):
        load(ServerConfig, environment={})


@pytest.mark.parametrize("name", ["expired", "audit"])
def test_records_are_kept_beyond_the_lists(tmp_path: Path, name: str) -> None:
    """A retention that is shorter than a list's validity and a day is refused by its name."""
    text = MINIMAL + f'[crl]\nvalidity = "2h"\n[retention]\n{name} = '
    (problem,) = problems(tmp_path, text + '"25h"\n')
    assert f"retention.{name} is less than 1d2h" in problem
    load(ServerConfig, path=write(tmp_path, text + '"26h"\n'))
