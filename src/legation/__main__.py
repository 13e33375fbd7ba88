"""Run the command line with ``python -m legation``."""

from legation.cli.main import main

main()
