"""Count diffusion of 8-bit images: the experiments of the CountsDiff paper, as a check of :mod:`countsdiff_sc.process`.

A pixel's brightness is a count between 0 and 255, which is thinned and brought back as molecules are, by the same schedules,
steps, samplers and losses; only the network differs. Not imported with the package, and in need of `diffusers`
(``pip install "countsdiff_sc[image]"``).
"""

from ._data import Images, load_images
from ._denoiser import ImageDenoiser
from ._sampling import inpaint, sample
from ._training import train

__all__ = ["ImageDenoiser", "Images", "inpaint", "load_images", "sample", "train"]
