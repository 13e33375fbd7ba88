"""What the demo prints, and the figures it keeps."""

import json
from collections.abc import Callable
from pathlib import Path

Figure = str | int | float | bool


class Transcript:
    """Prints the story as it happens, and collects its figures under flat names.

    Args:
        echo: prints one line.
    """

    def __init__(self, echo: Callable[[str], None]) -> None:
        self._echo = echo
        self.figures: dict[str, Figure] = {}

    def title(self, text: str) -> None:
        """Begin a chapter."""
        self._echo(f"\n{text}")

    def line(self, text: str) -> None:
        """Tell one fact."""
        self._echo(f"  {text}")

    def figure(self, name: str, value: Figure) -> None:
        """Keep one figure; milliseconds and seconds to a tenth of a millisecond."""
        self.figures[name] = round(value, 4) if isinstance(value, float) else value

    def write(self, path: Path) -> None:
        """Write all figures as one flat JSON object."""
        path.write_text(json.dumps(self.figures, indent=2, sort_keys=True) + "\n")
