"""Rules of how a model learns: of which family and size, when, at which rate, and behind which gate."""

from __future__ import annotations

from everlearn.advise.rule import APART, LORA, MERGED, Rows, Rule

FAMILY = (
    Rule(
        {"inputs": "table|text", "model": "any"},
        "A linear model learns each row of fields or words as it comes, in microseconds, and needs no tuning.",
        "measured: docs/why/linear.md",
        {"model.family": "linear"},
        rejected={
            "a network": "it takes about a thousand times as long for a row, must be tuned, and on rows of fields and "
            "words is seldom better",
        },
    ),
    Rule(
        {"inputs": "table", "model": "any"},
        "What a linear model cannot see.",
        "measured: elec2, hflights; covtype20k, insects_gradual",
        danger="a linear model learning live beat boosted trees retrained each week on two streams of four; where "
        'classes hang on combinations of fields, forests were better: try model.interactions = "dense"',
    ),
    Rule(
        {"model": "linear"},
        "You have a linear model; it learns in one pass, and its versions are small.",
        "measured: docs/why/linear.md",
        {"model.family": "linear"},
    ),
    Rule(
        {"inputs": "image|sequence", "model": "any"},
        "One pixel or one step says nothing by itself: features must be learned.",
        "LeCun et al. 1998",
        {"model.family": "neural"},
        rejected={"a linear model": "it sees single pixels or steps, not shapes; good as a challenger, to be beaten"},
    ),
    Rule({"model": "small|large"}, "You have a network.", "", {"model.family": "neural"}),
    Rule(
        {"inputs": "table", "family": "neural"},
        "A network on a table must first beat a linear model.",
        "Grinsztajn et al. 2022; docs/why/linear.md",
        danger="on tables linear models and trees are often better than networks: start one as a challenger, "
        'loop.challenge({{"family": "linear"}}), and let the gate say',
    ),
)

UPDATES = (
    Rule(
        {"family": "neural", "frequency": "monthly"},
        "One large update: train all weights in several passes, and hold near what mattered for the past.",
        "Kirkpatrick et al. 2017",
        {
            "model.passes": 3,
            "model.batch": 32,
            "model.terms.ewc": {"strength": 1000.0},
            "model.consolidate.every": Rows(),
            "model.consolidate.rows": Rows(1000),
        },
    ),
    Rule(
        {"family": "neural", "frequency": "monthly", "store": "yes", "forgetting": "medium"},
        "What anchors cannot do.",
        "measured: docs/how-to/advise.md",
        danger="where examples may be stored, remembered rows keep more than anchors (permuted MNIST: 90 % against "
        "86): if that matters, answer forgetting = high",
    ),
    Rule(
        {"family": "neural", "frequency": "weekly"},
        "Few passes over a week, mixed with remembered rows; anchors hold what the memory is too small for.",
        "Chaudhry et al. 2019; Schwarz et al. 2018",
        {
            "model.passes": 2,
            "model.terms.replay": {},
            "model.terms.ewc": {"strength": 1000.0, "decay": 0.9},
            "model.consolidate.every": Rows(),
            "model.consolidate.rows": Rows(1000),
        },
    ),
    Rule(
        {"family": "neural", "frequency": "daily", "size": "large"},
        "A day holds little: train low-rank adapters only, of which a bad one costs nothing.",
        "Hu et al. 2022; Biderman et al. 2024",
        {"model.lora": LORA},
        rejected={"training all weights each day": "a day's rows move many more weights than they can determine"},
    ),
    Rule(
        {"family": "neural", "frequency": "daily", "size": "small"},
        "A small network is trained whole, each day; the gate decides what serves.",
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
        "Models learned apart are merged when somebody asks; Fisher weights let each say where it is sure.",
        "Matena and Raffel 2022",
        then=("everlearn merge champion challenger --method fisher",),
        rejected={"a plain mean": "a model that never saw a class would count for as much there as one that did"},
    ),
    Rule(
        {"frequency": "periodic", "drift": "slow"},
        "At each date a tenth of what was learned is mixed into what serves: an average over dates.",
        "Polyak and Juditsky 1992; Izmailov et al. 2018",
        then=("everlearn merge champion challenger --method ema",),
        rejected={"replacing the old model": "the average has less noise than any one of them"},
    ),
    Rule(
        {"frequency": "periodic", "drift": "fast"},
        "At each date what serves moves half-way towards what has learned: often better than both, on old and new.",
        "Wortsman et al. 2022 (WiSE-FT)",
        then=("everlearn merge champion challenger --method linear",),
        rejected={"replacing the old model": "the way between the two is often better than both, on old and new"},
    ),
    Rule(
        {"frequency": MERGED},
        "Merging is for models of one origin.",
        "Frankle et al. 2020; Yadav et al. 2023",
        danger="merging models that have drifted apart is lossy: merge those with a common parent, soon after they "
        "part; what comes of it goes through the gate",
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
        "An average must not reach back over many updates: these have few steps each.",
        "Izmailov et al. 2018",
        {"model.ema": 0.99},
    ),
    Rule(
        {"family": "neural", "inputs": "table", "frequency": f"streaming|{MERGED}"},
        "Rows of a stream are like those just before them: a long average answers for what was, so keep it short.",
        "measured: covtype20k 69.0 % without an average, 58.8 with .998; elec2 and insects likewise",
        {"model.ema": 0.9},
        rejected={
            "a long average (ema .99 and more)": "on streams of fields it lags: covtype20k 58.8 % with .998, 69.0 "
            "without; 0 (no average) is worth a try as well",
        },
    ),
    Rule(
        {"family": "neural", "inputs": "image|sequence|text"},
        "How long the average of weights is.",
        "measured: split-MNIST, memory 500: 85.2 to 91.0 % with .998",
        danger="the average (ema) serves, and lags by 1 / (1 - ema) steps: .999 for slow drift, .99 for fast; if what "
        "serves trails what learns, lower it; where rows are much like those just before them, .9 or 0",
    ),
    Rule(
        {"drift": "fast"},
        "Page-Hinkley reports a change two to four times as soon as ADWIN, and cries wolf a little more.",
        "measured: docs/why/drift.md",
        {"drift.detector": "page_hinkley"},
    ),
    Rule(
        {"drift": "fast", "frequency": "streaming", "undo": "no", "late": "no"},
        "A snapshot on trial would be old before it is proved: what learns serves, and a guard rolls back.",
        "docs/why/loop.md",
        {"mode": "live"},
        rejected={"mode = gated": "its champion is as old as its evidence; this stream moves faster"},
    ),
    Rule(
        {"family": "neural"},
        "The network answers drift itself (anchors, learning rate); a fresh one would start from nothing.",
        "docs/why/drift.md",
        {"drift.reaction": "note"},
    ),
)

