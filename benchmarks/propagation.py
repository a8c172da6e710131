"""Time the propagation of all atlases to one subject of a finished run, and their fusion, on one core.

    python benchmarks/propagation.py RESULTS --subject ID [--spacing MM] [--fuse METHOD...] [--record]

Writes what the stages write, to a temporary folder, and prints the seconds of CPU and the peak memory of the
process. `--spacing` is that of the fusion grid; without it, the subject's own. `--fuse` names methods, which
one call of the stage applies; those with a network need it in the run.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from figures import Record, make_parser

from atlasmith.config import Config, load_config
from atlasmith.fusion import fuse_subject
from atlasmith.io.images import read_image
from atlasmith.propagation import propagate_subject


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--subject", required=True)
    parser.add_argument("--spacing", type=float)
    parser.add_argument("--fuse", nargs="+", default=[], metavar="METHOD")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(options.results / "config.yaml")
    changes = {"spacing": options.spacing} | ({"methods": options.fuse} if options.fuse else {})
    config = config.model_copy(update={"device": "cpu", "fusion": config.fusion.model_copy(update=changes)})
    record = Record(options.record, dataset=options.results.resolve().name, n=1)
    with tempfile.TemporaryDirectory() as folder:
        config = linked(config, options.results.absolute(), options.subject, Path(folder))
        seconds = {"propagate": measure(propagate_subject, config, options.subject)}
        if options.fuse:
            seconds[f"fuse by {', '.join(options.fuse)}"] = measure(fuse_subject, config, options.subject)
        labels = read_image(config.layout.propagated_labels(options.subject))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    shape = f"{' x '.join(map(str, labels.data.shape))} voxels and atlases"
    print(f"{shape}, {memory:.2f} GiB at most")
    for stage, value in seconds.items():
        print(f"{stage}: {value:.1f} s of CPU")
        record.add("scaling", stage, {"cpu_s": round(value, 1)}, note=shape)


def linked(config: Config, results: Path, subject: str, output: Path) -> Config:
    """Link what the stages read of a run into a folder; return the config of a run there."""
    for path in results.iterdir():
        if path.name != f"sub-{subject}":
            (output / path.name).symlink_to(path)
    anat = output / f"sub-{subject}" / "anat"
    anat.mkdir(parents=True)
    made = ("propagated", "_dseg", "_probseg", "_volumes")
    for path in (results / anat.relative_to(output)).iterdir():
        if not any(name in path.name for name in made):
            (anat / path.name).symlink_to(path)
    return config.model_copy(update={"output": output})


def measure(stage: Callable[[Config, str], None], config: Config, subject: str) -> float:
    """Run a stage for a subject; return its seconds of CPU."""
    start = time.process_time()
    stage(config, subject)
    return time.process_time() - start


if __name__ == "__main__":
    main()
