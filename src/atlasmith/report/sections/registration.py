"""Section `Registration`: subjects before and after each step, beside the template."""

from __future__ import annotations

import numpy as np

from atlasmith.report import markup, pictures
from atlasmith.report.pictures import plane_axes
from atlasmith.report.results import Results, image_at


def registration(results: Results) -> str:
    """Show examples from the lowest to the highest correlation with the template."""
    layout = results.layout
    ids = [s.id for s in results.subjects if layout.affine_image(s.id).exists()]
    template = image_at(layout.template_image)
    if not ids or template is None:
        return ""
    count = results.config.report.subjects
    chosen = markup.choose_examples(results.similarity(), ids, count, "correlation with the template")
    jacobians = {name: image_at(layout.log_jacobian(name)) for name in chosen}
    known = [np.abs(image.data) for image in jacobians.values() if image]
    limit = max(float(np.percentile(np.concatenate(known), 99.5)) if known else 0.0, 0.05)
    body = markup.note(
        f"{markup.CONVENTION} The log-Jacobian is of the warp after the affine: red where the subject is "
        f"larger than the template, blue where it is smaller, full color at a factor of {np.exp(limit):.2f}."
    )
    for name, reason in chosen.items():
        images = [
            (image_at(layout.preprocessed(name)), "preprocessed image, middle slice"),
            (image_at(layout.affine_image(name)), "after affine"),
            (image_at(layout.warped(name)), "after warping"),
            (template, "template"),
        ]
        shown = [
            (markup.middle_picture(image, plane_axes(image.grid)[0], pictures.window(image.data)), caption)
            for image, caption in images
            if image
        ]
        if jacobian := jacobians[name]:
            middle = markup.middle_plane(jacobian, plane_axes(jacobian.grid)[0])
            shown.append((pictures.diverging(middle, limit), "log-Jacobian"))
        body += markup.subject_heading(name, reason) + markup.picture_row(shown)
    return body
