import json
import math
import sys
from functools import cache
from pathlib import Path
from shlex import quote

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

import atlasmith
import yaml
from atlasmith.config.choices import check_choices
from atlasmith.cohort import check_folder
from atlasmith.cohort import check_output
from atlasmith.cohort import checked_participants
from atlasmith.cohort import read_participants
from atlasmith.config import parse_config
from atlasmith.core.errors import AtlasmithError
from atlasmith.io.files import lock
from atlasmith.io.files import write_text
from atlasmith.workflow.resources import memory_mb
from atlasmith.workflow.resources import runtime_minutes

min_version("9.0")


# Snakemake would merge a user's config into the default one, and the demo's choices would leak into it.
if not workflow.overwrite_configfiles:

    configfile: "config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/cohort.smk"
include: "workflow/rules/preprocess.smk"
include: "workflow/rules/affine.smk"
include: "workflow/rules/template.smk"
include: "workflow/rules/register.smk"
include: "workflow/rules/propagate.smk"
include: "workflow/rules/fuse.smk"
include: "workflow/rules/score.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        LAYOUT.report,


onstart:
    LOCK = lock_output()  # released when this process ends
    renew_plan()
