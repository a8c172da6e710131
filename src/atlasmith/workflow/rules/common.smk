try:
    CONFIG = parse_config(config)
    PARTICIPANTS = read_participants(CONFIG)
    CHECKED = checked_participants(CONFIG)
    check_folder(CONFIG.output)
    # Subjects that failed, and by whose data the stages can't have changed since: all goes on without them.
    FAILURES = current_failures(
        CONFIG, {participant.id: row_text(participant) for participant in PARTICIPANTS}
    )
    check_remaining(CONFIG, PARTICIPANTS, FAILURES)
except AtlasmithError as error:
    raise WorkflowError(str(error)) from None


def remaining(subjects, stage):
    """List the subjects that have results of a stage: those that failed neither there nor before."""
    return [subject for subject in subjects if not has_failed(FAILURES, subject, stage)]


LAYOUT = CONFIG.layout
NUMBER = re.compile(r"_(?:atlases_|targets_|others_)?\d+$")  # which follows a stage's name in that of a rule
LABELS = CONFIG.cohort.bids / (CONFIG.cohort.labels or "")
VERSION = atlasmith.__version__
SUBJECTS = [participant.id for participant in PARTICIPANTS]
ATLASES = [participant.id for participant in PARTICIPANTS if participant.role == "atlas"]
TARGETS = [participant.id for participant in PARTICIPANTS if participant.role == "target"]
# Of the others those that are segmented, too.
OTHERS = [p.id for p in PARTICIPANTS if p.role == "train" and CONFIG.fusion.train_subjects]
PARTICIPANT_OF = {participant.id: participant for participant in PARTICIPANTS}
TABLES = [
    path
    for path in (
        CONFIG.cohort.bids / "participants.tsv",
        *(sessions_table(CONFIG, name) for name in dict.fromkeys(map(participant_of, SUBJECTS))),
    )
    if path.exists()
]
TEMPLATE_SUBJECTS = [participant.id for participant in PARTICIPANTS if participant.in_template]
# Trained fusion methods need networks, and atlases propagated to atlases as their training data.
FUSION_NETWORKS = CONFIG.fusion.networks
# Atlases are segmented too, each by the others, to calibrate the predicted quality of the targets' segmentations.
QUALITY = CONFIG.fusion.quality and len({*map(participant_of, remaining(ATLASES, "fuse"))}) > 1
# An atlas that can't be segmented by the others is no good to others either.
LIBRARY = remaining(ATLASES, "propagate")
# Scans without manual labels that trained fusion learns from.
UNLABELLED = remaining(choose_unlabelled(OTHERS), "propagate") if CONFIG.fusion.learns_from_unlabelled else []
# With labels in the objective, each atlas is registered a second time, without its own labels.
LABEL_FREE = set(ATLASES) if CONFIG.template.label_similarity else set()
# Jobs run the `atlasmith` of the active environment, or else that of Snakemake's own Python. A killed process can't
# report why it ended, so that the shell does.
KILLED = "the job was killed: most likely memory ran out. Give it more (resources: mem_mb), or see docs/scaling.md."
shell.prefix(
    f'PATH="$PATH:"{quote(str(Path(sys.executable).parent))}; '
    f"trap '[ $? -ne 137 ] || echo \"{KILLED}\" >&2' EXIT; "
)


@cache
def files_of_one(find, subject):
    return [str(path) for path in find(CONFIG, subject)]


def inputs_of(subjects):
    """List the images and masks of `subjects`. The cohort stage reports those that are missing."""
    return [path for subject in subjects for path in files_of_one(input_files, subject)]


def labels_of(subjects):
    """List the label files of `subjects`."""
    return [path for subject in subjects for path in files_of_one(label_files, subject)]


def images_of(name, subjects):
    """List the images by name, such as `LAYOUT.warped`, of each channel that `subjects` have."""
    return [name(subject, channel) for subject in subjects for channel in files_of_one(channels_of, subject)]


