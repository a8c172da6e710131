"""The kind of entry that ENGINES holds."""

from __future__ import annotations

from atlasmith.core.choices import Choice
from atlasmith.core.grid import Array


class AffineEngine(Choice[list[Array]]):
    """Declare an affine engine.

    The function takes the fixed and the moving `WorkingImage`, pull-backs (4, 4) in physical coordinates to
    start from, and `rigid` or `affine`. It returns a pull-back for each start: the start followed by a
    transform of that kind, or the start itself where the optimization fails.
    """
