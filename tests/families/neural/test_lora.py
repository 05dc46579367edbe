"""Adapters: where they stand, what they begin as, that they are never left out, and PEFT's files."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

from safetensors.numpy import load_file, save_file  # noqa: E402
from torch import nn  # noqa: E402

import everlearn as el  # noqa: E402
from everlearn import model  # noqa: E402
from everlearn.errors import BlobError, ConfigError, MissingExtra, ModelError  # noqa: E402
from everlearn.families.neural import settings  # noqa: E402
from everlearn.families.neural.lora import CONFIG, WEIGHTS, adapt, export, factors, fill, load  # noqa: E402
from everlearn.families.neural.network import make  # noqa: E402
from everlearn.families.neural.settings import Lora  # noqa: E402
from everlearn.merge import adapters  # noqa: E402
from everlearn.model import copied  # noqa: E402
from everlearn.records import Batch  # noqa: E402
from everlearn.serve.snapshot import CURRENT, Answering, Publisher, Reader  # noqa: E402
from tests.support.neural_nets import one_thread  # noqa: E402, F401

MADE: list[str] = []  # transformers, in the order in which they were made


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def conv() -> nn.Module:
    torch.manual_seed(0)
    first = nn.Conv2d(1, 4, 3, padding=1)
    return nn.Sequential(first, nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(24, 3))


class Encoder(nn.Module):
    """An encoder of PyTorch's own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(20, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: torch.Tensor) -> Any:
        return self.head(self.layers(self.embed(tokens)).mean(1))


def bert(size: int = 16) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    shape = {"hidden_size": size, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 2 * size}
    torch.manual_seed(0)
    MADE.append("bert")
    return BertForSequenceClassification(BertConfig(vocab_size=20, num_labels=3, **shape))


def gpt() -> nn.Module:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    torch.manual_seed(0)
    return GPT2ForSequenceClassification(
        GPT2Config(vocab_size=20, n_embd=16, n_layer=2, n_head=2, num_labels=3, pad_token_id=0)
    )


TOKENS = torch.randint(1, 20, (4, 5), generator=torch.Generator().manual_seed(1))
NETS = {
    "mlp": (mlp, torch.randn(4, 6, generator=torch.Generator().manual_seed(1))),
    "conv": (conv, torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(1))),
    "encoder": (Encoder, TOKENS),
    "bert": (bert, TOKENS),
    "gpt": (gpt, TOKENS),
}
every = pytest.mark.parametrize("net", NETS)


