"""fp16: scaler states, exact skips, unscaling, master weights, the norm's kernel, learning."""

import copy
import json
import math
import os
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from torch import nn
from triton_copies import compiled, interpreted, private_copy

from sentiment_kit.data.files import KitError
from sentiment_kit.model import norms
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.model.loss import cross_entropy
from sentiment_kit.model.norms import fused_norm
from sentiment_kit.training.fp16 import (
    POLICIES,
    DynamicLossScaler,
    MasterParams,
    StaticLossScaler,
    scaler_for,
    unscale_gradients,
)

INF, NAN = float("inf"), float("nan")


# The scalers


class ScalerStates(RuleBasedStateMachine):
    "Any sequence of good steps, overflows and checkpoints, beside a count in powers of two."

    def __init__(self):
        super().__init__()
        self.scaler = DynamicLossScaler(scale=4, growth_steps=3, floor=0.5, ceiling=16)
        self.power, self.good, self.skipped, self.in_a_row = 2, 0, 0, 0

    @rule(n=st.integers(1, 7))
    def good_steps(self, n):
        for _ in range(n):
            assert self.scaler.update(torch.tensor(False)) is True
            self.good, self.in_a_row = self.good + 1, 0
            if self.good == 3:
                self.power, self.good = min(self.power + 1, 4), 0

    @rule(n=st.integers(1, 3))
    def overflows(self, n):
        for _ in range(n):
            assert self.scaler.update(True) is False
            self.power, self.good = max(self.power - 1, -1), 0
            self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1

    @rule()
    def checkpoint(self):
        state = json.loads(json.dumps(self.scaler.state()))
        self.scaler = DynamicLossScaler()
        self.scaler.load_state(state)

    @invariant()
    def is_as_counted(self):
        s = self.scaler
        assert (s.scale, s.good_steps) == (2.0**self.power, self.good)
        assert (s.skipped, s.skipped_in_a_row) == (self.skipped, self.in_a_row)
        assert s.at_floor == (self.power == -1)


ScalerStates.TestCase.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
TestScalerStates = ScalerStates.TestCase


def test_the_defaults_are_the_documented_ones():
    s = DynamicLossScaler()
    assert (s.scale, s.growth_steps, s.floor, s.ceiling) == (65536.0, 1000, 1.0, 2.0**24)
    for _ in range(999):
        s.update(False)
    assert s.scale == 2.0**16
    s.update(False)
    assert s.scale == 2.0**17
    for _ in range(20_000):
        s.update(False)
    assert s.scale == 2.0**24


def test_a_run_that_overflows_forever_says_so():
    s, steps = DynamicLossScaler(), 0
    while not (s.at_floor and s.skipped_in_a_row >= 3):
        s.update(True)
        steps += 1
    assert s.scale == 1.0 and steps == 16
    s.update(False)
    assert s.skipped_in_a_row == 0 and s.skipped == 16
    assert StaticLossScaler(8).at_floor


def test_which_precision_gets_which():
    assert type(scaler_for("fp16")) is DynamicLossScaler
    for precision in ("fp32", "bf16"):
        assert type(scaler_for(precision)) is StaticLossScaler and scaler_for(precision).scale == 1
    assert (
        type(scaler_for("fp16", static=128)) is StaticLossScaler
        and scaler_for("fp16", static=128).scale == 128
    )
    assert [name for name, policy in POLICIES.items() if policy.loss_scale] == ["fp16"]
    with pytest.raises(KitError, match="fp8"):
        scaler_for("fp8")


@pytest.mark.parametrize("make", [StaticLossScaler, lambda s: DynamicLossScaler(scale=s)])
@pytest.mark.parametrize("scale", [0, -1, INF, NAN])
def test_impossible_scales_are_refused(make, scale):
    with pytest.raises(KitError):
        make(scale)


