"""The PyPI `spiffe` client in a process of its own: prints each SVID it is given.

    python spiffe_client.py SOCKET COUNT

prints "SPIFFE-ID SERIAL" for each of COUNT SVIDs that an X509Source holds in turn, or
"refused: WORDS".
"""

import sys
import threading

from spiffe import WorkloadApiClient, X509Source
from spiffe.errors import PySpiffeError


def main() -> None:
    address, count = f"unix://{sys.argv[1]}", int(sys.argv[2])
    try:
        with WorkloadApiClient(address) as client:
            client.fetch_x509_bundles()
            client.fetch_x509_svid()
    except PySpiffeError as error:
        print(f"refused: {error}", flush=True)
        return
    with X509Source(socket_path=address) as source:
        changed = threading.Event()
        source.subscribe_for_updates(changed.set)
        last = None
        while count:
            svid = source.svid
            if svid.leaf.serial_number != last:
                last, count = svid.leaf.serial_number, count - 1
                source.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
                print(svid.spiffe_id, last, flush=True)
                continue
            changed.wait(20)
            changed.clear()


main()
