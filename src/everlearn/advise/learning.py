"""Rules about learning: family and size, updates, learning rate, drift, and the gate."""

from __future__ import annotations

from everlearn.advise.rule import APART, LORA, MERGED, Rule, UpdateRows

FAMILY = (
    Rule(
        {"inputs": "table|text", "model": "any"},
        "A linear model learns each row of fields or words as it comes, in microseconds, without tuning.",
        "measured: docs/why/linear.md",
        {"model.family": "linear"},
        rejected={
            "a network": "it takes about a thousand times as long for a row, must be tuned, and on rows of fields and "
            "words is seldom better",
        },
    ),
    Rule(
        {"inputs": "table", "model": "any"},
        "Limits of a linear model.",
        "measured: elec2, hflights; covtype20k, insects_gradual",
        danger="a linear model learning live beat boosted trees retrained each week on two streams of four; where "
        'classes depend on combinations of fields, forests were better: the automatic model, {{family = "auto"}}, '
        "mixes both, and takes twenty times as long for a row; with DATA, advise measures it",
    ),
    Rule(
        {"model": "linear"},
        "You have a linear model; it learns in one pass, and its versions are small.",
        "measured: docs/why/linear.md",
        {"model.family": "linear"},
    ),
    Rule(
        {"inputs": "image|sequence", "model": "any"},
        "A single pixel or step carries no information: features must be learned.",
        "LeCun et al. 1998",
        {"model.family": "neural"},
        rejected={"a linear model": "it sees single pixels or steps, not shapes; use it as a challenger to beat"},
    ),
    Rule({"model": "small|large"}, "You have a network.", "", {"model.family": "neural"}),
    Rule(
        {"inputs": "table", "family": "neural"},
        "A network on a table must first beat a linear model.",
        "Grinsztajn et al. 2022; docs/why/linear.md",
        danger="on tables linear models and trees are often better than networks: start one as a challenger, "
        'loop.challenge({{"family": "linear"}}), and let the gate decide',
    ),
)

UPDATES = (
    Rule(
        {"family": "neural", "frequency": "monthly"},
        "One large update: train all weights in several passes, and keep important weights near their values.",
        "Kirkpatrick et al. 2017",
        {
            "model.passes": 3,
            "model.batch": 32,
            "model.terms.ewc": {"strength": 1000.0},
            "model.consolidate.every": UpdateRows(),
            "model.consolidate.rows": UpdateRows(1000),
        },
    ),
    Rule(
        {"family": "neural", "frequency": "monthly", "store": "yes", "forgetting": "medium"},
        "Limits of anchors.",
        "measured: docs/how-to/advise.md",
        danger="where examples may be stored, replay keeps more than anchors do (permuted MNIST: 90 % against "
        "86): if that matters, set forgetting = high",
    ),
    Rule(
        {"family": "neural", "frequency": "weekly"},
        "Few passes over a week, mixed with replay; anchors protect what the memory cannot hold.",
        "Chaudhry et al. 2019; Schwarz et al. 2018",
        {
            "model.passes": 2,
            "model.terms.replay": {},
            "model.terms.ewc": {"strength": 1000.0, "decay": 0.9},
            "model.consolidate.every": UpdateRows(),
            "model.consolidate.rows": UpdateRows(1000),
        },
    ),
    Rule(
        {"family": "neural", "frequency": "daily", "size": "large"},
        "A day holds few rows: train low-rank adapters only, which are cheap to discard.",
        "Hu et al. 2022; Biderman et al. 2024",
        {"model.lora": LORA},
        rejected={"training all weights each day": "a day's rows change many more weights than they can determine"},
    ),
    Rule(
        {"family": "neural", "frequency": "daily", "size": "small"},
        "A small network is trained entirely each day; the gate decides which version serves.",
        "Chaudhry et al. 2019",
        {"model.passes": 2},
        rejected={
            "adapters (LoRA)": "rank 8 is most of a small layer, and adapters need pretrained weights below them"
        },
    ),
    Rule(
        {"family": "neural", "frequency": "streaming"},
        "Each row is learned once, the average of weights serves, and steps grow when the network's own loss rises.",
        "Polyak and Juditsky 1992; Bifet and Gavaldà 2007",
        {"model.drift.detector": "adwin", "model.drift.rate": 2.0},
    ),
    Rule(
        {"frequency": "on demand"},
        "Models trained apart are merged on request; Fisher weights give each its precision.",
        "Matena and Raffel 2022",
        then=("everlearn merge champion challenger --method fisher",),
        rejected={"a plain mean": "a model that never saw a class would have the same weight there as one that did"},
    ),
    Rule(
        {"frequency": "periodic", "drift": "slow"},
        "At each date a tenth of the learner's weights is mixed into the champion: an average over dates.",
        "Polyak and Juditsky 1992; Izmailov et al. 2018",
        then=("everlearn merge champion challenger --method ema",),
        rejected={"replacing the old model": "the average has less noise than a single model"},
    ),
    Rule(
        {"frequency": "periodic", "drift": "fast"},
        "At each date the champion moves half-way towards the learner: often better than both, on old and new rows.",
        "Wortsman et al. 2022 (WiSE-FT)",
        then=("everlearn merge champion challenger --method linear",),
        rejected={
            "replacing the old model": "the point between the two is often better than both, on old and new rows"
        },
    ),
    Rule(
        {"frequency": MERGED},
        "Only models of one origin can be merged.",
        "Frankle et al. 2020; Yadav et al. 2023",
        danger="merging models that have drifted apart is lossy: merge those with a common parent, soon after they "
        "diverge; the gate tests the result",
    ),
)

