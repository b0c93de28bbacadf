"""scvi-tools without its reports, and without a trace in anyone's random states."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import scvi
from lightning.pytorch.utilities.seed import isolate_rng


@contextmanager
def quiet() -> Iterator[None]:
    """Neither scvi-tools nor Lightning reports, and predicted means, which are not whole, draw no warning."""
    loggers = [logging.getLogger(name) for name in ("scvi", "lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed every random state; ``scvi.settings.seed`` and the states are as before afterwards."""
    with isolate_rng():
        previous, scvi.settings.seed = scvi.settings.seed, seed
        try:
            yield
        finally:
            scvi.settings.seed = previous
