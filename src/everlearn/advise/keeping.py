"""Rules about memory: the terms against forgetting, the replay memory, and new classes."""

from __future__ import annotations

from everlearn.advise.rule import APART, MERGED, Rule, UpdateRows

FORGETTING = (
    Rule(
        {"family": "neural"},
        "There is no replay memory until a rule adds one.",
        "",
        {"model.memory.kind": "none"},
    ),
    Rule(
        {"family": "neural", "frequency": "weekly", "store": "yes"},
        "Replay needs a memory; a fair sample of each class.",
        "Chrysakis and Moens 2020",
        {"model.memory.kind": "balanced"},
    ),
    Rule(
        {"family": "neural", "forgetting": "medium", "store": "yes", "frequency": f"streaming|daily|{MERGED}"},
        "One remembered row beside each new one keeps most of the past.",
        "Chaudhry et al. 2019; Rolnick et al. 2019",
        {"model.terms.replay": {}, "model.memory.kind": "balanced"},
    ),
    Rule(
        {"family": "neural", "forgetting": "high", "store": "yes"},
        "Old patterns come back: keep rows with the answers given to them, and train on both (DER++).",
        "Buzzega et al. 2020; measured: permuted MNIST 91.1 % against 88.3 for replay, rotated 85.1 against 80.9",
        {
            "model.terms.replay": None,
            "model.terms.distill": {},
            "model.memory.kind": "balanced",
            "model.memory.bytes": 16 << 20,
        },
        rejected={
            "A-GEM": "constrains only the mean loss of the memory: rotated MNIST 57.4 % against 85.1",
            "GDumb": "forgets what does not fit the memory: permuted MNIST 60.2 % against 91.1",
        },
    ),
    Rule(
        {"family": "neural", "forgetting": "low", "new_classes": "no", "frequency": f"streaming|daily|{MERGED}"},
        "Old patterns do not return: replay would only slow learning down.",
        "Ghunaim et al. 2023",
        rejected={"replay": "half of each step would train on rows that are not needed"},
    ),
    Rule(
        {"family": "linear", "forgetting": "high", "store": "yes"},
        "A fresh challenger must know returning patterns: warm it on an unbiased sample of the past.",
        "Vitter 1985; Chrysakis and Moens 2020",
        {"replay.kind": "balanced", "replay.bytes": 8 << 20, "keep": 200, "keep_bytes": 0},
        rejected={"a window of the newest rows": "it holds no row of the returning pattern"},
    ),
    Rule(
        {"forgetting": "high"},
        "Versions from the last time of a pattern are worth keeping.",
        "",
        {"keep": 200, "keep_bytes": 0},
        then=("everlearn versions",),
    ),
)

PRIVACY = (
    Rule(
        {"store": "no"},
        "No examples in any memory.",
        "",
        {"replay.kind": "none"},
        danger="the event log keeps predictions and labels, because all state is computed from it: name the "
        "field `subject`, and `everlearn erase` forgets a person; files given to `everlearn run` are not copied",
    ),
    Rule(
        {"family": "linear", "store": "no"},
        "Without a memory a fresh challenger starts untrained; the existing one learns faster for a while instead.",
        "docs/how-to/drift.md",
        {"drift.reaction": "rate"},
    ),
    Rule(
        {"family": "neural", "store": "no"},
        "No replay memory, so no term that uses it.",
        "",
        {
            "model.memory.kind": "none",
            "model.terms.replay": None,
            "model.terms.distill": None,
            "model.memory.bytes": None,
        },
        rejected={"replay": "examples may not be stored"},
    ),
    Rule(
        {"family": "neural", "store": "no", "forgetting": "medium|high", "new_classes": "no"},
        "Without examples, anchors prevent forgetting: important weights stay near their values.",
        "Kirkpatrick et al. 2017; Schwarz et al. 2018 (online)",
        {
            "model.terms.ewc": {"strength": 1000.0, "decay": 0.9},
            "model.consolidate.every": UpdateRows(),
            "model.consolidate.rows": UpdateRows(1000),
        },
        rejected={"LwF beside EWC": "permuted MNIST: 83.3 % with it, 85.5 without"},
    ),
    Rule(
        {"family": "neural", "size": "large", "store": "no", "forgetting": "high", "frequency": "daily|streaming"},
        "New adapters avoid the directions of earlier ones; no example is needed.",
        "Wang et al. 2023 (O-LoRA)",
        {"model.terms.orthogonal": {}, "model.consolidate.every": UpdateRows()},
    ),
)

BORDERS = (
    Rule(
        {"family": "neural", "borders": "yes", "frequency": "monthly|weekly|on demand|periodic"},
        "Each update is a task: anchors are taken where it ends.",
        "Kirkpatrick et al. 2017",
        {"model.consolidate.every": UpdateRows(), "model.drift.consolidate": False},
    ),
    Rule(
        {"family": "neural", "borders": "no", "frequency": "monthly|weekly"},
        "No borders are known: anchors are also taken where the loss shows a change.",
        "Aljundi et al. 2019 (task-free)",
        {"model.drift.detector": "adwin", "model.drift.consolidate": True},
    ),
)

SHORT = "measured: docs/how-to/continual.md, streams of 250 to 5,000 rows"
LONG_WAYS = {
    "an average (ema .998)": "it needs 20,000 rows and more, and 5,000 of each task",
    'new_classes = "overall"': "at the end of 5,000 rows it has 5 to 10 points more, at the end of 500 up to 10 less, "
    "and up to 7 less on the rows that come next",
}

