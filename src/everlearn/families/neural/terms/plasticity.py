"""Terms against loss of plasticity: L2 towards the start, shrink and perturb, continual backprop.

After long training a network learns worse than a new one: weights grow, units die (Dohare et al. 2024).
"""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

from msgspec import Meta, Struct

from everlearn._torch import Tensor, Tensors, functional, nn, torch
from everlearn.errors import ConfigError
from everlearn.families.neural.contract import Net, Seen, Term
from everlearn.families.neural.rowwise import answers, joined, still

STREAM = 0x57A1E  # of the random numbers of these terms

NotNegative = Annotated[float, Meta(ge=0)]


class L2Init(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="l2_init"):
    """Pull weights towards their initial values.

    The penalty is strength * |weights - start|² (Kumar et al. 2023), solved after the step as in `anchors`.
    """

    strength: NotNegative = 0.01


class ShrinkPerturb(
    Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="shrink_perturb"
):
    """Shrink weights a little, and add a little noise, at each step.

    w := (1 - shrink) * w + noise * N(0, 1) (Ash and Adams 2020, at each step as in Dohare et al. 2024). Without
    gradients, weights reach a deviation of noise / sqrt(2 * shrink): 0.07 with these defaults. Only weights with two
    axes or more change: shrinking takes gains to 0, which is not where they begin.
    """

    shrink: Annotated[float, Meta(ge=0, le=1)] = 1e-4
    noise: NotNegative = 1e-3


class ContinualBackprop(
    Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="continual_backprop"
):
    """Replace the units that contribute least.

    Of the hidden units older than `maturity` steps, the share `rate` is replaced at each step on average: those of
    least utility, the running mean (`decay`) of |activation| * sum of |outgoing weights|. A new unit has new incoming
    weights, a bias of 0 and outgoing weights of 0, so that outputs change by no more than the contribution of the old
    unit. Dohare et al. 2024, algorithm 1. The optimiser keeps its moments of these weights: with Adam, the old
    direction fades in about ten steps, and the old size of steps in about a thousand.

    Units are the outputs of a linear layer or convolution that reach one other such layer and nothing else, through
    activations, dropout, flattening and, for convolutions, pooling. It costs one more forward pass for each step.
    Retired: `maturity` and `decay`.
    """

    rate: Annotated[float, Meta(ge=0, le=1)] = 1e-4
    maturity: Annotated[int, Meta(ge=0)] = 100
    decay: Annotated[float, Meta(ge=0, lt=1)] = 0.99


def _start_l2(spec: L2Init, net: Net) -> Tensors:
    """Return copies of the initial weights."""
    return {f"start/{name}": weight.detach().clone() for name, weight in net.weights.items()}


@torch.no_grad()
def _stepped_l2(spec: L2Init, net: Net, own: Tensors, seen: Seen) -> None:
    """Pull weights towards their initial values."""
    force = min(2.0 * net.rate * spec.strength, 1e30)
    start = [own[f"start/{name}"] for name in net.weights]
    torch._foreach_lerp_(list(net.weights.values()), start, force / (1.0 + force))


@torch.no_grad()
def _stepped_noise(spec: ShrinkPerturb, net: Net, own: Tensors, seen: Seen) -> None:
    """Shrink weights, and add noise."""
    weights = [weight for weight in net.weights.values() if weight.ndim > 1]
    if not weights:
        return
    torch._foreach_mul_(weights, 1.0 - spec.shrink)
    if spec.noise > 0.0:
        random = net.random(STREAM)
        noise = [torch.randn(held.shape, generator=random, device=held.device, dtype=held.dtype) for held in weights]
        torch._foreach_add_(weights, noise, alpha=spec.noise)


class Units(NamedTuple):
    """Hidden units: the outputs of the layer `before`, which only the layer `after` reads. Both are names."""

    before: str
    after: str


SHAPES = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Flatten, nn.Identity)
MODULES = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softplus)
FUNCTIONS = {torch.relu, torch.tanh, torch.sigmoid, torch.flatten, torch.dropout, functional.relu, functional.dropout}
FUNCTIONS |= {functional.leaky_relu, functional.elu, functional.gelu, functional.silu, functional.tanh}
FUNCTIONS |= {functional.sigmoid}
POOLS = (
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
)  # they mix units of linear layers, the last axis
POOLING = {functional.max_pool2d, functional.avg_pool2d, functional.adaptive_avg_pool2d}
METHODS = {"relu", "tanh", "sigmoid", "flatten", "view", "reshape"}
SHAPE_METHODS = {"size", "dim"}  # they read the shape of a tensor, not its values