SIZE = (
    Rule(
        {"family": "neural", "size": "large", "frequency": "streaming"},
        "Rows that come one by one cannot determine many weights: adapters only.",
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
        "Adapters leave the weights below untouched: taking one away undoes it exactly.",
        "Hu et al. 2022",
        {"model.lora": LORA},
    ),
    Rule(
        {"family": "neural", "size": "large"},
        "A pretrained network must get its inputs as it was trained on them, not standardised by what comes now.",
        "docs/how-to/advise.md",
        {"model.normalize": False},
    ),
    Rule(
        {"family": "neural", "size": "large", "predicts": "classes"},
        "A pretrained network knows its classes before it meets a row of them here, and may answer them at once.",
        "docs/how-to/advise.md",
        {"model.known": True},
    ),
    Rule(
        {"lora": "yes"},
        "Adapters start at zero, and want some ten times the rate of the whole network.",
        "Biderman et al. 2024",
        {"model.optimizer": {"name": "adamw", "lr": 2e-4}},
        danger="name your own pretrained network as model.module: adapters on a network that knows nothing learn "
        "little. Rank 8 to 16 is for increments; where the loss stays high, take more rank before more passes",
    ),
    Rule(
        {"family": "neural", "size": "large", "lora": "no"},
        "All weights of a pretrained network move: small steps, or what was pretrained is gone.",
        "Devlin et al. 2019; Howard and Ruder 2018",
        {"model.optimizer": {"name": "adamw", "lr": 2e-5}},
        danger="name your own pretrained network as model.module; each version keeps all its weights, so see that "
        "`keep` of them fit the disk",
    ),
)

SAFETY = (
    Rule(
        {"frequency": "streaming", "drift": "slow"},
        "Slow change leaves time to prove that what has learned is better, before it serves.",
        "Choe and Ramdas 2024; docs/why/gate.md",
        {"mode": "gated", "gate.minimum": 500},
    ),
    Rule(
        {"frequency": f"{APART}|{MERGED}"},
        "What an update has made must be better on rows that nobody has learned, before it serves.",
        "Choe and Ramdas 2024; docs/why/gate.md",
        {"mode": "gated", "gate.minimum": 500},
        rejected={
            "taking what scores better on a held-out set": "on 500 rows that accepts 47 % of updates that are no "
            "better, the gate at most 5 %",
        },
    ),
    Rule(
        {"family": "neural", "size": "large", "frequency": "daily", "undo": "no", "store": "yes"},
        "Learn a day, validate it on the rows that come next, accept it or go back to what was there, all of it.",
        "docs/why/gate.md",
        {"gated.update": Rows(), "mode": "live", "gate.minimum": None},
    ),
    Rule(
        {"undo": "yes"},
        "Nothing serves that the gate has not passed, and every version can be gone back to.",
        "docs/why/versions.md",
        {"mode": "gated", "keep": 200},
        then=("everlearn rollback",),
        rejected={"mode = live": "every row changes what serves before anybody has judged it"},
    ),
    Rule(
        {"late": "yes"},
        "Labels are late: watch what is predicted, which needs none; note it, since it may be harmless.",
        "Raab et al. 2020 (KSWIN); docs/how-to/drift.md",
        {"drift.detector": "kswin", "drift.watch": "proba", "drift.reaction": "note"},
        danger="set feedback.window to the longest wait (seconds), and feedback.default if no answer is an answer",
    ),
    Rule(
        {"volume": "few|some"},
        "What so few rows can show.",
        "McNemar 1947; docs/why/gate.md",
        danger="small validation sets are noisy: of updates with {volume:,} rows, the gate's first verdict (500 "
        "examples) takes {gate:,}; two points of accuracy take {two:,} with an exact paired test ({two_rows:,} "
        "examples), one point {one:,} ({one_rows:,}), where one of the two models alone is right on 6 % of rows; the "
        "gate, which may be asked at any time, needs three to four times as many",
    ),
)
