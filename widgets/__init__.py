"""Panels for notebooks: thin views whose state is in traits and whose logic is in `caft_lens`.

`link` joins panels, so that a concept that is selected in one is selected in the others. Each panel works without a
browser, through its traits and methods, and shows itself as plain HTML where no kernel is.
"""

from __future__ import annotations

from caft_widgets.ablation_playground import AblationPlayground
from caft_widgets.concept_browser import ConceptBrowser
from caft_widgets.layer_explorer import LayerExplorer
from caft_widgets.panel import Panel, link

__all__ = ["AblationPlayground", "ConceptBrowser", "LayerExplorer", "Panel", "link"]
