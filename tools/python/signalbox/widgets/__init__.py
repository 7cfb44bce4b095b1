"""The page's views as notebook widgets (`pip install 'signalbox[widgets]'`; docs/notebooks.md).

Each shows one text of a model, is changed by clicking or from Python, and says what was clicked as `edits`, `spec()`,
`command()` and `to_frame()`. The browser speaks to this kernel and never to the engine.
"""

from __future__ import annotations

from .base import TextWidget
from .expert_selector import ExpertSelector
from .fork_tree import ForkTree
from .route_view import RouteView
from .steering import Steering

__all__ = ["ExpertSelector", "ForkTree", "RouteView", "Steering", "TextWidget"]
