"""The Snakemake workflow: its rules and profiles, resources of jobs, provenance of files."""

from pathlib import Path

SNAKEFILE = str(Path(__file__).parent / "Snakefile")
PROFILES = Path(__file__).parent / "profiles"

__all__ = ["PROFILES", "SNAKEFILE"]
