"""Learn labelled rows: limit their weights, teach the models that learn, and measure every contestant.

Labelled rows with the contestants' predictions for them come in; learned models, and updated metrics, drift detectors,
replay memory and gate evidence go out. `limits` and `limiter` bound the effect of bad rows, `label_queue` orders
learning and scoring, `teach` shows rows to models, `monitor` measures. Joining labels with predictions lives in
`feedback/` and `loop/join.py`; the verdict on the evidence lives in `gate/`.
"""
