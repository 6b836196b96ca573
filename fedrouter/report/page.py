"""One self-contained HTML file with sections of figures and tables, for any screen width."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

CSS = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 0 auto;
  padding: 1rem; max-width: 68rem; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; margin: .5rem 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { margin: .4rem 0; max-width: 46rem; } .lead { color: #555; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr));
  gap: 1rem; align-items: start; }
.row > .table, .row > figure:has(> .table) { grid-column: 1 / -1; }
figure { margin: 0; min-width: 0; } figcaption { font-weight: 600; margin-bottom: .3rem; }
img { width: 100%; max-width: 40rem; height: auto; display: block; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .25rem .7rem .25rem 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid #e5e5e5; }
th:first-child, td:first-child { text-align: left; }
pre { overflow-x: auto; background: #f6f6f6; padding: .8rem; font-size: .8rem; }
summary { cursor: pointer; font-weight: 600; padding: .25rem 0; }
.example { border-left: 3px solid #ccc; margin: .6rem 0 1.2rem; padding-left: .8rem; }
h3 { font-size: 1rem; margin: 0 0 .3rem; }
dl { display: grid; grid-template-columns: minmax(4.5rem, max-content) minmax(0, 1fr);
  gap: .25rem .8rem; margin: 0; font-size: .9rem; } dt { color: #555; } dd { margin: 0; }
dd pre { margin: 0; padding: .3rem .5rem; white-space: pre-wrap; overflow-wrap: anywhere; }
"""


@dataclass(frozen=True)
class Section:
    """A heading, an explanation, lines of text, and blocks of HTML in a responsive grid."""

    title: str
    blocks: Sequence[str]
    text: str = ""
    lines: Sequence[str] = field(default=())


def page(title: str, lead: str, sections: Sequence[Section], configuration: str) -> str:
    """The whole HTML file.

    Args:
        title: the heading.
        lead: the line below the heading.
        sections: empty ones are left out; their texts are escaped, their blocks are not.
        configuration: the text of the configuration.
    """
    body = "\n".join(_section(section) for section in sections if section.blocks or section.lines)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{CSS}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p class="lead">{escape(lead)}</p>
{body}
<h2>Configuration</h2>
<details><summary>config.toml</summary><pre>{escape(configuration)}</pre></details>
</body>
</html>
"""


def figure(caption: str, image: str) -> str:
    """A captioned image."""
    return f"<figure><figcaption>{escape(caption)}</figcaption>{image}</figure>"


def disclosure(summary: str, content: str) -> str:
    """HTML that is shown when its summary is clicked."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "") -> str:
    """A table that scrolls sideways if it is wider than the screen.

    Args:
        columns: the column headings.
        rows: one cell for each column; None is shown as "-".
        caption: a caption; "": none.
    """
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_cell(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    inner = f'<div class="table"><table><tr>{head}</tr>{body}</table></div>'
    return figure(caption, inner) if caption else inner


def _section(section: Section) -> str:
    text = f"<p>{escape(section.text)}</p>" if section.text else ""
    lines = "".join(f"<p>{escape(line)}</p>" for line in section.lines)
    blocks = f'<div class="row">{"".join(section.blocks)}</div>' if section.blocks else ""
    return f"<h2>{escape(section.title)}</h2>\n{text}{lines}{blocks}"


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
