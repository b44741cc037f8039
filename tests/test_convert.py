"Foreign weights mean what they meant at home; what is not what it should be is refused."

import os
import warnings

import numpy as np
import pytest
import torch

from sentiment_kit.data.datasets import SAMPLE_KEYS, SAMPLES
from sentiment_kit.data.files import KitError
from sentiment_kit.data.shards import make_shards
from sentiment_kit.data.text import encode
from sentiment_kit.looking.heatmap import heatmap_html
from sentiment_kit.looking.ledger import write_ledger
from sentiment_kit.model.convert import GATE_ORDERS, load_nvidia, load_openai, save_openai
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.model.reading import text_bits
from sentiment_kit.training.evaluate import evaluate
from sentiment_kit.transfer.features import ByteFeaturizer

TEXT = encode("Works as described — très bien, 5 stars!")


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def random_arrays(E, H, V=256, seed=0):
    "Fifteen arrays as OpenAI's, lengths g apart from the columns' own, one column of zeros."
    rng = np.random.default_rng(seed)
    shapes = [(V, E), (E, 4 * H), (H, H), (H, H), (H, H), (H, H), (E, H), (H, H), (4 * H,)]
    shapes += [(4 * H,), (4 * H,), (H,), (H,), (H, V), (V,)]
    arrays = [
        rng.standard_normal(shape, np.float32) / np.sqrt(np.float32(shape[0])) for shape in shapes
    ]
    arrays[9:13] = [np.abs(g) + np.float32(0.5) for g in arrays[9:13]]
    arrays[6][:, 1] = 0
    return arrays


def write_arrays(folder, arrays):
    folder.mkdir()
    for n, array in enumerate(arrays):
        np.save(folder / f"{n}.npy", array)
    return folder


def openai_forward(arrays, encoded):
    "encoder.py of the archived repository, in NumPy: last cell, and logits after every byte."
    embed, wx, wmx, wmh, b, (gx, gh, gmx, gmh), out, out_b = (
        *(arrays[n] for n in (0, 1, 6, 7, 8)),
        arrays[9:13],
        *arrays[13:],
    )
    wx, wh, wmx, wmh = (
        w / np.sqrt(np.maximum((w**2).sum(0), 1e-12)) * g
        for w, g in ((wx, gx), (np.concatenate(arrays[2:6], 1), gh), (wmx, gmx), (wmh, gmh))
    )
    H = len(wmh)
    h, c, logits = np.zeros(H, np.float32), np.zeros(H, np.float32), []
    for byte in encoded:
        x = embed[byte]
        z = x @ wx + ((x @ wmx) * (h @ wmh)) @ wh + b
        i, f, o, u = z[:H], z[H : 2 * H], z[2 * H : 3 * H], z[3 * H :]
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(u)
        h = sigmoid(o) * np.tanh(c)
        logits.append(h @ out + out_b)
    return c, np.array(logits)


def agree(model, encoded, c_H, logits_TV, atol=2e-5):
    with torch.no_grad():
        np.testing.assert_allclose(model(torch.tensor([list(encoded)]))[0][0], logits_TV, atol=atol)
    np.testing.assert_allclose(ByteFeaturizer(model).transform([encoded])[0], c_H, atol=atol)


def test_openai_arrays_mean_what_they_meant(tmp_path):
    arrays = random_arrays(12, 40)
    model = load_openai(write_arrays(tmp_path / "model", arrays))
    agree(model, TEXT, *openai_forward(arrays, TEXT))
    assert (
        model.config == LanguageModelConfig(embed_size=12, hidden_size=40)
        and model.config.preset == "openai"
    )


def test_openai_round_trips_are_exact(tmp_path):
    arrays = random_arrays(6, 20, V=100)
    model = load_openai(write_arrays(tmp_path / "in", arrays))
    out = save_openai(model, tmp_path / "out")
    assert sorted(os.listdir(out)) == sorted(f"{n}.npy" for n in range(15))
    for n in range(15):
        assert (out / f"{n}.npy").read_bytes() == (tmp_path / "in" / f"{n}.npy").read_bytes()
    again = load_openai(out).state_dict()
    assert all(torch.equal(t, again[name]) for name, t in model.state_dict().items())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"], "nothing is left beside"


