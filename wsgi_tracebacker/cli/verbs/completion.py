"""``wsgi-tb completion``: prints the script with which a shell completes the command."""

from __future__ import annotations

import click

from wsgi_tracebacker.cli import output

EPILOG = """\b
Examples:
  eval "$(wsgi-tb completion bash)"                               in ~/.bashrc
  eval "$(wsgi-tb completion zsh)"                                in ~/.zshrc
  wsgi-tb completion fish > ~/.config/fish/completions/wsgi-tb.fish
"""


@click.command(epilog=EPILOG)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print the completion script of a shell."""
    from click.shell_completion import get_completion_class

    from wsgi_tracebacker.cli.group import cli

    found = get_completion_class(shell)
    assert found is not None
    script = found(cli, {}, "wsgi-tb", "_WSGI_TB_COMPLETE").source()
    output.write_bytes(script.encode("utf-8") + b"\n")
    return 0
