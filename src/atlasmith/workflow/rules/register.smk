for number, subjects in jobs(SUBJECTS, "register"):

    rule:
        name:
            f"register_{number}"
        input:
            cohort=checked(LAYOUT.cohort, subjects),
            weights=LAYOUT.template_weights,
            template=LAYOUT.template_image,
            images=images_of(LAYOUT.affine_image, subjects),
            preprocessed=preprocessed_of(subjects),
            transforms=[LAYOUT.affine(subject) for subject in subjects],
        output:
            forward=[LAYOUT.forward(subject) for subject in subjects],
            inverse=[LAYOUT.inverse(subject) for subject in subjects],
            label_free=[LAYOUT.inverse_label_free(subject) for subject in subjects if subject in LABEL_FREE],
            warped=images_of(LAYOUT.warped, subjects),
            log_jacobian=[LAYOUT.log_jacobian(subject) for subject in subjects],
            table=[LAYOUT.registration_table(subject) for subject in subjects],
        log:
            LAYOUT.log("register", f"job-{number}"),
        conda:
            "../envs/atlasmith.yaml"
        resources:
            **needs("register", subjects),
        params:
            version=VERSION,
            config=LAYOUT.config,
            digest=CONFIG.digest("register"),
            subjects=subjects,
            participants=known(subjects),
            device=device("register"),
        shell:
            "atlasmith register --config {params.config:q} {params.device} --subjects {params.subjects} --record-failures > {log:q} 2>&1"