@pytest.mark.slow
def test_openai_at_its_real_size(tmp_path):
    arrays, short = random_arrays(64, 4096), encode("Five stars")
    model = load_openai(write_arrays(tmp_path / "in", arrays))
    assert model.n_parameters == sum(a.size for a in arrays)
    agree(model, short, *openai_forward(arrays, short), atol=2e-4)
    out = save_openai(model, tmp_path / "out")
    for n in range(15):
        assert (out / f"{n}.npy").read_bytes() == (tmp_path / "in" / f"{n}.npy").read_bytes()


@pytest.mark.parametrize("n", range(15))
def test_an_openai_array_of_the_wrong_shape_is_named(tmp_path, n):
    arrays = random_arrays(6, 20)
    for k, wrong in enumerate((arrays[n][:-1], arrays[n][None], np.float32(1))):
        folder = write_arrays(tmp_path / str(k), arrays)
        np.save(folder / f"{n}.npy", wrong)
        with pytest.raises(
            KitError, match=rf"^{n}\.npy of .* the other arrays ask for \({arrays[n].shape[0]}, ?"
        ):
            load_openai(folder)


class Bomb:
    "Unpickled, it makes a folder."

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def npy_pickle(path, bomb):
    np.save(path, np.array([bomb]), allow_pickle=True)


def bare_pickle(path, bomb):
    import pickle

    path.write_bytes(pickle.dumps(bomb))


def npz_pickle(path, bomb):
    with open(path, "wb") as file:
        np.savez(file, a=np.array([bomb], dtype=object))


@pytest.mark.parametrize("write", [npy_pickle, bare_pickle, npz_pickle])
def test_a_pickle_in_an_npy_is_refused_and_not_run(tmp_path, write):
    folder = write_arrays(tmp_path / "model", random_arrays(6, 20))
    write(folder / "3.npy", Bomb(tmp_path / "went_off"))
    with pytest.raises(
        KitError, match=r"3\.npy (is no plain NumPy array|holds an archive)"
    ) as caught:
        load_openai(folder)
    assert "\n" not in str(caught.value) and not (tmp_path / "went_off").exists()


@pytest.mark.parametrize(
    "damage", ["missing", "empty", "cut", "text", "whole numbers", "claims too much"]
)
def test_a_damaged_npy_is_one_sentence(tmp_path, damage):
    folder = write_arrays(tmp_path / "model", random_arrays(6, 20))
    path = folder / "5.npy"
    data = path.read_bytes()
    path.unlink()
    if damage == "whole numbers":
        np.save(path, np.zeros((20, 20), int))
    elif damage != "missing":
        huge = data.replace(b"(20, 20), }      ", b"(200000, 200000)}")
        path.write_bytes(
            {"empty": b"", "cut": data[:-9], "text": b"not an array", "claims too much": huge}[
                damage
            ]
        )
    with pytest.raises(KitError, match=r"5\.npy") as caught:
        load_openai(folder)
    assert "\n" not in str(caught.value)


def test_what_openai_s_format_cannot_hold_is_refused(tmp_path):
    for other in (dict(cell="lstm"), dict(n_layers=2), dict(weight_norm=False)):
        with pytest.raises(KitError, match="one mLSTM layer with weight norm"):
            save_openai(
                LanguageModel(LanguageModelConfig(hidden_size=8, embed_size=4, **other)),
                tmp_path / "out",
            )
    (tmp_path / "out").mkdir()
    with pytest.raises(KitError, match="exists already"):
        save_openai(
            LanguageModel(LanguageModelConfig(hidden_size=8, embed_size=4)), tmp_path / "out"
        )


