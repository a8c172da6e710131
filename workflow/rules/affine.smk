rule affine_reference:
    input:
        cohort=checked(LAYOUT.cohort, EVER_TEMPLATE_SUBJECTS),
        grid=checked(LAYOUT.grid, EVER_TEMPLATE_SUBJECTS),
        images=[LAYOUT.preprocessed(subject) for subject in TEMPLATE_SUBJECTS],
    output:
        LAYOUT.affine_reference,
    log:
        LAYOUT.log("affine_reference"),
    conda:
        "../envs/atlasmith.yaml"
    resources:
        mem_mb=memory("affine_reference"),
        runtime=runtime("affine_reference", SUBJECTS),
    params:
        version=VERSION,
        config=LAYOUT.config,
        digest=CONFIG.digest("affine"),
        participants=known(TEMPLATE_SUBJECTS),
    shell:
        "atlasmith affine-reference --config {params.config:q} > {log:q} 2>&1"


for number, subjects in jobs(SUBJECTS):

    rule:
        name:
            f"affine_{number}"
        input:
            cohort=checked(LAYOUT.cohort, subjects),
            images=[LAYOUT.preprocessed(subject) for subject in subjects],
            reference=LAYOUT.affine_reference,
        output:
            transforms=[LAYOUT.affine(subject) for subject in subjects],
            images=[LAYOUT.affine_image(subject) for subject in subjects],
        log:
            LAYOUT.log("affine", f"job-{number}"),
        conda:
            "../envs/atlasmith.yaml"
        resources:
            mem_mb=memory("affine"),
            runtime=runtime("affine", subjects),
        params:
            version=VERSION,
            config=LAYOUT.config,
            digest=CONFIG.digest("affine"),
            subjects=subjects,
            participants=known(subjects),
        shell:
            "atlasmith affine --config {params.config:q} --subjects {params.subjects} > {log:q} 2>&1"
