"""selbench: the referee for token selection in on-policy distillation."""

from pathlib import Path

from selbench.errors import ConfigError, UserError
from selbench.signals import Signals, StrategyError, Tensor, median, min_max, prefix_ema, quantile, rank
from selbench.strategy import register_strategy
from selbench.task import register_task

__all__ = [
    "ConfigError", "Signals", "StrategyError", "Tensor", "UserError", "__version__", "median", "min_max", "prefix_ema", "quantile",
    "rank", "register_strategy", "register_task",
]  # fmt: skip
__version__ = "0.1.0"

_HERE = Path(__file__).parent
if not (_HERE / "strategies").is_dir():  # a checkout: strategies/ and tasks/ are siblings here, children in a wheel
    __path__.append(str(_HERE.parent))