CLASSES = (
    Rule(
        {"family": "neural", "new_classes": "yes"},
        "The served weights follow a new class at once: the average restarts, and classes are learned as if all were "
        "equally frequent.",
        "Menon et al. 2021; measured: 97 % of coming rows right on split-MNIST, 61 to 71 with a plain long average",
        {"model.new_classes": "recent"},
        danger="predictions assume the recent class frequencies; for a test in which all classes count "
        'alike, set model.new_classes = "overall". An average of weights needs 20,000 rows and more, and 5,000 of each '
        'task: for a shorter stream set model.ema = 0, model.new_classes = "plain" and plain replay',
    ),
    Rule(
        {"family": "neural", "new_classes": "yes", "store": "yes"},
        "New classes: replay, with a loss for new rows that ignores old classes (ER-ACE).",
        "Caccia et al. 2022; Chrysakis and Moens 2020; measured: 91.2 % with 500 rows, split-MNIST",
        {
            "model.terms.replay": {"loss": "asymmetric"},
            "model.terms.distill": None,
            "model.terms.ewc": None,
            "model.memory.kind": "balanced",
        },
        rejected={
            "EWC, SI, MAS, LwF alone": "regularisation alone has no effect when new classes arrive: 19.6 to 20.1 % on "
            "split-MNIST, as without it (19.6)",
            'memory.kind = "gradient"': "it compares gradients of the plain loss, which ER-ACE does not use: it is for "
            "plain replay and distillation",
        },
    ),
    Rule(
        {"family": "neural", "new_classes": "yes", "store": "yes", "volume": "few"},
        "So few rows: plain replay without an average; an average of weights (ema .998 spans 5,000 rows) answers late.",
        SHORT,
        {"model.ema": 0.0, "model.new_classes": "plain", "model.terms.replay": {}},
        rejected=LONG_WAYS,
    ),
    Rule(
        {"family": "neural", "new_classes": "yes", "store": "yes", "volume": "some", "frequency": f"{APART}|{MERGED}"},
        "Below 20,000 rows: plain replay without an average; of other ways each was worse on some short stream.",
        SHORT,
        {"model.ema": 0.0, "model.new_classes": "plain", "model.terms.replay": {}},
        rejected=LONG_WAYS,
    ),
    Rule(
        {"family": "neural", "new_classes": "yes", "store": "no"},
        "New classes and no examples: keep the old predictions, on the new rows.",
        "Li and Hoiem 2017; van de Ven and Tolias 2019",
        {"model.terms.ewc": None, "model.terms.lwf": {}, "model.consolidate.every": UpdateRows()},
        danger="without stored examples, no method here learns new classes from an untrained network: "
        "regularisation alone gave 19.6 to 20.1 % on split-MNIST, no method 19.6. Start from a pretrained "
        "network, or ask whether a few rows of each class may be kept",
        rejected={"EWC, SI, MAS alone": "they have no effect when new classes arrive: 19.6 to 20.1 % on split-MNIST"},
    ),
    Rule(
        {"family": "linear", "new_classes": "yes", "store": "yes"},
        "A fresh challenger must be warmed on all classes, including rare and old ones.",
        "Chrysakis and Moens 2020",
        {"replay.kind": "balanced"},
    ),
    Rule(
        {"predicts": "classes", "new_classes": "yes"},
        "The number of outputs is fixed when the loop starts.",
        "docs/reference/settings.md",
        danger="list every possible class in schema.classes, including those not seen yet: a label that is not listed "
        "is rejected",
    ),
)

ANCHORS = (
    Rule(
        {"family": "neural", "frequency": "on demand", "ewc": "no"},
        "An EWC term keeps Fisher weights; a weak one does no harm.",
        "Matena and Raffel 2022",
        {
            "model.terms.ewc": {"strength": 1.0},
            "model.consolidate.every": UpdateRows(),
            "model.consolidate.rows": UpdateRows(1000),
        },
    ),
    Rule(
        {"family": "neural", "anchors": "no"},
        "No term uses anchors, so none are computed.",
        "",
        {"model.consolidate.every": None, "model.consolidate.rows": None, "model.drift.consolidate": None},
    ),
    Rule(
        {"ewc": "yes"},
        "Strength of the anchors.",
        "Kirkpatrick et al. 2017; measured: docs/how-to/advise.md",
        danger="EWC's strength is fragile: 10,000 was the best on permuted MNIST and ruinous on permuted digits. "
        "Calibrate it on a held-out sequence: try 10, 100, ... 100,000 (SI instead: from 10)",
    ),
    Rule(
        {"ewc": "yes", "store": "no"},
        "Rows behind the anchors.",
        "docs/how-to/advise.md",
        danger="anchors are computed from the newest model.consolidate.rows rows, kept until newer ones "
        "come: set it as low as your policy requires",
    ),
)

MEMORY = (
    Rule(
        {"family": "neural", "inputs": "image", "remembers": "yes"},
        "Limits of a small memory of images.",
        "measured: split-MNIST, memory 500: 91.0 to 94.7 %",
        danger="a network soon memorises few images: where objects may appear anywhere in the image, set "
        'model.shape (channels, height, width) and model.memory.augment = "shift", which shifts them a little '
        "when drawn. Apart from an average of weights nothing else gained as much: 91.0 to 94.7 % with 500 images",
    ),
)
