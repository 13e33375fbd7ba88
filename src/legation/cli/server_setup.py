"""Making an authority, and an admin for one that lost its own."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256

from legation.agent.private_files import make_private_directory
from legation.authority.initialisation import FirstOperator, Initialised
from legation.authority.model import AUTHORITY_PATH, Actor, Role
from legation.authority.rest.fields import chain_pem, csr_der
from legation.authority.settings import AuthoritySettings
from legation.authority.wiring import build
from legation.authority.wiring import initialise as initialise_store
from legation.cli.authority_settings import (
    OPERATOR_FOLDER,
    encryption_key,
    key_file,
)
from legation.cli.configured import Flags, read_config
from legation.cli.credential import OPERATOR_FILE
from legation.cli.operator_files import OperatorRequest
from legation.cli.output import note, show_one
from legation.clock import SystemClock
from legation.config import ServerConfig
from legation.config.server import Listen
from legation.errors import Conflict
from legation.pki import SpiffeID, certificate_from_der

_LISTEN_FLAGS = {
    "api": "--listen",
    "status": "--listen-status",
    "metrics": "--listen-metrics",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstCredential:
    """Whose credential to make, and where to put it; None for the usual place and lifetime."""

    name: str
    folder: Path | None
    lifetime_s: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAuthority:
    """What `initialise` made."""

    config: ServerConfig
    folder: Path
    initialised: Initialised


def initialise(config_file: Path | None, flags: Flags, credential: FirstCredential) -> NewAuthority:
    """Make a new authority and the credential of its first operator.

    Raises:
        Conflict: there is an authority, or a credential, where it would go.
        LegationError: the configuration or a directory cannot be used.
    """
    config = read_config(ServerConfig, config_file, flags).config
    folder = credential.folder or config.data_dir / OPERATOR_FOLDER
    if (folder / OPERATOR_FILE).exists():
        raise Conflict(
            f"there is a credential in {folder} already",
            remedy="name another folder with --to, or run the authority that it belongs to",
        )
    request = OperatorRequest.make()
    make_private_directory(config.data_dir)
    kek = encryption_key(config, create=True)
    first = FirstOperator(
        name=credential.name, csr=csr_der(request.pem), lifetime_s=credential.lifetime_s
    )
    initialised = asyncio.run(
        initialise_store(
            AuthoritySettings.from_config(config), clock=SystemClock(), kek=kek, operator=first
        )
    )
    request.write(
        folder,
        chain_pem=chain_pem(initialised.operator_chain),
        bundle_pem=initialised.bundle.to_pem().decode("ascii"),
    )
    return NewAuthority(config=config, folder=folder, initialised=initialised)


def tell(made: NewAuthority, config_file: Path | None, *, output: str) -> None:
    """Show what was made, and what to do next."""
    config, initialised = made.config, made.initialised
    root = certificate_from_der(initialised.root)
    show_one(
        {
            "trust_domain": str(config.trust_domain),
            "data_dir": str(config.data_dir),
            "operator": str(initialised.operator.spiffe_id),
            "credential": str(made.folder),
            "root_fingerprint": f"sha256:{root.fingerprint(SHA256()).hex()}",
            "root_not_after": f"{root.not_valid_after_utc:%Y-%m-%d}",
            "key_encryption_key": str(key_file(config) or "as configured"),
        },
        output=output,
    )
    if output == "table":
        _tell_next_steps(made, config_file)


def _tell_next_steps(made: NewAuthority, config_file: Path | None) -> None:
    config = made.config
    lines = ["", "Next:"]
    if path := key_file(config):
        lines.append(f"  keep a copy of {path} elsewhere: without it the keys stay shut")
    lines += [
        f"  {_run_command(config, config_file)}",
        f"  export LEGATION_CREDENTIAL={made.folder} LEGATION_SERVER={config.listen.api}",
        "  legation token create node-1 > join-token",
        f"  legation agent run --authority {config.listen.api} \\",
        f"      --trust-bundle {made.folder}/bundle.pem --join-token-file join-token",
    ]
    note("\n".join(lines))


def _run_command(config: ServerConfig, config_file: Path | None) -> str:
    if config_file:
        return f"legation server run --config {config_file}"
    words = ["legation server run"]
    words += [f"--trust-domain {config.trust_domain} --data-dir {config.data_dir}"]
    usual = Listen()
    for name, flag in _LISTEN_FLAGS.items():
        address = getattr(config.listen, name)
        if address != getattr(usual, name):
            words.append(f"{flag} {address}")
    return " ".join(words)


def certify_offline(config_file: Path | None, flags: Flags, credential: FirstCredential) -> None:
    """Make an admin with the store itself, while the authority does not run.

    Raises:
        Conflict: the authority runs.
        LegationError: the configuration, the store or a key cannot be used.
    """
    config: ServerConfig = read_config(ServerConfig, config_file, flags).config
    request = OperatorRequest.make()
    chain, bundle_pem = asyncio.run(_certify(config, request, credential))
    folder = credential.folder or config.data_dir / OPERATOR_FOLDER
    request.write(folder, chain_pem=chain_pem(chain), bundle_pem=bundle_pem)
    note(f"{credential.name} is an admin of {config.trust_domain} now; credential in {folder}")


async def _certify(
    config: ServerConfig, request: OperatorRequest, credential: FirstCredential
) -> tuple[tuple[bytes, ...], str]:
    settings = AuthoritySettings.from_config(config)
    itself = Actor(spiffe_id=SpiffeID(config.trust_domain, AUTHORITY_PATH), role=Role.ADMIN)
    async with build(settings, clock=SystemClock(), kek=encryption_key(config)) as authority:
        _, chain = await authority.services.operators.create(
            credential.name,
            Role.ADMIN,
            csr_der(request.pem),
            lifetime_s=credential.lifetime_s,
            actor=itself,
        )
        return chain, authority.serving.credentials.authorities_pem.decode("ascii")