def units(net: Net) -> list[Units]:
    """Return the hidden units that can be replaced, layer by layer, from the graph of the module's forward pass.

    Conditions on shapes ("if x.ndim == 2") are taken as true. Raises `ConfigError` where no units can be replaced, and
    where the forward pass depends on values and has no graph.

    >>> module = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    >>> nothing = torch.zeros
    >>> units(Net(module, dict(module.named_parameters()), 2, 2, 0, nothing, nothing, nothing))
    [Units(before='0', after='2'), Units(before='2', after='4')]
    """
    try:
        graph = _Tracer().trace(net.module)
    except Exception as error:
        raise ConfigError(f"continual_backprop: cannot trace the forward pass of the module: {error}") from error
    modules = dict(net.module.named_modules())
    calls = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    calls += [str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"]
    found = []
    for node in graph.nodes:
        after = _reader(node, modules) if _is_layer(node, modules) else None
        if after is None or calls.count(str(node.target)) != 1 or calls.count(after) != 1:
            continue
        if joined(node.target, "weight") in net.weights and joined(after, "weight") in net.weights:
            found.append(Units(str(node.target), after))
    if not found:
        raise ConfigError(
            "continual_backprop: the module has no hidden units it can replace; expected a linear layer or convolution "
            "that reaches another one through activations, dropout, flattening and, for convolutions, pooling"
        )
    return found


def _is_layer(node: torch.fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Return True for a linear layer or a convolution whose units can be replaced."""
    layer = modules.get(str(node.target)) if node.op == "call_module" else None
    return type(layer) is nn.Linear or (type(layer) is nn.Conv2d and layer.groups == 1)


def _reader(node: torch.fx.Node, modules: dict[str, nn.Module]) -> str | None:
    """Return the only layer that reads the units of a layer, or None."""
    last = isinstance(modules[str(node.target)], nn.Linear)
    while True:
        users = [user for user in node.users if not _reads_shape(user)]
        if len(users) != 1:
            return None
        node = users[0]
        if _is_layer(node, modules):
            listener = str(node.target)
            return None if last and isinstance(modules[listener], nn.Conv2d) else listener
        if not _passes(node, modules) and (last or not _pools(node, modules)):
            return None


def _reads_shape(node: torch.fx.Node) -> bool:
    """Return True if a node reads the shape of a tensor."""
    return (node.op == "call_method" and node.target in SHAPE_METHODS) or (
        node.op == "call_function" and node.target is getattr and node.args[1] in ("shape", "ndim")
    )


class _Tracer(torch.fx.Tracer):
    """A tracer that takes conditions on shapes as true."""

    def to_bool(self, obj: torch.fx.Proxy) -> bool:
        """Return True for conditions on shapes; other conditions need values, and fail."""
        nodes, shapes = [obj.node], 0
        while nodes:
            node = nodes.pop()
            if _reads_shape(node):
                shapes += 1
            elif node.all_input_nodes:
                nodes += node.all_input_nodes
            else:
                return super().to_bool(obj)
        return shapes > 0 or super().to_bool(obj)


def _passes(node: torch.fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Return True if a node keeps units apart."""
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], SHAPES + MODULES)
    return node.target in (FUNCTIONS if node.op == "call_function" else METHODS)


