for number, subjects in jobs(SUBJECTS, "preprocess"):

    rule:
        name:
            f"preprocess_{number}"
        input:
            cohort=checked(LAYOUT.cohort, subjects),
            images=inputs_of(subjects),
        output:
            images=preprocessed_of(subjects),
            sidecars=images_of(LAYOUT.preprocessed_sidecar, subjects),
        log:
            LAYOUT.log("preprocess", f"job-{number}"),
        conda:
            "../envs/atlasmith.yaml"
        resources:
            **needs("preprocess", subjects),
        params:
            version=VERSION,
            config=LAYOUT.config,
            digest=CONFIG.digest("preprocess"),
            subjects=subjects,
            participants=known(subjects),
        shell:
            "atlasmith preprocess --config {params.config:q} --subjects {params.subjects} --record-failures > {log:q} 2>&1"
