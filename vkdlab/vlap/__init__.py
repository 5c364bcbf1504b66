"""VLAP: ask the question before choosing the frames (Wang et al., "ViLA", ECCV 2024).

Looking closely at every frame of a video is what makes answering questions about it slow. Here all T frames are looked
at cheaply, and the Frame-Prompter keeps S of them, one of each segment of the video, by what they show of the question.
Only these are read by a Q-Former, which turns a frame and the question into a few tokens, and by the language model,
which answers. In training a teacher Q-Former reads all T frames, and the student's tokens of S frames are held to its.

What answers is a `Backbone`: `CompactBackbone` is trained here, `TransformersBackbone` loads InstructBLIP or BLIP-2
from a folder on this machine. `train_study` trains everything for the built-in world, `ask` answers about a video file.
Notebook: `05_frame_selection`.
"""

from vkdlab.vlap.answerer import Answer, AnswererTraining
from vkdlab.vlap.ask import Asked, ask
from vkdlab.vlap.backbone import LETTERS, Backbone, Prompt, Text
from vkdlab.vlap.batches import QuestionBatch, QuestionDataset
from vkdlab.vlap.distill import VLAP, Config, Inspection, Student
from vkdlab.vlap.evaluate import Results, answering, evaluate
from vkdlab.vlap.frames import VideoFrames
from vkdlab.vlap.lora import LoRA
from vkdlab.vlap.measure import Measured, measure_study, time_study
from vkdlab.vlap.mentions import Mentions, MentionTexts, MentionTraining
from vkdlab.vlap.naming import Naming
from vkdlab.vlap.networks import CompactBackbone, CompactConfig, FrameEncoder
from vkdlab.vlap.prompter import FramePrompter, ReleasedPrompter, Selection
from vkdlab.vlap.recipes import RECIPES, Recipe
from vkdlab.vlap.selectors import rivals
from vkdlab.vlap.sightings import SightedQuestions, sighted
from vkdlab.vlap.store import FrameStore, frame_store
from vkdlab.vlap.student_files import latest_student, load_student, save_student
from vkdlab.vlap.study import Study, train_study
from vkdlab.vlap.transformers_backbone import TransformersBackbone
from vkdlab.vlap.workshop import STUDENTS

__all__ = [
    "LETTERS",
    "RECIPES",
    "STUDENTS",
    "VLAP",
    "Answer",
    "AnswererTraining",
    "Asked",
    "Backbone",
    "CompactBackbone",
    "CompactConfig",
    "Config",
    "FrameEncoder",
    "FramePrompter",
    "FrameStore",
    "Inspection",
    "LoRA",
    "Measured",
    "MentionTexts",
    "MentionTraining",
    "Mentions",
    "Naming",
    "Prompt",
    "QuestionBatch",
    "QuestionDataset",
    "Recipe",
    "ReleasedPrompter",
    "Results",
    "Selection",
    "SightedQuestions",
    "Student",
    "Study",
    "Text",
    "TransformersBackbone",
    "VideoFrames",
    "answering",
    "ask",
    "evaluate",
    "frame_store",
    "latest_student",
    "load_student",
    "measure_study",
    "rivals",
    "save_student",
    "sighted",
    "time_study",
    "train_study",
]
