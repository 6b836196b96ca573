"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

RunDir = Annotated[Path, typer.Argument(metavar="DIR", help="A run folder.")]
ConfigFile = Annotated[
    Path | None,
    typer.Argument(metavar="CONFIG.toml", help="Configuration; every key has a default."),
]
Sets = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Set a configuration key; may be repeated."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OfClient = Annotated[
    int | None,
    typer.Option("--client", help="Route among this client's own tasks only (scope local)."),
]