def valid_masks(name, subjects):
    """List the masks by name, such as `LAYOUT.valid_mask`, of what may be learned from, if the config excludes any."""
    return [name(subject) for subject in subjects] if CONFIG.cohort.exclude is not None else []


def preprocessed_of(subjects):
    """List the preprocessed images of `subjects`, with the masks of what may be learned from."""
    return images_of(LAYOUT.preprocessed, subjects) + valid_masks(LAYOUT.valid_mask, subjects)


NAMES = [str(path) for path in LABELS.glob("dseg.tsv")]
ATLAS_FILES = labels_of(ATLASES) + NAMES


def ever(test):
    """List the ids of participants for whom `test` holds, now or when the cohort was last checked."""
    return list(dict.fromkeys(p.id for p in (*PARTICIPANTS, *CHECKED.values()) if test(p)))


# Inputs of the template stage where labels are part of its objective.
TEMPLATE_LABELS = ATLAS_FILES if CONFIG.template.label_similarity else []
EVER_SUBJECTS = ever(lambda participant: True)
EVER_TRAIN = ever(lambda participant: participant.role == "train")
EVER_TEMPLATE_SUBJECTS = ever(lambda participant: participant.in_template)
ATLAS_LIBRARY = [*ever(lambda participant: participant.role == "atlas"), *ATLAS_FILES]


def is_newer(file):
    """Tell whether a file is newer than the last check of the cohort."""
    return not CHECKED or Path(file).stat().st_mtime > LAYOUT.cohort.stat().st_mtime


def is_changed(subject):
    """Tell whether a subject's row or files differ from those of the last check."""
    return CHECKED.get(subject) != PARTICIPANT_OF.get(subject) or any(map(is_newer, inputs_of([subject])))


CHANGED = {*filter(is_changed, EVER_SUBJECTS), *filter(is_newer, ATLAS_FILES)}


def checked(file, concerns):
    """Make an output of the cohort stage the input of a job that depends on some subjects or label files.

    The cohort stage rewrites its outputs whenever a subject is added or removed. Only a job whose own subjects or
    files changed waits for that and runs again; for any other the file is the same before and after.
    """
    return ancient(before_update(file)) if CHANGED.isdisjoint(concerns) else file


def known(subjects):
    """Give the rows of the tables as a parameter, so that a changed row reruns the subjects' jobs."""
    return [row_text(PARTICIPANT_OF[subject]) for subject in subjects]


def lock_output():
    """Refuse to run where another run writes. Snakemake itself locks the working directory, not the output."""
    try:
        held = lock(LAYOUT.lock)
        if held is None:
            logger.warning(
                f"{CONFIG.output}: this file system has no locks, so that two runs can't be kept apart here. "
                "Start one at a time."
            )
        return held
    except BlockingIOError:
        raise WorkflowError(
            f"{CONFIG.output}: another run is writing here. Wait until it ends, or choose another `output`."
        ) from None
    except OSError as error:
        raise WorkflowError(
            f"{CONFIG.output}: nothing can be written here ({error.strerror}). Choose another `output`."
        ) from None


def check_machine():
    """Refuse a config that this machine can't compute, where it computes itself."""
    if workflow.local_exec:
        try:
            check_gpus(CONFIG, count_gpus())
        except AtlasmithError as error:
            raise WorkflowError(str(error)) from None


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


def jobs(subjects, stage):
    """Divide subjects into numbered jobs of `subjects_per_job`, which share one start of Python.

    A wildcard can't stand for a set of subjects, hence a rule for each job. Jobs follow the order of the table, so
    that subjects added at its end leave the jobs of others unchanged; subjects that take no part in the template
    have jobs of their own, by role. One that failed is left out of its job; the others stay where they are.
    """
    groups = {}
    for subject in subjects:
        participant = PARTICIPANT_OF[subject]
        groups.setdefault("template" if participant.in_template else participant.role, []).append(subject)
    size = CONFIG.subjects_per_job
    parts = [group[start : start + size] for group in groups.values() for start in range(0, len(group), size)]
    numbered = [(number, remaining(part, stage)) for number, part in enumerate(parts, start=1)]
    return [(number, part) for number, part in numbered if part]


