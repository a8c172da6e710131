"""The table of fusion methods. A new one is a module that declares a `Fuser`, and a line here."""

from __future__ import annotations

from atlasmith.fusion.autocontext import AUTOCONTEXT
from atlasmith.fusion.ensemble import ENSEMBLE
from atlasmith.fusion.fuser import Fuser
from atlasmith.fusion.jlf import JLF
from atlasmith.fusion.local_selection import LOCAL_SELECTION
from atlasmith.fusion.local_weighted import LOCAL_WEIGHTED
from atlasmith.fusion.majority import MAJORITY
from atlasmith.fusion.staple import STAPLE
from atlasmith.fusion.student import STUDENT
from atlasmith.fusion.votenet import VOTENET, VOTENET_HARD, VOTENET_JOINT, VOTENET_PLUS

FUSERS: dict[str, Fuser] = {
    "majority": MAJORITY,
    "local_weighted": LOCAL_WEIGHTED,
    "local_selection": LOCAL_SELECTION,
    "staple": STAPLE,
    "jlf": JLF,
    "votenet": VOTENET,
    "votenet_hard": VOTENET_HARD,
    "votenet_plus": VOTENET_PLUS,
    "votenet_joint": VOTENET_JOINT,
    "autocontext": AUTOCONTEXT,
    "student": STUDENT,
    "ensemble": ENSEMBLE,
}