def said(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    out = module(x)
    return out if isinstance(out, torch.Tensor) else out["logits"]


def learned(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: one for name, one in module.named_parameters() if one.requires_grad}


def stir(module: nn.Module, seed: int = 5) -> None:
    """Give adapters weights that are not those they begin with."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for one in learned(module).values():
            one.add_(0.3 * torch.randn(one.shape, generator=random))


# ---- where adapters stand, and what they begin as ---------------------------------------------------------------


@every
@pytest.mark.parametrize("more", [{}, {"rslora": True}, {"dora": True}])
def test_an_adapted_network_answers_as_before_and_learns_in_adapters_only(net: str, more: dict[str, bool]) -> None:
    make, x = NETS[net]
    if net == "gpt" and more.get("dora"):  # its square weights are stored transposed
        with pytest.raises(ConfigError, match="lora.dora: got true for .* square weight"):
            adapt(make(), Lora(rank=2, **more))
        return
    module = make().eval()
    frozen = {name: one.detach().clone() for name, one in module.named_parameters()}
    with torch.no_grad():
        before = said(module, x)
        assert adapt(module, Lora(rank=2, alpha=4.0, **more)) is module
        assert torch.allclose(said(module.eval(), x), before, atol=1e-6)
    weights = learned(module)
    assert all("lora_" in name or name.startswith(("4.", "5.", "head.", "classifier.", "score.")) for name in weights)
    optimizer = torch.optim.SGD(weights.values(), 0.5)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(said(module, x), torch.tensor([0, 1, 2, 0])).backward()
        assert all(one.grad is not None and one.grad.isfinite().all() for one in weights.values())
        optimizer.step()
    after = dict(module.named_parameters())
    for name, one in frozen.items():
        now = after.get(name, after.get(f"{name.rpartition('.')[0]}.base_layer.{name.rpartition('.')[2]}"))
        assert name in weights or torch.equal(now, one)
    assert (said(module, x) - before).abs().max() > 1e-3


def test_without_targets_all_layers_but_the_last_have_adapters() -> None:
    assert factors(adapt(mlp(), Lora(rank=2))) == ["0", "2"]
    assert factors(adapt(conv(), Lora(rank=2))) == ["0", "3"]
    names = factors(adapt(bert(), Lora(rank=2)))
    assert len(names) == 2 * 6 + 1  # query, key, value, three more in each layer; the pooler
    assert factors(adapt(Encoder(), Lora(rank=2))) == [f"layers.layers.{i}.linear{k}" for i in (0, 1) for k in (1, 2)]
    assert len(factors(adapt(gpt(), Lora(rank=2)))) == 2 * 4


def test_targets_are_names_or_their_ends_and_no_other_ends() -> None:
    module = adapt(bert(), Lora(rank=2, targets=("query", "encoder.layer.1.output.dense"), also=("classifier",)))
    expected = [*(f"bert.encoder.layer.{i}.attention.self.query" for i in (0, 1)), "bert.encoder.layer.1.output.dense"]
    assert factors(module) == expected
    others = [name for name in learned(module) if "lora" not in name]
    assert others == ["classifier.weight", "classifier.bias"]
    inner = nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), nn.Linear(3, 3), nn.Linear(3, 2))
    assert factors(adapt(inner, Lora(rank=1))) == ["0.0", "0.1", "1"]  # "1" names one layer, not "0.1" as well


def test_the_head_that_is_named_learns_besides_the_last_layer() -> None:
    module = adapt(mlp(), Lora(rank=2, also=("2",)))
    assert factors(module) == ["0"]
    assert {name.partition(".")[0] for name in learned(module) if "lora" not in name} == {"2", "4"}


@every
def test_adapters_begin_with_the_numbers_of_their_seed(net: str) -> None:
    make = NETS[net][0]
    state = torch.random.get_rng_state()
    one, other, third = (adapt(make(), Lora(rank=2), seed) for seed in (3, 3, 4))
    torch.random.set_rng_state(state)
    adapted = make()
    before = torch.random.get_rng_state()
    adapt(adapted, Lora(rank=2), 3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, learned(other)[name]) for name, a in learned(one).items())
    assert any(not torch.equal(a, learned(third)[name]) for name, a in learned(one).items())


@every
@pytest.mark.parametrize("rslora", [False, True])
def test_what_an_adapter_adds_is_scale_times_b_a(net: str, rslora: bool) -> None:
    """The number with which D = scale * B A is merged elsewhere is PEFT's own."""
    module = adapt(NETS[net][0](), Lora(rank=4, alpha=6.0, rslora=rslora))
    stir(module)
    for name in factors(module):
        layer = module.get_submodule(name)
        a, b = (getattr(layer, f"lora_{one}")["default"].weight.detach().numpy() for one in "AB")
        added = layer.get_delta_weight("default").detach().numpy()
        mine = adapters.delta(a, b, 6.0 / (2.0 if rslora else 4.0))
        if net == "gpt":  # GPT-2 keeps its weights as (in, out)
            mine = mine.T
        assert np.allclose(mine.reshape(added.shape), added, atol=1e-6)


def test_adapters_are_not_left_out_when_an_encoder_only_answers() -> None:
    """PyTorch's encoder, outside of training, reads the frozen weights of its parts in one fused function."""
    module = adapt(Encoder(), Lora(rank=2))
    stir(module)
    training = said(module.train(), TOKENS)
    with torch.no_grad():
        assert torch.allclose(said(module.eval(), TOKENS), training, atol=1e-5)


# ---- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "lora", "message"),
    [
        (mlp, Lora(targets=("nothing",)), "lora.targets: got 'nothing'; expected some of"),
        (mlp, Lora(also=("head",)), "lora.also: got 'head'; expected some of"),
        (mlp, Lora(targets=("1",)), "lora"),
        (lambda: nn.Sequential(nn.Linear(2, 2)), Lora(), "learn as a whole; name some other layers"),
        (lambda: nn.Sequential(nn.ReLU()), Lora(), "without linear and convolution layers"),
        (Encoder, Lora(targets=("out_proj",)), "MultiheadAttention"),
        (Encoder, Lora(targets=("self_attn",)), "MultiheadAttention"),
    ],
)
def test_layers_that_can_have_no_adapter_are_refused(make: Any, lora: Lora, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        adapt(make(), lora)


def test_without_peft_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name == "peft":
            raise ModuleNotFoundError("No module named 'peft'", name="peft")
        return real(name, *rest, **more)

    monkeypatch.delitem(sys.modules, "peft")
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingExtra, match=r"everlearn\[lora\]"):
        adapt(mlp(), Lora())


