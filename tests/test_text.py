"""Text to bytes and back: never fails, never loses a byte, never changes its meaning unnoticed."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sentiment_kit.data.files import KitError
from sentiment_kit.data.text import PRESETS, decode, encode, graphemes

relaxed = settings(deadline=None)
ANY_TEXT = st.text(
    st.integers(0, 0x10FFFF).map(chr) | st.sampled_from("\ud83d\ude00\ud800<>&;#x/!\n\r ")
)


@relaxed
@given(ANY_TEXT, st.sampled_from(sorted(PRESETS)))
@example("\ud83d and &#xD800; and &#x110000;", "openai")
def test_encode_takes_any_string(text, preset):
    b = encode(text, preset)
    assert b.startswith(b"\n ") and b.endswith(b" ")
    b.decode("utf-8")  # valid UTF-8
    if preset != "raw":
        assert b"\n" not in b[1:]


@relaxed
@given(st.text())
def test_raw_is_reversible(text):
    assert decode(encode(text, "raw")) == text


def test_surrogates_pair_up_or_become_replacement_characters():
    assert decode(encode("a\ud83d\ude00b")) == "a😀b"
    assert decode(encode("a\ud83db\ude00c")) == "a\ufffdb\ufffdc"


def test_nvidia_strips_tags_but_not_hearts():
    assert decode(encode('Fine.<br />Then <a href="x">gone</a> &lt;b&gt; <3 5 < 6', "nvidia")) == (
        "Fine. Then  gone  <b> <3 5 < 6"
    )


@relaxed
@given(st.binary(max_size=60) | ANY_TEXT.map(encode))
@example(b"\xed\xa0\xbd\xed\xb8\x80")
@example(b"\x80\xd9\x8b")  # an invalid byte before a combining mark
@example(b"\xd8\x80\x80")  # and after a mark that goes before what it joins
@example("👨‍👩‍👧 e\u0301 🇫🇷🇩🇪\r\n".encode())
def test_graphemes_cover_every_byte(b):
    slices = graphemes(b)
    assert [s.start for s in slices] + [len(b)] == [0, *(s.stop for s in slices)]
    for s in slices:
        try:
            b[s].decode("utf-8")
        except UnicodeDecodeError:
            assert s.stop - s.start == 1, "an invalid byte stands alone"


def test_graphemes_are_what_a_reader_sees():
    b = "👨‍👩‍👧e\u0301🇫🇷!".encode() + b"\xff\xfe"
    assert [len(b[s]) for s in graphemes(b)] == [18, 3, 8, 1, 1, 1]


def test_a_changed_preset_gets_a_new_version():
    "Models were trained under these digests. Changed? Raise `version`, then note the digest here."
    assert {name: (preset.version, preset.digest[:16]) for name, preset in PRESETS.items()} == {
        "openai": (1, "3acb25df9233a92d"),
        "nvidia": (1, "0de184bffcb403e2"),
        "raw": (1, "8936b54a245bfdd7"),
    }


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(KitError, match="openai, nvidia, raw"):
        encode("x", "opanai")
