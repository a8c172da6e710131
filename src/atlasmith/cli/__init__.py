"""The command line: a file per group of verbs."""

from atlasmith.cli.main import main

__all__ = ["main"]