def test_a_start_outside_of_floor_and_ceiling_is_refused():
    for limits in (dict(scale=4, floor=8), dict(scale=4, ceiling=2), dict(growth_steps=0)):
        with pytest.raises(KitError):
            DynamicLossScaler(**limits)


def test_the_state_of_another_kind_of_scaler_is_refused():
    with pytest.raises(KitError, match="scaler"):
        StaticLossScaler().load_state(DynamicLossScaler().state())


# Unscaling


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    power=st.integers(-3, 24),
    shares=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_unscaling_divides(sizes, power, shares, seed):
    generator = torch.Generator().manual_seed(seed)
    gradients = [torch.randn(n, generator=generator) for n in sizes]
    scaler, ours = StaticLossScaler(2.0**power), [g.clone() for g in gradients]
    assert not scaler.unscale(ours, shares)
    torch.testing.assert_close(ours, [g / (2.0**power * shares) for g in gradients])
    if shares in (1, 2, 4, 8):  # powers of two add no error
        assert all(
            torch.equal(a, g / (2.0**power * shares)) for a, g in zip(ours, gradients, strict=True)
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [INF, -INF, NAN, 3e38])
@pytest.mark.parametrize("place", [0, 8, 36])
def test_one_bad_number_anywhere_is_found(dtype, value, place):
    for k in range(3):
        gradients = [torch.ones(37, dtype=dtype) for _ in range(3)]
        gradients[k][place] = value
        flag = unscale_gradients(gradients, 4.0)
        assert flag.dtype == torch.bool and flag.shape == ()
        assert bool(flag) == (not math.isfinite(value))


def test_fp64_is_divided_in_fp64():
    gradients = [torch.ones(3, dtype=torch.float64)]
    unscale_gradients(gradients, 3.0)
    assert torch.equal(gradients[0], torch.full((3,), 1 / 3, dtype=torch.float64))


def test_views_are_unscaled_where_they_lie():
    "The gradients of a flat buffer, as an all-reduce leaves them, and a transposed one."
    flat = torch.ones(12)
    unscale_gradients([flat[:4].view(2, 2), flat[4:].view(2, 4).t()], 2.0)
    assert torch.equal(flat, torch.full((12,), 0.5))


def test_half_gradients_are_refused_and_none_are_fine():
    with pytest.raises(KitError, match="float16"):
        unscale_gradients([torch.ones(2), torch.ones(2).half()], 2.0)
    assert not unscale_gradients([], 2.0)


def test_scaling_by_a_power_of_two_changes_no_bit_in_fp32():
    results = []
    for scale in (1.0, 2.0**16):
        model, ids_BT = tiny(), ids(4, 9)
        scaler = StaticLossScaler(scale)
        scaler.scaled(cross_entropy(model(ids_BT[:, :-1])[0], ids_BT[:, 1:])).backward()
        gradients = [p.grad for p in model.parameters()]
        assert not scaler.unscale(gradients)
        results.append(gradients)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


# Steps


def tiny(precision="fp32", hidden=32):
    torch.manual_seed(0)
    return LanguageModel(LanguageModelConfig(hidden_size=hidden, embed_size=8), precision)


def ids(B, T, seed=0):
    "A text with something to learn: a walk over 32 letters."
    steps_BT = torch.randint(1, 4, (B, T), generator=torch.Generator().manual_seed(seed))
    return steps_BT.cumsum(1) % 32


def step_on(model, optimizer, scaler, ids_BT, spoil=1.0):
    "One training step; returns loss in nats and whether it was taken."
    loss = cross_entropy(model(ids_BT[:, :-1])[0], ids_BT[:, 1:])
    (scaler.scaled(loss) * spoil).backward()
    gradients = [p.grad for p in model.parameters()]
    taken = scaler.update(scaler.unscale(gradients))
    if taken:
        torch._foreach_div_(gradients, fused_norm(gradients).clamp(min=1.0))
        optimizer.step()
    optimizer.zero_grad()
    return loss.item(), taken


