try:
    CONFIG = parse_config(config)
    PARTICIPANTS = read_participants(CONFIG)
    CHECKED = checked_participants(CONFIG)
    check_folder(CONFIG.output)
except AtlasmithError as error:
    raise WorkflowError(str(error)) from None

LAYOUT = CONFIG.layout
TABLE = CONFIG.cohort.bids / "participants.tsv"
LABELS = CONFIG.cohort.bids / (CONFIG.cohort.labels or "")
VERSION = atlasmith.__version__
SUBJECTS = [participant.id for participant in PARTICIPANTS]
ATLASES = [participant.id for participant in PARTICIPANTS if participant.role == "atlas"]
TARGETS = [participant.id for participant in PARTICIPANTS if participant.role == "target"]
PARTICIPANT_OF = {participant.id: participant for participant in PARTICIPANTS}
TEMPLATE_SUBJECTS = [participant.id for participant in PARTICIPANTS if participant.in_template]
# Trained fusion methods need networks, and atlases propagated to atlases as their training data.
FUSION_NETWORKS = CONFIG.fusion.networks
# Atlases are segmented too, each by the others, to calibrate the predicted quality of the targets' segmentations.
QUALITY = CONFIG.fusion.quality and len(ATLASES) > 1
# With labels in the objective, each atlas is registered a second time, without its own labels.
LABEL_FREE = set(ATLASES) if CONFIG.template.label_similarity else set()
# Jobs run the `atlasmith` of the active environment, or else that of Snakemake's own Python. A killed process can't
# report why it ended, so that the shell does.
KILLED = "the job was killed: most likely memory ran out. Give it more (resources: mem_mb), or see docs/scaling.md."
shell.prefix(
    f'PATH="$PATH:"{quote(str(Path(sys.executable).parent))}; '
    f"trap '[ $? -ne 137 ] || echo \"{KILLED}\" >&2' EXIT; "
)


def files_of(folder, subjects, suffix):
    """List the input files of `subjects` with `suffix`. The cohort stage reports those that are missing."""
    return [path for subject in subjects for path in files_of_one(folder, subject, suffix)]


@cache
def files_of_one(folder, subject, suffix):
    found = (folder / f"sub-{subject}" / "anat").glob(f"sub-{subject}*_{suffix}.nii*")
    return sorted(map(str, found))


def masks_of(subjects):
    """List the masks of `subjects`, where the config names a folder of masks."""
    masks = CONFIG.preprocess.masks
    return [] if masks is None else files_of(CONFIG.cohort.bids / masks, subjects, "mask")


NAMES = [str(path) for path in LABELS.glob("dseg.tsv")]
ATLAS_FILES = files_of(LABELS, ATLASES, "dseg") + NAMES


def ever(test):
    """List the ids of participants for whom `test` holds, now or when the cohort was last checked."""
    return list(dict.fromkeys(p.id for p in (*PARTICIPANTS, *CHECKED.values()) if test(p)))


# Inputs of the template stage where labels are part of its objective.
TEMPLATE_LABELS = ATLAS_FILES if CONFIG.template.label_similarity else []
EVER_SUBJECTS = ever(lambda participant: True)
EVER_TEMPLATE_SUBJECTS = ever(lambda participant: participant.in_template)
ATLAS_LIBRARY = [*ever(lambda participant: participant.role == "atlas"), *ATLAS_FILES]


def is_newer(file):
    """Tell whether a file is newer than the last check of the cohort."""
    return not CHECKED or Path(file).stat().st_mtime > LAYOUT.cohort.stat().st_mtime


def is_changed(subject):
    """Tell whether a subject's row differs from that of the last check, or its image is newer."""
    images = files_of_one(CONFIG.cohort.bids, subject, CONFIG.cohort.suffix)
    return CHECKED.get(subject) != PARTICIPANT_OF.get(subject) or any(is_newer(image) for image in images)


CHANGED = {*filter(is_changed, EVER_SUBJECTS), *filter(is_newer, ATLAS_FILES)}


def checked(file, concerns):
    """Make an output of the cohort stage the input of a job that depends on some subjects or label files.

    The cohort stage rewrites its outputs whenever a subject is added or removed. Only a job whose own subjects or
    files changed waits for that and runs again; for any other the file is the same before and after.
    """
    return ancient(before_update(file)) if CHANGED.isdisjoint(concerns) else file


