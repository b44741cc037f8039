"""Functions that `run_processes` calls in the tests: spawned code is imported."""

import os
import signal

import torch

from sentiment_kit.data.checked_json import config_from_json
from sentiment_kit.training import callbacks as callbacks_room
from sentiment_kit.training.callbacks import Callback, SaveCheckpoint, StopOnNonFinite, Validate
from sentiment_kit.training.config import TrainConfig
from sentiment_kit.training.distributed import join_world
from sentiment_kit.training.trainer import train, train_rank


def train_double(config: dict) -> dict:
    "Train in float64, where sums in another order differ by next to nothing."
    torch.set_default_dtype(torch.float64)
    return train_rank(config)


class Poison(Callback):
    "Make the loss of one rank no number, from a step on."

    def __init__(self, rank: int, step: int):
        self.rank, self.at = rank, step

    def on_step(self, trainer):
        if trainer.world.rank == self.rank and trainer.run.step >= self.at:
            trainer.run.state.c_LBH.fill_(float("nan"))


def train_poisoned(config: dict, rank: int, step: int) -> dict:
    "Train with a `Poison`."
    with join_world(config["device"]) as world:
        callbacks = [Poison(rank, step), Validate(), StopOnNonFinite(), SaveCheckpoint()]
        return {"run": str(train(config_from_json(TrainConfig, config, "test"), callbacks, world))}


def train_stopped(config: dict, rank: int, n: int) -> dict:
    "Train; one rank is asked to stop while its n-th validation is at its second window."
    real, calls = callbacks_room.evaluate, iter(range(99))

    def evaluate(*args):
        *args, asked = args
        ours = next(calls) == n and int(os.environ["RANK"]) == rank
        looks = iter(range(9999))

        def sent():
            if ours and next(looks) == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return asked()

        return real(*args, sent)

    callbacks_room.evaluate = evaluate
    return train_rank(config)