@pytest.mark.parametrize("spoil", [INF, NAN, 1e9])
def test_a_skipped_step_leaves_no_trace(spoil):
    "Parameters, moments and step count stay to the bit; the run goes on as if without the batch."
    model = tiny("fp16")
    optimizer, scaler = torch.optim.Adam(model.parameters(), lr=0.01), DynamicLossScaler()
    step_on(model, optimizer, scaler, ids(4, 17))
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"]))
    _, taken = step_on(model, optimizer, scaler, ids(4, 17, seed=1), spoil)
    assert not taken and scaler.scale == 2.0**15 and scaler.skipped_in_a_row == 1
    for name, t in model.state_dict().items():
        assert torch.equal(t, before[0][name])
    for k, moments in optimizer.state_dict()["state"].items():
        assert all(torch.equal(moments[name], before[1][k][name]) for name in moments)
    assert step_on(model, optimizer, scaler, ids(4, 17, seed=1))[1] and scaler.skipped_in_a_row == 0


def gradient_of(precision, scale, ids_BT):
    model = tiny(precision)
    cross_entropy(model(ids_BT[:, :-1])[0], ids_BT[:, 1:]).mul(scale).backward()
    return model.rnn.layers[0].w_mh.grad / scale


def test_gradients_underflow_without_a_scale_and_not_with_it():
    """Measured on the recurrent matrix, as ‖fp16 − fp32‖ / ‖fp32‖ at 64 x 64 bytes. A mean
    over 32 times as many bytes makes every gradient 32 times smaller, which is what a loss
    scale of 1/32 does.
    """
    ids_BT = ids(64, 65)
    exact = gradient_of("fp32", 1.0, ids_BT)
    error = {
        name: ((gradient_of("fp16", scale, ids_BT) - exact).norm() / exact.norm()).item()
        for name, scale in (
            ("scaled", 2.0**16),
            ("plain", 1.0),
            ("a batch 32 times as large", 2.0**-5),
        )
    }
    print(error)
    assert error["scaled"] < 0.001 and error["plain"] > 4 * error["scaled"]
    assert error["a batch 32 times as large"] > 0.1


def test_fp16_with_a_scaler_learns_what_fp32_learns():
    "The same 60 steps; one of the scalers starts far too high and has to come down first."
    losses, scalers = {}, {}
    high = lambda: DynamicLossScaler(scale=2.0**36, ceiling=2.0**36)  # noqa: E731
    for name, make in (
        ("fp32", lambda: scaler_for("fp32")),
        ("fp16", lambda: scaler_for("fp16")),
        ("high", high),
    ):
        model = tiny("fp32" if name == "fp32" else "fp16")
        optimizer, scaler = torch.optim.Adam(model.parameters(), lr=0.02), make()
        taken = 0
        while taken < 60:
            loss, fine = step_on(model, optimizer, scaler, ids(8, 33, seed=taken))
            taken += fine
        losses[name], scalers[name] = loss / math.log(2), scaler
    print(losses, {name: (s.scale, s.skipped) for name, s in scalers.items()})
    assert losses["fp32"] < 4
    assert (
        abs(losses["fp16"] - losses["fp32"]) < 0.02 and abs(losses["high"] - losses["fp32"]) < 0.02
    )
    assert scalers["fp16"].skipped == 0 and scalers["high"].skipped > 0
    assert scalers["high"].scale == 2.0 ** (36 - scalers["high"].skipped)


# Master weights


class Net(nn.Module):
    "Tied, frozen and unused parameters."

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 11, bias=False)
        self.body, self.frozen, self.unused = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(2, 2)
        self.head.weight = self.embed.weight
        self.frozen.requires_grad_(False)

    def forward(self, ids_N):
        h_NH = torch.tanh(self.body(self.embed(ids_N)))
        return self.head(torch.tanh(self.frozen(h_NH)))


def loss_of(net, seed):
    ids_N = torch.randint(11, (64,), generator=torch.Generator().manual_seed(seed))
    return cross_entropy(net(ids_N), ids_N % 3)


