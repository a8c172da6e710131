for number, chunk in chunks(SUBJECTS):

    rule:
        name:
            f"score_{number}"
        input:
            [to_score(subject) for subject in chunk],
            cohort=checked(LAYOUT.cohort, chunk),
        output:
            [LAYOUT.subject_scores(subject) for subject in chunk],
        log:
            LAYOUT.log("score", f"chunk-{number}"),
        conda:
            "../envs/atlasmith.yaml"
        resources:
            mem_mb=memory("score"),
            runtime=runtime("score", chunk),
        params:
            version=VERSION,
            config=LAYOUT.config,
            digest=CONFIG.digest("score"),
            subjects=chunk,
        shell:
            "atlasmith score --config {params.config:q} --subjects {params.subjects} > {log:q} 2>&1"


rule score_summary:
    input:
        cohort=checked(LAYOUT.cohort, EVERYONE),
        subjects=[LAYOUT.subject_scores(subject) for subject in SUBJECTS],
    output:
        LAYOUT.scores,
        LAYOUT.summary,
        LAYOUT.comparisons,
    log:
        LAYOUT.log("score_summary"),
    conda:
        "../envs/atlasmith.yaml"
    resources:
        mem_mb=memory("score_summary"),
        runtime=runtime("score_summary", SUBJECTS),
    params:
        version=VERSION,
        config=LAYOUT.config,
        digest=CONFIG.digest("score"),
    shell:
        "atlasmith score-summary --config {params.config:q} > {log:q} 2>&1"