DRIFT = (
    Rule(
        {"family": "neural", "drift": "slow"},
        "Slow change: a long average of weights has the least noise.",
        "Polyak and Juditsky 1992; Izmailov et al. 2018",
        {"model.ema": 0.999},
    ),
    Rule(
        {"family": "neural", "drift": "fast"},
        "Fast change: the average must forget within a hundred steps, and steps grow when the loss rises.",
        "Bifet and Gavaldà 2007; Page 1954",
        {"model.ema": 0.99, "model.drift.detector": "page_hinkley", "model.drift.rate": 3.0},
    ),
    Rule(
        {"family": "neural", "frequency": APART, "volume": "few|some"},
        "An average must not span many updates: these have few steps each.",
        "Izmailov et al. 2018",
        {"model.ema": 0.99},
    ),
    Rule(
        {"family": "neural", "inputs": "table", "frequency": f"streaming|{MERGED}"},
        "Neighbouring rows of a stream are alike: a long average predicts the past, so keep it short.",
        "measured: covtype20k 69.0 % without an average, 58.8 with .998; elec2 and insects likewise",
        {"model.ema": 0.9},
        rejected={
            "a long average (ema .99 and more)": "on streams of fields it lags: covtype20k 58.8 % with .998, 69.0 "
            "without; 0 (no average) is worth a try as well",
        },
    ),
    Rule(
        {"family": "neural", "inputs": "image|sequence|text"},
        "Length of the average of weights.",
        "measured: split-MNIST, memory 500: 85.2 to 91.0 % with .998",
        danger="the average (ema) serves, and lags by 1 / (1 - ema) steps: .999 for slow drift, .99 for fast; if the "
        "average is worse than the learner, lower it; where neighbouring rows are alike, .9 or 0",
    ),
    Rule(
        {"drift": "fast"},
        "Page-Hinkley reports a change two to four times as soon as ADWIN, with slightly more false alarms.",
        "measured: docs/why/drift.md",
        {"drift.detector": "page_hinkley"},
    ),
    Rule(
        {"frequency": "streaming", "undo": "no"},
        "What was learned serves at once, and a guard rolls back what became worse.",
        "docs/why/loop.md",
        {"mode": "live"},
        rejected={"mode = gated": "until the evidence is in, an older version answers"},
    ),
    Rule(
        {"family": "neural"},
        "The network reacts to drift itself (anchors, learning rate); a fresh one would start untrained.",
        "docs/why/drift.md",
        {"drift.reaction": "note"},
    ),
)

