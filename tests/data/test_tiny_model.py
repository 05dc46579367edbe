"""The tokenizer and the small Llama of the service desk."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("transformers")

from everlearn.data import service_desk as desk
from everlearn.data import tiny_model
from everlearn.families.preference import sampling, text
from everlearn.families.preference.policy import load_model, load_tokenizer


def test_the_tokenizer_spells_the_language_and_asks_by_its_template() -> None:
    tokenizer = tiny_model.make_tokenizer()
    sentences = [*desk.COMPLAINTS, *desk.REMEDIES.values(), *desk.KIND, *desk.RUDE, *desk.PADDING, *desk.FAREWELLS]
    whole = " ".join(sentences)
    ids = tokenizer.encode(whole, add_special_tokens=False)
    assert tokenizer.decode(ids) == whole
    assert len(ids) <= 1.1 * len(whole.split())  # a word is a token
    assert tokenizer.decode(tokenizer.encode("Größe?", add_special_tokens=False)) == "Größe?"
    asked = tokenizer.decode(text.render(tokenizer, desk.COMPLAINTS[0]))
    assert asked == f"{tiny_model.USER}{desk.COMPLAINTS[0]}{tiny_model.AGENT}"


def test_a_model_is_a_function_of_its_seed(tmp_path: Path) -> None:
    steps: list[int] = []
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        tiny_model.make(tmp_path / name, seed, steps=2, progress=lambda done, _: steps.append(done))
    weights = {name: (tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "same", "other")}
    assert weights["one"] == weights["same"] != weights["other"]
    assert steps == [1, 2] * 3
    model, tokenizer = load_model(str(tmp_path / "one")), load_tokenizer(str(tmp_path / "one"))
    assert 0.6e6 < sum(weight.numel() for weight in model.parameters()) < 0.8e6
    assert text.stop_tokens(model, tokenizer) == (tokenizer.eos_token_id,)


@pytest.mark.slow
def test_a_taught_model_speaks_the_language(tmp_path: Path) -> None:
    tiny_model.make(tmp_path)
    model, tokenizer = load_model(str(tmp_path)), load_tokenizer(str(tmp_path))
    prompts = [text.render(tokenizer, one) for one in desk.COMPLAINTS]
    stop = text.stop_tokens(model, tokenizer)
    found = sampling.generate_many(model, prompts, 48, seeds=range(8), limit=48, stop=stop)
    texts = [tokenizer.decode(list(one.ids), skip_special_tokens=True) for some in found for one in some]
    parts = [one for one in map(desk.parse, texts) if one is not None]
    assert len(parts) / len(texts) > 0.97
    assert [one.tone for one in parts].count(-1) / len(parts) == pytest.approx(0.40, abs=0.12)
    assert [one.tone for one in parts].count(1) / len(parts) == pytest.approx(0.23, abs=0.12)
