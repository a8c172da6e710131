"""The config: one YAML file, checked as a whole, from which every stage runs."""

from atlasmith.config.loading import load_config, parse_config
from atlasmith.config.schema import Config

__all__ = ["Config", "load_config", "parse_config"]