def known(subjects):
    """Give the rows of participants.tsv as a parameter, so that a changed row reruns the subjects' jobs."""
    return [" ".join(map(str, PARTICIPANT_OF[subject])) for subject in subjects]


def lock_output():
    """Refuse to run where another run writes. Snakemake itself locks the working directory, not the output."""
    try:
        return lock(LAYOUT.lock)
    except BlockingIOError:
        raise WorkflowError(
            f"{CONFIG.output}: another run is writing here. Wait until it ends, or choose another `output`."
        ) from None
    except OSError as error:
        raise WorkflowError(
            f"{CONFIG.output}: nothing can be written here ({error.strerror}). Choose another `output`."
        ) from None


def renew_plan():
    """Check and write the config where the cohort stage, which does so otherwise, won't run again."""
    plan = yaml.safe_dump(CONFIG.resolved(), sort_keys=False)
    if LAYOUT.cohort.exists() and not (LAYOUT.config.exists() and LAYOUT.config.read_text() == plan):
        try:
            check_choices(CONFIG)
            check_output(CONFIG)
        except AtlasmithError as error:
            raise WorkflowError(str(error)) from None
        write_text(LAYOUT.config, plan)


def jobs(subjects):
    """Divide subjects into jobs of `subjects_per_job`, which share one start of Python.

    A wildcard can't stand for a set of subjects, hence a rule for each job. Jobs follow the order of the table, so
    that subjects added at its end leave the jobs of others unchanged; subjects that take no part in the template
    have jobs of their own, by role.
    """
    groups = {}
    for subject in subjects:
        participant = PARTICIPANT_OF[subject]
        groups.setdefault("template" if participant.in_template else participant.role, []).append(subject)
    size = CONFIG.subjects_per_job
    return enumerate(
        (group[start : start + size] for group in groups.values() for start in range(0, len(group), size)),
        start=1,
    )


# Atlases are segmented in jobs of their own: trained fusion and quality estimation depend on them.
SEGMENTED = [
    (role, *subjects)
    for role, members in (("atlases", ATLASES), ("targets", TARGETS))
    for subjects in jobs(members)
]


def voxels():
    """Count the voxels of the template's grid; a guess until the cohort stage has written it."""
    return math.prod(json.loads(LAYOUT.grid.read_text())["shape"]) if LAYOUT.grid.exists() else 10**6


def memory(stage):
    """Give a job's memory in MB, which grows with each attempt."""
    return lambda wildcards, attempt: attempt * memory_mb(stage, CONFIG, voxels(), len(ATLASES))


def runtime(stage, subjects):
    """Give a job's time limit in minutes, which grows with each attempt."""
    return lambda wildcards, attempt: attempt * runtime_minutes(
        stage, CONFIG, voxels(), len(subjects), len(ATLASES)
    )


def launch(processes):
    """Give the command prefix that starts a training in so many processes.

    The number of threads follows from the config, not from the free cores: sums differ in the last digit between
    numbers of threads.
    """
    each = max(CONFIG.threads // processes, 1)
    fixed = "".join(f"{library}_NUM_THREADS={each} " for library in ("OMP", "MKL", "OPENBLAS"))
    return fixed + (
        f"torchrun --standalone --nproc-per-node {processes} --no-python " if processes > 1 else ""
    )


def inverse_of(subject):
    """Give the inverse transform that was found without the subject's own labels."""
    return LAYOUT.inverse_label_free(subject) if subject in LABEL_FREE else LAYOUT.inverse(subject)


def to_compare(subjects):
    """List what atlas selection compares: warped images, and the template's labels."""
    if CONFIG.fusion.atlas_selection is None:
        return []
    return [
        LAYOUT.template_labels,
        *(LAYOUT.warped(subject) for subject in dict.fromkeys([*ATLASES, *subjects])),
    ]


def to_score(subject):
    """List what the scores of a subject are computed from."""
    files = [
        LAYOUT.template_image,
        LAYOUT.preprocessed(subject),
        LAYOUT.affine_image(subject),
        LAYOUT.warped(subject),
        LAYOUT.log_jacobian(subject),
        LAYOUT.registration_table(subject),
    ]
    if subject in TARGETS:
        files += [LAYOUT.propagated_labels(subject), *files_of(LABELS, [subject], "dseg")]
        files += [LAYOUT.segmentation(subject, method) for method in CONFIG.fusion.methods]
    return files