# ---- PEFT's files -----------------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("more", [{}, {"dora": True}, {"rslora": True}])
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning", "ignore:fan_in_fan_out:UserWarning")
def test_what_is_exported_is_what_peft_reads_and_back(net: str, more: dict[str, bool], tmp_path: Path) -> None:
    make, x = NETS[net]
    if net == "gpt" and more.get("dora"):  # its square weights are stored transposed
        with pytest.raises(ConfigError, match="lora.dora: got true for .* square weight"):
            adapt(make(), Lora(rank=2, **more))
        return
    module = adapt(make(), Lora(rank=2, alpha=5.0, **more)).eval()
    stir(module)
    export(module, tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(make(), tmp_path / "ours").eval()
    with torch.no_grad():
        expected = said(module, x)
        if net == "encoder":  # PEFT's own model would leave the adapters out: see above
            theirs.train()
        assert torch.allclose(said(theirs, x), expected, atol=1e-6)
    theirs.save_pretrained(tmp_path / "theirs")
    again = load(adapt(make(), Lora(rank=2, alpha=5.0, **more), seed=9).eval(), tmp_path / "theirs")
    assert all(torch.equal(one, learned(module)[name]) for name, one in learned(again).items())
    with torch.no_grad():
        assert torch.equal(said(again, x), expected)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (Lora(rank=4, alpha=5.0), "r is 2, expected 4"),
        (Lora(rank=2, alpha=6.0), "lora_alpha is 5.0, expected 6.0"),
        (Lora(rank=2, alpha=5.0, rslora=True), "use_rslora is False"),
        (Lora(rank=2, alpha=5.0, targets=("0",), also=("4",)), r"2.lora_A.weight was not expected"),
        (Lora(rank=2, alpha=5.0, targets=("0", "2")), r"4.weight was not expected"),
    ],
)
def test_an_adapter_of_another_make_is_refused(lora: Lora, message: str, tmp_path: Path) -> None:
    export(adapt(mlp(), Lora(rank=2, alpha=5.0)), tmp_path)
    module = adapt(mlp(), lora, seed=1)
    before = {name: one.detach().clone() for name, one in learned(module).items()}
    with pytest.raises(BlobError, match=message):
        load(module, tmp_path)
    assert all(torch.equal(one, before[name]) for name, one in learned(module).items())


def test_what_is_no_adapter_is_refused(tmp_path: Path) -> None:
    module = adapt(mlp(), Lora(rank=2))
    with pytest.raises(BlobError, match="cannot read an adapter"):
        load(module, tmp_path)
    export(module, tmp_path)
    held = load_file(tmp_path / WEIGHTS)
    save_file({name: one[..., :1].copy() for name, one in held.items()}, tmp_path / WEIGHTS)
    with pytest.raises(BlobError, match="shape"):
        load(module, tmp_path)
    (tmp_path / CONFIG).write_text("{")
    with pytest.raises(BlobError, match="cannot read an adapter"):
        load(module, tmp_path)
    with pytest.raises(ConfigError, match="without adapters"):
        export(mlp(), tmp_path)


def test_a_model_goes_to_peft_and_comes_back_as_a_module_of_its_own(tmp_path: Path) -> None:
    """Out: its arrays in a module, exported. In: a maker that loads adapters; what is trained is what asks for it."""
    lora = {"rank": 2, "alpha": 3.0}
    spec = {"family": "neural", "task": "multiclass", "classes": 3, "dense": 5, "dtype": "int64", "batch": 4}
    spec["new_classes"] = "plain"  # else answers say how frequent classes are as well, and the module's do not
    one = model.build({**spec, "module": "tests.families.neural.test_lora:bert", "lora": lora, "frozen": "rebuilt"})
    one.learn(tokens(0, 20), np.arange(20) % 3.0, np.ones(20, np.float32))
    export(fill(adapt(bert(), Lora(**lora)), one.arrays), tmp_path)
    with torch.no_grad():
        theirs = said(load(adapt(bert(), Lora(**lora)), tmp_path).eval(), torch.tensor(tokens(0, 20).dense).long())
    assert np.allclose(theirs.softmax(1).numpy(), one.predict(tokens(0, 20)), atol=1e-6)
    maker = {
        "module": "tests.families.neural.test_lora:loaded",
        "arguments": {"folder": str(tmp_path), **lora},
        "layout": 1,
        "known": True,
    }
    other = model.build({**spec, **maker})
    assert np.allclose(other.predict(tokens(0, 20)), one.predict(tokens(0, 20)), atol=1e-6)
    frozen = copied(other.arrays)
    other.learn(tokens(0, 20), np.arange(20) % 3.0, np.ones(20, np.float32))
    changed = {name for name, array in other.arrays.items() if array.tobytes() != frozen[name].tobytes()}
    assert {name for name in changed if name.startswith("weights/")} == {
        name for name in one.arrays if name.startswith("weights/")
    }


def loaded(folder: str, rank: int, alpha: float) -> nn.Module:
    return load(adapt(bert(), Lora(rank=rank, alpha=alpha)), folder)


def test_arrays_of_another_make_are_not_filled_in() -> None:
    one = model.build({"family": "neural", "task": "binary", "dense": 3, "lora": {"rank": 2}})
    module = make(settings.read({"task": "binary", "dense": 3}))
    with pytest.raises(ModelError, match=r"first\.base_layer\.weight' was not expected"):
        fill(module, one.arrays)
    with pytest.raises(ModelError, match="has shape"):
        fill(adapt(module, Lora(rank=3)), one.arrays)


