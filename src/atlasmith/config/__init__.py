"""The config of a run: schema, validation, loading."""

from atlasmith.config.loading import load_config, parse_config
from atlasmith.config.schema import Config

__all__ = ["Config", "load_config", "parse_config"]
