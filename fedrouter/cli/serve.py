"""`fedrouter serve`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fedrouter.errors import MissingExtraError


class _UpstreamApi(StrEnum):
    """Kinds of engines."""

    vllm = "vllm"
    openai = "openai"
    llamacpp = "llamacpp"


def serve(  # noqa: PLR0917 - each is an option of the command
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run's folder.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: a free one.")] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File with one API key a line; unset: no key is needed."),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Allow other addresses than the loopback without keys."),
    ] = False,
    device: Annotated[
        str, typer.Option(help="torch device; auto: a GPU if there is one.")
    ] = "auto",
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Longest answer in tokens, and the default length.")
    ] = 512,
    batch: Annotated[
        int, typer.Option(min=1, help="Largest number of answers generated together.")
    ] = 32,
    queue: Annotated[int, typer.Option(min=1, help="Largest number of waiting requests.")] = 128,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", help="Serve a run that is training: each round answers when it is finished."
        ),
    ] = False,
    upstream: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Engine that generates; unset: this process does."),
    ] = None,
    upstream_api: Annotated[
        _UpstreamApi, typer.Option(help="What kind of engine that is.")
    ] = _UpstreamApi.openai,
    upstream_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with the engine's API key.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Longest time for an answer, in s.")
    ] = 300,
) -> None:
    """Serve a run over OpenAI's HTTP API; every prompt is answered by its task's adapter."""
    from fedrouter.storage.run_folder import RunFolder

    RunFolder.open(folder)  # before torch is imported
    try:
        from fedrouter.serving.engine import Limits
        from fedrouter.serving.run import ServeSettings
        from fedrouter.serving.run import serve as serve_run
    except ModuleNotFoundError as error:
        raise MissingExtraError("fedrouter serve", "serve") from error
    settings = ServeSettings(
        host=host,
        port=port,
        api_key_file=api_key_file,
        insecure=insecure,
        device=device,
        max_tokens=max_tokens,
        follow=follow,
        upstream=upstream,
        upstream_api=upstream_api.value,
        upstream_key_file=upstream_key_file,
        limits=Limits(batch=batch, queue=queue, seconds=timeout),
    )
    serve_run(folder, settings, lambda line: typer.echo(line, err=True))
