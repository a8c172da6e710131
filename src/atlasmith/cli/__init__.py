"""The command line."""

from atlasmith.cli.main import main

__all__ = ["main"]
