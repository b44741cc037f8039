"""How a state changes: exact Jacobians, pushes, slow points, effects of words, patched states."""

import numpy as np
import pytest
import torch
from torch.autograd.functional import jacobian

from sentiment_kit.data.files import KitError
from sentiment_kit.data.labelled import Texts
from sentiment_kit.evidence.dynamics import (
    MeanMap,
    PhraseMap,
    fixed_point,
    modes,
    share_in_modes,
    slow_points,
    speeds,
    text_jacobian,
)
from sentiment_kit.evidence.jacobians import (
    StateMap,
    as_ids,
    as_state,
    mean_matrix,
    pull,
    push,
    states_after,
    walk,
)
from sentiment_kit.evidence.lifetimes import Windows, draw_windows, lifetime, push_units, ratio_of
from sentiment_kit.evidence.patching import (
    Pairs,
    apply_patch,
    draw_pairs,
    patched,
    read_on,
    share_of,
    stars_expected,
)
from sentiment_kit.evidence.word_effects import (
    count_words,
    effect_of,
    kept_through,
    like_words,
    read_inserted,
    turned_effect,
)
from sentiment_kit.model.gates import record_gates
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.model.reference import step

H = 7
TEXT = b"\n It was not good, but the film is. "


def model_of(cell="mlstm", seed=0, **options):
    "A small random model with larger weights than a fresh one has, so that gates move."
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LanguageModelConfig(cell=cell, hidden_size=H, embed_size=4, **options)
        model = LanguageModel(config).eval()
        for name, p in model.rnn.named_parameters():
            if name.endswith(("g_h", "g_mh", "g_x")):
                p.data *= 2
        w = model.rnn.layers[0].effective()
    model.float64_weights = {name: w_IO.detach().double() for name, w_IO in w.items()}
    return model


def random_states(n, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 0.7, (n, 2 * H)))


@pytest.fixture(params=["mlstm", "lstm"])
def both(request):
    model = model_of(request.param)
    return model, StateMap(model, torch.float64)


def reference(model, byte, s_S):
    "The next state by the paper's formulas, in float64."
    w = model.float64_weights
    x_1D = model.embed.weight.detach()[None, byte].double()
    c_1H, h_1H = s_S[None].chunk(2, dim=1)
    h_1H, c_1H = step(x_1D, h_1H, c_1H, w)
    return torch.cat([c_1H, h_1H], 1)[0]


def test_jacobians_are_those_of_autograd_and_of_finite_differences(both):
    model, state_map = both
    ids_B = torch.tensor(list(b"a.\xff"))
    s_BS = random_states(3)
    after_BS, j = state_map.linearise(ids_B, s_BS)
    eye_BSS = torch.eye(2 * H, dtype=torch.float64).expand(3, -1, -1)
    pushed, pulled = push(j, eye_BSS).mT, pull(j, eye_BSS)
    for b, byte in enumerate(ids_B.tolist()):
        torch.testing.assert_close(after_BS[b], reference(model, byte, s_BS[b]))
        exact = jacobian(lambda s, byte=byte: reference(model, byte, s), s_BS[b])
        steps = torch.eye(2 * H, dtype=torch.float64) * 1e-5
        ends = [
            torch.stack([reference(model, byte, s_BS[b] + sign * d) for d in steps])
            for sign in (1, -1)
        ]
        torch.testing.assert_close((ends[0] - ends[1]).T / 2e-5, exact, rtol=1e-6, atol=1e-9)
        one = mean_matrix(j.at([b]), torch.ones(1, dtype=torch.float64))
        for found in (pushed[b], pulled[b], one):
            torch.testing.assert_close(found, exact, rtol=1e-11, atol=1e-14)
    p_B = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    torch.testing.assert_close(mean_matrix(j, p_B), torch.einsum("b,bij->ij", p_B, pushed))


