import os

# Before torch is imported. One thread each: the models are small, and a test runs on every core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


def pytest_addoption(parser):
    parser.addoption("--n", type=int, help="how many damages and kills the survival tests try")


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "slow: takes long or needs much; left out of `make test`, run by `make slow`"
    )
    config.addinivalue_line("markers", "cuda: needs a CUDA device; skipped where there is none")


@pytest.fixture(autouse=True)
def nothing_was_said_before():
    "What a user is told once in a process, each test is told once."
    from sentiment_kit.data.files import NOTED

    NOTED.clear()


def pytest_collection_modifyitems(items):
    cuda = [item for item in items if item.get_closest_marker("cuda")]
    if cuda:
        import torch

        if not torch.cuda.is_available():
            for item in cuda:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
