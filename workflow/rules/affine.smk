rule affine_reference:
    input:
        cohort=LAYOUT.cohort,
        grid=LAYOUT.grid,
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
    shell:
        "atlasmith affine-reference --config {params.config:q} > {log:q} 2>&1"


for number, chunk in chunks(SUBJECTS):

    rule:
        name:
            f"affine_{number}"
        input:
            cohort=LAYOUT.cohort,
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
        shell:
            "atlasmith affine --config {params.config:q} --subjects {params.subjects} > {log:q} 2>&1"