def nvidia_arrays(E, H, cell="mlstm", V=256, seed=0):
    "Arrays of one layer by the names of version 0.5, output x input, two biases."
    torch.manual_seed(seed)
    shapes = dict(w_ih=(4 * H, E), w_hh=(4 * H, H), b_ih=(4 * H,), b_hh=(4 * H,))
    shapes |= dict(w_mih=(H, E), w_mhh=(H, H)) if cell == "mlstm" else {}
    arrays = {name: torch.randn(shape) / shape[-1] ** 0.5 for name, shape in shapes.items()}
    return torch.randn(V, E), arrays, torch.randn(V, H) / H**0.5, torch.randn(V)


def nvidia_file(
    path,
    embed,
    layers,
    head=None,
    bias=None,
    *,
    names="v0.5",
    weight_norm=False,
    half=False,
    **options,
):
    "A .pt as the repository wrote it; `layers` as made by `nvidia_arrays`."
    first = dict(
        w_ih="wx.weight", w_hh="wh.weight", w_mih="wmx.weight", w_mhh="wmh.weight", b_hh="wh.bias"
    )
    rnn = {}
    for k, arrays in enumerate(layers):
        for name, t in arrays.items():
            if names == "first release":
                name, t = first.get(name), t + arrays["b_ih"] if name == "b_hh" else t
            if name and weight_norm and t.dim() == 2:
                rnn |= {f"{k}.{name}_v": 3 * t, f"{k}.{name}_g": t.norm(dim=1, keepdim=True)}
            elif name:
                rnn[f"{k}.{name}"] = t
    head = {} if head is None else dict(weight=head, bias=bias)
    if names == "first release":
        tree = {"embedder.weight": embed} | {f"rnn.layers.{name}": t for name, t in rnn.items()}
        tree = dict(state_dict=tree | {f"rnn.h2o.{name}": t for name, t in head.items()}, epoch=1)
    elif names == "classifier":
        encoder = dict(
            encoder=dict(weight=embed), rnn={f"rnns.{name}": t for name, t in rnn.items()}
        )
        classifier = dict(weight=torch.randn(1, 7), neurons=None, thresholds=[0.5])
        tree = dict(encoder=encoder, classifier=classifier)
    else:
        rnn = {f"rnns.{name}": t for name, t in rnn.items()}
        tree = dict(encoder=dict(encoder=dict(weight=embed), rnn=rnn), decoder=head)

    def halved(tree):
        return {
            n: halved(t) if isinstance(t, dict) else t.half() if torch.is_tensor(t) else t
            for n, t in tree.items()
        }

    torch.save(halved(tree) if half else tree, path, **options)
    return path


def nvidia_forward(embed, arrays, head, bias, encoded, order):
    "cells.py of the archived repository, in NumPy."
    w, H = {name: t.numpy() for name, t in arrays.items()}, arrays["w_hh"].shape[1]
    h, c, logits = np.zeros(H, np.float32), np.zeros(H, np.float32), []
    for byte in encoded:
        x = embed.numpy()[byte]
        m = (w["w_mih"] @ x) * (w["w_mhh"] @ h) if "w_mih" in w else h
        z = w["w_ih"] @ x + w["b_ih"] + w["w_hh"] @ m + w["b_hh"]
        gate = dict(zip(order, np.split(z, 4), strict=True))
        c = sigmoid(gate["f"]) * c + sigmoid(gate["i"]) * np.tanh(gate.get("g", gate.get("u")))
        h = sigmoid(gate["o"]) * np.tanh(c)
        logits.append(head.numpy() @ h + bias.numpy())
    return c, np.array(logits)


