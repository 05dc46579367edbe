"""Rules of what a model keeps: which terms hold it, what is remembered, and how classes that are new are met."""

from __future__ import annotations

from everlearn.advise.rule import MERGED, Rows, Rule

FORGETTING = (
    Rule(
        {"family": "neural"},
        "Nothing is remembered until a rule asks for it.",
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
        "Old patterns come back: remember rows with what was answered to them, and answer them so again (DER++).",
        "Buzzega et al. 2020; measured: permuted MNIST 91.1 % against 88.3 for replay, rotated 85.1 against 80.9",
        {
            "model.terms.replay": None,
            "model.terms.distill": {},
            "model.memory.kind": "balanced",
            "model.memory.bytes": 16 << 20,
        },
        rejected={
            "A-GEM": "keeps the mean loss of the memory only: rotated MNIST 57.4 % against 85.1",
            "GDumb": "forgets what does not fit the memory: permuted MNIST 60.2 % against 91.1",
        },
    ),
    Rule(
        {"family": "neural", "forgetting": "low", "new_classes": "no", "frequency": f"streaming|daily|{MERGED}"},
        "Nothing old comes back: remembered rows would only slow learning down.",
        "Ghunaim et al. 2023",
        rejected={"replay": "half of each step would go into what you do not need"},
    ),
    Rule(
        {"family": "linear", "forgetting": "high", "store": "yes"},
        "A fresh challenger must know what comes back: warm it on a fair sample of all that was.",
        "Vitter 1985; Chrysakis and Moens 2020",
        {"replay.kind": "balanced", "replay.bytes": 8 << 20, "keep": 200},
        rejected={"a window of the newest rows": "it holds no row of the pattern that comes back"},
    ),
    Rule(
        {"forgetting": "high"},
        "Versions of the time when a pattern was last here are worth keeping.",
        "",
        {"keep": 200},
        then=("everlearn versions",),
    ),
)

PRIVACY = (
    Rule(
        {"store": "no"},
        "No examples in any memory.",
        "",
        {"replay.kind": "none"},
        danger="the event log keeps what was predicted and learned, because all else is computed from it: name the "
        "field `subject`, and `everlearn erase` forgets a person; files given to `everlearn run` are not copied",
    ),
    Rule(
        {"family": "linear", "store": "no"},
        "Without a memory a fresh challenger starts from nothing; the old one learns faster for a while instead.",
        "docs/how-to/drift.md",
        {"drift.reaction": "rate"},
    ),
    Rule(
        {"family": "neural", "store": "no"},
        "No remembered rows, so nothing that learns from them.",
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
        "Without examples, anchors must do it: weights that mattered stay near where they were.",
        "Kirkpatrick et al. 2017; Schwarz et al. 2018 (online)",
        {
            "model.terms.ewc": {"strength": 1000.0, "decay": 0.9},
            "model.consolidate.every": Rows(),
            "model.consolidate.rows": Rows(1000),
        },
        rejected={"LwF beside EWC": "permuted MNIST: 83.3 % with it, 85.5 without"},
    ),
    Rule(
        {"family": "neural", "size": "large", "store": "no", "forgetting": "high", "frequency": "daily|streaming"},
        "Adapters for new things keep out of the directions that earlier ones used; no example is needed.",
        "Wang et al. 2023 (O-LoRA)",
        {"model.terms.orthogonal": {}, "model.consolidate.every": Rows()},
    ),
)

BORDERS = (
    Rule(
        {"family": "neural", "borders": "yes", "frequency": "monthly|weekly|on demand|periodic"},
        "Each update is a task: anchors are taken where it ends.",
        "Kirkpatrick et al. 2017",
        {"model.consolidate.every": Rows(), "model.drift.consolidate": False},
    ),
    Rule(
        {"family": "neural", "borders": "no", "frequency": "monthly|weekly"},
        "No borders are known: anchors are also taken where the loss says that something new began.",
        "Aljundi et al. 2019 (task-free)",
        {"model.drift.detector": "adwin", "model.drift.consolidate": True},
    ),
)

