for number, subjects in jobs(SUBJECTS, "score"):

    rule:
        name:
            f"score_{number}"
        input:
            [to_score(subject) for subject in subjects],
            cohort=checked(LAYOUT.cohort, subjects),
        output:
            [LAYOUT.subject_scores(subject) for subject in subjects],
        log:
            LAYOUT.log("score", f"job-{number}"),
        conda:
            "../envs/atlasmith.yaml"
        resources:
            **needs("score", subjects),
        params:
            version=VERSION,
            config=LAYOUT.config,
            digest=CONFIG.digest("score"),
            subjects=subjects,
        shell:
            "atlasmith score --config {params.config:q} --subjects {params.subjects} --record-failures > {log:q} 2>&1"


rule score_summary:
    input:
        cohort=checked(LAYOUT.cohort, EVER_SUBJECTS),
        subjects=[LAYOUT.subject_scores(subject) for subject in remaining(SUBJECTS, "score")],
    output:
        LAYOUT.scores,
        LAYOUT.summary,
        LAYOUT.comparisons,
    log:
        LAYOUT.log("score_summary"),
    conda:
        "../envs/atlasmith.yaml"
    resources:
        **needs("score_summary", SUBJECTS),
    params:
        version=VERSION,
        config=LAYOUT.config,
        digest=CONFIG.digest("score"),
    shell:
        "atlasmith score-summary --config {params.config:q} > {log:q} 2>&1"