# ---- in the loop ------------------------------------------------------------------------------------------------


def test_what_adapters_begin_with_follows_the_seed_of_the_model() -> None:
    spec = {"family": "neural", "task": "binary", "dense": 3, "lora": {"rank": 2}}
    drawn = [model.build({**spec, "seed": seed}).arrays["weights/first.lora_A.default.weight"] for seed in (1, 1, 2)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def sentence(row: int) -> dict[str, Any]:
    """Five tokens, and which third of the vocabulary the second is from."""
    tokens = np.random.default_rng(row).integers(1, 19, 5)
    return {"tokens": tokens.tolist(), "kind": ("low", "middle", "high")[(int(tokens[1]) - 1) // 6]}


def tokens(first: int, last: int) -> Batch:
    dense = np.array([sentence(row)["tokens"] for row in range(first, last)], np.float32)
    return Batch(dense, np.zeros(len(dense) + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))


def test_a_transformer_learns_live_and_serving_swaps_its_adapters_alone(tmp_path: Path) -> None:
    """Someone else's transformer, answering from snapshots that hold adapters and head, while it goes on learning."""
    spec = {
        "mode": "live",
        "schema": {
            "label": "kind",
            "task": "multiclass",
            "classes": ["low", "middle", "high"],
            "fields": {"tokens": "vector[5]"},
        },
        "model": {
            "family": "neural",
            "module": "tests.families.neural.test_lora:bert",
            "arguments": {"size": 64},
            "dtype": "int64",
            "lora": {"rank": 4},
            "frozen": "rebuilt",
            "batch": 8,
            "ema": 0.9,
            "optimizer": {"name": "adam", "lr": 0.01},
        },
    }
    folder = tmp_path / "serving"
    folder.mkdir(mode=0o700)
    whole = sum(one.numel() * one.element_size() for one in bert(64).parameters())
    publisher, reader, asked = Publisher(folder), Reader(folder, model.build), tokens(1000, 1040)
    with el.open(spec, home=tmp_path / "home") as loop:
        seen = []
        for begin, end in ((0, 64), (64, 128)):
            for row in range(begin, end):
                event = sentence(row)
                loop.learn({"tokens": event["tokens"]}, event["kind"])
            served = loop.ready()
            publisher.publish(Answering(served.version, served.model), None, loop.position, {})
            made = len(MADE)
            seen.append(reader.current())
            assert np.allclose(seen[-1].champion.model.predict(asked), served.model.predict(asked), atol=1e-6)
            assert (len(MADE) > made) == (begin == 0)  # nothing is made anew for the second snapshot
        assert loop.predict({"tokens": sentence(1)["tokens"]}).value in ("low", "middle", "high")
    assert (folder / CURRENT).stat().st_size < whole / 8
    names = {name for name in seen[1].champion.model.arrays if name.startswith("weights/")}
    assert names == {name for name in names if "lora_" in name or "classifier" in name}
    before, after = (one.champion.model.predict(asked) for one in seen)
    assert np.abs(before - after).max() > 1e-3  # a request that holds on to the first snapshot is answered by it
    for one in seen:
        reader_arrays = one.champion.model.arrays
        assert not any(array.flags.writeable for name, array in reader_arrays.items() if name in names)


def test_adapters_of_a_loop_are_those_of_a_model_that_was_never_interrupted(tmp_path: Path) -> None:
    spec = {
        "family": "neural",
        "task": "binary",
        "dense": 4,
        "arguments": {"hidden": [8, 8]},
        "layout": 1,  # with dropout, a retired setting
        "lora": {"rank": 2, "dropout": 0.2},
        "terms": [{"kind": "orthogonal"}],
        "consolidate": {"every": 40, "rows": 32},
        "batch": 8,
    }
    random = np.random.default_rng(0)
    dense = random.normal(size=(150, 4)).astype(np.float32)
    batch = Batch(dense, np.zeros(151, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    y, weight = (dense[:, 0] > 0).astype(float), np.ones(150, np.float32)
    whole, resumed = model.build(spec), model.build(spec)
    whole.learn(batch, y, weight)
    for begin, end in ((0, 43), (43, 90), (90, 150)):
        part = Batch(dense[begin:end], batch.indptr[begin : end + 1], batch.indices, batch.values)
        resumed.learn(part, y[begin:end], weight[begin:end])
        resumed = model.copy(resumed)
    assert all(array.tobytes() == resumed.arrays[name].tobytes() for name, array in whole.arrays.items())
    energies = [array for name, array in whole.arrays.items() if name.endswith("lora_A.default/energy")]
    assert energies
    assert all(array.any() for array in energies)
