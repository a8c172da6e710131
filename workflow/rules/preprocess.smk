for number, subjects in jobs(SUBJECTS):

    rule:
        name:
            f"preprocess_{number}"
        input:
            cohort=checked(LAYOUT.cohort, subjects),
            images=files_of(CONFIG.cohort.bids, subjects, CONFIG.cohort.suffix),
            masks=masks_of(subjects),
        output:
            images=[LAYOUT.preprocessed(subject) for subject in subjects],
            sidecars=[LAYOUT.preprocessed_sidecar(subject) for subject in subjects],
        log:
            LAYOUT.log("preprocess", f"job-{number}"),
        conda:
            "../envs/atlasmith.yaml"
        resources:
            mem_mb=memory("preprocess"),
            runtime=runtime("preprocess", subjects),
        params:
            version=VERSION,
            config=LAYOUT.config,
            digest=CONFIG.digest("preprocess"),
            subjects=subjects,
            participants=known(subjects),
        shell:
            "atlasmith preprocess --config {params.config:q} --subjects {params.subjects} > {log:q} 2>&1"
