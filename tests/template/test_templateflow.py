"""TemplateFlow's own client finds the template in an output folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from atlasmith.io.files import write_json
from atlasmith.io.layout import Layout

# For a separate process: the client reads its settings when it is imported.
QUERY = """
import json, sys
from templateflow import api
def names(**query):
    found = api.get("Mine", raise_empty=True, **query)
    return sorted(path.name for path in (found if isinstance(found, list) else [found]))
print(json.dumps({
    "templates": api.templates(),
    "mean": names(suffix="T1w", cohort=None, desc=None, resolution=1),
    "second": names(suffix="T1w", cohort=2),
    "mask": names(suffix="mask", desc="brain"),
    "labels": names(suffix="dseg", extension=".nii.gz"),
    "probabilities": names(suffix="probseg"),
    "metadata": api.get_metadata("Mine"),
}))
"""


def test_the_client_finds_the_template(tmp_path: Path) -> None:
    pytest.importorskip("templateflow", reason="TemplateFlow's client isn't installed")
    layout = Layout(tmp_path / "results", "Mine", ("T1w",))
    images = [
        layout.template_image,
        layout.affine_reference,
        layout.template_at(1),
        layout.template_at(2),
        layout.template_mask,
        layout.template_labels,
        layout.template_label_table,
        layout.template_probabilities,
    ]
    for path in images:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"an image")
    write_json(layout.template_description, {"Identifier": "Mine", "cohort": {"1": {}, "2": {}}})
    settings = {"TEMPLATEFLOW_HOME": str(layout.output), "TEMPLATEFLOW_AUTOUPDATE": "off"}
    client = subprocess.run(
        [sys.executable, "-c", QUERY], env=os.environ | settings, capture_output=True, text=True
    )
    assert client.returncode == 0, client.stderr
    found = json.loads(client.stdout.splitlines()[-1])
    assert found["templates"] == ["Mine"]
    assert found["mean"] == [layout.template_image.name]
    assert found["second"] == [layout.template_at(2).name]
    assert found["mask"] == [layout.template_mask.name]
    assert found["labels"] == [layout.template_labels.name]
    assert found["probabilities"] == [layout.template_probabilities.name]
    assert found["metadata"]["Identifier"] == "Mine"
