"""A compact backbone of a few channels with random weights, prompts for it, and random tokens."""

import torch

from vkdlab.vlap.backbone import Prompt
from vkdlab.vlap.mentions import Mentions
from vkdlab.vlap.networks import CompactBackbone, CompactConfig, FrameEncoder

CUP = Prompt("What happens to the small red cup?", ("it spins", "it is covered with a cloth"))
HAND = Prompt("How often does the hand come?", ("once", "twice", "not at all", "the first time only", "always"))
DUCK = Prompt("Where is the duck at the end?", ("near left", "near right", "far left"))
PROMPTS = [CUP, HAND, DUCK]
CONFIG = CompactConfig(grid=(4, 3), hidden=16, heads=2)
DIM, THINGS, OPTIONS, ALWAYS = 12, 2, 5, 3


def make(mentions=None, *, config=CONFIG):
    """A backbone whose look-up finds something: its encoder's batch norms have statistics of noise."""
    encoder = FrameEncoder(4, dim=DIM)
    encoder(torch.randint(0, 256, (8, 24, 32, 3), dtype=torch.uint8))
    mentions = Mentions(DIM, hidden=8) if mentions is None else mentions
    return CompactBackbone(encoder, mentions, always=torch.randn(ALWAYS, DIM), config=config).eval()


def tokens_of(backbone, videos, frames):
    """Tokens of frames that differ, a full mask and places of videos of equally many frames."""
    tokens = torch.randn(videos, frames, backbone.frame_tokens, backbone.frame_dim)
    places = ((torch.arange(frames) + 0.5) / frames).expand(videos, -1)
    return tokens, torch.ones(videos, frames, dtype=torch.bool), places
