"""Train PyTorch networks on a stream, in one pass and without task borders, and limit what they forget.

Batches with labels and a module come in; predictions and named arrays go out. `model` holds the public class, `plan`,
`training_state` and `step` the training, `predictor` the predictions, `memory` and `buffer_policy` the replay memory,
`terms/` the losses against forgetting. The loop that feeds a network lives in `loop/`, its versions in `version/`.
"""

from everlearn.families.neural.model import Neural, build

__all__ = ["Neural", "build"]
