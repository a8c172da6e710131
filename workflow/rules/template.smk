if CONFIG.template.populations > 1:

    rule populations:
        input:
            cohort=checked(LAYOUT.cohort, EVERYONE),
            images=[LAYOUT.affine_image(subject) for subject in SUBJECTS],
        output:
            LAYOUT.populations,
        log:
            LAYOUT.log("populations"),
        conda:
            "../envs/atlasmith.yaml"
        resources:
            mem_mb=memory("populations"),
            runtime=runtime("populations", SUBJECTS),
        params:
            version=VERSION,
            config=LAYOUT.config,
            digest=CONFIG.digest("template"),
        shell:
            "atlasmith populations --config {params.config:q} > {log:q} 2>&1"


# Checkpoints are undeclared files, so a killed training goes on from the last one.
rule template:
    input:
        cohort=checked(LAYOUT.cohort, EVER_BUILDERS + TEACHING),
        images=[LAYOUT.affine_image(subject) for subject in BUILDERS],
        labels=TEACHING,
        populations=[LAYOUT.populations] if CONFIG.template.populations > 1 else [],
    output:
        LAYOUT.template_weights,
        LAYOUT.template_training,
        [LAYOUT.segmenter_training] if CONFIG.template.labels else [],
        [LAYOUT.template_refinement] if CONFIG.template.refinement.rounds else [],
        LAYOUT.template_image,
        LAYOUT.template_description,
    log:
        LAYOUT.log("template"),
    conda:
        "../envs/atlasmith.yaml"
    threads: max(CONFIG.processes, CONFIG.threads)
    resources:
        mem_mb=memory("template"),
        runtime=runtime("template", BUILDERS),
    params:
        version=VERSION,
        config=LAYOUT.config,
        digest=CONFIG.digest("template"),
        people=known(BUILDERS),
        # They come to the same template, so their number is no reason to train again.
        launch=lambda wildcards, output: launch(CONFIG.processes),
    shell:
        "{params.launch}atlasmith template --config {params.config:q} > {log:q} 2>&1"
