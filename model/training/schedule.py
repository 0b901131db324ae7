"""The slanted triangular learning rate (Howard & Ruder, ACL 2018, arXiv 1801.06146, section 3.2)."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("sepline")
class SlantedTriangle(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly to `peak` over the first `warmup` share of the steps, then falls linearly.

    The rate starts and ends at `peak / ratio`.
    """

    def __init__(self, peak: float, steps: int, *, warmup: float = 0.1, ratio: float = 32.0) -> None:
        super().__init__()
        self.peak, self.steps, self.warmup, self.ratio = peak, steps, warmup, ratio

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, "float32")
        cut = max(1.0, self.steps * self.warmup)
        rising = step / cut
        falling = 1.0 - (step - cut) / max(1.0, self.steps - cut)
        share = ops.clip(ops.where(step < cut, rising, falling), 0.0, 1.0)
        return self.peak * (1.0 + share * (self.ratio - 1.0)) / self.ratio

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "steps": self.steps, "warmup": self.warmup, "ratio": self.ratio}