CLASSES = (
    Rule(
        {"family": "neural", "new_classes": "yes"},
        "What serves follows a new class at once: the average begins anew, and classes are learned as if all were "
        "equally frequent.",
        "Menon et al. 2021; measured: 97 % of coming rows right on split-MNIST, 61 to 71 with a plain long average",
        {"model.restart": True, "model.balance": True},
        danger="answers expect classes to be as frequent as they were lately; for a test in which all classes count "
        "alike, set model.prior = 0",
    ),
    Rule(
        {"family": "neural", "new_classes": "yes", "store": "yes"},
        "New classes: replay, with a loss for new rows that lets old classes alone (ER-ACE).",
        "Caccia et al. 2022; Chrysakis and Moens 2020; measured: 91.2 % with 500 rows, split-MNIST",
        {
            "model.terms.replay": {"loss": "asymmetric"},
            "model.terms.distill": None,
            "model.terms.ewc": None,
            "model.memory.kind": "balanced",
        },
        rejected={
            "EWC, SI, MAS, LwF alone": "regularisation alone does nothing when new classes arrive: 19.6 to 20.1 % on "
            "split-MNIST, where doing nothing gives 19.6",
            'memory.kind = "gradient"': "it compares gradients of the plain loss, and ER-ACE has another: it is for "
            "plain replay and distillation",
        },
    ),
    Rule(
        {"family": "neural", "new_classes": "yes", "store": "no"},
        "New classes and no examples: hold old answers, on the rows that come.",
        "Li and Hoiem 2017; van de Ven and Tolias 2019",
        {"model.terms.ewc": None, "model.terms.lwf": {}, "model.consolidate.every": Rows()},
        danger="new classes without stored examples are not learned by any method here that starts from nothing: "
        "regularisation alone gave 19.6 to 20.1 % on split-MNIST, doing nothing 19.6. Start from a pretrained "
        "network, or ask whether a few rows of each class may be kept",
        rejected={"EWC, SI, MAS alone": "they do nothing when new classes arrive: 19.6 to 20.1 % on split-MNIST"},
    ),
    Rule(
        {"family": "linear", "new_classes": "yes", "store": "yes"},
        "A fresh challenger must be warmed on all classes, the rare and the old as well.",
        "Chrysakis and Moens 2020",
        {"replay.kind": "balanced"},
    ),
    Rule(
        {"predicts": "classes", "new_classes": "yes"},
        "The number of outputs is fixed when the loop starts.",
        "docs/reference/settings.md",
        danger="list every class that may come in schema.classes, also those not met yet: a label that is not listed "
        "is set aside",
    ),
)

ANCHORS = (
    Rule(
        {"family": "neural", "frequency": "on demand", "ewc": "no"},
        "Fisher weights are kept by an EWC term; a weak one does no harm.",
        "Matena and Raffel 2022",
        {"model.terms.ewc": {"strength": 1.0}, "model.consolidate.every": Rows(), "model.consolidate.rows": Rows(1000)},
    ),
    Rule(
        {"family": "neural", "anchors": "no"},
        "No term takes anchors, so nothing has to look back.",
        "",
        {"model.consolidate.every": None, "model.consolidate.rows": None, "model.drift.consolidate": None},
    ),
    Rule(
        {"ewc": "yes"},
        "How strong anchors are.",
        "Kirkpatrick et al. 2017; measured: docs/how-to/advise.md",
        danger="EWC's strength is fragile: 10,000 was the best of all on permuted MNIST, and ruined permuted digits. "
        "Calibrate it on a sequence that you hold out: try 10, 100, ... 100,000 (SI in its place: from 10 on)",
    ),
    Rule(
        {"ewc": "yes", "store": "no"},
        "What anchors look at.",
        "docs/how-to/advise.md",
        danger="anchors are taken from the newest model.consolidate.rows rows, which the model holds until newer ones "
        "come: make it as small as you must",
    ),
)

MEMORY = (
    Rule(
        {"family": "neural", "inputs": "image", "remembers": "yes"},
        "What few remembered images can teach.",
        "measured: split-MNIST, memory 500: 91.0 to 94.7 %",
        danger="few remembered images are soon known by heart: where things may stand anywhere in the picture, set "
        'model.shape (channels, height, width) and model.memory.augment = "shift", which draws them a little '
        "displaced. Beside an average of weights nothing else gained as much: 91.0 to 94.7 % with 500 images",
    ),
)
