"""Run benches: ``python -m bench [--json FILE] [NAME ...]``."""

import argparse
import importlib
import sys
from pathlib import Path

from bench.figures import Figure, to_text, write_json

# Name and module; the module's `run()` returns its figures.
BENCHES = {
    "cold_start": "bench.cold_start",
    "crl": "bench.crl",
    "issuance": "bench.issuance",
    "joining": "bench.joining",
    "misuse": "bench.misuse",
    "ocsp": "bench.ocsp",
    "propagation": "bench.propagation.run",
    "revoked_set": "bench.revoked_set",
    "sdk": "bench.sdk.run",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(BENCHES)}")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(BENCHES))
    if unknown:
        parser.error(f"no bench is called {unknown[0]}")
    figures: list[Figure] = []
    for name in arguments.names or BENCHES:
        found = importlib.import_module(BENCHES[name]).run()
        print(to_text(found), flush=True)
        figures.extend(found)
    if arguments.json is not None:
        write_json(arguments.json, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
