"""scvi-tools without its reports, and without a trace in anyone's random states or memory."""

from __future__ import annotations

import logging
import warnings
import weakref
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import scvi
from anndata import AnnData
from lightning.pytorch.utilities.seed import isolate_rng
from scvi.data._constants import _SCVI_UUID_KEY
from scvi.model.base import BaseModelClass


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
def forgetful(model_class: type[BaseModelClass]) -> Iterator[None]:
    """Data that are registered meanwhile are not kept by the class, which otherwise has them as long as it lives itself."""
    by_data, by_model = model_class._setup_adata_manager_store, model_class._per_instance_manager_store
    known_data, known_models = set(by_data), {model: set(store) for model, store in by_model.items()}
    try:
        yield
    finally:
        _forget(by_data, known_data)
        _forget(by_model, known_models)
        for model, store in by_model.items():
            _forget(store, known_models[model])


def let_go(model: BaseModelClass, data: AnnData) -> None:
    """Have data live as long as the model that was set up with them, where that is handed on and :func:`forgetful` would be too early."""
    model._setup_adata_manager_store.pop(data.uns.get(_SCVI_UUID_KEY), None)
    weakref.finalize(model, model._per_instance_manager_store.pop, model.id, None)


def _forget(store: dict, known: Collection) -> None:
    for key in set(store) - set(known):
        del store[key]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed every random state; ``scvi.settings.seed`` and the states are as before afterwards."""
    with isolate_rng():
        previous, scvi.settings.seed = scvi.settings.seed, seed
        try:
            yield
        finally:
            scvi.settings.seed = previous