def _pools(node: torch.fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Return True if a node pools the places of each channel."""
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], POOLS)
    return node.op == "call_function" and node.target in POOLING


def _start_backprop(spec: ContinualBackprop, net: Net) -> Tensors:
    """Return utility, age and spread of each layer's units."""
    own: Tensors = {}
    for before, after in units(net):
        weight, pair = net.weights[joined(before, "weight")].detach(), f"{before}->{after}"
        own[f"utility/{pair}"] = weight.new_zeros(weight.shape[0])
        own[f"spread/{pair}"] = weight.std().reshape(1) * math.sqrt(3.0)
        own[f"age/{pair}"] = torch.zeros(weight.shape[0], dtype=torch.int64)  # on the CPU, as is
        own[f"due/{pair}"] = torch.zeros(1, dtype=torch.float64)  # `due`: no device has to be waited for
    return own


@torch.no_grad()
def _stepped_backprop(spec: ContinualBackprop, net: Net, own: Tensors, seen: Seen) -> None:
    """Update utilities, and replace the units that are due."""
    if len(seen.new) == 0:
        return
    pairs = [name.removeprefix("utility/") for name in own if name.startswith("utility/")]
    activations = _activations(net, [Units(*pair.split("->")) for pair in pairs], seen)
    for stream, (pair, inputs) in enumerate(zip(pairs, activations, strict=True)):
        before, _, after = pair.partition("->")
        weight = net.weights[joined(after, "weight")]
        utility, age, due = (own[f"{part}/{pair}"] for part in ("utility", "age", "due"))
        outgoing = weight.abs().view(weight.shape[0], inputs.numel(), -1).sum((0, 2))
        contribution = _by_unit(net, before, (inputs * outgoing)[None])[0].sum(1)
        utility.mul_(spec.decay).add_(contribution, alpha=1.0 - spec.decay)
        age += 1
        grown = age > spec.maturity
        due += spec.rate * int(grown.sum())
        ready = min(int(due), int(grown.sum()))
        if ready > 0:
            due -= ready
            known = utility / (1.0 - spec.decay**age).to(utility)
            least = torch.where(grown.to(utility.device), known, torch.inf).argsort(stable=True)[:ready]
            _renew(net, own, pair, least, net.random(STREAM + 1 + stream))


def _by_unit(net: Net, before: str, of_inputs: Tensor) -> Tensor:
    """Return values of the inputs of the reading layer, (n, inputs, ...), as (n, units, ...): a view.

    Flattening puts all places of a convolution's unit before the next unit, and all units of a linear layer's place
    before the next place.
    """
    units = net.weights[joined(before, "weight")].shape[0]
    if isinstance(net.module.get_submodule(before), nn.Linear):
        return of_inputs.view(of_inputs.shape[0], -1, units).transpose(1, 2)
    return of_inputs.view(of_inputs.shape[0], units, -1)


def _activations(net: Net, pairs: list[Units], seen: Seen) -> list[Tensor]:
    """Return the mean over rows (and places) of the absolute inputs of each reading layer."""
    found: dict[str, Tensor] = {}
    came: dict[str, torch.Size] = {}
    gave: dict[str, torch.Size] = {}
    handles = []
    modules = dict(net.module.named_modules())
    for pair in pairs:

        def record_input(layer: nn.Module, given: tuple[Tensor, ...], name: str = pair.after) -> None:
            size = given[0].abs().float()
            came[name] = size.shape
            found[name] = size.mean((0, 2, 3)) if isinstance(layer, nn.Conv2d) else size.flatten(0, -2).mean(0)

        def record_output(
            layer: nn.Module, given: tuple[Tensor, ...], outputs: Tensor, name: str = pair.before
        ) -> None:
            gave[name] = outputs.shape

        handles.append(modules[pair.after].register_forward_pre_hook(record_input))
        handles.append(modules[pair.before].register_forward_hook(record_output))
    try:
        with still(net.module):
            answers(net, seen.new.x)
    finally:
        for handle in handles:
            handle.remove()
    for pair in pairs:
        if pair.after not in came or pair.before not in gave:
            raise ConfigError(
                "continual_backprop: a layer in the graph of the module is not called. Leave this term out"
            )
        if not _apart(modules[pair.before], modules[pair.after], gave[pair.before], came[pair.after]):
            raise ConfigError(
                f"continual_backprop: layer {pair.before!r} gives {tuple(gave[pair.before])}, and {pair.after!r} reads "
                f"{tuple(came[pair.after])}; expected shapes that keep units apart. Flatten outputs of convolutions "
                "from axis 1 on, split no units of linear layers, or leave this term out"
            )
    return [found[pair.after] for pair in pairs]


def _apart(before: nn.Module, after: nn.Module, gave: torch.Size, came: torch.Size) -> bool:
    """Return True if each input of `after` belongs to one unit, at the place that `_by_unit` gives it.

    >>> first, flat, split = nn.Linear(4, 6), nn.Linear(30, 3), nn.Linear(3, 3)
    >>> _apart(first, flat, torch.Size([10, 5, 6]), torch.Size([10, 30]))
    True
    >>> _apart(first, split, torch.Size([10, 6]), torch.Size([20, 3]))
    False
    """
    if isinstance(before, nn.Linear):
        return came[-1] % gave[-1] == 0
    if isinstance(after, nn.Conv2d):
        return came[:2] == gave[:2]
    return len(came) == 2 and came[0] == gave[0] and came[1] % gave[1] == 0


def _renew(net: Net, own: Tensors, pair: str, which: Tensor, random: torch.Generator) -> None:
    """Give units new incoming weights, and outgoing weights of 0."""
    before, _, after = pair.partition("->")
    weight, bias = net.weights[joined(before, "weight")], net.weights.get(joined(before, "bias"))
    fresh = torch.rand((len(which), *weight.shape[1:]), generator=random, device=weight.device, dtype=weight.dtype)
    weight[which] = (2.0 * fresh - 1.0) * own[f"spread/{pair}"]
    if bias is not None:
        bias[which] = 0.0
    _by_unit(net, before, net.weights[joined(after, "weight")])[:, which] = 0.0
    own[f"utility/{pair}"][which] = 0.0
    own[f"age/{pair}"][which.cpu()] = 0


L2_INIT = Term(start=_start_l2, stepped=_stepped_l2)
SHRINK_PERTURB = Term(stepped=_stepped_noise)
CONTINUAL_BACKPROP = Term(start=_start_backprop, stepped=_stepped_backprop)
