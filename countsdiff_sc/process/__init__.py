"""The mathematics of count diffusion, on tensors: schedules, thinning, birth-death steps, guidance, losses, samplers.

Counts are molecules; time runs from 0 (data) to 1 (all molecules gone); ``s < t``.
"""

from ._birth_death import (
    birth_death_step,
    birth_prob,
    capped_attrition,
    get_attrition,
    max_attrition,
    no_attrition,
    rescaled_attrition,
)
from ._births import get_birth_rule, nearest_births, negative_binomial_births, poisson_births, stochastic_births
from ._guidance import geometric_guidance, product_guidance
from ._losses import (
    bound_integrand,
    bregman_loss,
    get_loss_weighting,
    likelihood_step_weight,
    likelihood_weight,
    negative_binomial_nll,
    paper_step_weight,
    paper_weight,
    uniform_weight,
)
from ._oracle import GammaPoissonOracle, gamma_poisson_posterior
from ._samplers import sample_conditioned, sample_remasked, time_grid
from ._schedules import (
    CallableSchedule,
    CosineSchedule,
    FisherInformationSchedule,
    GaussianSchedule,
    LinearBetaSchedule,
    SurvivalSchedule,
    get_schedule,
)
from ._thinning import thin
from ._times import DiscreteTimes, ImportanceTimes, TimeDistribution, UniformTimes, get_time_distribution

__all__ = [
    "CallableSchedule",
    "CosineSchedule",
    "DiscreteTimes",
    "FisherInformationSchedule",
    "GammaPoissonOracle",
    "GaussianSchedule",
    "ImportanceTimes",
    "LinearBetaSchedule",
    "SurvivalSchedule",
    "TimeDistribution",
    "UniformTimes",
    "birth_death_step",
    "birth_prob",
    "bound_integrand",
    "bregman_loss",
    "capped_attrition",
    "gamma_poisson_posterior",
    "geometric_guidance",
    "get_attrition",
    "get_birth_rule",
    "get_loss_weighting",
    "get_schedule",
    "get_time_distribution",
    "likelihood_step_weight",
    "likelihood_weight",
    "max_attrition",
    "nearest_births",
    "negative_binomial_births",
    "negative_binomial_nll",
    "no_attrition",
    "paper_step_weight",
    "paper_weight",
    "poisson_births",
    "product_guidance",
    "rescaled_attrition",
    "sample_conditioned",
    "sample_remasked",
    "stochastic_births",
    "thin",
    "time_grid",
    "uniform_weight",
]