@pytest.mark.parametrize("weight_norm", [False, True], ids=["multiplied out", "weight norm"])
@pytest.mark.parametrize("names", ["v0.5", "first release"])
@pytest.mark.parametrize("order", GATE_ORDERS)
@pytest.mark.parametrize("cell", ["mlstm", "lstm"])
def test_nvidia_s_arrays_mean_what_they_meant(tmp_path, cell, order, names, weight_norm):
    embed, arrays, head, bias = nvidia_arrays(10, 24, cell)
    path = nvidia_file(
        tmp_path / "m.pt", embed, [arrays], head, bias, names=names, weight_norm=weight_norm
    )
    model = load_nvidia(path, order)
    agree(model, TEXT, *nvidia_forward(embed, arrays, head, bias, TEXT, order))
    assert (model.config.cell, model.config.weight_norm, model.config.preset) == (
        cell,
        weight_norm,
        "nvidia",
    )


def test_nvidia_s_lstm_is_torch_s(tmp_path):
    lstm, (embed, _, head, bias) = torch.nn.LSTM(6, 12, batch_first=True), nvidia_arrays(6, 12)
    arrays = dict(
        zip(("w_ih", "w_hh", "b_ih", "b_hh"), (p.detach() for p in lstm.parameters()), strict=True)
    )
    model = load_nvidia(nvidia_file(tmp_path / "m.pt", embed, [arrays], head, bias), "ifgo")
    h_BTH, (_, c_LBH) = lstm(embed[torch.tensor([list(TEXT)])])
    agree(model, TEXT, c_LBH[0, 0].detach(), (h_BTH[0] @ head.t() + bias).detach())


def test_half_precision_old_containers_and_stacks(tmp_path):
    embed, first, head, bias = nvidia_arrays(8, 16)
    second = nvidia_arrays(16, 16, seed=1)[1]
    path = nvidia_file(tmp_path / "a.pt", embed, [first, second], head, bias, half=True)
    old = nvidia_file(
        tmp_path / "b.pt",
        embed,
        [first, second],
        head,
        bias,
        half=True,
        _use_new_zipfile_serialization=False,
    )
    model, same = load_nvidia(path, "ifou"), load_nvidia(old, "ifou")
    assert model.config.n_layers == 2 and all(t.dtype == torch.float32 for t in model.parameters())
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), same.parameters(), strict=True)
    )
    w_x = model.state_dict()["rnn.layers.1.w_x"]
    assert torch.equal(w_x, second["w_ih"].half().float().t())


def test_a_classifier_s_file_has_states_and_no_predictions(tmp_path, capsys):
    embed, arrays, head, bias = nvidia_arrays(8, 16)
    path = nvidia_file(tmp_path / "c.pt", embed, [arrays], names="classifier")
    model = load_nvidia(path, "ifgo")
    assert "c.pt has no decoder" in capsys.readouterr().err
    c_H, _ = nvidia_forward(embed, arrays, head, bias, TEXT, "ifgo")
    agree(model, TEXT, c_H, np.zeros((len(TEXT), 256)))
    with pytest.raises(KitError, match=r"8\.00 and 8\.00 bits"):
        load_nvidia(path)


def test_an_order_that_cannot_be_told_must_be_given(tmp_path):
    path = nvidia_file(
        tmp_path / "m.pt", *(x if k != 1 else [x] for k, x in enumerate(nvidia_arrays(8, 16)))
    )
    with pytest.raises(KitError, match="does not tell its gate order"):
        load_nvidia(path)
    with pytest.raises(KitError, match="gate_order is 'fiou'; use one of ifgo, ifou"):
        load_nvidia(path, "fiou")


@pytest.mark.parametrize(
    "name", ["embed", "w_ih", "w_hh", "w_mih", "w_mhh", "b_ih", "decoder.weight", "decoder.bias"]
)
def test_an_array_of_nvidia_s_of_the_wrong_shape_is_named(tmp_path, name):
    embed, arrays, head, bias = nvidia_arrays(8, 16)
    if name in arrays:
        arrays[name] = arrays[name][:-4]
    embed = embed[:, None] if name == "embed" else embed
    head, bias = (
        head[:, :-1] if name == "decoder.weight" else head,
        bias[:-1] if name == "decoder.bias" else bias,
    )
    with pytest.raises(KitError, match=name):
        load_nvidia(nvidia_file(tmp_path / "m.pt", embed, [arrays], head, bias), "ifgo")


