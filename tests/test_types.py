"""The package's types, by mypy: about 20 seconds the first time, one after that."""

import re

from sync import ROOT, module_path
from typecheck import CONFIG, MARK, NEVER, mypy

LISTED = CONFIG.read_text(encoding="utf-8").partition(MARK)[2]
EXCEPTIONS = dict(re.findall(r"\[mypy-sentiment_kit\.(\S+)\]\ndisable_error_code = (.+)", LISTED))


def test_mypy_has_nothing_to_say():
    assert mypy() == "", "mend it; or, where tensors and arrays are the reason: tests/typecheck.py"


def test_exceptions_are_of_modules_that_exist_and_of_the_permitted_kinds():
    assert len(EXCEPTIONS) == LISTED.count("[mypy-")
    assert [name for name in EXCEPTIONS if not module_path(name).exists()] == []
    assert {code for codes in EXCEPTIONS.values() for code in codes.split(", ")} & NEVER == set()


def test_a_user_s_mistake_is_found(tmp_path):
    "What a type checker tells users, who come through the front door."
    assert (ROOT / "sentiment_kit" / "py.typed").exists()
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "import sentiment_kit as sk\n"
        "sk.generate(sk.LanguageModel(sk.LanguageModelConfig()), 3, 10)\n"
        "sk.LanguageModelConfig(hiden_size=3)\n"
        "sk.no_such_name\n"
    )
    codes = re.findall(r"wrong\.py:(\d).*\[([a-z-]+)\]", mypy(str(wrong)))
    assert codes == [("2", "arg-type"), ("3", "call-arg"), ("4", "attr-defined")]
