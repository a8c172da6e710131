if CONFIG.template.subpopulations > 1:

    rule subpopulations:
        input:
            cohort=checked(LAYOUT.cohort, EVER_SUBJECTS),
            images=images_of(LAYOUT.affine_image, remaining(SUBJECTS, "affine")),
        output:
            LAYOUT.subpopulations,
        log:
            LAYOUT.log("subpopulations"),
        conda:
            "../envs/atlasmith.yaml"
        resources:
            **needs("subpopulations", SUBJECTS),
        params:
            version=VERSION,
            config=LAYOUT.config,
            digest=CONFIG.digest("template"),
        shell:
            "atlasmith subpopulations --config {params.config:q} > {log:q} 2>&1"


# Checkpoints are undeclared files, so a killed training goes on from the last one.
rule template:
    input:
        cohort=checked(LAYOUT.cohort, EVER_TEMPLATE_SUBJECTS + TEMPLATE_LABELS),
        images=images_of(LAYOUT.affine_image, remaining(TEMPLATE_SUBJECTS, "affine")),
        preprocessed=preprocessed_of(remaining(TEMPLATE_SUBJECTS, "affine")),
        labels=TEMPLATE_LABELS,
        subpopulations=[LAYOUT.subpopulations] if CONFIG.template.subpopulations > 1 else [],
    output:
        LAYOUT.template_weights,
        LAYOUT.template_training,
        [LAYOUT.segmenter_training] if CONFIG.template.label_similarity else [],
        [LAYOUT.template_refinement] if CONFIG.template.refinement.rounds else [],
        [LAYOUT.template_channel(channel) for channel in LAYOUT.channels],
        LAYOUT.template_description,
    log:
        LAYOUT.log("template"),
    conda:
        "../envs/atlasmith.yaml"
    threads: max(CONFIG.processes, CONFIG.threads)
    resources:
        **needs("template", TEMPLATE_SUBJECTS),
    params:
        version=VERSION,
        config=LAYOUT.config,
        digest=CONFIG.digest("template"),
        participants=known(remaining(TEMPLATE_SUBJECTS, "affine")),
        # They come to the same template, so their number is no reason to train again.
        launch=lambda wildcards, output: launch(CONFIG.processes),
        device=device("template"),
    shell:
        "{params.launch}atlasmith template --config {params.config:q} {params.device} > {log:q} 2>&1"
