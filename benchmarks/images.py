"""Count diffusion of CIFAR-10 images: schedules, conditions, guidance and attrition, after the CountsDiff paper, but small.

The paper trains networks of tens of millions of weights for up to 1.3 million steps on 50,000 images. This trains a small
one for some thousands on 10,000, which a CPU can do, and asks less: whether what comes out is nearer to real images than
a normal law of pixels is, and what the paper's choices change. Images, all JPEG, are compared with 5,000 test images by
the squared Fréchet distance in the features of a small CIFAR-10 classifier, at one number of images throughout. Labels are those of
as many test images. Images without labels come from the same network, which saw a tenth of its images without.

    pip install ".[benchmarks]"
    COUNTSDIFF_SC_IMAGES=folder python benchmarks/images.py --markdown images.md --figure images.png

The folder has ``cifar10_train50000_jpeg_shard0of5.npz`` and ``cifar10_test5000_jpeg.npz`` (see
:func:`countsdiff_sc.image.load_images`), and ``weights/resnet20-12fca82f.th``.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from image_features import ResNet20, gaussian_images
from torch import Tensor

import countsdiff_sc
from countsdiff_sc import image
from countsdiff_sc.evaluation import frechet_distance

TRAIN, TEST = "cifar10_train50000_jpeg_shard0of5.npz", "cifar10_test5000_jpeg.npz"
WEIGHTS = "weights/resnet20-12fca82f.th"
SCHEDULES = ("cosine", "blackout")
#: What is sampled: whether labels are given, the guidance scale, and the attrition.
SETTINGS = [(False, 1.0, None), (False, 1.0, 0.01), (True, 1.0, None), (True, 1.0, 0.01), (True, 2.0, 0.02)]
#: Images of the figure: of each class one column.
N_ROWS, N_CLASSES = 4, 10
#: There are as many test images to take labels from.
MAX_IMAGES = 5_000
#: Half of each image is hidden to be filled in.
HIDDEN = (torch.arange(32) >= 16)[:, None].expand(32, 32)


def trained(schedule: str, images: image.Images, options: argparse.Namespace) -> image.ImageDenoiser:
    """A denoiser, trained, or read from where an earlier run of the same options left it."""
    torch.manual_seed(options.seed)
    sizes = {"n_channels": images.pixels.shape[1], "n_conditions": images.conditions.shape[1]}
    denoiser = image.ImageDenoiser(**sizes, schedule=schedule, widths=options.widths).to(options.device)
    name = "_".join(map(str, (schedule, *options.widths, options.steps, options.batch_size, options.lr, options.seed)))
    kept = options.weights and options.weights / f"{name}.pt"
    if kept and kept.exists():
        denoiser.load_state_dict(torch.load(kept, map_location=options.device, weights_only=True))
        return denoiser
    generator, start = torch.Generator(options.device).manual_seed(options.seed), time.perf_counter()
    losses = image.train(
        denoiser, images, n_steps=options.steps, batch_size=options.batch_size, lr=options.lr, generator=generator
    )
    n_last = max(1, options.steps // 10)
    print(f"{schedule}: {time.perf_counter() - start:.0f} s, loss {losses[-n_last:].mean():.4f} nats per value")
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        torch.save(denoiser.state_dict(), kept)
    return denoiser


def generated(denoiser: image.ImageDenoiser, labels: Tensor, options: argparse.Namespace, **kwargs) -> Tensor:
    generator = torch.Generator(options.device).manual_seed(options.seed + 1)
    sizes = {"n_images": len(labels), "size": 32, "n_steps": options.sampling_steps}
    return image.sample(denoiser, **sizes, generator=generator, **kwargs)


def score(options: argparse.Namespace) -> Iterator[dict]:
    """Distance of each kind of images to test images; what is drawn is kept in ``options.pictures`` and ``options.filled_in``."""
    images, test = (image.load_images(options.images / name) for name in (TRAIN, TEST))
    encode, n = ResNet20.load(options.images / WEIGHTS), options.n_images
    truth = encode(test.pixels)

    def row(schedule: str, what: str, pixels: Tensor) -> dict:
        return {"schedule": schedule, "images": what, "distance": frechet_distance(truth, encode(pixels))}

    generator = torch.Generator().manual_seed(options.seed)
    groups = [row("-", "", group)["distance"] for group in images.pixels.split(n) if len(group) == n]
    yield {
        "schedule": "-",
        "images": f"training images, mean of {len(groups)} groups",
        "distance": float(np.mean(groups)),
    }
    yield {
        "schedule": "-",
        "images": "training images, standard deviation of these",
        "distance": float(np.std(groups, ddof=1)),
    }
    gaussian = gaussian_images(images.pixels, n, generator)
    yield row("-", "a normal law of pixels", gaussian)
    labels = test.conditions[:n]  # as many of each class as in the test images, up to noise
    options.pictures["normal law"] = gaussian
    for schedule in options.schedules:
        denoiser = trained(schedule, images, options)
        for with_labels, guidance_scale, attrition in SETTINGS:
            conditions = labels if with_labels else None
            found = generated(
                denoiser, labels, options, conditions=conditions, guidance_scale=guidance_scale, attrition=attrition
            )
            told = f"labels, guidance {guidance_scale:g}" if with_labels else "no labels"
            yield row(schedule, f"{told}, attrition {attrition or 0:g}", found)
        by_class = torch.eye(N_CLASSES).repeat(N_ROWS, 1)
        options.pictures[schedule] = generated(denoiser, by_class, options, conditions=by_class, attrition=0.01)
        options.filled_in[f"{schedule}, lower half filled in (first row: true)"] = filled_in(denoiser, test, options)


def filled_in(denoiser: image.ImageDenoiser, test: image.Images, options: argparse.Namespace) -> Tensor:
    """Images of each class whose lower half was hidden: the truth in the first row, draws below it."""
    first = test.conditions.argmax(0)  # of each class
    pixels, conditions = test.pixels[first], test.conditions[first]
    generator = torch.Generator(options.device).manual_seed(options.seed)
    n_draws = N_ROWS - 1
    drawn = image.inpaint(
        denoiser,
        pixels.repeat(n_draws, 1, 1, 1),
        HIDDEN,
        conditions=conditions.repeat(n_draws, 1),
        n_steps=options.sampling_steps,
        n_resample=4,
        generator=generator,
    )
    return torch.cat([pixels, drawn])


def figure(pictures: dict[str, Tensor]) -> plt.Figure:
    fig, axes = plt.subplots(len(pictures), 1, figsize=(6.5, 2.9 * len(pictures)), layout="constrained", squeeze=False)
    for ax, (name, pixels) in zip(axes.flat, pictures.items(), strict=True):
        shown = pixels[: N_ROWS * N_CLASSES].view(N_ROWS, N_CLASSES, *pixels.shape[1:])
        ax.imshow(shown.permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2))
        ax.set_title(name)
        ax.axis("off")
    return fig


def markdown(rows: pd.DataFrame, options: argparse.Namespace) -> str:
    head = (
        f"{platform.machine()}, {options.threads} threads, countsdiff_sc {countsdiff_sc.__version__}, torch {torch.__version__}; widths "
        f"{tuple(options.widths)}, {options.steps:,} steps of {options.batch_size} images, {options.sampling_steps} transitions, "
        f"{options.n_images:,} images of each kind, seed {options.seed}"
    )
    return f"{head}\n\n{rows.to_markdown(index=False, floatfmt='.2f')}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=Path(os.environ.get("COUNTSDIFF_SC_IMAGES", ".")))
    parser.add_argument("--schedules", nargs="+", default=SCHEDULES)
    parser.add_argument("--widths", nargs="+", type=int, default=(32, 48, 64))
    parser.add_argument("--steps", type=int, default=3_000, help="of training")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--sampling-steps", type=int, default=50)
    parser.add_argument("--n-images", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--weights", type=Path, help="folder that keeps weights for a later run of the same code and data"
    )
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--figure", type=Path, help="generated images; those with a half filled in are drawn beside it")
    options = parser.parse_args()
    if not N_ROWS * N_CLASSES <= options.n_images <= MAX_IMAGES:
        parser.error(f"--n-images must be between {N_ROWS * N_CLASSES} and {MAX_IMAGES}")
    torch.set_num_threads(options.threads)
    mpl.use("Agg")
    options.pictures, options.filled_in, rows = {}, {}, []
    for found in score(options):
        rows.append(found)
        print(found, flush=True)
    table = markdown(pd.DataFrame(rows), options)
    print(table)
    if options.markdown is not None:
        options.markdown.write_text(table)
    if options.figure is not None:
        figure(options.pictures).savefig(options.figure, dpi=120)
        figure(options.filled_in).savefig(options.figure.with_stem(f"{options.figure.stem}_filled_in"), dpi=120)


if __name__ == "__main__":
    main()
