"""Thin: all it knows it reads from settings.ini.

Run notebooks and their recipes travel as `sentiment_kit.runs`.
"""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
settings = config["DEFAULT"]
extras = {
    "lab": settings["lab_requirements"].split(),  # JupyterLab and papermill
    "data": settings["data_requirements"].split(),  # corpora built on several machines
    "parquet": settings["parquet_requirements"].split(),  # .parquet files, in and out
    "near-dup": settings["neardup_requirements"].split(),  # near duplicates found and dropped
    "tensorboard": settings["tensorboard_requirements"].split(),
    "fast": settings["fast_requirements"].split(),  # the recurrence's fused kernels on a CPU
}

setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=settings["author"],
    author_email=settings["author_email"],
    keywords=settings["keywords"],
    license="Apache-2.0",
    python_requires=f">={settings['min_python']}",
    packages=[*find_packages(include=["sentiment_kit", "sentiment_kit.*"]), "sentiment_kit.runs"],
    package_dir={"sentiment_kit.runs": "nbs/runs"},
    package_data={
        "sentiment_kit": ["py.typed", "samples/*", "static/**/*", "weights/**/*"],
        "sentiment_kit.runs": ["*.ipynb", "recipes/*.yaml"],
    },
    install_requires=settings["requirements"].split(),
    extras_require=extras | {"dev": sum(extras.values(), settings["dev_requirements"].split())},
    entry_points={"console_scripts": settings["console_scripts"].split()},
    zip_safe=False,
)
