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
SUBJECTS = [person.id for person in PARTICIPANTS]
ATLASES = [person.id for person in PARTICIPANTS if person.role == "atlas"]
TARGETS = [person.id for person in PARTICIPANTS if person.role == "target"]
PEOPLE = {person.id: person for person in PARTICIPANTS}
TEMPLATE_SUBJECTS = [person.id for person in PARTICIPANTS if person.in_template]
# Learned methods need networks, and atlases propagated to atlases to train them.
NETWORKS = CONFIG.fusion.networks
# Atlases are segmented too, each by the others, and tell what a target's segmentation is worth.
ASSESS = CONFIG.fusion.quality and len(ATLASES) > 1
# With labels in the objective, atlases are registered a second time, without their own.
BLIND = set(ATLASES) if CONFIG.template.label_similarity else set()
# Jobs run the `atlasmith` of the active environment, or else that of Snakemake's own Python. Who is killed can't
# say so.
KILLED = "the job was killed: most likely memory ran out. Give it more (resources: mem_mb), or see docs/scaling.md."
shell.prefix(
    f'PATH="$PATH:"{quote(str(Path(sys.executable).parent))}; '
    f"trap '[ $? -ne 137 ] || echo \"{KILLED}\" >&2' EXIT; "
)


def files_of(folder, subjects, suffix):
    """The user's files of `subjects` with `suffix`. The cohort stage complains of those that are missing."""
    return [path for subject in subjects for path in files_of_one(folder, subject, suffix)]


@cache
def files_of_one(folder, subject, suffix):
    found = (folder / f"sub-{subject}" / "anat").glob(f"sub-{subject}*_{suffix}.nii*")
    return sorted(map(str, found))


NAMES = [str(path) for path in LABELS.glob("dseg.tsv")]
ATLAS_FILES = files_of(LABELS, ATLASES, "dseg") + NAMES


def ever(test):
    """Ids of people for whom `test` holds, now or when the cohort was checked."""
    return list(dict.fromkeys(p.id for p in (*PARTICIPANTS, *CHECKED.values()) if test(p)))


# The template learns from the atlases' labels, where they have a part in its loss.
TEACHING = ATLAS_FILES if CONFIG.template.label_similarity else []
EVERYONE = ever(lambda person: True)
EVER_TEMPLATE_SUBJECTS = ever(lambda person: person.in_template)
LIBRARY = [*ever(lambda person: person.role == "atlas"), *ATLAS_FILES]


def is_newer(file):
    """Than the check of the cohort."""
    return not CHECKED or Path(file).stat().st_mtime > LAYOUT.cohort.stat().st_mtime


def is_news(subject):
    """Whether the table says something else of a subject than when it was checked, or the image is newer."""
    images = files_of_one(CONFIG.cohort.bids, subject, CONFIG.cohort.suffix)
    return CHECKED.get(subject) != PEOPLE.get(subject) or any(is_newer(image) for image in images)


NEWS = {*filter(is_news, EVERYONE), *filter(is_newer, ATLAS_FILES)}


def checked(file, concerns):
    """An output of the cohort stage, as the input of a job that some subjects, or files of labels, concern.

    It is written anew whenever anyone joins or leaves. The job waits for that, and runs again, only when there
    is news of what concerns it; else the file is as good before as after.
    """
    return ancient(before_update(file)) if NEWS.isdisjoint(concerns) else file


def known(subjects):
    """What the table says of them, as a parameter of their jobs."""
    return [" ".join(map(str, PEOPLE[subject])) for subject in subjects]


def hold_output():
    """Refuse to run where another run writes. Snakemake itself locks the working directory, not the output."""
    try:
        return hold(LAYOUT.lock)
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


def chunks(subjects):
    """(number, subjects) of each job: a chunk of them shares one start of Python. No wildcard can name a set of
    subjects, hence rules for each. The order is the table's, so that subjects added to its end leave others'
    jobs as they are; those who don't make the template have chunks of their own, by role."""
    alike = {}
    for subject in subjects:
        person = PEOPLE[subject]
        alike.setdefault("builder" if person.in_template else person.role, []).append(subject)
    size = CONFIG.subjects_per_job
    return enumerate(
        (group[start : start + size] for group in alike.values() for start in range(0, len(group), size)),
        start=1,
    )


# Atlases are segmented apart: they teach fusion, and what a target's segmentation is worth.
SEGMENTED = [
    (role, *chunk)
    for role, people in (("atlases", ATLASES), ("targets", TARGETS))
    for chunk in chunks(people)
]


def voxels():
    """Of the template's grid, which the cohort stage settles: until then jobs are only planned."""
    return math.prod(json.loads(LAYOUT.grid.read_text())["shape"]) if LAYOUT.grid.exists() else 10**6


def memory(stage):
    """MB; more each time that a job is tried again."""
    return lambda wildcards, attempt: attempt * memory_mb(stage, CONFIG, voxels(), len(ATLASES))


def runtime(stage, people):
    """Minutes."""
    return lambda wildcards, attempt: attempt * runtime_minutes(
        stage, CONFIG, voxels(), len(people), len(ATLASES)
    )


def launch(processes):
    """What starts a training in so many processes. Sums differ in the last digit between numbers of threads, so
    that these follow from the config, not from how many cores are free."""
    each = max(CONFIG.threads // processes, 1)
    fixed = "".join(f"{library}_NUM_THREADS={each} " for library in ("OMP", "MKL", "OPENBLAS"))
    return fixed + (
        f"torchrun --standalone --nproc-per-node {processes} --no-python " if processes > 1 else ""
    )


def inverse_of(subject):
    """What takes the template's space to the subject's, without its own labels having had a part in it."""
    return LAYOUT.inverse_label_free(subject) if subject in BLIND else LAYOUT.inverse(subject)


def to_compare(subjects):
    """What tells which atlases look most like `subjects`, where not all of them vote."""
    if CONFIG.fusion.atlas_selection is None:
        return []
    return [
        LAYOUT.template_labels,
        *(LAYOUT.warped(subject) for subject in dict.fromkeys([*ATLASES, *subjects])),
    ]


def to_score(subject):
    """What the score of one subject reads: its registration, and for a target its segmentations."""
    files = [
        LAYOUT.template_image,
        LAYOUT.affine_image(subject),
        LAYOUT.warped(subject),
        LAYOUT.log_jacobian(subject),
        LAYOUT.registration_table(subject),
    ]
    if subject in TARGETS:
        files += [LAYOUT.propagated_labels(subject), *files_of(LABELS, [subject], "dseg")]
        files += [LAYOUT.segmentation(subject, method) for method in CONFIG.fusion.methods]
    return files
