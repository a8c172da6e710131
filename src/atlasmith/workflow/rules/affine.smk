rule affine_reference:
    input:
        cohort=checked(LAYOUT.cohort, EVER_TEMPLATE_SUBJECTS),
        grid=checked(LAYOUT.grid, EVER_TEMPLATE_SUBJECTS),
        images=images_of(LAYOUT.preprocessed, remaining(TEMPLATE_SUBJECTS, "preprocess")),
    output:
        [LAYOUT.affine_reference_channel(channel) for channel in LAYOUT.channels],
    log:
        LAYOUT.log("affine_reference"),
    conda:
        "../envs/atlasmith.yaml"
    resources:
        **needs("affine_reference", SUBJECTS),
    params:
        version=VERSION,
        config=LAYOUT.config,
        digest=CONFIG.digest("affine"),
        participants=known(remaining(TEMPLATE_SUBJECTS, "preprocess")),
    shell:
        "atlasmith affine-reference --config {params.config:q} > {log:q} 2>&1"


for number, subjects in jobs(SUBJECTS, "affine"):

    rule:
        name:
            f"affine_{number}"
        input:
            cohort=checked(LAYOUT.cohort, subjects),
            images=images_of(LAYOUT.preprocessed, subjects),
            reference=[LAYOUT.affine_reference_channel(channel) for channel in LAYOUT.channels],
        output:
            transforms=[LAYOUT.affine(subject) for subject in subjects],
            images=images_of(LAYOUT.affine_image, subjects),
        log:
            LAYOUT.log("affine", f"job-{number}"),
        conda:
            "../envs/atlasmith.yaml"
        resources:
            **needs("affine", subjects),
        params:
            version=VERSION,
            config=LAYOUT.config,
            digest=CONFIG.digest("affine"),
            subjects=subjects,
            participants=known(subjects),
        shell:
            "atlasmith affine --config {params.config:q} --subjects {params.subjects} --record-failures > {log:q} 2>&1"
