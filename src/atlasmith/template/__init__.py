"""Stage `template`: joint training of a (conditional) template and its registration network."""

from atlasmith.template.train import train

__all__ = ["train"]