def test_foreign_missing_and_summed_layers_are_refused(tmp_path):
    embed, arrays, head, bias = nvidia_arrays(8, 16)
    path = tmp_path / "m.pt"
    with pytest.raises(KitError, match=r"an array 'encoder\.rnn\.rnns\.0\.w_ho', which no LSTM"):
        load_nvidia(nvidia_file(path, embed, [arrays | dict(w_ho=torch.zeros(4, 4))], head, bias))
    with pytest.raises(KitError, match=r"lacks what would be our rnn\.layers\.0\.w_mh"):
        load_nvidia(
            nvidia_file(
                path, embed, [{n: t for n, t in arrays.items() if n != "w_mhh"}], head, bias
            )
        )
    upper = nvidia_arrays(16, 16)[1]
    with pytest.raises(KitError, match="stack of 2 layers, which are summed"):
        load_nvidia(nvidia_file(path, embed, [arrays, upper], head, bias, names="first release"))
    for other in ({}, [1, 2], torch.zeros(3), {"encoder": {"weight": torch.zeros(3, 2)}}):
        torch.save(other, path)
        with pytest.raises(KitError, match="should hold a matrix"):
            load_nvidia(path)


@pytest.mark.parametrize("old", [False, True])
def test_a_booby_trapped_pt_is_refused_and_not_run(tmp_path, old):
    bomb, path = Bomb(tmp_path / "went_off"), tmp_path / "m.pt"
    for tree in (bomb, {"classifier": bomb}, {"encoder": {bomb.mark: [bomb]}}):
        torch.save(tree, path, _use_new_zipfile_serialization=not old)
        with pytest.raises(KitError, match="nothing of it was loaded") as caught:
            load_nvidia(path)
        assert "\n" not in str(caught.value) and not (tmp_path / "went_off").exists()


def test_a_damaged_pt_is_one_sentence_or_still_right(tmp_path, request):
    embed, arrays, head, bias = nvidia_arrays(4, 8)
    path, rng = tmp_path / "m.pt", np.random.default_rng(0)
    for old in (False, True):
        nvidia_file(path, embed, [arrays], head, bias, _use_new_zipfile_serialization=not old)
        whole = path.read_bytes()
        for k in range(request.config.getoption("--n") or 40):
            damaged = bytearray(whole[: rng.integers(len(whole))] if k % 2 else whole)
            for place in rng.integers(0, max(1, len(damaged)), 8 * (1 - k % 2)):
                damaged[place] = rng.integers(256)
            path.write_bytes(damaged)
            with warnings.catch_warnings(
                action="ignore"
            ):  # torch's own, about what the damage looks like
                try:
                    load_nvidia(path, "ifgo")
                except KitError as error:
                    assert "\n" not in str(error)
    path.unlink()
    with pytest.raises(KitError, match="No such file"):
        load_nvidia(path)


def test_a_converted_model_goes_through_the_same_evaluation(tmp_path):
    torch.manual_seed(0)
    ours = LanguageModel(LanguageModelConfig(hidden_size=16, embed_size=8)).eval()
    theirs = load_openai(save_openai(ours, tmp_path / "model"))
    corpus = make_shards(SAMPLES, tmp_path / "corpus", counts=(1, 1, 1), **SAMPLE_KEYS)
    assert evaluate(theirs, corpus, "valid") == evaluate(ours, corpus, "valid")
    assert np.array_equal(text_bits(theirs, ["It broke."]), text_bits(ours, ["It broke."]))
    drawn = []
    for model in (ours, theirs):
        ledger = write_ledger(model, "It broke.", 3)
        drawn.append(heatmap_html(ledger.encoded, ledger.contribution_T))
    assert drawn[0] == drawn[1]
