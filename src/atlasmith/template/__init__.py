"""Stage `template`: joint training of a (conditional) template and its registration network."""

from atlasmith.template.stage import train

__all__ = ["train"]
