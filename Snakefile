"""The workflow of the package, on the demo's config unless --configfile names another."""

from atlasmith.workflow import SNAKEFILE

# Snakemake would merge a user's config into the default one, and the demo's choices would leak into it.
if not workflow.overwrite_configfiles:

    configfile: "config.yaml"


include: SNAKEFILE


workflow.default_target = "all"  # an included file can't set it
