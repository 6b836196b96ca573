"""For the documentation site: doctests of docstrings as examples (a Griffe extension).

Griffe takes `>>>` for a quotation unless it stands in a section `Examples:`.
"""

import re
from typing import Any

import griffe

_DOCTEST = re.compile(r"^>>> .*?(?=\n\n|\Z)", re.DOTALL | re.MULTILINE)


class DoctestSections(griffe.Extension):
    """Give every doctest the section that Griffe expects."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of an object that has been loaded."""
        if obj.docstring is not None:
            obj.docstring.value = _DOCTEST.sub(_section, obj.docstring.value)


def _section(found: re.Match[str]) -> str:
    return "Examples:\n" + "\n".join(f"    {line}" for line in found[0].splitlines())
