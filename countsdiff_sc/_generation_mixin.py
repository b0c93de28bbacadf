"""New cells from a trained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import mudata
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.utils import track
from torch import Tensor

from countsdiff_sc import _registration, _validation, _writing
from countsdiff_sc._constants import UNS_KEY
from countsdiff_sc._generation import generate, with_library_size
from countsdiff_sc._inference_mixin import InferenceMixin, resolve_seed
from countsdiff_sc._request import Attrition, SamplingRequest
from countsdiff_sc._rows import Rows, as_counts
from countsdiff_sc._side_by_side import side_by_side
from countsdiff_sc.process._births import BirthRule

#: Progress is shown after this many seconds.
_PROGRESS_DELAY = 2.0


class GenerationMixin(InferenceMixin):
    """``sample``."""

    def sample(
        self,
        n_obs: int,
        *,
        labels: str | Sequence[str] | None = None,
        batch: str | Sequence[str] | None = None,
        n_steps: int = 50,
        guidance_scale: float | Mapping[str, float] = 1.0,
        attrition: Attrition = None,
        births: str | BirthRule = "negative_binomial",
        library_size: int | Sequence[int] | None = None,
        batch_size: int | None = None,
        seed: int | None = None,
    ) -> AnnData | MuData:
        """Generate new cells from nothing.

        All molecules are dead at first; they are born in ``n_steps`` transitions, each of which sees what is there.

        Parameters
        ----------
        n_obs
            Number of cells.
        labels
            Label of all cells, or one for each; ``"unknown"`` leaves a cell free. See Notes for the default.
        batch
            Batch of all cells, or one for each.
        n_steps
            Transitions, equal to network passes. Genes are independent within one, so 1 gives cells without structure.
            They are spaced evenly in ``logit p``, see :doc:`/user_guide`.
        guidance_scale, attrition, births
            As in :meth:`impute`; an array of attrition by entry is ``n_obs`` x genes.
        library_size
            Molecules of every cell, or of each, over the genes of the model; met to 2% at 200 molecules, and 0.7% at 1,000. By
            default cells get the depth that comes of their first molecules, as spread as in the training data.
        batch_size
            Cells generated together, by default as in :meth:`impute`.
        seed
            Seed of everything random; the same seed and ``batch_size`` give the same cells. By default
            ``scvi.settings.seed``, else a fresh one, which is recorded.

        Returns
        -------
        An AnnData with counts in ``X`` (CSR, int32), the training genes, and in ``obs`` every condition that was used.
        ``uns["countsdiff_sc"]["X"]`` records the arguments. A MuData of the modelled modalities if the model was trained on one.

        Raises
        ------
        RuntimeError
            If the model is not trained, or conditions are to be drawn and it was loaded without data.
        KeyError
            If a label or batch is not one the model was trained on.
        TypeError, ValueError
            If an argument does not fit the model, is out of range, or does not have one entry per cell.

        Notes
        -----
        Conditions that are not given are those of training cells, or of the data the model was loaded with, drawn at random, with
        replacement: so labels have the frequencies that they have there, and batches and covariates go with them. They are drawn
        among the cells that have the label and batch given, if there are any, else among all.

        Examples
        --------
        >>> cells = model.sample(1000, labels="B cells", seed=0)  # doctest: +SKIP
        >>> scanpy.pp.normalize_total(cells)  # doctest: +SKIP
        """
        self._check_trained("generate cells")
        _validation.check_number("n_obs", n_obs, low=1, integer=True)
        _validation.check_number("n_steps", n_steps, low=1, integer=True)
        batch_size = self._block_size(batch_size)
        request = SamplingRequest(n_steps=n_steps, guidance_scale=guidance_scale, attrition=attrition, births=births)
        request.check_fits(self.module, n_obs, self.n_genes)
        library_size = self._check_library_size(library_size, n_obs)
        seed = resolve_seed(seed)
        drawer = _ConditionDrawer(self.registry, None if self._training_data is None else self.adata_manager)
        obs, fields = drawer.draw(n_obs, labels, batch, np.random.default_rng(seed))
        counts = self._generate(fields, n_obs, library_size, request, batch_size=batch_size, seed=seed)
        record = {
            **request.recorded(),
            "library_size": "free" if library_size is None else "given",
            "seed": seed,
            "batch_size": batch_size,
            "versions": _writing.versions(),
        }
        return self._assemble(counts, obs, record)

    @torch.inference_mode()
    def _generate(
        self, fields, n_obs, library_size, request: SamplingRequest, *, batch_size, seed
    ) -> sparse.csr_matrix:
        module = self.module.eval()  # a training run that was interrupted leaves it in training mode
        device, grid = module.device, module.generation_grid(request.n_steps)
        blocks = [slice(first, min(first + batch_size, n_obs)) for first in range(0, n_obs, batch_size)]
        n_states = request.n_steps * len(blocks)
        bar = track(range(n_states), description="Generating...", style="tqdm", delay=_PROGRESS_DELAY)

        def generated(cells: slice, generator: torch.Generator) -> sparse.csr_matrix:
            of_block = request.of_cells(cells, device)
            shape = (cells.stop - cells.start, self.n_genes)
            conditions = module.conditions(_tensors(fields, cells, module))
            observed = torch.zeros(shape, dtype=torch.bool, device=device)
            denoise = module.bind(observed, conditions, of_block.guidance_scale, generator=generator)
            if library_size is not None:
                denoise = with_library_size(denoise, torch.as_tensor(library_size[cells]).to(device))
            options = {"attrition": of_block.attrition, "births": of_block.births, "generator": generator}
            for state in generate(denoise, shape, module.schedule, grid, **options):
                x = state
                bar.update()
            return as_counts(x.cpu().numpy())

        counts = Rows(n_obs)
        with bar:
            for of_block in side_by_side(generated, blocks, n_blocks=len(blocks), seed=seed, device=device):
                counts.append(of_block)
        return counts.stacked()

    def _check_library_size(self, library_size, n_obs: int) -> np.ndarray | None:
        """One number of molecules for each cell, or None."""
        if library_size is None:
            return None
        if len(self.module.count_keys) > 1:
            msg = (
                "library_size was given to a model of several modalities, each with a depth of its own. It is the number of "
                "molecules of one modality. Leave it out."
            )
            raise ValueError(msg)
        values = np.asarray(library_size)
        is_number = np.issubdtype(values.dtype, np.number) and values.shape in {(), (n_obs,)}
        if not is_number or not np.isfinite(values).all() or (values < 0).any():
            msg = (
                f"library_size={_validation.brief(library_size)} is not a number of molecules per cell. It must be a number of at least 0, "
                f"or one for each of the {n_obs:,} cells. Pass for example library_size=2000, or np.ravel(adata.X.sum(axis=1))."
            )
            raise ValueError(msg)
        return np.broadcast_to(values, n_obs).astype(np.float32)

    def _assemble(self, counts: sparse.csr_matrix, obs: pd.DataFrame, record: Mapping[str, object]) -> AnnData | MuData:
        parts, offset = {}, 0
        names = self.registry["setup_args"].get("modalities") or [None]
        for name, key in zip(names, self.module.count_keys, strict=True):
            var = pd.DataFrame(index=pd.Index(_registration.registered_names(self.registry, key), dtype=str))
            part = counts[:, offset : offset + len(var)]
            parts[name] = AnnData(part, obs=pd.DataFrame(index=obs.index), var=var, uns={UNS_KEY: {"X": record}})
            offset += len(var)
        if None in parts:
            parts[None].obs = obs
            return parts[None]
        # Before 0.4 mudata warns that columns are copied from modalities, which have none here, unless told not to.
        with mudata.set_options(pull_on_update=False) if hasattr(mudata, "set_options") else nullcontext():
            mdata = MuData(parts)
        mdata.obs = obs
        return mdata


class _ConditionDrawer:
    """Conditions of new cells, as columns of ``obs`` and as registered codes.

    Parameters
    ----------
    registry
        Registry of the model.
    manager
        AnnData manager of the training data, or None where there are none.
    """

    def __init__(self, registry: Mapping, manager):
        self.registry, self.manager = registry, manager
        setup_args = registry["setup_args"]
        self.keys = {
            REGISTRY_KEYS.LABELS_KEY: setup_args["labels_key"],
            REGISTRY_KEYS.BATCH_KEY: setup_args["batch_key"],
        }
        self.covariates = {
            REGISTRY_KEYS.CAT_COVS_KEY: list(setup_args["categorical_covariate_keys"] or ()),
            REGISTRY_KEYS.CONT_COVS_KEY: list(setup_args["continuous_covariate_keys"] or ()),
        }

    def draw(self, n_obs: int, labels, batch, rng: np.random.Generator) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
        """``obs`` of the new cells, and each registered field as an array ``(n_obs, columns)``."""
        given = {
            REGISTRY_KEYS.LABELS_KEY: self._codes("labels", labels, REGISTRY_KEYS.LABELS_KEY, n_obs),
            REGISTRY_KEYS.BATCH_KEY: self._codes("batch", batch, REGISTRY_KEYS.BATCH_KEY, n_obs),
        }
        obs = pd.DataFrame(index=pd.Index([f"generated_{i}" for i in range(n_obs)]))
        given = {key: codes for key, codes in given.items() if codes is not None}
        open_keys = [key for key, column in self.keys.items() if column is not None and key not in given]
        open_keys += [key for key, columns in self.covariates.items() if columns]
        rows = self._training_cells(n_obs, given, rng) if open_keys else None
        fields = {}
        for key, column in self.keys.items():
            codes = self._registered(key)[rows, 0] if key in open_keys else given.get(key, np.zeros(n_obs, dtype=int))
            fields[key] = codes[:, None]
            if column is not None:
                names = pd.Categorical.from_codes(codes, categories=self._categories(key))
                obs[column] = names.remove_unused_categories()
        for key, columns in self.covariates.items():
            if columns:
                values = self._registered(key)[rows]
                # Columns of several types come as objects.
                fields[key] = values.astype(np.float32) if key == REGISTRY_KEYS.CONT_COVS_KEY else values
                obs = obs.join(self.manager.adata.obs[columns].iloc[rows].set_index(obs.index))
        return obs, fields

    def _training_cells(self, n_obs: int, given: dict[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
        """A training cell for each new one, alike in what is given."""
        if self.manager is None:
            msg = (
                "The model was loaded without data. Conditions that are not given are those of training cells. Pass labels and "
                "batch, or load the model with its data; covariates need the data."
            )
            raise RuntimeError(msg)
        n_training = self.manager.adata.n_obs
        if not given:
            return rng.integers(n_training, size=n_obs)
        wanted = np.stack(list(given.values()), axis=1)
        present = np.hstack([self._registered(key) for key in given])
        rows = np.empty(n_obs, dtype=int)
        for combination in np.unique(wanted, axis=0):
            cells = np.flatnonzero((wanted == combination).all(axis=1))
            alike = np.flatnonzero((present == combination).all(axis=1))
            rows[cells] = rng.choice(alike if len(alike) else n_training, size=len(cells))
        return rows

    def _registered(self, key: str) -> np.ndarray:
        values = np.asarray(self.manager.get_from_registry(key))
        return values.reshape(len(values), -1)

    def _categories(self, key: str) -> list:
        return list(self.registry["field_registries"][key]["state_registry"]["categorical_mapping"])

    def _codes(self, argument: str, names, key: str, n_obs: int) -> np.ndarray | None:
        """Registered code of each new cell's category; None where ``names`` is."""
        if names is None:
            return None
        if self.keys[key] is None:
            msg = (
                f"{argument}={_validation.brief(names)} was given to a model that knows no {argument}. It must have been trained with a "
                f"column of them. Leave {argument} out, or set the data up with {'labels_key' if argument == 'labels' else 'batch_key'} "
                "and train."
            )
            raise ValueError(msg)
        names = np.asarray(names, dtype=str)
        if names.shape not in {(), (n_obs,)}:
            msg = (
                f"{argument} has shape {names.shape}. It must be one name, or one for each of the {n_obs:,} cells. Pass a "
                "string or a list of that length."
            )
            raise ValueError(msg)
        code = {str(category): index for index, category in enumerate(self._categories(key))}
        for name in np.unique(names):
            _validation.check_key(
                str(name), code, where=f"the {self.keys[key]!r} of the training data", argument=argument
            )
        codes = np.array([code[str(name)] for name in names.ravel()])
        return np.repeat(codes, n_obs) if names.ndim == 0 else codes


def _tensors(fields: dict[str, np.ndarray], cells: slice, module) -> dict[str, Tensor]:
    """A block's conditions in the form of a minibatch."""
    tensors = {key: torch.as_tensor(np.ascontiguousarray(values[cells])) for key, values in fields.items()}
    # The module reads the number of cells and the device off the counts, of which there are none yet.
    tensors[module.count_keys[0]] = torch.empty(cells.stop - cells.start, 0)
    return {key: values.to(module.device) for key, values in tensors.items()}
