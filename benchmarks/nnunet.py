"""nnU-Net trained on the atlases of a finished run, and judged on its targets.

    python benchmarks/nnunet.py results-hippocampus --folder nnunet-hippocampus --atlases 30 --targets 50 \\
        --iterations 1000 --batch 2 --record
    python benchmarks/nnunet.py results-hippocampus --folder nnunet-hippocampus --network dynunet ...

The package `nnunetv2` (`pip install .[peers]`) makes its own fingerprint, plan (`3d_fullres`), preprocessing,
augmentation and network, and trains it on all atlases with its own optimizer and schedule; only the number of
iterations is ours, and on a CPU the batch, and bfloat16 where the CPU has it, as nnU-Net takes half precision
on GPUs. Its published recipe is 250,000 iterations with the batch of the plan. With `--network dynunet` the
network is MONAI's DynUNet with the plan's kernels, strides and channels; all else is the same. Prints Dice
and HD95 of the targets on their own grids, the seconds of an iteration and of a target. A trained network is
found again in the folder.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from figures import Figure, Record, make_parser, print_header, print_row
from fusion import mean_hd95
from torch import nn

from atlasmith.config import load_config
from atlasmith.core.labels import count_overlap, dice, label_index
from atlasmith.evaluation import statistics
from atlasmith.io.images import read_grid, read_labels
from atlasmith.io.tables import Subject, read_cohort, read_label_values
from atlasmith.training.device import autocast

DATASET = 1
NAME = f"Dataset{DATASET:03d}_Atlases"
PER_EPOCH = 50  # iterations
NETWORKS = {"nnunet": "nnU-Net", "dynunet": "DynUNet"}


def write_dataset(folder: Path, atlases: list[Subject], values: list[int]) -> None:
    """Write the atlases in nnU-Net's format, with consecutive labels."""
    raw = folder / "raw" / NAME
    for part in ("imagesTr", "labelsTr"):
        (raw / part).mkdir(parents=True, exist_ok=True)
    for atlas in atlases:
        write_image(atlas, raw / "imagesTr" / f"{atlas.id}_0000.nii.gz")
        labels = read_labels(atlas.labels)
        index = label_index(labels.data, np.array(values)).astype(np.uint8)
        nib.Nifti1Image(index, labels.grid.affine).to_filename(raw / "labelsTr" / f"{atlas.id}.nii.gz")
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, **{f"label{v}": k + 1 for k, v in enumerate(values)}},
        "numTraining": len(atlases),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(description))


def write_image(subject: Subject, path: Path) -> None:
    """Write a subject's image in the axes' order of its labels as we read them."""
    image = nib.as_closest_canonical(nib.load(subject.image))
    nib.Nifti1Image(np.asarray(image.dataobj, dtype=np.float32), read_grid(subject.image).affine).to_filename(
        path
    )