def test_a_walk_is_a_reading_and_texts_of_any_length_end_where_they_end(both):
    model, state_map = both
    s_BTS = walk(state_map, as_ids([TEXT]))
    gates = record_gates(model, TEXT, range(H))
    torch.testing.assert_close(s_BTS[0, :, :H].numpy(), gates.c_TU, rtol=1e-4, atol=1e-5)
    prefixes = [TEXT, TEXT[:3], TEXT[:20]]
    s_NS = states_after(model, prefixes, piece=7).double()
    want = torch.stack([s_BTS[0, len(prefix) - 1] for prefix in prefixes])
    torch.testing.assert_close(s_NS, want, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_mapped_is_said():
    with pytest.raises(KitError, match="2 layers"):
        StateMap(model_of(n_layers=2))
    with pytest.raises(KitError, match="differ in length"):
        as_ids([b"ab", b"a"])
    with pytest.raises(KitError, match="without bytes"):
        states_after(model_of(), [b"a", b""])
    with pytest.raises(KitError, match="longer"):
        draw_windows(["short"], "openai", 50)
    with pytest.raises(KitError, match="phrase"):
        PhraseMap(StateMap(model_of()), b"")
    with pytest.raises(KitError, match="no text"):
        MeanMap(StateMap(model_of()), [b""])


def test_a_push_is_what_a_small_change_becomes_and_alone_is_its_forget_gates(both):
    model, state_map = both
    windows = Windows([TEXT[:8], TEXT[:14]], torch.tensor([list(TEXT[8:18]), list(TEXT[14:24])]))
    pushes = push_units(state_map, windows, [5, 2])
    s_NS = states_after(model, windows.prefixes).double()
    for p, unit in enumerate((5, 2)):
        moved_NS = s_NS.clone()
        moved_NS[:, unit] += 1e-6
        ends = [walk(state_map, windows.ids_NK, s)[..., unit].T for s in (moved_NS, s_NS)]
        want = ((ends[0] - ends[1]) / 1e-6).numpy()
        np.testing.assert_allclose(pushes.full_KNP[:, :, p], want, rtol=1e-4, atol=1e-7)
    f_TU = record_gates(model, TEXT[:24], [5, 2]).f_TU
    np.testing.assert_allclose(pushes.alone_KNP[:, 1], np.cumprod(f_TU[14:24], 0), rtol=1e-4)


def test_without_coupling_the_ratio_is_one_and_the_lifetime_that_of_the_gate():
    model = model_of()
    with torch.no_grad():
        model.rnn.layers[0].g_h.zero_()  # no gate sees the state
        model.rnn.layers[0].g_x.zero_()
        model.rnn.layers[0].b[H : 2 * H] = 2.0
    windows = Windows([TEXT[:8], TEXT[:9]], torch.tensor([list(TEXT[8:28]), list(TEXT[9:29])]))
    pushes = push_units(StateMap(model, torch.float64), windows, [3])
    f = float(torch.tensor(2.0).sigmoid())
    assert lifetime(pushes.full_KNP[..., 0]) == np.ceil(-1 / np.log(f))
    ratio = ratio_of(pushes, 0, 10, repeats=20)
    assert ratio.low == pytest.approx(1) and ratio.high == pytest.approx(1)
    assert lifetime(pushes.full_KNP[:2, :, 0]) == np.inf


def test_windows_are_word_ends_with_enough_text_on_both_sides():
    texts = ["A word and another word, " * 4, "too short", "Many other words are here. " * 5]
    windows = draw_windows(texts, "openai", 20, before=10, seed=3)
    assert windows.ids_NK.shape == (2, 20)
    for prefix, ids_K in zip(windows.prefixes, windows.ids_NK, strict=True):
        assert len(prefix) >= 10 and prefix[-1:].isalpha() and not bytes(ids_K[:1]).isalpha()
    assert len(draw_windows(texts, "openai", 20, n=1).prefixes) == 1


def test_slow_points_and_newton_meet_where_reading_settles(both):
    model, state_map = both
    phrase = PhraseMap(state_map, b"ok")
    s_BS = random_states(3)
    for _ in range(600):
        s_BS = phrase.step(s_BS)
    rest, q = fixed_point(phrase, random_states(1, 5)[0], tolerance=1e-26)
    assert q < 1e-26
    torch.testing.assert_close(s_BS, rest.expand(3, -1), rtol=1e-6, atol=1e-8)
    starts = rest + random_states(2) / 7
    found, q_B = slow_points(phrase, starts, 150)
    assert float((q_B / speeds(phrase, starts)).max()) < 1e-3
    torch.testing.assert_close(found, rest.expand(2, -1), rtol=0, atol=0.05)


def test_maps_have_their_own_jacobians(both):
    _, state_map = both
    s_S = random_states(1)[0]
    for typical in (MeanMap(state_map, [TEXT]), PhraseMap(state_map, b"but ")):
        exact = jacobian(lambda s, typical=typical: typical.step(s[None])[0], s_S)
        torch.testing.assert_close(typical.matrix(s_S), exact, rtol=1e-10, atol=1e-13)


def test_modes_are_eigenvectors_of_both_sides_with_bytes_for_time():
    rng = np.random.default_rng(0)
    want = np.array([0.98, 0.9, -0.8, *np.linspace(0.05, 0.3, 9)])
    basis = rng.normal(size=(12, 12))
    J = torch.from_numpy(basis @ np.diag(want) @ np.linalg.inv(basis))
    scale_S = torch.from_numpy(rng.uniform(0.1, 3, 12))
    found = modes(J, period=4, k=3, scale_S=scale_S)
    np.testing.assert_allclose(np.abs(found.value_A), [0.98, 0.9, 0.8], rtol=1e-8)
    np.testing.assert_allclose(found.tau_A, -4 / np.log([0.98, 0.9, 0.8]), rtol=1e-7)
    right = found.right_AS * scale_S.numpy()
    np.testing.assert_allclose(J.numpy() @ right.T, right.T * found.value_A, atol=1e-7)
    np.testing.assert_allclose(found.left_AS @ found.right_AS.T, np.eye(3), atol=1e-6)
    axes = np.vstack([right[0, :6] / scale_S.numpy()[:6], rng.normal(size=6)]).real
    share = share_in_modes(found, axes)
    assert share[0] == pytest.approx(1) and 0 < share[1] < 1


def test_the_mean_jacobian_of_a_text_is_the_mean_of_its_jacobians(both):
    model, state_map = both
    windows = Windows([TEXT[:8]], torch.tensor([list(TEXT[8:14])]))
    s_NS = states_after(model, windows.prefixes).double()
    J, mean_S, scale_S = text_jacobian(state_map, windows, s_NS)
    s_S = s_NS[0]
    seen = []
    total = 0
    for byte in TEXT[8:14]:
        total = total + jacobian(lambda s, byte=byte: reference(model, byte, s), s_S) / 6
        s_S = reference(model, byte, s_S)
        seen.append(s_S)
    torch.testing.assert_close(J, total, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(mean_S, torch.stack(seen).mean(0))
    torch.testing.assert_close(scale_S, torch.stack(seen).std(0))


def some_windows(model):
    places = ((8, 18), (14, 24), (3, 13))
    ids_NK = torch.tensor([list(TEXT[a:b]) for a, b in places])
    return Windows([TEXT[:a] for a, _ in places], ids_NK)


def plain_loop(model, s_S, rest):
    "A byte at a time through the model itself: state and logits after the last."
    state = as_state(s_S[None].float())
    with torch.no_grad():
        for byte in rest:
            logits_BTV, state = model(torch.tensor([[byte]]), state)
    return torch.cat([state.c_LBH[0, 0], state.h_LBH[0, 0]]), logits_BTV[0, -1]


def test_an_inserted_word_is_read_as_if_it_had_been_there(both):
    model, _ = both
    windows = some_windows(model)
    c_MNTU = read_inserted(model, windows, [b" not", b" was"], [2, 4])
    assert c_MNTU.shape == (2, 3, 11, 2)
    for m, piece in enumerate((b" not", b" was")):
        for n, (prefix, ids_K) in enumerate(zip(*windows, strict=True)):
            whole = prefix + piece + bytes(ids_K.tolist())
            c_TU = record_gates(model, whole, [2, 4]).c_TU[len(prefix + piece) - 1 :]
            np.testing.assert_allclose(c_MNTU[m, n], c_TU, rtol=1e-4, atol=1e-6)
    with pytest.raises(KitError, match="one length"):
        read_inserted(model, windows, [b" not", b" is"], [2])


def test_effects_are_differences_to_the_controls_and_controls_to_each_other():
    rng = np.random.default_rng(0)
    text_NT = rng.normal(size=(40, 3))
    c_MNT = text_NT + np.array([-1.0, 0.0, 0.3, -0.3])[:, None, None]
    effect = effect_of(c_MNT, scale=-2.0)
    assert effect.at(1) == (pytest.approx(0.5), pytest.approx(0.5), pytest.approx(0.5), 40)
    np.testing.assert_allclose(effect.controls(2), [0.0, -0.225, 0.225], atol=1e-12)


def test_control_words_are_as_long_and_nearest_in_frequency():
    counts = count_words(["Not now, NOT you; one two", "you you a1b you-you don't"])
    assert counts["not"] == 2 and counts["you"] == 5 and "a1b" not in counts
    assert like_words(counts, "not", 2) == ["now", "one"]
    assert like_words(counts, "not", 1, ["now", "one"]) == ["two"]
    with pytest.raises(KitError, match="as long as 'not'"):
        like_words(counts, "not", 9)


def test_what_comes_through_a_word_and_what_a_modifier_does(both):
    model, state_map = both
    windows = some_windows(model)
    kept_MN = kept_through(state_map, windows, [b" but", b" and"], 3)
    before_NS = states_after(model, windows.prefixes).double()
    ids_NL = torch.tensor(list(b" but")).expand(3, -1)
    moved_NS = before_NS.clone()
    moved_NS[:, 3] += 1e-6
    ends = [walk(state_map, ids_NL, s)[:, -1, 3] for s in (moved_NS, before_NS)]
    np.testing.assert_allclose(kept_MN[0], (ends[0] - ends[1]).numpy() / 1e-6, rtol=1e-4)
    turned = turned_effect(model, windows, " {} {}", ["not", "now"], ["good", "wood"], 3, 2.0, 4)
    pieces = [f" {m} {w}".encode() for m in ("not", "now") for w in ("good", "wood")]
    c_MN = read_inserted(model, windows, pieces, [3])[:, :, 4, 0] / 2
    want = c_MN[0] - c_MN[1] - c_MN[2] + c_MN[3]
    assert turned.difference.value == pytest.approx(want.mean(), abs=1e-7)


def test_patched_states_go_on_as_in_a_plain_loop(both):
    model, _ = both
    windows = some_windows(model)
    s_NS = states_after(model, windows.prefixes)
    one_NS = patched(s_NS, s_NS[[1, 2, 0]], [4])
    changed = (one_NS != s_NS).any(0).nonzero().flatten().tolist()
    assert changed == [4, H + 4]
    gate_N = s_NS[:, H + 4] / s_NS[:, 4].tanh()
    torch.testing.assert_close(one_NS[:, H + 4], gate_N * s_NS[[1, 2, 0], 4].tanh())
    assert torch.equal(patched(s_NS, s_NS[[1, 2, 0]]), s_NS[[1, 2, 0]])
    onward = read_on(model, one_NS, windows.ids_NK, [0, 4, 10])
    torch.testing.assert_close(onward.s_LNS[0], one_NS)
    for n, ids_K in enumerate(windows.ids_NK.tolist()):
        for at, lag in ((1, 4), (2, 10)):
            s_S, logits_V = plain_loop(model, one_NS[n], ids_K[:lag])
            torch.testing.assert_close(onward.s_LNS[at, n], s_S, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(onward.logits_LNV[at, n], logits_V, rtol=1e-4, atol=1e-5)


def test_a_patch_moves_towards_the_donor_and_is_nothing_where_nothing_differs(both):
    model, _ = both
    windows = some_windows(model)
    s_NS = states_after(model, windows.prefixes)
    pairs = Pairs(windows, s_NS, np.array([0, 0, 1]), np.array([2, 2, 0]))

    def cell(s_NS):
        return s_NS[:, 1].numpy()

    whole = apply_patch(model, pairs, patched, cell, [0, 6])
    want_N = [1, 1, -1] * (s_NS[pairs.donor_N, 1] - s_NS[:, 1]).numpy()
    np.testing.assert_allclose(whole.moved_LN[0], want_N, rtol=1e-5)
    ends = [
        [plain_loop(model, s_NS[i], windows.ids_NK[n, :6].tolist()) for i in (d, n)]
        for n, d in enumerate(pairs.donor_N)
    ]
    for n, ((s_a, p), (s_b, q)) in enumerate(ends):
        sign = 2 * pairs.y_N[pairs.donor_N[n]] - 1
        assert whole.moved_LN[1, n] == pytest.approx(sign * float(s_a[1] - s_b[1]), abs=1e-5)
        p, q = p.double().softmax(-1), q.double().softmax(-1)
        assert whole.bits_LN[1, n] == pytest.approx(float((p * (p / q).log2()).sum()), abs=1e-5)
    nothing = apply_patch(model, pairs, lambda s_NS, donor_NS: s_NS, cell, [0, 6])
    assert not nothing.moved_LN.any() and np.abs(nothing.bits_LN).max() < 1e-9


def test_pairs_are_of_the_kind_asked_for_and_stars_need_a_template_with_stars():
    model = model_of(template="{text}\n{stars}")
    texts = [f"This {c} is a rather {c} thing, and it is long enough for them." for c in "abcdefgh"]
    data = Texts(texts, np.array([0, 1] * 4))
    for own in (False, True):
        pairs = draw_pairs(model, data, 12, own=own)
        assert len(pairs.y_N) == 8
        assert ((pairs.y_N[pairs.donor_N] == pairs.y_N) == own).all()
        assert (pairs.donor_N != np.arange(8)).all()
    s_NS = pairs.s_NS[:2]
    stars_N = stars_expected(model, s_NS)
    for n in range(2):
        p_5 = plain_loop(model, s_NS[n], b"\n")[1][49:54].softmax(0)
        assert stars_N[n] == pytest.approx(float(p_5 @ torch.arange(1.0, 6.0)), abs=1e-5)
    with pytest.raises(KitError, match="no stars behind the text"):
        stars_expected(model_of(), s_NS)
    with pytest.raises(KitError, match="no stars behind the text"):
        stars_expected(model_of(template="{stars} {text}"), s_NS)


def test_share_of_what_did_not_move_is_not_a_number():
    still_N, moved_N = np.zeros(8), np.arange(8.0)
    assert np.isnan(share_of(moved_N, still_N)[:3]).all()
    assert share_of(moved_N, 2 * moved_N).value == pytest.approx(0.5)
