rule affine_reference:
    input:
        cohort=checked(LAYOUT.cohort, EVER_TEMPLATE_SUBJECTS),
        grid=checked(LAYOUT.grid, EVER_TEMPLATE_SUBJECTS),
        images=files_of(CONFIG.cohort.bids, TEMPLATE_SUBJECTS, CONFIG.cohort.suffix),
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
        people=known(TEMPLATE_SUBJECTS),
    shell:
        "atlasmith affine-reference --config {params.config:q} > {log:q} 2>&1"


for number, chunk in chunks(SUBJECTS):

    rule:
        name:
            f"affine_{number}"
        input:
            cohort=checked(LAYOUT.cohort, chunk),
            images=files_of(CONFIG.cohort.bids, chunk, CONFIG.cohort.suffix),
            reference=LAYOUT.affine_reference,
        output:
            transforms=[LAYOUT.affine(subject) for subject in chunk],
            images=[LAYOUT.affine_image(subject) for subject in chunk],
        log:
            LAYOUT.log("affine", f"chunk-{number}"),
        conda:
            "../envs/atlasmith.yaml"
        resources:
            mem_mb=memory("affine"),
            runtime=runtime("affine", chunk),
        params:
            version=VERSION,
            config=LAYOUT.config,
            digest=CONFIG.digest("affine"),
            subjects=chunk,
            people=known(chunk),
        shell:
            "atlasmith affine --config {params.config:q} --subjects {params.subjects} > {log:q} 2>&1"
