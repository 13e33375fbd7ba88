"""The PyPI `spiffe` client in a process of its own: fetches and checks JWT-SVIDs.

    python spiffe_jwt_client.py SOCKET

takes lines "fetch AUDIENCE", "check AUDIENCE TOKEN" and "bundles", and answers each with one.
"""

import sys

from spiffe import WorkloadApiClient
from spiffe.errors import PySpiffeError


def answer(client: WorkloadApiClient, command: str, *words: str) -> str:
    if command == "fetch":
        svid = client.fetch_jwt_svid(audience={words[0]})
        return f"{svid.spiffe_id} {svid.token}"
    if command == "check":
        found = client.validate_jwt_svid(words[1], words[0])
        return f"{found.spiffe_id} {sorted(found.audience)}"
    bundles = client.fetch_jwt_bundles().bundles
    return " ".join(sorted(f"{b.trust_domain}:{len(b.jwt_authorities)}" for b in bundles))


def main() -> None:
    with WorkloadApiClient(f"unix://{sys.argv[1]}") as client:
        for line in sys.stdin:
            try:
                print(answer(client, *line.split()), flush=True)
            except PySpiffeError as error:
                print(f"refused: {' '.join(str(error).split())}", flush=True)


main()
