"""How fast a whole epoch of small images is augmented, beside torchvision's way, image by image."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from torchvision import transforms

from mm_mlflow.augmentation import Augmentation, RandAugment, TrivialAugmentWide


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread, as workers have, and the global generator as it was."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(threads)


def seconds(task: Callable[[], object], repeats: int) -> float:
    """The median time of ``task`` after one call that warms up."""
    task()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        task()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@pytest.mark.bench
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (RandAugment(), transforms.RandAugment()),
        (TrivialAugmentWide(), transforms.TrivialAugmentWide()),
    ],
    ids=["randaugment", "trivialaugment"],
)
def test_an_epoch_of_digits(ours: Augmentation, theirs: torch.nn.Module) -> None:
    """One epoch of 1,078 8x8 images, draws included, takes a tenth of torchvision's time at most."""
    generator = torch.Generator().manual_seed(0)
    levels = (256 * torch.rand(1078, 3, 8, 8, generator=generator)).byte()
    images = levels.float().div(255)
    batched = seconds(lambda: ours.augment(images, generator), 21)
    single = seconds(lambda: [theirs(image) for image in levels], 3)
    print(
        f"{ours}: {1e3 * batched:.1f} ms, torchvision {1e3 * single:.0f} ms, {single / batched:.0f}x"
    )
    assert single / batched >= 10