def train_with_masters(precision, device=None, windows=1, steps=40):
    net = Net()
    masters, scaler = MasterParams(net, precision, device), scaler_for(precision)
    optimizer = torch.optim.Adam(masters.parameters(), lr=0.01)
    for step in range(steps):
        for k in range(windows):
            scaler.scaled(loss_of(net, windows * step + k)).backward()
            gradients = masters.collect_gradients()
        assert scaler.update(scaler.unscale(gradients, windows))
        optimizer.step()
        optimizer.zero_grad()
        masters.write_back()
    return net, masters


@pytest.mark.parametrize("windows", [1, 2])
def test_masters_train_like_fp32_within_rounding(windows):
    "fp32 masters are the plain thing bit for bit; half precision ends near it, tied or frozen."
    plain = Net()
    optimizer = torch.optim.Adam([p for p in plain.parameters() if p.requires_grad], lr=0.01)
    for step in range(40):
        for k in range(windows):
            (loss_of(plain, windows * step + k) / windows).backward()
        optimizer.step()
        optimizer.zero_grad()
    want = loss_of(plain, 99).item()
    start = {name: p.clone() for name, p in Net().named_parameters()}
    for precision, bound in (("fp32", 1e-6), ("fp16", 1e-2), ("bf16", 5e-2)):
        net, masters = train_with_masters(precision, windows=windows)
        got = loss_of(net.float(), 99).item()
        print(f"{precision}: {got:.4f} nats, fp32 without masters {want:.4f}")
        assert abs(got - want) < bound * want, (precision, got, want)
        assert net.head.weight is net.embed.weight
        assert set(masters.masters) == {
            "embed.weight",
            "body.weight",
            "body.bias",
            "unused.weight",
            "unused.bias",
        }
        assert torch.equal(masters.masters["unused.bias"], start["unused.bias"])
        for name, p in net.named_parameters():
            rounded = start[name].to(POLICIES[precision].operands).float()
            assert torch.equal(p, rounded) == (name.split(".")[0] in ("frozen", "unused"))


def test_masters_hold_what_was_there_before_rounding():
    net = Net()
    before = {name: p.detach().clone() for name, p in net.named_parameters() if p.requires_grad}
    masters = MasterParams(net, "fp16", device="cpu")
    assert {p.dtype for p in net.parameters()} == {torch.float16}
    assert all(torch.equal(t, before[name]) for name, t in masters.state().items())
    assert {(p.dtype, p.device.type) for p in masters.parameters()} == {(torch.float32, "cpu")}


def test_steps_below_the_spacing_of_fp16_add_up_in_the_masters():
    module = nn.Linear(1, 1, bias=False)
    nn.init.ones_(module.weight)
    masters = MasterParams(module)
    for _ in range(1000):
        masters.masters["weight"].data.sub_(1e-4)
        masters.write_back()
    assert abs(module.weight.item() - 0.9) < 5e-4


def test_gradients_move_and_are_unscaled_in_fp32():
    module = nn.Linear(2, 1, bias=False)
    masters = MasterParams(module)
    for n in (1, 2):
        module.weight.grad = torch.tensor([[2.0**-10, 1.0]], dtype=torch.float16)
        (gradient,) = masters.collect_gradients(scale=2.0**16)
        assert module.weight.grad is None and gradient.dtype == torch.float32
        assert torch.equal(
            gradient, n * torch.tensor([[2.0**-26, 2.0**-16]])
        )  # the first is 0 in fp16


def test_master_state_goes_round_and_another_modules_is_refused():
    net, masters = train_with_masters("fp16", steps=3)
    state = {name: t.clone() for name, t in masters.state().items()}
    other = Net()
    others = MasterParams(other)
    others.load_state(state)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(t, state[name]) for name, t in others.state().items())
    for wrong in (state | {"head.bias": torch.ones(1)}, {**state, "body.bias": torch.ones(3)}, {}):
        with pytest.raises(KitError, match="master '(head.bias|body.bias)'"):
            others.load_state(wrong)