def segmented(stage):
    """Divide subjects into jobs by role: trained fusion and quality estimation depend on no targets."""
    return [
        (role, number, part)
        for role, members in (("atlases", ATLASES), ("targets", TARGETS), ("others", OTHERS))
        for number, part in jobs(members, stage)
    ]


def voxels():
    """Count the voxels of the template's grid; a guess until the cohort stage has written it."""
    return math.prod(json.loads(LAYOUT.grid.read_text())["shape"]) if LAYOUT.grid.exists() else 10**6


def needs(stage, subjects=()):
    """Give what a stage's job asks for: memory in MB and minutes, which grow with each attempt, and GPUs."""
    count = len(ATLASES)

    def memory(wildcards, attempt):
        return attempt * memory_mb(stage, CONFIG, voxels(), count)

    def runtime(wildcards, attempt):
        return attempt * runtime_minutes(stage, CONFIG, voxels(), len(subjects), count)

    asked = {"mem_mb": memory, "runtime": runtime}
    return asked | {"gpu": lambda wildcards: asked_gpus(stage)} if stage in GPU_STAGES else asked


def apply_to_stages():
    """Let a profile's `set-threads` and `set-resources` name a stage, such as `register`, for its numbered jobs."""
    settings = workflow.resource_settings
    threads, resources = (
        getattr(
            settings, f"_parsed_{name}", getattr(settings, name)
        )  # newer versions of Snakemake parse them
        for name in ("overwrite_threads", "overwrite_resources")
    )
    for job in workflow.rules:
        for name in (NUMBER.sub("", job.name), job.name):
            job.resources.update(resources.get(name, {}))
            if name in threads:
                job.resources["_cores"] = threads[name]


def asked_gpus(stage):
    """Count the GPUs that a stage's jobs ask for. Where they run is known once all rules are read."""
    return gpus(stage, CONFIG, count_gpus() if workflow.local_exec else None)


def device(stage):
    """Give the option that keeps a job on the CPU where its stage asks for a GPU, and a profile gives it none."""

    # A parameter that is made from `output` is no reason to run again.
    def option(wildcards, output, resources):
        given = resources.gpu or resources.get("gres") or "gpu" in str(resources.get("slurm_extra", ""))
        return "" if given or not asked_gpus(stage) else "--device cpu"

    return option


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
        *images_of(LAYOUT.warped, dict.fromkeys([*LIBRARY, *subjects])),
        *valid_masks(LAYOUT.forward, subjects),
    ]


def to_review(subjects):
    """List what tells whether scans are of the run's kind: their registrations, and the template."""
    if not QUALITY:
        return []
    registered, files = remaining(subjects, "register"), (
        LAYOUT.affine,
        LAYOUT.forward,
        LAYOUT.registration_table,
    )
    return [
        LAYOUT.template_image,
        LAYOUT.template_labels,
        *(file(subject) for subject in registered for file in files),
        *images_of(LAYOUT.warped, registered),
        *preprocessed_of(registered),
    ]


def to_score(subject):
    """List what the scores of a subject are computed from."""
    files = [
        LAYOUT.template_image,
        *preprocessed_of([subject]),
        *images_of(LAYOUT.affine_image, [subject]),
        *images_of(LAYOUT.warped, [subject]),
        LAYOUT.log_jacobian(subject),
        LAYOUT.registration_table(subject),
    ]
    if subject in TARGETS or (QUALITY and subject in ATLASES and remaining([subject], "fuse")):
        files += [LAYOUT.propagated_labels(subject), *labels_of([subject])]
        files += [LAYOUT.segmentation(subject, method) for method in CONFIG.fusion.methods]
    return files
