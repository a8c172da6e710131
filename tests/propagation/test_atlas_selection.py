"""Selection of the atlases that are most similar to a subject."""

from atlasmith.config import Config, parse_config
from atlasmith.io.files import read_json
from atlasmith.io.images import read_image, read_labels, write_image
from atlasmith.io.tables import read_cohort
from atlasmith.propagation import label_template, propagate_subject, select_atlases


def test_the_most_similar_atlases_are_selected_and_propagated(toy_registered: Config) -> None:
    layout = toy_registered.layout
    label_template(toy_registered)
    values = toy_registered.resolved()
    values["fusion"]["atlas_selection"] = 3
    config = parse_config(values)
    subjects = read_cohort(layout.cohort)
    target, atlases = subjects[8], subjects[:8]
    selected = select_atlases(config, target, atlases)
    assert selected == sorted(selected, key=lambda s: s.id) and len(selected) == 3
    assert {s.id for s in select_atlases(config, target, atlases[::-1])} == {s.id for s in selected}
    kept = layout.warped(target.id).read_bytes()
    for equal in atlases:  # an atlas with the target's image is selected, whatever the scale of intensities
        image = read_image(layout.warped(equal.id))
        write_image(layout.warped(target.id), 3 * image.data + 7, image.grid)
        assert equal in select_atlases(config, target, atlases)
    layout.warped(target.id).write_bytes(kept)
    propagate_subject(config, target.id)
    assert read_json(layout.propagated_sidecar(target.id))["atlases"] == [s.id for s in selected]
    assert read_labels(layout.propagated_labels(target.id)).data.shape[-1] == 3
    assert select_atlases(toy_registered, target, atlases) == atlases
