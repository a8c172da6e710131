"""Count the memory traffic of the default training step: the bytes that its kernels read and write.

    python benchmarks/traffic.py              # 160 x 192 x 224, batch of 4
    python benchmarks/traffic.py --record     # and add the figure to the results

Nothing is computed: shapes alone go through forward pass, backward pass and optimizer, with networks in
bfloat16 as on a GPU. A kernel counts as reading each input once and writing each output once, so that what a
cache saves or a narrow access costs is left out. Views cost nothing, and an element that a view repeats
counts once.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from gpu import Setting
from results import append_rows
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import atlasmith
from atlasmith.workflow.resources import GIB

PACKAGE = Path(atlasmith.__file__).parent
# In-place operators that don't read what they write, and those that take the shape of their input alone.
OVERWRITING = ("copy_", "fill_", "zero_")
SHAPED = ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")


class Traffic(TorchDispatchMode):
    """Count bytes that kernels read and write while it is active.

    Attributes:
        moved: Bytes by operator and by the line of the package that launched it; of a backward pass without
            a line of its own, that of the forward pass.
        launched: Number of kernels, likewise.
    """

    def __init__(self) -> None:
        super().__init__()
        self.moved: Counter[tuple[str, str]] = Counter()
        self.launched: Counter[tuple[str, str]] = Counter()

    def __enter__(self) -> Traffic:
        torch.autograd.set_detect_anomaly(True, check_nan=False)  # which keeps the lines of the forward pass
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.autograd.set_detect_anomaly(False)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **kwargs or {})
        if moved := moved_bytes(function, args, kwargs or {}, result):
            key = function.overloadpacket.__name__, _origin()
            self.moved[key] += moved
            self.launched[key] += 1
        return result


def moved_bytes(operator: Any, args: Any, kwargs: dict[str, Any], result: Any) -> int:
    """Return the bytes that one call of an operator reads and writes, 0 for a view."""
    name, schema = operator.overloadpacket.__name__, operator._schema
    if operator.namespace != "aten" or "empty" in name:
        return 0
    given = dict(zip((argument.name for argument in schema.arguments), args, strict=False)) | kwargs
    changed = {a.name for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write}
    read = [] if name in SHAPED else [x for key, x in given.items() if key not in changed]
    results = result if isinstance(result, tuple | list) and len(schema.returns) > 1 else [result]
    made = [x for x, value in zip(results, schema.returns, strict=False) if value.alias_info is None]
    if not changed and not made:
        return 0
    passes = 1 if name in OVERWRITING or "out" in changed else 2
    return size(read) + passes * size([given[key] for key in changed]) + size(made)


def size(values: Any) -> int:
    """Return the bytes of memory that tensors take, in whatever structure; repeated elements count once."""
    total = 0
    for tensor in tree_leaves(values):
        if isinstance(tensor, Tensor) and tensor.numel():
            extent = 1 + sum(
                (n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True)
            )
            total += min(tensor.numel(), extent) * tensor.element_size()
    return total


def _origin() -> str:
    """The innermost line of the package on the stack, or on that of the forward pass."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        if (path := Path(frame.f_code.co_filename)).is_relative_to(PACKAGE):
            return f"{path.relative_to(PACKAGE)}:{frame.f_lineno}"
        frame = frame.f_back
    node = torch._C._current_autograd_node()
    stack = "".join(node.metadata.get("traceback_", [])) if node is not None else ""
    if lines := re.findall(rf'File "{re.escape(str(PACKAGE))}/(.+)", line (\d+)', stack):
        return ":".join(lines[-1]) + " (backward)"
    return "elsewhere"


def training_step(shape: tuple[int, ...], batch: int, **template: Any) -> Traffic:
    """Count the traffic of a training step.

    Args:
        shape: Size of the grid.
        batch: Images.
        **template: Settings of the config's section, other than the default.
    """
    setting = Setting(shape, batch, torch.device("cpu"), **{"precision": "bfloat16", **template})
    traffic = Traffic()
    with FakeTensorMode(allow_non_fake_inputs=True), traffic:
        setting.loss().backward()
    for parameter in setting.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with traffic:
        setting.optimizer.step()
    return traffic


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", type=int, nargs=3, default=(160, 192, 224))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rows", type=int, default=40, help="kernels to list")
    parser.add_argument("--record", action="store_true", help="add the figure to the results")
    options = parser.parse_args()
    traffic = training_step(tuple(options.shape), options.batch)
    for (name, line), moved in traffic.moved.most_common(options.rows):
        print(f"{moved / GIB:8.2f} GiB {traffic.launched[name, line]:5} x {name:28} {line}")
    total = traffic.moved.total() / GIB
    print(f"{total:8.1f} GiB {traffic.launched.total():5} kernels; {total * GIB / 1e9:.1f} GB")
    if options.record:
        figure = {
            "dataset": f"noise {' x '.join(map(str, options.shape))}",
            "method": "default",
            "metric": "traffic_of_a_step_gib",
            "value": round(total, 1),
            "unit": "GiB",
            "command": "python benchmarks/traffic.py --record",
            "note": f"batch of {options.batch}, inputs and outputs of all kernels, by shapes alone",
        }
        append_rows(Path(__file__).parent / "results" / "gpu.csv", [figure])


if __name__ == "__main__":
    main()
