"""What is exported, for type checkers and for `caft_lens._support.lazy.attach`."""

from .cards import sae_cards as sae_cards
from .loading import load_sae as load_sae
from .loading import load_saes as load_saes
from .top_latents import Latents as Latents
from .top_latents import TopLatents as TopLatents
