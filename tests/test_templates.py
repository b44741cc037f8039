"""What a review becomes as bytes, and which byte is of which part."""

import itertools
import json

import numpy as np
import pytest
import torch

from sentiment_kit.data.corpus import SPLITS, open_corpus
from sentiment_kit.data.files import KitError, read_json, write_json
from sentiment_kit.data.loader import ShardLoader
from sentiment_kit.data.shard_parts import part_ids, review_parts
from sentiment_kit.data.shards import make_shards
from sentiment_kit.data.template import Template, fill_template, kept_literals, written_stars
from sentiment_kit.data.text import PRESETS, encode
from sentiment_kit.model.language_model import LanguageModelConfig

STARRED = "{text}\n{stars} {summary}"
COUNTS = (2, 1, 1)


def rows(n=240):
    "Reviews of which some have no headline, some no stars, some neither."
    for i in range(n):
        row = dict(reviewText=f"Bloomed {i} times &amp; more,\nthen Ça {'no ' * (i % 7)}")
        if i % 3:
            row["overall"] = 1 + i % 5
        if i % 4:
            row["summary"] = [f" Good\n&lt;{i}&gt; ", "", "  ", None, 5, "a\0b"][i % 6]
        yield row


def written(path, records):
    path.write_text("".join(json.dumps(row) + "\n" for row in records))
    return path


def expected(row, template, preset):
    "One review by the rules, one field at a time."
    p = PRESETS[preset]
    inner = slice(len(p.front), -len(p.back))
    said = row.get("summary")
    said = (
        encode(said, preset).decode()[inner] if isinstance(said, str) and "\0" not in said else ""
    )
    stars = row.get("overall")
    values = dict(text=encode(row["reviewText"], preset).decode()[inner])
    values |= dict(summary=said if said.strip() else None)
    values |= dict(stars=None if stars is None else str(stars))
    there = tuple(values[name] is not None for name in template.fields)
    literals = kept_literals(template.literals, template.fields, there)
    body = literals[0]
    for name, literal in zip(template.fields, literals[1:], strict=True):
        body += (values[name] or "") + literal
    return (p.front + body + p.back).encode()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("said", [STARRED, "{stars} {summary}\n{text}", "<{text}> ({stars})"])
@pytest.mark.parametrize("order", ["shuffle_then_shard", "shard_then_shuffle"])
def test_parts_joined_are_the_reviews_and_the_rules_hold(tmp_path, said, preset, order):
    data = written(tmp_path / "a.jsonl", rows())
    template = Template(said)
    how = dict(counts=COUNTS, preset=preset, order=order, template=said)
    corpus = make_shards(data, tmp_path / "corpus", **how).verify()
    assert corpus.parts == ("frame", *template.fields)
    found = []
    for shard in itertools.chain.from_iterable(map(corpus.split, SPLITS)):
        reviews = list(review_parts(shard))
        assert b"".join(part for review in reviews for _, part in review) == shard.data.tobytes()
        ids = [corpus.parts.index(name) for review in reviews for name, b in review for _ in b]
        assert part_ids(shard).tolist() == ids
        assert part_ids(shard, 7, 90).tolist() == ids[7:90]
        names = [name for name, _ in reviews[0] if name != "frame"]
        assert names == list(template.fields)
        found += shard.encoded_reviews()
    assert sorted(found) == sorted(expected(row, template, preset) for row in rows())


@pytest.mark.parametrize(
    ("said", "there", "review"),
    [
        (STARRED, "text stars summary", "T\n5 S"),
        (STARRED, "text summary", "T\nS"),
        (STARRED, "text stars", "T\n5"),
        (STARRED, "text", "T"),
        ("{stars} {summary}\n{text}", "text summary", "S\nT"),
        ("{stars} {summary}\n{text}", "text stars", "5\nT"),
        ("{stars}: {text} ({summary})", "text", "T"),
        ("{stars}: {text} ({summary})", "text stars", "5: T"),
        ("{stars}: {text} ({summary})", "text summary", "T (S)"),
        ("[{text}|{stars}]", "text", "[T"),
    ],
)
def test_what_is_missing_takes_its_literal_text_along(said, there, review):
    values = dict(text=b"T", stars=b"5", summary=b"S")
    template = Template(said)
    columns = [[values[name] if name in there else None] for name in template.fields]
    [text], offsets = fill_template(template, columns, b"<", b">")
    assert text.decode() == f"<{review}>"
    cut = [text[i:j] for i, j in itertools.pairwise(offsets[0].tolist())]
    assert b"".join(cut) == text
    assert cut[1::2] == [column[0] or b"" for column in columns]


