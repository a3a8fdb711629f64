"""Commands of a Prefect server: be it, deploy to it, work for it."""

from typing import Annotated, Literal

import typer

app = typer.Typer()


@app.command()
def server(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 4200,
) -> None:
    """Serve Prefect's API and pages on this machine only, without telemetry, until Ctrl-C."""
    from flows.environment import server_here

    server_here(port)  # before Prefect is imported, which reads it
    from flows.commands.server import start_server

    start_server(port)


@app.command()
def deploy(
    pool: Annotated[
        Literal["process", "docker", "kubernetes"] | None,
        typer.Option(
            help="How runs are started: by the worker, in containers of its machine, or as jobs "
            "of its cluster. Default: as the pool is; a new one is process."
        ),
    ] = None,
) -> None:
    """Create work pool, queues and deployments on the Prefect server in PREFECT_API_URL."""
    from flows.commands.deploy import deploy_all

    deploy_all(pool)


@app.command()
def worker(
    queues: Annotated[
        list[str] | None,
        typer.Option(
            "--queue",
            help="Queue to serve: cpu or a100; repeatable. By default cpu, and a100 where a GPU "
            "can be used.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum runs at the same time.")] = 1,
) -> None:
    """Run what is deployed, in this folder; when stopped, lets runs save a checkpoint first."""
    from flows.commands.deploy import start_worker

    start_worker(queues or [], limit)


@app.command()
def reports(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 4201,
    until: Annotated[int | None, typer.Option(hidden=True, help="End with this process.")] = None,
) -> None:
    """Serve the reports of the stores in this folder, to browsers on this machine only.

    A worker does so by itself, and the pages of its runs link to them.
    """
    from flows.commands.deploy import serve_reports

    serve_reports(port, until)
