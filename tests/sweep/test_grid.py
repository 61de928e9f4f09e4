"""The fast grid gives what Hydra gives, point by point."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig

from hrm_lab.compose import CONF, compose_config
from hrm_lab.config import Config
from hrm_lab.errors import ConfigError, UserError
from hrm_lab.sweep.grid import compose_points, expand

GRID = [
    "+experiment=demo",
    "model=hrm_tiny,hrm_small",
    "data=sudoku_4x4,sudoku_6x6",
    "model.hidden_size=64,128",
    "optim.lr=choice(1e-3,2e-3)",
    "seed=range(0,2)",
    "data.num_blanks=5",
    "stopping.goal=0.9,null",
]


@pytest.fixture
def loader() -> Iterator[ConfigLoader]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        yield hydra.config_loader


def master(loader: ConfigLoader, overrides: list[str]) -> DictConfig:
    return loader.load_configuration("config", overrides, run_mode=RunMode.MULTIRUN)


def compose_all(loader: ConfigLoader, overrides: list[str]) -> tuple[list[list[str]], list[Config]]:
    points = expand(None, overrides, loader)
    return points, compose_points(loader, master(loader, overrides), points)


def test_every_point_is_what_hydra_composes(loader: ConfigLoader) -> None:
    points, configs = compose_all(loader, GRID)
    assert len(points) == 64
    assert len({str(config) for config in configs}) == 64
    for point, config in list(zip(points, configs, strict=True))[::7]:
        assert config == compose_config(point)
        assert config.model.puzzle_emb_ndim == config.model.hidden_size  # interpolations follow swept values


def test_the_command_line_wins_over_the_experiment(loader: ConfigLoader) -> None:
    params = {"model.H_cycles": "1,2", "model.L_cycles": "1,2"}
    points = expand(params, ["model.H_cycles=3", "seed=0,1"], loader)
    assert points == [
        ["model.H_cycles=3", f"model.L_cycles={low}", f"seed={seed}"] for low in (1, 2) for seed in (0, 1)
    ]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.num_heads=2,7", "model.num_heads=7"),
        ("model.H_cycles=1,x", "model.H_cycles=x"),
        ("model.nope=1,2", "model.nope=1"),
        ("model=hrm_tiny,huge", "model=huge"),
        ("optim.lr=interval(0,1)", "interval"),
    ],
)
def test_a_bad_point_is_named(loader: ConfigLoader, override: str, said: str) -> None:
    with pytest.raises(UserError, match="way out") as refusal:
        compose_all(loader, ["+experiment=demo", override])
    assert said in str(refusal.value)
    assert isinstance(refusal.value, ConfigError)
