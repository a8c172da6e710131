# The labels stay, since the scores need them too; the images are large and quickly made again.
rule propagate:
    input:
        cohort=LAYOUT.cohort,
        atlases=[LAYOUT.forward(atlas) for atlas in ATLASES],
        inverse=inverse_of,
    output:
        labels=LAYOUT.propagated_labels("{subject}"),
        images=temp(LAYOUT.propagated_images("{subject}")),
        sidecar=LAYOUT.propagated_sidecar("{subject}"),
    log:
        LAYOUT.log("propagate", "sub-{subject}"),
    conda:
        "../envs/atlasmith.yaml"
    params:
        version=VERSION,
        config=LAYOUT.config,
        box=[CONFIG.fusion.spacing, CONFIG.fusion.margin],
        pairs=CONFIG.register_.pair_steps,
    shell:
        "atlasmith propagate --config {params.config:q} --subject {wildcards.subject} > {log:q} 2>&1"


rule template_labels:
    input:
        cohort=LAYOUT.cohort,
        template=LAYOUT.template_image,
        atlases=[LAYOUT.forward(atlas) for atlas in ATLASES],
    output:
        LAYOUT.template_labels,
        LAYOUT.template_label_table,
        LAYOUT.template_probabilities,
    log:
        LAYOUT.log("template_labels"),
    conda:
        "../envs/atlasmith.yaml"
    params:
        version=VERSION,
        config=LAYOUT.config,
    shell:
        "atlasmith template-labels --config {params.config:q} > {log:q} 2>&1"