# The norm


@pytest.fixture(scope="module")
def kernels():
    pytest.importorskip("triton")
    return interpreted(norms)[0]


def assortment(device="cpu"):
    "Stretches full, longer, empty, single; three precisions; one transposed, one with a gradient."
    torch.manual_seed(0)
    made = [torch.randn(n, device=device) for n in (2**16, 2**16 + 1, 0, 1, 3 * 2**16 + 5)]
    made[1], made[4] = made[1].half(), made[4].bfloat16()
    return [
        *made,
        torch.randn(30, 50, device=device).t(),
        torch.randn(2, 3, device=device, requires_grad=True),
    ]


def check_norm(two_pass_norm, device, bound=1e-6):
    tensors = assortment(device)
    exact = math.sqrt(sum((t.double() ** 2).sum().item() for t in tensors))
    norm = two_pass_norm(tensors)
    assert norm.dtype == torch.float32 and norm.shape == () and not norm.requires_grad
    assert abs(norm.item() / exact - 1) < bound
    assert torch.equal(norm, two_pass_norm(tensors)), "the same to the last bit"
    large = [torch.full((1000,), 60000.0, dtype=torch.float16, device=device)]
    assert abs(two_pass_norm(large).item() / (60000 * math.sqrt(1000)) - 1) < bound
    for bad in (INF, -INF, NAN):
        large[0][500] = bad
        assert not two_pass_norm(large).isfinite()


def test_kernel_of_the_norm(kernels):
    check_norm(kernels.two_pass_norm, "cpu")
    assert kernels.two_pass_norm([torch.ones(0)]) == 0


def test_norm_of_millions_is_exact():
    "One running fp32 sum of 2**23 squares would be off by 1e-4."
    x = torch.randn(2**23, generator=torch.Generator().manual_seed(0))
    exact = (x.double() ** 2).sum().sqrt().item()
    assert abs(fused_norm([x]).item() / exact - 1) < 4e-6


def test_norm_without_the_kernel():
    check_norm(fused_norm, "cpu", bound=4e-6)
    flat = [torch.randn(n) for n in (1, 2**16, 2**16 + 1)]
    shaped = [flat[0][0], flat[1].view(256, 16, 16), flat[2].requires_grad_()]
    assert (
        torch.equal(fused_norm(shaped), fused_norm(flat)) and not fused_norm(shaped).requires_grad
    )
    assert fused_norm([]) == 0
    assert (
        fused_norm([torch.ones(4, dtype=torch.float64), torch.ones(5).half()]).dtype
        == torch.float64
    )


@pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="Triton was imported as an interpreter"
)
@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_kernel_of_the_norm_compiles_for_a_gpu_with_wide_loads(dtype, tmp_path, monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    fn = private_copy(norms).sum_of_squares
    types = {"x_N": f"*{dtype}", "partial_PK": "*fp32", "first": "i32", "N": "i32"}
    types |= dict.fromkeys(("STRETCH", "LANES"), "constexpr")
    constants = {"STRETCH": norms.STRETCH, "LANES": norms.LANES}
    code = compiled(fn, types, constants, [0, 1, 3])  # addresses, and N of any matrix
    loads = re.findall(r"\bld\.global\S*", code)
    assert loads and all(".v4" in load for load in loads) and "atom" not in code


@pytest.mark.cuda
def test_norm_on_a_gpu_waits_for_nothing():
    check_norm(norms.two_pass_norm, "cuda")
    tensors = assortment("cuda")
    torch.testing.assert_close(fused_norm(tensors).cpu(), fused_norm([t.cpu() for t in tensors]))
    gradients = [t.detach().float() for t in tensors]
    torch.cuda.set_sync_debug_mode("error")
    try:
        fused_norm(tensors)
        flag = unscale_gradients(gradients, 2.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not flag
