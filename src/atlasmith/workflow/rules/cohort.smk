# Every file of the user is an input here. What follows depends on the table as `checked` says.
#
# The outputs are updated, not deleted beforehand: what is there stays when the verb refuses the cohort.
# The resolved config is written too, but isn't declared: it is newer than the results after a change of the
# report's settings, say, and each rule names the sections that it depends on itself.
rule cohort:
    input:
        TABLES,
        inputs_of(SUBJECTS),
        ATLAS_FILES,
    output:
        update(LAYOUT.cohort),
        update(LAYOUT.labels),
        update(LAYOUT.grid),
    log:
        LAYOUT.log("cohort"),
    conda:
        "../envs/atlasmith.yaml"
    params:
        version=VERSION,
        digest=CONFIG.digest("cohort"),
        grid=[CONFIG.template.spacing, CONFIG.template.shape, CONFIG.template.margin],
        # The table names the targets' labels; only the score reads them.
        labels=labels_of(TARGETS),
        # A parameter that is made from `output` is no reason to run again.
        plan=lambda wildcards, output: json.dumps(CONFIG.resolved()),
    shell:
        "atlasmith cohort --config <(printf '%s' {params.plan:q}) > {log:q} 2>&1"
