"""Model libraries load without their own progress bars; ours shows the run's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Switch off the bars of diffusers and transformers, and put them back as they were."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    told = [log for log in (diffusers_logging, transformers_logging) if log.is_progress_bar_enabled()]
    for log in told:
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log in told:
            log.enable_progress_bar()
