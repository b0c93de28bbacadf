import matplotlib as mpl
import pandas as pd
import pytest

from countsdiff_sc import pl

mpl.use("Agg")

TABLE = pd.DataFrame(
    {
        "mechanism": ["mcar"] * 4 + ["mnar_low"] * 2,
        "fraction": [0.5] * 6,
        "seed": [0, 0, 1, 1, 0, 0],
        "method": ["zeros", "CountsDiffSC"] * 3,
        "poisson_deviance": [2.0, 1.0, 2.2, 1.1, 3.0, 2.5],
        "rmse_log1p": [0.6, 0.5, 0.6, 0.5, 0.7, 0.6],
    }
)


def test_a_panel_per_mask_and_metric_with_every_seed_in_it():
    figure = pl.evaluation(TABLE)
    assert [ax.get_title() for ax in figure.axes] == ["mcar, 50% hidden"] * 2 + ["mnar_low, 50% hidden"] * 2
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["zeros", "CountsDiffSC"]  # best on top
    drawn = [sorted(float(x) for line in ax.lines[1:] for x in line.get_xdata()) for ax in figure.axes]
    assert drawn[0] == [1.0, 1.1, 2.0, 2.2]
    assert drawn[3] == [0.6, 0.7]


def test_a_method_that_is_far_off_is_named_at_the_edge():
    far = TABLE.assign(poisson_deviance=TABLE["poisson_deviance"].where(TABLE["method"] != "zeros", 26.0))
    ax = pl.evaluation(far).axes[0]
    assert [text.get_text() for text in ax.texts] == ["26 →"]
    assert max(float(x) for line in ax.lines for x in line.get_xdata()) < 2


def test_no_metrics():
    with pytest.raises(ValueError, match="metrics is empty"):
        pl.evaluation(TABLE, metrics=())


def test_a_string_is_no_list_of_metrics():
    with pytest.raises(TypeError, match=r"Pass \['rmse_log1p'\]"):
        pl.evaluation(None, metrics="rmse_log1p")


def test_a_metric_that_is_not_in_the_table():
    with pytest.raises(KeyError, match="'spearman' is not a column .* must be of the form .* Pass one"):
        pl.evaluation(TABLE, metrics=["spearman"])
