"""Networks that are each trained without some participants."""

from __future__ import annotations

import pytest
from torch import nn

from atlasmith.io.tables import participant_of
from atlasmith.networks import CrossFitted, held_out_folds

ATLASES = ["01_ses-1", "01_ses-2", "02", "03_ses-1", "04", "03_ses-2", "05"]


@pytest.mark.parametrize("count", [2, 3, 5, 9])
def test_folds_hold_out_participants(count: int) -> None:
    folds = held_out_folds(ATLASES, count)
    assert sorted(atlas for fold in folds for atlas in fold) == sorted(ATLASES)
    assert len(folds) == min(count, 5)
    participants = [{participant_of(atlas) for atlas in fold} for fold in folds]
    assert sum(map(len, participants)) == len(set.union(*participants)) == 5


def test_scans_of_one_participant_are_no_folds() -> None:
    assert held_out_folds(["01_ses-1", "01_ses-2"], 2) == [[]]


def test_a_scan_is_predicted_without_its_participant() -> None:
    networks = [nn.Identity() for _ in range(3)]
    fitted = CrossFitted(networks, held_out_folds(ATLASES, 3))  # 01 and 04; 02 and 05; 03
    for scan, expected in {
        "01_ses-2": 0,
        "01_ses-3": 0,
        "01": 0,
        "04": 0,
        "02_ses-1": 1,
        "03_ses-1": 2,
    }.items():
        assert [network is networks[expected] for network in fitted.for_subject(scan)] == [True], scan
    assert list(fitted.for_subject("06")) == networks
