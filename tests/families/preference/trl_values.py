"""Write trl_values.json: losses of TRL 1.16.0 on random inputs.

    python tests/families/preference/trl_values.py trl-1.16.0-py3-none-any.whl

Statements of the trainers' methods are taken out of the wheel and run as they stand there, so that neither TRL nor its
requirements need be installed.
"""

from __future__ import annotations

import ast
import json
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

VERSION = "1.16.0"
PAIRS, TOKENS, PROMPTS, ANSWERS = 6, 5, 3, 4


class Wheel:
    """The source of one release of TRL."""

    def __init__(self, path: str) -> None:
        self._files = zipfile.ZipFile(path)
        assert f"trl-{VERSION}.dist-info/METADATA" in self._files.namelist(), f"expected the wheel of TRL {VERSION}"

    def run(self, file: str, method: str, names: dict[str, Any], first: str, last: str) -> dict[str, Any]:
        """Run a method's statements, from the first that assigns `first` to the last that assigns `last`."""
        tree = ast.parse(self._files.read(f"trl/{file}"))
        found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == method]
        body = found[0].body
        begin = next(i for i, node in enumerate(body) if first in _assigned(node))
        end = max(i for i, node in enumerate(body) if last in _assigned(node))
        module = ast.Module(body[begin : end + 1], [])
        names = {"torch": torch, "F": functional, "nn": nn, **names}
        exec(compile(module, file, "exec"), names)
        return names


def _assigned(node: ast.stmt) -> set[str]:
    inner = [part for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)]
    return {name.id for name in inner}


def _numbers(tensor: torch.Tensor) -> Any:
    return tensor.detach().double().tolist()


def pairs(wheel: Wheel, draw: torch.Generator) -> dict[str, Any]:
    """Losses of pairs from the DPO trainer, one number for each pair."""
    logp = torch.randn(4, PAIRS, generator=draw) * 3 - 8
    lengths = torch.randint(1, TOKENS + 1, (2, PAIRS), generator=draw)
    masks = (torch.arange(TOKENS) < lengths[..., None]).long()
    names = ("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps")
    found: dict[str, Any] = {"logp": _numbers(logp), "lengths": lengths.tolist()}
    for kind, beta, flip in (
        ("sigmoid", 0.1, 0.0),
        ("ipo", 0.1, 0.0),
        ("robust", 0.3, 0.2),
        ("sigmoid_norm", 2.0, 0.0),
    ):
        trainer = SimpleNamespace(
            f_divergence_type="reverse_kl", loss_types=[kind], loss_weights=[1.0], beta=beta, label_smoothing=flip
        )
        trainer.use_weighting = False
        given = {
            "self": trainer,
            "device": "cpu",
            "completion_mask": masks.reshape(2 * PAIRS, TOKENS),
            **dict(zip(names, logp, strict=True)),
        }
        done = wheel.run("trainer/dpo_trainer.py", "_compute_loss", given, "chosen_logratios", "per_sequence_loss")
        found[kind] = {"beta": beta, "flip": flip, "losses": _numbers(done["per_sequence_loss"])}
    for kind, beta, flip in (("simpo", 2.0, 0.0), ("sigmoid", 0.1, 0.1)):
        trainer = SimpleNamespace(alpha=0.0, loss_type=kind, simpo_gamma=1.0, beta=beta, label_smoothing=flip)
        trainer.accelerator = SimpleNamespace(device="cpu")
        scale = lengths if kind == "simpo" else torch.ones_like(lengths)
        given = {
            "self": trainer,
            "policy_chosen_logps": logp[0] / scale[0],
            "policy_rejected_logps": logp[1] / scale[1],
        }
        done = wheel.run("experimental/cpo/cpo_trainer.py", "cpo_loss", given, "logits", "losses")
        found[f"cpo_{kind}"] = {"beta": beta, "flip": flip, "losses": _numbers(done["losses"])}
    return found


def thumbs(wheel: Wheel, draw: torch.Generator) -> dict[str, Any]:
    """Losses of the KTO trainer: of desirable answers, then of the others."""
    logp, reference, mismatched, reference_mismatched = torch.randn(4, PAIRS, generator=draw) * 2 - 6
    label = torch.tensor([1, 0, 1, 1, 0, 0])
    found = {"logp": [_numbers(one) for one in (logp, reference, mismatched, reference_mismatched)]}
    for sign, shift in (("positive", 3.0), ("clamped", -30.0)):
        trainer = SimpleNamespace(
            precompute_ref_logps=True,
            calculate_KL=True,
            loss_type="kto",
            beta=0.2,
            desirable_weight=1.0,
            undesirable_weight=1.5,
            accelerator=SimpleNamespace(gather_for_metrics=lambda one: one, device="cpu"),
        )
        given = {
            "self": trainer,
            "batch": {"label": label, "ref_logps": reference, "ref_KL_logps": reference_mismatched},
            "completion_logps": logp,
            "KL_logps": mismatched + shift,
            "device": "cpu",
        }
        done = wheel.run("trainer/kto_trainer.py", "_compute_loss", given, "bool_labels", "losses")
        losses = torch.cat([done["chosen_losses"], done["rejected_losses"] * 1.5])
        found[sign] = {"shift": shift, "losses": _numbers(losses)}
    return {**found, "label": label.tolist(), "beta": 0.2, "weights": [1.0, 1.5]}


