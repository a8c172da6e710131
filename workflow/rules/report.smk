rule report:
    input:
        cohort=checked(LAYOUT.cohort, EVER_SUBJECTS),
        scores=LAYOUT.scores,
        summary=LAYOUT.summary,
        template=LAYOUT.template_image,
        template_labels=LAYOUT.template_labels,
        training=[LAYOUT.template_training]
        + [LAYOUT.fuser_training(name) for name in CONFIG.fusion.trainings],
    output:
        LAYOUT.report,
    log:
        LAYOUT.log("report"),
    conda:
        "../envs/atlasmith.yaml"
    resources:
        mem_mb=memory("report"),
        runtime=runtime("report", SUBJECTS),
    params:
        version=VERSION,
        config=LAYOUT.config,
        digest=CONFIG.digest("report"),
    shell:
        "atlasmith report --config {params.config:q} > {log:q} 2>&1"
