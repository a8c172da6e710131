"""Stage `cohort`: check a BIDS cohort as a whole, and decide the template's grid."""

from atlasmith.cohort.images import check_image
from atlasmith.cohort.output import check_folder, check_output
from atlasmith.cohort.participants import Participant, checked_participants, read_participants
from atlasmith.cohort.scans import channels_of, input_files, label_files
from atlasmith.cohort.sessions import sessions_table
from atlasmith.cohort.stage import CheckedCohort, check_cohort, write_checked_cohort

__all__ = [
    "CheckedCohort",
    "Participant",
    "channels_of",
    "check_cohort",
    "check_folder",
    "check_image",
    "check_output",
    "checked_participants",
    "input_files",
    "label_files",
    "read_participants",
    "sessions_table",
    "write_checked_cohort",
]