class PlannedDynUNet(nn.Module):
    """MONAI's DynUNet with what nnU-Net plans for its own network, returning what nnU-Net's does.

    Args:
        architecture: Arguments of nnU-Net's network in the plan.
        inputs: Channels of an image.
        outputs: Labels, with background.
    """

    def __init__(self, architecture: dict[str, Any], inputs: int, outputs: int) -> None:
        from monai.networks.nets import DynUNet

        super().__init__()
        strides = architecture["strides"]
        self.supervises_levels = True
        self.network = DynUNet(
            len(strides[0]),
            inputs,
            outputs,
            architecture["kernel_sizes"],
            strides,
            strides[1:],
            filters=architecture["features_per_stage"],
            deep_supervision=True,
            deep_supr_num=len(strides) - 2,
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        # DynUNet's own forward resizes the outputs of coarse levels, and has none in evaluation.
        finest = self.network.output_block(self.network.skip_layers(images))
        return [finest, *self.network.heads] if self.supervises_levels else finest


def trainer_type(network: str) -> Any:
    """Return nnU-Net's trainer, of its own network or of DynUNet."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    class DynUNetTrainer(nnUNetTrainer):
        @staticmethod
        def build_network_architecture(
            plans_manager: Any,  # nnU-Net looks whether there is an argument of this name
            configuration_manager: Any,
            num_input_channels: int,
            num_output_channels: int,
            enable_deep_supervision: bool = True,
        ) -> nn.Module:
            architecture = configuration_manager.network_arch_init_kwargs
            built = PlannedDynUNet(architecture, num_input_channels, num_output_channels)
            built.supervises_levels = enable_deep_supervision
            return built

        def set_deep_supervision_enabled(self, enabled: bool) -> None:
            self.network.supervises_levels = enabled

    return {"nnunet": nnUNetTrainer, "dynunet": DynUNetTrainer}[network]


def train(folder: Path, network: str, iterations: int, batch: int | None, device: torch.device) -> Any:
    """Plan, preprocess and train; return the trainer with its network."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as planning

    planned = folder / "preprocessed" / NAME / "nnUNetPlans.json"
    if not planned.exists():
        planning.extract_fingerprints([DATASET], num_processes=1)
        planning.plan_experiments([DATASET])
        planning.preprocess([DATASET], configurations=["3d_fullres"], num_processes=[1])
    plans = json.loads(planned.read_text())
    if batch is not None:
        plans["configurations"]["3d_fullres"]["batch_size"] = batch
    plans["continue_training"] = False
    description = json.loads((folder / "raw" / NAME / "dataset.json").read_text())
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (what batchgenerators draws from)
    trainer = trainer_type(network)(plans, "3d_fullres", "all", description, device)
    trainer.num_iterations_per_epoch, trainer.num_epochs = PER_EPOCH, max(1, iterations // PER_EPOCH)
    trainer.num_val_iterations_per_epoch = 1
    checkpoint = Path(trainer.output_folder) / "checkpoint_final.pth"
    trainer.initialize()
    if checkpoint.exists():
        trainer.load_checkpoint(str(checkpoint))
        return trainer
    step = trainer.train_step

    def train_step(batch: Any) -> Any:
        with autocast(device, "auto", segments=True):
            return step(batch)

    trainer.train_step = train_step
    start = time.perf_counter()
    trainer.run_training()
    seconds = (time.perf_counter() - start) / (trainer.num_epochs * PER_EPOCH)
    (Path(trainer.output_folder) / "seconds.json").write_text(json.dumps(seconds))
    return trainer


def predict(trainer: Any, subject: Subject, path: Path) -> float:
    """Segment a target into `path`, without its ending; return the seconds."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    image = path.with_name(f"{path.name}_0000.nii.gz")
    write_image(subject, image)
    predictor = nnUNetPredictor(use_mirroring=True, device=trainer.device, allow_tqdm=False)
    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [trainer.network.state_dict()],
        trainer.dataset_json,
        type(trainer).__name__,
        trainer.inference_allowed_mirroring_axes,
    )
    start = time.perf_counter()
    predictor.predict_from_files_sequential([[str(image)]], [str(path)])
    return time.perf_counter() - start


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("run", type=Path, help="a finished output folder")
    parser.add_argument("--folder", type=Path, required=True, help="for nnU-Net's files")
    parser.add_argument("--network", choices=list(NETWORKS), default="nnunet")
    parser.add_argument("--atlases", type=int, help="number of atlases; all without")
    parser.add_argument("--targets", type=int, default=50)
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--batch", type=int, help="images an iteration; that of the plan without")
    parser.add_argument("--dataset", help="name in the record; that of the cohort's folder without")
    options = parser.parse_args()
    report(options, *judge(options))


def judge(options: argparse.Namespace) -> tuple[dict[str, list[float]], int, Any]:
    """Train, and score every target: values by metric, the number of atlases, the trainer."""
    folder = options.folder.resolve()
    for part in ("raw", "preprocessed", "results"):
        (folder / part).mkdir(parents=True, exist_ok=True)
        os.environ[f"nnUNet_{part}"] = str(folder / part)
    os.environ |= {"nnUNet_compile": "f", "nnUNet_n_proc_DA": "1"}
    config = load_config(options.run / "config.yaml").model_copy(update={"output": options.run})
    values, subjects = read_label_values(config.layout.labels), read_cohort(config.layout.cohort)
    atlases = [s for s in subjects if s.role == "atlas"][: options.atlases]
    targets = [s for s in subjects if s.role == "target" and s.labels is not None][: options.targets]
    if not (folder / "raw" / NAME / "dataset.json").exists():
        write_dataset(folder, atlases, values)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = train(folder, options.network, options.iterations, options.batch, device)
    found: dict[str, list[float]] = {"dice": [], "hd95_mm": [], "seconds": []}
    for target in targets:
        path = folder / "results" / target.id
        found["seconds"].append(predict(trainer, target, path))
        truth, labels = (read_labels(p) for p in (target.labels, path.with_name(f"{path.name}.nii.gz")))
        index = label_index(truth.data, np.array(values))
        counts = count_overlap(index.ravel(), labels.data.astype(int).ravel(), len(values))
        found["dice"].append(float(np.nanmean(dice(counts))))
        positions = np.arange(1, len(values) + 1)
        found["hd95_mm"].append(mean_hd95(truth.grid, labels.data, index, positions))
    return found, len(atlases), trainer


def report(options: argparse.Namespace, found: dict[str, list[float]], atlases: int, trainer: Any) -> None:
    """Print the table and record it."""
    batch = trainer.configuration_manager.batch_size
    seconds = json.loads((Path(trainer.output_folder) / "seconds.json").read_text())
    config = load_config(options.run / "config.yaml")
    figures: dict[str, Figure] = {}
    print_header("atlases", "metric", "mean", "95 % interval")
    for metric in ("dice", "hd95_mm"):
        values = np.array(found[metric])
        low, high = statistics.bootstrap_interval(values, 0, 2000)
        figures[metric] = (float(values.mean()), low, high)
        print_row(atlases, metric, f"{values.mean():.4f}", f"{low:.4f} to {high:.4f}")
    each = float(np.median(found["seconds"]))
    print(f"\n{seconds:.2f} s an iteration of {batch} images; {each:.2f} s a target")
    threads = torch.get_num_threads()
    hardware = "1 GPU" if trainer.device.type == "cuda" else f"{threads} CPU core{'s' * (threads > 1)}"
    record = Record(
        options.record,
        dataset=options.dataset or config.cohort.bids.name,
        n=len(found["dice"]),
        seconds=each,
        hardware=hardware,
        note=f"{len(found['dice'])} targets, {atlases} atlases, native grid",
    )
    figures["training_min"] = seconds * options.iterations / 60
    record.add(
        "segmentation",
        f"{NETWORKS[options.network]}, {options.iterations} iterations of {batch} images",
        figures,
    )


if __name__ == "__main__":
    main()
