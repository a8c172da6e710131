"""Several scans at a time: in threads, which take turns on a GPU, or in processes on a CPU."""

from __future__ import annotations

import io
import pickle
import sys
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType

import torch

from atlasmith.affine.search import one_thread
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Grid
from atlasmith.inference.finished_run import FinishedRun, open_run
from atlasmith.inference.prediction import Prediction, is_finished, predict_scan, read_prediction
from atlasmith.inference.scans import NewScan
from atlasmith.io.files import read_json
from atlasmith.io.memory import available_memory, keep_in_memory
from atlasmith.training.device import select_device
from atlasmith.workflow.resources import memory_mb

SCANS_PER_PROCESS = 10  # with fewer, threads are done before processes have started


@dataclass(frozen=True)
class Options:
    """What all scans have in common: see `predict_scan`."""

    out: Path
    extrapolate: bool
    fast: bool


def predict_each(run: FinishedRun, scans: Sequence[NewScan], options: Options) -> Iterator[Prediction]:
    """Predict scans, as many at a time as there are threads of torch, and as fit into memory.

    Args:
        run: The finished run.
        scans: The scans; those whose results are there already are read.
        options: Of all scans.

    Yields:
        The prediction of each scan, or its error, in the order in which they end.
    """
    with _workers(run, len(scans), options) as (pool, predict):
        try:
            with _unnamed_main():
                scan_of = {pool.submit(predict, scan): scan for scan in scans}
            for future in as_completed(scan_of):
                try:
                    yield future.result()
                except BrokenProcessPool:
                    text = (
                        "a process of this command was killed, perhaps for want of memory. Run the command "
                        "again: what is finished is skipped"
                    )
                    yield Prediction(scan_of[future].id, error=AtlasmithError(f"{text}."))
                except Exception as error:
                    traceback.clear_frames(error.__traceback__)  # whose variables may fill a GPU
                    yield Prediction(scan_of[future].id, error=error)
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _workers(
    run: FinishedRun, scans: int, options: Options
) -> Iterator[tuple[Executor, partial[Prediction]]]:
    """Divide the threads of torch among scans; give what runs them, and what is to be run for each.

    Threads share what is loaded, and a GPU. On a CPU they wait for each other wherever Python computes, so
    that processes are faster, once each has imported torch.
    """
    threads = torch.get_num_threads()
    voxels = Grid.from_dict(read_json(run.config.layout.grid)).shape
    size = memory_mb("fuse", run.config, voxels[0] * voxels[1] * voxels[2], len(run.atlases)) * 2**20
    count = max(1, min(threads, scans, available_memory() // size))
    each = max(1, threads // count)
    lasts = count > 1 and scans >= count * SCANS_PER_PROCESS and not options.fast
    if lasts and run.registration.device.type == "cpu":
        begin = partial(_begin, run.config.output, run.config.device, each, count)
        with ProcessPoolExecutor(count, get_context("spawn"), begin) as processes:
            yield processes, partial(_predict_in_process, options=options)
        return
    with (
        keep_in_memory(run.config.output),
        one_thread(),
        _torch_threads(each),
        # Each thread of a process has a current GPU of its own.
        ThreadPoolExecutor(count, initializer=select_device, initargs=(run.config.device,)) as pool,
    ):
        yield pool, partial(_predict, run, options=options)


def _predict(run: FinishedRun, scan: NewScan, options: Options) -> Prediction:
    """Predict a scan, or read what was predicted before."""
    if is_finished(run, scan, options.out, True, options.fast):
        return read_prediction(run, scan, options.out, options.fast)
    return predict_scan(run, scan, options.out, True, options.extrapolate, options.fast)


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_opened: list[FinishedRun] = []  # the run of this process
_kept = ExitStack()


def _begin(results: Path, device: str, threads: int, processes: int) -> None:
    """Open the run in one of several processes."""
    torch.set_num_threads(threads)
    with redirect_stderr(io.StringIO()):  # the first process has told what there is to tell
        _opened.append(open_run(results, device))
    _kept.enter_context(keep_in_memory(results, processes))
    _kept.enter_context(one_thread())


def _predict_in_process(scan: NewScan, options: Options) -> Prediction:
    try:
        return _predict(_opened[0], scan, options)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # an exception that can't be sent ends all processes
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        raise


@contextmanager
def _unnamed_main() -> Iterator[None]:
    """Keep processes that start meanwhile from importing the user's script, which would run again in each."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
