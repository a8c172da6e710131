"""Time the propagation of all atlases to one subject of a finished run, on one core.

    python benchmarks/propagation.py RESULTS --subject ID [--spacing MM]

Writes what the stage writes, to a temporary folder, and prints the seconds of CPU and the peak memory of the
process. `--spacing` is that of the fusion grid; without it, the subject's own.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import torch

from atlasmith.config import load_config
from atlasmith.io.images import read_image
from atlasmith.propagation import propagate_subject


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path)
    parser.add_argument("--subject", required=True)
    parser.add_argument("--spacing", type=float)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(options.results / "config.yaml")
    fusion = config.fusion.model_copy(update={"spacing": options.spacing})
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder)
        for path in options.results.absolute().iterdir():
            if path.name != f"sub-{options.subject}":
                (output / path.name).symlink_to(path)
        anat = output / f"sub-{options.subject}" / "anat"
        anat.mkdir(parents=True)
        for path in (options.results.absolute() / anat.relative_to(output)).iterdir():
            if "propagated" not in path.name:
                (anat / path.name).symlink_to(path)
        config = config.model_copy(update={"output": output, "fusion": fusion})
        start = time.process_time()
        propagate_subject(config, options.subject)
        seconds = time.process_time() - start
        labels = read_image(config.layout.propagated_labels(options.subject))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    shape = " x ".join(map(str, labels.data.shape))
    print(f"{shape} voxels and atlases: {seconds:.1f} s of CPU, {memory:.2f} GiB at most")


if __name__ == "__main__":
    main()
