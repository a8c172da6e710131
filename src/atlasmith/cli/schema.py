"""The verb that prints the config's schema."""

from __future__ import annotations

import argparse
import json

from atlasmith.cli.verbs import Verb
from atlasmith.config import Config


def _print_schema(args: argparse.Namespace) -> None:
    print(json.dumps(Config.model_json_schema(by_alias=True), indent=2))


VERBS = [Verb("schema", "print the config's JSON schema", lambda parser: None, _print_schema)]
