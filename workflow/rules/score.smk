rule score:
    input:
        to_score,
        cohort=LAYOUT.cohort,
    output:
        LAYOUT.subject_scores("{subject}"),
    log:
        LAYOUT.log("score", "sub-{subject}"),
    conda:
        "../envs/atlasmith.yaml"
    params:
        version=VERSION,
        config=LAYOUT.config,
        digest=CONFIG.digest("score"),
    shell:
        "atlasmith score --config {params.config:q} --subject {wildcards.subject} > {log:q} 2>&1"


rule score_summary:
    input:
        cohort=LAYOUT.cohort,
        subjects=[LAYOUT.subject_scores(subject) for subject in SUBJECTS],
    output:
        LAYOUT.scores,
        LAYOUT.summary,
    log:
        LAYOUT.log("score_summary"),
    conda:
        "../envs/atlasmith.yaml"
    params:
        version=VERSION,
        config=LAYOUT.config,
        digest=CONFIG.digest("score"),
    shell:
        "atlasmith score-summary --config {params.config:q} > {log:q} 2>&1"