SIZE = (
    Rule(
        {"family": "neural", "size": "large", "frequency": "streaming"},
        "Single rows cannot determine many weights: adapters only.",
        "Hu et al. 2022; Biderman et al. 2024",
        {"model.lora": LORA},
    ),
    Rule(
        {"family": "neural", "size": "large", "volume": "few"},
        "So few rows would overfit all weights: adapters only.",
        "Hu et al. 2022; Biderman et al. 2024",
        {"model.lora": LORA},
    ),
    Rule(
        {"family": "neural", "size": "large", "undo": "yes"},
        "Adapters leave the weights below untouched: removing one undoes it exactly.",
        "Hu et al. 2022",
        {"model.lora": LORA},
    ),
    Rule(
        {"family": "neural", "size": "large"},
        "A pretrained network needs its inputs as in pretraining, not standardised by the new rows.",
        "docs/how-to/advise.md",
        {"model.normalize": False},
    ),
    Rule(
        {"family": "neural", "size": "large", "predicts": "classes"},
        "A pretrained network knows its classes before the first row of them, and may predict them at once.",
        "docs/how-to/advise.md",
        {"model.new_classes": "known"},
    ),
    Rule(
        {"lora": "yes"},
        "Adapters start at zero, and need about ten times the learning rate of the whole network.",
        "Biderman et al. 2024",
        {"model.optimizer": {"name": "adamw", "lr": 2e-4}},
        danger="name your own pretrained network as model.module: adapters on an untrained network learn "
        "little. Rank 8 to 16 is for increments; where the loss stays high, raise the rank before the passes",
    ),
    Rule(
        {"family": "neural", "size": "large", "lora": "no"},
        "All weights of a pretrained network are trained: take small steps, or the pretraining is lost.",
        "Devlin et al. 2019; Howard and Ruder 2018",
        {"model.optimizer": {"name": "adamw", "lr": 2e-5}},
        danger="name your own pretrained network as model.module; each version stores all weights, so check that "
        "`keep` of them fit on the disk",
    ),
)

SAFETY = (
    Rule(
        {"frequency": f"{APART}|{MERGED}"},
        "An update must be better on rows that no model has learned, before it serves.",
        "Choe and Ramdas 2024; docs/why/gate.md",
        {"mode": "gated", "gate.promote": "snapshot", "gate.minimum": 500},
        rejected={
            "taking what scores better on a held-out set": "on 500 rows that accepts 47 % of updates that are not "
            "better, the gate at most 5 %",
        },
    ),
    Rule(
        {"family": "neural", "size": "large", "frequency": "daily", "undo": "no", "store": "yes"},
        "Learn a day, validate it on the next rows, then accept it or restore the previous weights entirely.",
        "docs/why/gate.md",
        {"gated.update": UpdateRows(), "mode": "live", "gate.promote": None, "gate.minimum": None},
    ),
    Rule(
        {"undo": "yes"},
        "Only versions that passed the gate serve, and every version can be restored.",
        "docs/why/versions.md",
        {"mode": "gated", "gate.promote": "snapshot", "keep": 200, "keep_bytes": 0},
        then=("everlearn rollback",),
        rejected={"mode = live": "every row changes the served model before any evidence"},
    ),
    Rule(
        {"late": "yes"},
        "Labels are late: watch the predictions, which need no labels; only note drift, since it may be harmless.",
        "Raab et al. 2020 (KSWIN); docs/how-to/drift.md",
        {"drift.detector": "kswin", "drift.watch": "proba", "drift.reaction": "note"},
        danger="set feedback.window to the longest wait (seconds); set feedback.default if a missing label "
        "has a meaning",
    ),
    Rule(
        {"volume": "few|some"},
        "Power of few rows.",
        "McNemar 1947; docs/why/gate.md",
        danger="small validation sets are noisy: of updates with {volume:,} rows, the gate's first verdict (500 "
        "examples) takes {gate:,}; two points of accuracy take {two:,} with an exact paired test ({two_rows:,} "
        "examples), one point {one:,} ({one_rows:,}), where exactly one of the two models is right on 6 % of rows; the "
        "gate, which can be evaluated at any time, needs three to four times as many",
    ),
)