@pytest.mark.parametrize(
    "said",
    [
        "",
        "text",
        "{summary}",
        "{text.__class__}",
        "{text!r}",
        "{text:>9}",
        "{0}",
        "{}",
        "{text",
        "text}",
        "{{text}}",
        "{text} }",
        "{text}{text}",
        "{text}{rating}",
        "{text}\0",
        "{text}\ud83d",
        "{text}" + "x" * 1000,
        None,
        5,
    ],
)
def test_a_hostile_template_is_one_sentence(tmp_path, said):
    data = written(tmp_path / "a.jsonl", rows(9))
    with pytest.raises(KitError, match="is no template") as error:
        make_shards(data, tmp_path / "corpus", counts=(1, 0, 0), template=said)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "corpus").exists()
    with pytest.raises(KitError, match="is no template"):
        LanguageModelConfig(template=said)


def test_text_alone_is_the_same_corpus_whether_said_or_not(tmp_path):
    data = written(tmp_path / "a.jsonl", rows())
    plain = make_shards(data, tmp_path / "plain", counts=COUNTS)
    said = make_shards(data, tmp_path / "said", counts=COUNTS, template="{text}")
    assert said.digest == plain.digest
    assert "template" not in plain.manifest
    assert not list(plain.folder.rglob("*.parts.npy"))
    shard = plain.split("train")[0]
    for review in review_parts(shard):
        assert [name for name, _ in review] == ["frame", "text", "frame"]
        assert (review[0][1], review[2][1]) == (b"\n ", b" ")
    assert LanguageModelConfig().template == "{text}"


def test_another_template_in_the_same_folder_is_refused_both_ways(tmp_path):
    data = written(tmp_path / "a.jsonl", rows())
    made = make_shards(data, tmp_path / "a", counts=COUNTS, template=STARRED)
    again = make_shards(data, tmp_path / "a", counts=COUNTS, template=STARRED.replace("\n", r"\n"))
    assert again.digest == made.digest
    with pytest.raises(KitError, match="template"):
        make_shards(data, tmp_path / "a", counts=COUNTS)
    make_shards(data, tmp_path / "b", counts=COUNTS)
    with pytest.raises(KitError, match="template"):
        make_shards(data, tmp_path / "b", counts=COUNTS, template=STARRED)


def test_dedup_looks_at_the_text_alone(tmp_path):
    twins = [dict(reviewText="Warm!", summary=s, overall=n) for n, s in enumerate("abc", 1)]
    data = written(tmp_path / "a.jsonl", [*twins, dict(reviewText="&#32;", summary="Headline")] * 9)
    how = dict(counts=(1, 0, 0), template=STARRED, max_bad=1)
    [shard] = make_shards(data, tmp_path / "a", **how).split("train")
    assert list(shard.encoded_reviews()) == [b"\n Warm!\n1 a "]
    [shard] = make_shards(data, tmp_path / "b", dedup="none", **how).split("train")
    assert shard.n_reviews == 27


def test_near_duplicates_are_those_of_the_text_alone(tmp_path):
    text = (
        "It bloomed twice a year in a pot on the north side of our house, and never asked for more"
    )
    other = (
        "Headlines have nothing to do with one another and are rather long, longer than the text "
    )
    twins = [
        dict(reviewText=text, summary="Well"),
        dict(reviewText=text + "!!1", summary=other * 3),
    ]
    data = written(tmp_path / "a.jsonl", twins)
    how = dict(counts=(1, 0, 0), template="{text}\n{summary}", dedup="near")
    [shard] = make_shards(data, tmp_path / "a", **how).split("train")
    assert shard.n_reviews == 1


def test_stars_are_written_on_their_own_scale(tmp_path):
    records = [dict(reviewText=f"Review {n}", rating=n) for n in range(11)]
    data = written(tmp_path / "a.jsonl", records)
    how = dict(counts=(1, 0, 0), template="{text}\n{stars}", stars_scale="0-10")
    [shard] = make_shards(data, tmp_path / "a", **how).split("train")
    assert sorted(shard.encoded_reviews()) == sorted(
        b"\n Review %d\n%d " % (n, n) for n in range(11)
    )
    assert [written_stars(x) for x in (4.5, 3.49, None)] == [b"5", b"3", None]


def test_a_field_that_no_input_has_is_refused(tmp_path):
    data = written(tmp_path / "a.jsonl", [dict(reviewText="Good", head="Well")])
    with pytest.raises(KitError, match="summary_key"):
        make_shards(data, tmp_path / "a", counts=(1, 0, 0), template="{text}\n{summary}")
    how = dict(counts=(1, 0, 0), template="{text}\n{summary}")
    [shard] = make_shards(data, tmp_path / "a", summary_key="head", **how).split("train")
    assert next(shard.encoded_reviews()) == b"\n Good\nWell "
    with pytest.raises(KitError, match="has no column 'none'"):
        make_shards(data, tmp_path / "b", summary_key="none", **how)


