"""The steps of the line (``farm/pipeline.py``): what each reads, calls and writes.

A step's folder is ``<number>-<stage>[/<row>]/seed-<seed>``; files in it are records, one JSON object per line, and
models in the Hugging Face format. Step functions run in worker processes.
"""

from farm.stages.canaries import canaries
from farm.stages.common import SELECTED, Made, Run, planned, policies, shapes
from farm.stages.conclude import best_of_n, findings, report, study
from farm.stages.controls import check
from farm.stages.judge import annotate, cross, evaluate
from farm.stages.select import select
from farm.stages.train import data, improve, reward, sample, sft

__all__ = [
    "SELECTED",
    "Made",
    "Run",
    "annotate",
    "best_of_n",
    "canaries",
    "check",
    "cross",
    "data",
    "evaluate",
    "findings",
    "improve",
    "planned",
    "policies",
    "report",
    "reward",
    "sample",
    "select",
    "sft",
    "shapes",
    "study",
]
