"""Keeps what libraries say to each other out of the output of a command."""

import logging
import warnings


def quiet_libraries() -> None:
    """Silence loading bars, kernel warnings, and deprecations inside libraries.

    Called before they are imported, which is when some of them warn.
    """
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from transformers.utils import logging as bars

    bars.disable_progress_bar()
