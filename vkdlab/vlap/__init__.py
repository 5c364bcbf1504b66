"""VLAP: ask the question before choosing the frames (Wang et al., "ViLA", ECCV 2024).

Looking closely at every frame of a video is what makes answering questions about it slow. Here all T frames are looked
at cheaply, and the Frame-Prompter keeps S of them, one of each segment of the video, by what they show of the question.
Only these are read by a Q-Former, which turns a frame and the question into a few tokens, and by the language model,
which answers. In training a teacher Q-Former reads all T frames, and the student's tokens of S frames are held to its.

What answers is a `Backbone`: `TransformersBackbone` loads InstructBLIP or BLIP-2 from a folder on this machine.
"""

from vkdlab.vlap.backbone import LETTERS, Backbone, Prompt, Text
from vkdlab.vlap.lora import LoRA
from vkdlab.vlap.transformers_backbone import TransformersBackbone

__all__ = [
    "LETTERS",
    "Backbone",
    "LoRA",
    "Prompt",
    "Text",
    "TransformersBackbone",
]
