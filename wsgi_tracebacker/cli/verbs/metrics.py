"""``wsgi-tb metrics``: what the workers count and do, for Prometheus: printed, in a file, or over HTTP."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import click

from wsgi_tracebacker.cli import output
from wsgi_tracebacker.cli.options.arguments import bases_or_default
from wsgi_tracebacker.cli.options.hosts import hosts_options
from wsgi_tracebacker.cli.options.read import TIMEOUT
from wsgi_tracebacker.cli.options.shared import as_click, bases_argument, parse_address
from wsgi_tracebacker.errors import CannotListen, CannotWrite

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_tracebacker.reader.elsewhere.hosts import Hosts

EPILOG = """\b
Examples:
  wsgi-tb metrics /run/app/tb
  wsgi-tb metrics /run/app/tb --listen 127.0.0.1:9180
  wsgi-tb metrics /run/app/tb --via 'ssh {}' --hosts FILE
  wsgi-tb metrics -o /var/lib/prometheus/node-exporter/wsgi-tb.prom

\b
Exit codes:
  0  written; workers that do not answer are in the metrics
  2  the command was not understood
  3  there is no process with that PID, or it has no worker
  4  the output could not be written, or it cannot listen there
"""


_TIMEOUT = TIMEOUT._replace(help="How long each worker may take to answer; all are asked at once.  [default: 2]")


@click.command(epilog=EPILOG)
@bases_argument
@as_click(_TIMEOUT)
@click.option(
    "--listen", "address", metavar="HOST:PORT", callback=parse_address, help="Serve them at /metrics until the end."
)
@click.option(
    "--output",
    "-o",
    "path",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Replace FILE, in one step: for node_exporter's textfile collector.",
)
@hosts_options
def metrics(
    bases: tuple[str, ...],
    timeout_seconds: float | None,
    address: tuple[str, int] | None,
    path: str | None,
    hosts: Hosts | None,
) -> int:
    """Print the workers' metrics in Prometheus's text format.

    They are made outside the workers: from their black boxes, and from one snapshot of each. BASE, SOCKET and PID are
    as for list.
    """
    if address is not None and path is not None:
        raise click.UsageError("--listen and --output exclude each other.")

    def exposition() -> bytes:
        if hosts is not None:
            from wsgi_tracebacker.reader.elsewhere import metrics as of_hosts

            return of_hosts.exposition(hosts, bases, timeout_seconds)
        from wsgi_tracebacker.analysis.metrics import families
        from wsgi_tracebacker.reader.measure import measure
        from wsgi_tracebacker.wire import prometheus_text

        measured = measure(bases_or_default(bases), timeout_seconds)
        return prometheus_text.encode(families(measured.workers, measured.missing))

    if address is not None:
        return _serve(address, exposition)
    if path is not None:
        _replace(path, exposition())
    else:
        output.write_bytes(exposition())
    return 0


def _serve(address: tuple[str, int], exposition: Callable[[], bytes]) -> int:
    from wsgi_tracebacker.web.metrics_server import MetricsServer

    host, port = address
    try:
        server = MetricsServer(host, port, exposition)
    except OSError as error:
        raise CannotListen(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    with server:
        # The port may have been 0.
        shown = f"[{host}]" if ":" in host else host
        output.fail(f"metrics at http://{shown}:{server.server_address[1]}/metrics")
        server.serve_forever()
    return 0


def _replace(path: str, content: bytes) -> None:
    """Write a new file beside it and rename that. Everybody may read it: the collector is another user."""
    folder, name = os.path.split(path)
    # Not with the ending .prom, so that a collector does not read it before it is whole.
    beside = os.path.join(folder, f".{name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
            os.replace(beside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(beside)
            raise
    except OSError as error:
        raise CannotWrite(f"{path} cannot be written: {error.strerror or error}") from error
