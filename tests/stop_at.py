"""A callback that stops a run in the middle, for tests of what goes on from there."""

from sentiment_kit.training.events import Callback


class StopAt(Callback):
    "Asks the trainer to stop after a step."

    def __init__(self, step):
        self.at = step

    def on_step(self, trainer):
        if trainer.run.step == self.at:
            trainer.ask_to_stop("stopped by the test")
