# The labels stay, since the scores need them too; the images are large and quickly made again.
for role, number, subjects in segmented("propagate"):

    rule:
        name:
            f"propagate_{role}_{number}"
        input:
            cohort=checked(LAYOUT.cohort, [*ATLAS_LIBRARY, *subjects]),
            manual=ATLAS_FILES,
            images=preprocessed_of(dict.fromkeys([*LIBRARY, *subjects])),
            atlases=[LAYOUT.forward(atlas) for atlas in LIBRARY],
            inverse=[inverse_of(subject) for subject in subjects],
            similarity=to_compare(subjects),
        output:
            labels=[LAYOUT.propagated_labels(subject) for subject in subjects],
            images=temp(images_of(LAYOUT.propagated_images, subjects)),
            valid=temp(valid_masks(LAYOUT.propagated_valid, subjects)),
            sidecars=[LAYOUT.propagated_sidecar(subject) for subject in subjects],
        log:
            LAYOUT.log("propagate", f"{role}-{number}"),
        conda:
            "../envs/atlasmith.yaml"
        resources:
            **needs("propagate", subjects),
        params:
            version=VERSION,
            config=LAYOUT.config,
            box=[CONFIG.fusion.spacing, CONFIG.fusion.margin],
            atlas_selection=CONFIG.fusion.atlas_selection,
            pairs=CONFIG.register_.instance_optimization.pairwise_steps,
            subjects=subjects,
            device=device("propagate"),
        shell:
            "atlasmith propagate --config {params.config:q} {params.device} --subjects {params.subjects} --record-failures > {log:q} 2>&1"


rule template_labels:
    input:
        cohort=checked(LAYOUT.cohort, ATLAS_LIBRARY),
        manual=ATLAS_FILES,
        template=LAYOUT.template_image,
        atlases=[LAYOUT.forward(atlas) for atlas in LIBRARY],
        valid=valid_masks(LAYOUT.valid_mask, LIBRARY),
    output:
        LAYOUT.template_labels,
        LAYOUT.template_label_table,
        LAYOUT.template_probabilities,
        [LAYOUT.atlas_labels(atlas) for atlas in LIBRARY],
    log:
        LAYOUT.log("template_labels"),
    conda:
        "../envs/atlasmith.yaml"
    resources:
        **needs("template_labels", ATLASES),
    params:
        version=VERSION,
        config=LAYOUT.config,
        device=device("template_labels"),
    shell:
        "atlasmith template-labels --config {params.config:q} {params.device} > {log:q} 2>&1"
