"""Stage `cohort`: check a BIDS cohort as a whole, and decide the template's grid."""

from atlasmith.cohort.images import check_image
from atlasmith.cohort.output import check_folder, check_output
from atlasmith.cohort.participants import Participant, checked_participants, read_participants
from atlasmith.cohort.stage import CheckedCohort, check_cohort, write_checked_cohort

__all__ = [
    "CheckedCohort",
    "Participant",
    "check_cohort",
    "check_folder",
    "check_image",
    "check_output",
    "checked_participants",
    "read_participants",
    "write_checked_cohort",
]
