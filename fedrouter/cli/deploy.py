"""`fedrouter deploy`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fedrouter.cli.options import AsJson

deploy = typer.Typer(help="Set up a federation over several machines.", no_args_is_help=True)


@deploy.command("init")
def init(  # noqa: PLR0917 - each is an option of the command
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or an empty folder.")],
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Number of nodes.")],
    host: Annotated[
        str, typer.Option("--host", help="Name or IPv4 address under which nodes reach the server.")
    ],
    port: Annotated[int, typer.Option("--port", help="Port that the nodes connect to.")] = 8000,
    direct: Annotated[
        bool,
        typer.Option("--direct", help="No gate (nginx): everyone on the port may start runs."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write the certificates, keys, settings and start commands of a federation with Flower."""
    from fedrouter.deploy import init_deployment

    init_deployment(folder, nodes=nodes, host=host, port=port, direct=direct)
    guide = folder / "README.md"
    if as_json:
        print(json.dumps({"folder": str(folder), "guide": str(guide)}))
    else:
        print(f"which files go where, and what to do next: {guide}")


@deploy.command("doctor")
def doctor(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="This machine's folder: server/ or a node's.")
    ],
    fingerprint: Annotated[
        str | None,
        typer.Option("--fingerprint", help="The server's base model, as its doctor names it."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine before the first round; exit code 2 if something is wrong."""
    from dataclasses import asdict

    from fedrouter.deploy.doctor import Finding, examine
    from fedrouter.errors import printable

    findings: list[Finding] = []
    for one in examine(folder, fingerprint):
        findings.append(one)
        if not as_json:
            text = f"{one.check}: {one.text}" + (f"; {one.remedy}" if one.remedy else "")
            print(f"{'ok   ' if one.ok else 'FAULT'} {printable(text, len(text))}", flush=True)
    wrong = [one for one in findings if not one.ok]
    if as_json:
        listed = [{"ok": one.ok, **asdict(one)} for one in findings]
        print(json.dumps({"ok": not wrong, "findings": listed}))
    elif not wrong:
        print("nothing is wrong")
    if wrong:
        raise typer.Exit(2)
