"""What is exported, for type checkers and for `caft_lens._support.lazy.attach`."""

from . import reconstruction as reconstruction
from .cards import sae_cards as sae_cards
from .loading import load_sae as load_sae
from .loading import load_saes as load_saes
from .reconstruction import Reconstruction as Reconstruction
from .top_latents import Latents as Latents
from .top_latents import TopLatents as TopLatents
from .training import SaeSettings as SaeSettings
from .training import train as train
