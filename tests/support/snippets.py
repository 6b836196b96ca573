"""The fenced blocks of the documentation and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from support.places import ROOT

PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "examples" / "README.md",
        *(ROOT / "docs").glob("*.md"),
    ]
)
FENCE = re.compile(r"^ *```([\w-]*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: the page, the number among its blocks, its language and its text.

    Blocks without a language hold shell commands.
    """

    page: str
    number: int
    language: str
    text: str

    @property
    def name(self) -> str:
        """A short name for the test's id."""
        return f"{self.page}-{self.number}"

    def commands(self) -> Iterator[str]:
        """The shell commands, each with its continued lines and quoted lines."""
        command = ""
        for line in self.text.replace("\\\n", " ").splitlines():
            command += line
            try:
                words = shlex.split(command, comments=True)
            except ValueError:  # a quotation that goes on
                command += "\n"
                continue
            if words:
                yield command.strip()
            command = ""
        assert not command.strip(), f"{self.name}: a quotation does not end"


def blocks() -> list[Block]:
    """All blocks of all pages."""
    found = []
    for page in PAGES:
        texts = FENCE.findall(page.read_text(encoding="utf-8"))
        name = str(page.relative_to(ROOT))
        found += [Block(name, number, *text) for number, text in enumerate(texts)]
    return found