def rewards(wheel: Wheel, draw: torch.Generator) -> dict[str, Any]:
    """Losses of the reward trainer, without and with margins."""
    logits = torch.randn(2 * PAIRS, 1, generator=draw)
    inputs = {"margin": torch.rand(PAIRS, generator=draw)}
    trainer = SimpleNamespace(args=SimpleNamespace(center_rewards_coefficient=None))
    found: dict[str, Any] = {"rewards": _numbers(logits[:, 0]), "margin": _numbers(inputs["margin"])}
    for name, given in (("plain", {}), ("margins", inputs)):
        names = {"self": trainer, "inputs": given, "outputs": SimpleNamespace(logits=logits)}
        done = wheel.run("trainer/reward_trainer.py", "compute_loss", names, "rewards_chosen", "loss")
        found[name] = float(done["loss"])
    return found


def groups(wheel: Wheel, draw: torch.Generator) -> dict[str, Any]:
    """Advantages and losses of the RLOO and GRPO trainers."""
    rows = PROMPTS * ANSWERS
    scores = torch.randn(rows, generator=draw)
    logp, behaviour, reference = torch.randn(3, rows, TOKENS, generator=draw) * 0.3 - 2
    lengths = torch.randint(1, TOKENS + 1, (rows,), generator=draw)
    mask = (torch.arange(TOKENS) < lengths[:, None]).float()
    found: dict[str, Any] = {"scores": _numbers(scores), "lengths": lengths.tolist()}
    found |= {"logp": _numbers(logp), "behaviour": _numbers(behaviour), "reference": _numbers(reference)}
    spread = lambda one, dim=None: one.std(dim) if dim is not None else one.std()  # noqa: E731  (nanstd without NaN)
    for scale in ("group", "none"):
        trainer = SimpleNamespace(
            multi_objective_aggregation="sum_then_normalize", scale_rewards=scale, reward_weights=torch.ones(1)
        )
        given = {
            "self": trainer,
            "rewards_per_func": scores[:, None].clone(),
            "num_generations": ANSWERS,
            "device": "cpu",
            "nanstd": spread,
        }
        begin, method = "unscorable_mask", "_generate_and_score_completions"
        done = wheel.run("trainer/grpo_trainer.py", method, given, begin, "is_std_zero")
        found[f"advantages_{scale}"] = _numbers(done["advantages"])
        for kind in ("grpo", "dr_grpo"):
            trainer = SimpleNamespace(
                loss_type=kind,
                beta=0.04,
                epsilon_low=0.2,
                epsilon_high=0.2,
                importance_sampling_level="token",
                off_policy_mask_threshold=None,
                use_vllm=False,
                max_completion_length=TOKENS,
                model=SimpleNamespace(training=False),
                args=SimpleNamespace(delta=None, use_bias_correction_kl=False),
            )
            given = {
                "self": trainer,
                "inputs": {"ref_per_token_logps": reference},
                "advantages": done["advantages"][:, None],
                "per_token_logps": logp,
                "old_per_token_logps": behaviour,
                "mask": mask,
                "entropy_mask": None,
            }
            last = wheel.run("trainer/grpo_trainer.py", "_compute_loss", given, "log_ratio", "policy_loss")
            found[f"{kind}_{scale}"] = float(last["loss"])
    given = {"rewards": scores, "num_generations": ANSWERS, "nanstd": spread}
    given["self"] = SimpleNamespace(normalize_advantages=False)
    done = wheel.run(
        "trainer/rloo_trainer.py", "_generate_and_score_completions", given, "grouped_rewards", "is_std_zero"
    )
    found["advantages_rloo"] = _numbers(done["advantages"])
    sums = {"logps": (logp * mask).sum(1), "old_logps": (behaviour * mask).sum(1)}
    given = {"self": SimpleNamespace(epsilon_low=0.2, epsilon_high=0.2), "inputs": {"advantages": done["advantages"]}}
    given["log_ratio"] = sums["logps"] - sums["old_logps"]
    done = wheel.run("trainer/rloo_trainer.py", "_compute_loss", given, "advantages", "per_sequence_loss")
    return {**found, "rloo": _numbers(done["per_sequence_loss"])}


def main(path: str) -> None:
    """Write the values beside this file."""
    wheel, draw = Wheel(path), torch.Generator().manual_seed(0)
    found = {part.__name__: part(wheel, draw) for part in (pairs, thumbs, rewards, groups)}
    text = json.dumps({"trl": VERSION, **found}, indent=1)
    Path(__file__).with_suffix(".json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
