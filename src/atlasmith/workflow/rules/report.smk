rule report:
    input:
        cohort=checked(LAYOUT.cohort, EVER_SUBJECTS),
        scores=LAYOUT.scores,
        summary=LAYOUT.summary,
        template=LAYOUT.template_image,
        template_labels=LAYOUT.template_labels,
        segmented=[
            file(subject, method)
            for subject in remaining(OTHERS, "fuse")
            for method in CONFIG.fusion.methods
            for file in (LAYOUT.segmentation_sidecar, LAYOUT.volumes)
        ],
        training=[LAYOUT.template_training]
        + [LAYOUT.fuser_training(name) for name in CONFIG.fusion.trainings],
    output:
        LAYOUT.report,
        directory(LAYOUT.report_folder),
    log:
        LAYOUT.log("report"),
    conda:
        "../envs/atlasmith.yaml"
    resources:
        **needs("report", SUBJECTS),
    params:
        version=VERSION,
        config=LAYOUT.config,
        digest=CONFIG.digest("report"),
        failures=[f"{failure.subject} {failure.message}" for failure in FAILURES.values()],
    shell:
        "atlasmith report --config {params.config:q} > {log:q} 2>&1"
