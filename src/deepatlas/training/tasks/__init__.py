"""The three tasks: supervised segmentation, registration, and both teaching each other."""

from deepatlas.training.tasks.joint import Joint
from deepatlas.training.tasks.registration import Registration
from deepatlas.training.tasks.segmentation import Segmentation

TASKS = {"segmentation": Segmentation, "registration": Registration, "joint": Joint}
