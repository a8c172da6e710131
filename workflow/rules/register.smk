for number, chunk in chunks(SUBJECTS):

    rule:
        name:
            f"register_{number}"
        input:
            cohort=checked(LAYOUT.cohort, chunk),
            weights=LAYOUT.template_weights,
            template=LAYOUT.template_image,
            images=[LAYOUT.affine_image(subject) for subject in chunk],
            transforms=[LAYOUT.affine(subject) for subject in chunk],
        output:
            forward=[LAYOUT.forward(subject) for subject in chunk],
            inverse=[LAYOUT.inverse(subject) for subject in chunk],
            blind=[LAYOUT.inverse_label_free(subject) for subject in chunk if subject in BLIND],
            warped=[LAYOUT.warped(subject) for subject in chunk],
            log_jacobian=[LAYOUT.log_jacobian(subject) for subject in chunk],
            table=[LAYOUT.registration_table(subject) for subject in chunk],
        log:
            LAYOUT.log("register", f"chunk-{number}"),
        conda:
            "../envs/atlasmith.yaml"
        resources:
            mem_mb=memory("register"),
            runtime=runtime("register", chunk),
        params:
            version=VERSION,
            config=LAYOUT.config,
            digest=CONFIG.digest("register"),
            subjects=chunk,
            people=known(chunk),
        shell:
            "atlasmith register --config {params.config:q} --subjects {params.subjects} > {log:q} 2>&1"
