"""Generate the reference from the code, and check the links of every page.

    python -m docs.build            write docs/reference and check
    python -m docs.build --check    change nothing; fail when a page is out of date

What the code says is written once, in the code: help texts, field docstrings, routes,
causes, exit statuses. A test runs `--check`.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from docs.links import broken_links
from docs.pages import (
    causes_page,
    cli_page,
    configuration_page,
    exit_codes_page,
    metrics_page,
    rest_api_page,
)

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"
PAGES: Mapping[str, Callable[[], str]] = {
    "cli.md": cli_page,
    "configuration.md": configuration_page,
    "rest-api.md": rest_api_page,
    "causes.md": causes_page,
    "exit-codes.md": exit_codes_page,
    "metrics.md": metrics_page,
}


def out_of_date() -> dict[str, str]:
    """Return the pages whose file is not what the code generates, with what it should be."""
    wanted = {name: make() for name, make in PAGES.items()}
    return {
        name: text
        for name, text in wanted.items()
        if not (REFERENCE / name).exists() or (REFERENCE / name).read_text() != text
    }


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing")
    options = parser.parse_args(arguments)
    stale = out_of_date()
    if options.check:
        for name in stale:
            sys.stderr.write(f"docs/reference/{name} is out of date: run `make docs`\n")
    else:
        REFERENCE.mkdir(exist_ok=True)
        for name, text in stale.items():
            (REFERENCE / name).write_text(text)
            sys.stderr.write(f"docs/reference/{name} written\n")
    broken = broken_links(ROOT)
    sys.stderr.writelines(f"{line}\n" for line in broken)
    return 1 if broken or (options.check and stale) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
