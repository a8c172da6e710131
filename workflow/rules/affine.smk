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
    params:
        version=VERSION,
        config=LAYOUT.config,
        digest=CONFIG.digest("affine"),
    shell:
        "atlasmith affine-reference --config {params.config:q} > {log:q} 2>&1"


rule affine:
    input:
        cohort=LAYOUT.cohort,
        reference=LAYOUT.affine_reference,
    output:
        transform=LAYOUT.affine("{subject}"),
        image=LAYOUT.affine_image("{subject}"),
    log:
        LAYOUT.log("affine", "sub-{subject}"),
    conda:
        "../envs/atlasmith.yaml"
    params:
        version=VERSION,
        config=LAYOUT.config,
        digest=CONFIG.digest("affine"),
    shell:
        "atlasmith affine --config {params.config:q} --subject {wildcards.subject} > {log:q} 2>&1"
