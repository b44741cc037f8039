"""The harness of the browser tests sees what it is there to see."""

import psutil
import pytest
from browser import open_lab, open_tab

pytestmark = pytest.mark.slow


def test_a_notebook_runs_in_jupyterlab_and_nothing_stays_behind(tmp_path):
    with open_lab(tmp_path, dark=True) as lab:
        page = lab.run(
            ["import ipywidgets\nslider = ipywidgets.IntSlider(3)", "slider", "slider.value + 1"]
        )
        assert lab.output(2).inner_text().strip() == "4"
        assert page.locator("body").get_attribute("data-jp-theme-light") == "false"
        page.locator(".jp-OutputArea .noUi-handle").press("ArrowRight")
        assert lab.wait("slider.value != 3 and slider.value") == 4
        assert lab.screenshot("harness").stat().st_size > 10_000
        assert lab.errors == [] and lab.outside == []
        assert lab.save().cells[2].outputs[0].data["text/plain"] == "4"

        lab.run(
            [
                "from IPython.display import HTML",
                "HTML('<img src=http://example.org/a.png><i role=nonsense>x</i>')",
            ]
        )
        page.wait_for_function("document.querySelector('.jp-OutputArea img').complete")
        assert set(lab.outside) == {"http://example.org/a.png"}  # a browser may ask again
        assert any("ERR_NAME_NOT_RESOLVED" in error for error in lab.errors)
        assert page.evaluate("document.querySelector('.jp-OutputArea img').naturalWidth") == 0
        assert [line.split(":")[0] for line in lab.axe(".jp-OutputArea")] == ["aria-roles"]

        with pytest.raises(AssertionError, match="(?s)cell 1: .*ZeroDivisionError"):
            lab.run(["1", "1 / 0"])
        with pytest.raises(AssertionError, match="NameError"):
            lab.python("nobody")
        assert lab.errors == []
        family = psutil.Process().children(recursive=True)  # server, kernel, browser
    assert len(family) > 3 and not any(
        p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family
    )


def test_a_file_opened_from_the_disk_reaches_nobody(tmp_path):
    (tmp_path / "page.html").write_text(
        "<title>x</title><p>hello<script src=http://127.0.0.1:9/x.js></script>"
    )
    with open_tab() as tab:
        tab.page.goto((tmp_path / "page.html").as_uri())
        assert tab.page.inner_text("p") == "hello" and tab.outside == ["http://127.0.0.1:9/x.js"]
        assert len(tab.errors) == 1
