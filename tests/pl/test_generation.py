import matplotlib as mpl
import numpy as np
import pytest
from helpers import make_adata

from countsdiff_sc import pl

mpl.use("Agg")


def test_every_cell_and_gene_is_drawn(monkeypatch):
    def first_components(cells, **kwargs):
        cells.obsm["X_umap"] = cells.obsm["X_pca"][:, :2]

    monkeypatch.setattr("scanpy.pp.neighbors", lambda cells, **kwargs: None)  # UMAP takes 20 s to compile
    monkeypatch.setattr("scanpy.tl.umap", first_components)
    real, fake = make_adata(n_obs=40), make_adata(n_obs=30, seed=1)
    fake.X = fake.X.astype(np.int32)
    figure = pl.generated(real, fake)
    cells, totals, moments, zeros = figure.axes
    assert [ax.get_title() for ax in figure.axes] == ["Cells", "Library size", "Mean and variance", "Fraction of zeros"]
    assert [len(line.get_xdata()) for line in cells.lines] == [40, 30]
    assert len(totals.patches) == 2
    x = fake.X.toarray()
    np.testing.assert_allclose(moments.lines[1].get_ydata(), x.var(0), rtol=1e-6)
    np.testing.assert_allclose(zeros.lines[1].get_ydata(), (x == 0).mean(0))


def test_errors():
    real = make_adata(n_obs=3)
    with pytest.raises(ValueError, match="20 genes and generated 19, .* one by one. Subset with"):
        pl.generated(real, real[:, :19])
    with pytest.raises(ValueError, match="1 real and 1 generated cells. A UMAP needs at least 4. Generate more"):
        pl.generated(real[:1], real[:1])


def test_missing_counts_are_not_compared():
    real = make_adata()
    real.X.data[0] = np.nan
    with pytest.raises(ValueError, match="not counts, or NaN, in X"):
        pl.generated(real, make_adata(seed=1))


def test_real_counts_may_stand_in_a_layer():
    real = make_adata()
    real.layers["counts"] = real.X.copy()
    real.X = real.X * 0.5
    with pytest.raises(ValueError, match="not counts, or NaN, in X.* Pass the layer with raw counts"):
        pl.generated(real, make_adata(seed=1))
    axes = pl.generated(real, make_adata(seed=1), layer="counts").axes
    x = real.layers["counts"].toarray()
    np.testing.assert_allclose(axes[2].lines[0].get_xdata(), x.mean(0), rtol=1e-6)


def test_of_several_modalities_one_is_drawn(mdata):
    for pair in ((mdata, mdata["rna"]), (mdata["rna"], mdata)):
        with pytest.raises(TypeError, match="for example mdata"):
            pl.generated(*pair)
    with pytest.raises(KeyError, match="layer='counts' is not in real.layers"):
        pl.generated(mdata["rna"], mdata["rna"], layer="counts")
