if FUSION_NETWORKS:

    rule fuse_train:
        input:
            cohort=checked(LAYOUT.cohort, ATLAS_LIBRARY + (EVER_TRAIN if UNLABELLED else [])),
            preprocessed=preprocessed_of(LIBRARY + UNLABELLED),
            labels=[LAYOUT.propagated_labels(subject) for subject in LIBRARY + UNLABELLED],
            images=images_of(LAYOUT.propagated_images, LIBRARY + UNLABELLED)
            + valid_masks(LAYOUT.propagated_valid, LIBRARY + UNLABELLED),
            sidecars=[LAYOUT.propagated_sidecar(subject) for subject in LIBRARY + UNLABELLED],
        output:
            [LAYOUT.fuser_weights(name) for name in FUSION_NETWORKS],
            [LAYOUT.fuser_training(name) for name in CONFIG.fusion.trainings],
        log:
            LAYOUT.log("fuse_train"),
        conda:
            "../envs/atlasmith.yaml"
        threads: CONFIG.threads
        resources:
            **needs("fuse_train", ATLASES + UNLABELLED),
        params:
            version=VERSION,
            config=LAYOUT.config,
            settings=[CONFIG.fusion.section(name).model_dump_json() for name in FUSION_NETWORKS],
            pseudo_labels=CONFIG.fusion.pseudo_label_settings if UNLABELLED else None,
            launch=lambda wildcards, output: launch(1),
            device=device("fuse_train"),
        shell:
            "{params.launch}atlasmith fuse-train --config {params.config:q} {params.device} > {log:q} 2>&1"


for role, number, subjects in segmented("fuse"):

    rule:
        name:
            f"fuse_{role}_{number}"
        input:
            cohort=checked(LAYOUT.cohort, [*ATLAS_LIBRARY, *subjects]),
            preprocessed=preprocessed_of(subjects),
            labels=[LAYOUT.propagated_labels(subject) for subject in subjects],
            images=images_of(LAYOUT.propagated_images, subjects)
            + valid_masks(LAYOUT.propagated_valid, subjects),
            sidecars=[LAYOUT.propagated_sidecar(subject) for subject in subjects],
            weights=[LAYOUT.fuser_weights(name) for name in FUSION_NETWORKS],
            quality=[LAYOUT.quality_model] if QUALITY and role != "atlases" else [],
            registrations=to_review(subjects) if role != "atlases" else [],
        output:
            segmentations=[
                LAYOUT.segmentation(s, method) for s in subjects for method in CONFIG.fusion.methods
            ],
            confidences=[LAYOUT.confidence(s, method) for s in subjects for method in CONFIG.fusion.methods],
            uncertainties=[
                LAYOUT.uncertainty(s, method)
                for s in subjects
                for method in CONFIG.fusion.methods
                if CONFIG.fusion.uncertainty
            ],
            volumes=[LAYOUT.volumes(s, method) for s in subjects for method in CONFIG.fusion.methods],
            sidecars=[
                LAYOUT.segmentation_sidecar(s, method) for s in subjects for method in CONFIG.fusion.methods
            ],
        log:
            LAYOUT.log("fuse", f"{role}-{number}"),
        conda:
            "../envs/atlasmith.yaml"
        resources:
            **needs("fuse", subjects),
        params:
            version=VERSION,
            config=LAYOUT.config,
            digest=CONFIG.digest("fusion"),
            subjects=subjects,
            device=device("fuse"),
        shell:
            "atlasmith fuse --config {params.config:q} {params.device} --subjects {params.subjects} --record-failures > {log:q} 2>&1"


if QUALITY:

    rule fuse_quality:
        input:
            cohort=checked(LAYOUT.cohort, ATLAS_LIBRARY),
            manual=ATLAS_FILES,
            registrations=to_review(dict.fromkeys([*ATLASES, *TEMPLATE_SUBJECTS])),
            propagated=[LAYOUT.propagated_labels(atlas) for atlas in LIBRARY],
            valid=valid_masks(LAYOUT.propagated_valid, LIBRARY),
            sidecars=[LAYOUT.propagated_sidecar(atlas) for atlas in LIBRARY],
            segmentations=[
                LAYOUT.segmentation(a, method)
                for a in remaining(ATLASES, "fuse")
                for method in CONFIG.fusion.methods
            ],
            volumes=[
                LAYOUT.volumes(a, method)
                for a in remaining(ATLASES, "fuse")
                for method in CONFIG.fusion.methods
            ],
        output:
            LAYOUT.atlas_qc,
            LAYOUT.quality_model,
            LAYOUT.quality_table,
        log:
            LAYOUT.log("fuse_quality"),
        conda:
            "../envs/atlasmith.yaml"
        resources:
            **needs("fuse_quality", ATLASES),
        params:
            version=VERSION,
            config=LAYOUT.config,
        shell:
            "atlasmith fuse-quality --config {params.config:q} > {log:q} 2>&1"