def damaged_bytes(path):
    broken = bytearray(path.read_bytes())
    broken[-3] ^= 1
    path.write_bytes(broken)


@pytest.mark.parametrize("damage", [damaged_bytes, lambda path: path.unlink()])
def test_a_damaged_table_of_parts_is_named(tmp_path, damage):
    data = written(tmp_path / "a.jsonl", rows())
    corpus = make_shards(data, tmp_path / "a", counts=COUNTS, template=STARRED)
    damage(corpus.folder / "train" / "00000.parts.npy")
    with pytest.raises(KitError, match=r"00000\.parts\.npy"):
        part_ids(open_corpus(corpus.folder).split("train")[0])
    with pytest.raises(KitError, match=r"00000\.parts\.npy"):
        open_corpus(corpus.folder).verify()


def test_offsets_that_do_not_fit_are_refused(tmp_path):
    data = written(tmp_path / "a.jsonl", rows())
    corpus = make_shards(data, tmp_path / "a", counts=COUNTS, template=STARRED)
    shard = corpus.split("train")[0]
    path = shard.path("parts.npy")
    table = np.load(path)
    table["offset"][3, -1] += 1
    np.save(path, table)
    shard.compared.add(path)  # as if its checksum agreed
    with pytest.raises(KitError, match="parts do not rise"):
        part_ids(shard)


def test_a_manifest_with_another_digest_of_its_template_is_refused(tmp_path):
    from sentiment_kit.data.files import digest

    data = written(tmp_path / "a.jsonl", rows())
    corpus = make_shards(data, tmp_path / "a", counts=COUNTS, template=STARRED)
    path = corpus.folder / "manifest.json"
    manifest = read_json(path)
    manifest["template"]["text"] = "{text} {stars} {summary}"
    del manifest["digest"]
    write_json(path, manifest | dict(digest=digest(manifest)))
    with pytest.raises(KitError, match="template differs"):
        open_corpus(corpus.folder)


@pytest.mark.parametrize("template", [STARRED, "{text}"])
def test_batches_say_which_part_each_target_is_of(tmp_path, template):
    data = written(tmp_path / "a.jsonl", rows())
    corpus = make_shards(data, tmp_path / "a", counts=COUNTS, template=template)
    plain = ShardLoader(corpus, "train", 4, seq_len=32)
    ranks = [ShardLoader(corpus, "train", 4, 32, rank=r, world_size=2, parts=True) for r in (0, 1)]
    order = plain.order(0)
    lanes = [[], [], [], []]
    for batch, *halves in zip(plain, *ranks, strict=True):
        assert len(batch) == 3
        for i in range(3):
            assert torch.equal(batch[i], torch.cat([half[i] for half in halves]))
        part_BT = torch.cat([half.part_BT for half in halves])
        assert part_BT.dtype == torch.uint8
        assert part_BT.shape == batch.target_BT.shape
        for lane, ids in zip(lanes, part_BT.tolist(), strict=True):
            lane.append(ids)
    windows = [-(-((shard.n_bytes - 1) // 4) // 32) for shard in order]
    for shard, n in zip(order, windows, strict=True):
        length = (shard.n_bytes - 1) // 4
        ids = [sum(lane[:n], []) for lane in lanes]
        lanes = [lane[n:] for lane in lanes]
        assert sum(ids, []) == part_ids(shard, 1, 4 * length + 1).tolist()


def test_the_corpus_does_not_depend_on_the_order_of_the_input(tmp_path):
    records = list(rows())
    one = make_shards(
        written(tmp_path / "a.jsonl", records), tmp_path / "one", counts=COUNTS, template=STARRED
    )
    turned = written(tmp_path / "b.jsonl", records[::-1])
    two = make_shards(turned, tmp_path / "two", counts=COUNTS, template=STARRED)
    for a, b in zip(one.split("train"), two.split("train"), strict=True):
        assert a.sha256["bin"] == b.sha256["bin"]
        assert a.sha256["parts.npy"] == b.sha256["parts.npy"]


def test_what_is_held_out_keeps_its_parts(tmp_path):
    from sentiment_kit.evidence.held_out import hold_out

    how = dict(counts=(12, 1, 1), order="shard_then_shuffle", template=STARRED)
    corpus = make_shards(written(tmp_path / "a.jsonl", rows(600)), tmp_path / "a", **how)
    held = hold_out(corpus, tmp_path / "b", K=3, shards=2, seed=1).verify()
    assert held.parts == corpus.parts
    pieces = {tuple(r) for shard in corpus.split("train") for r in review_parts(shard)}
    assert all(tuple(r) in pieces for r in review_parts(held.split("valid")[0]))
