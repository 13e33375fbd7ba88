"""What the commands of every kind of policy share: documents by name, at the authority."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from legation.cli.connection import Connection
from legation.cli.output import note, show_list, show_one, show_raw
from legation.errors import NotFound

if TYPE_CHECKING:
    from legation.cli.api_client import APIClient
    from legation.policy import AnyPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """Where the authority keeps one kind of policy.

    Attributes:
        path: its segment of the REST interface.
        what: one of them in words.
    """

    path: str
    what: str


AUTHORIZATION = Collection(path="policies", what="policy")
STALENESS = Collection(path="staleness", what="staleness policy")
_COLLECTIONS = {"AuthorizationPolicy": AUTHORIZATION, "StalenessPolicy": STALENESS}


def apply_policies(
    policies: Iterable["AnyPolicy"], *, connection: Connection, dry_run: bool, output: str
) -> None:
    """Create or replace policies, or say what would be; a line for each as it is done."""
    act, done = (_compare, "would be applied") if dry_run else (_put, "applied")
    rows = []
    with connection.open() as client:
        for policy in policies:
            document = policy.to_document()
            collection = _COLLECTIONS[document["kind"]]
            changed = act(client, collection, document)
            rows.append({"kind": document["kind"], "name": policy.name, "changed": changed})
            if output == "table":
                note(f"{collection.what} {policy.name} {done if changed else 'unchanged'}")
    if output != "table":
        show_list(rows, (), output=output, extra={"dry_run": dry_run})


def list_policies(collection: Collection, *, connection: Connection) -> list[dict[str, Any]]:
    """Return the documents of a collection."""
    with connection.open() as client:
        return list(client.pages(collection.path))


def show_policy(collection: Collection, name: str, *, connection: Connection, output: str) -> None:
    """Show one document; in table form as the YAML that `apply` takes."""
    from legation.cli.policy_files import to_yaml

    with connection.open() as client:
        document = client.get(collection.path, name)
    if output == "table":
        show_raw(to_yaml([document]))
    else:
        show_one(document, output=output)


def delete_policy(collection: Collection, name: str, *, connection: Connection) -> None:
    """Delete one document."""
    with connection.open() as client:
        client.delete(collection.path, name)
    note(f"{collection.what} {name} deleted")


def _put(client: "APIClient", collection: Collection, document: dict[str, Any]) -> bool:
    name = document["metadata"]["name"]
    return bool(client.put(collection.path, name, body=document)["changed"])


def _compare(client: "APIClient", collection: Collection, document: dict[str, Any]) -> bool:
    try:
        stored = client.get(collection.path, document["metadata"]["name"])
    except NotFound:
        return True
    return bool(stored != document)
