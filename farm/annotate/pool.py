"""Annotator pools: a folder with ``pool.yaml``, prompt templates and worked examples, loaded strictly.

A pool names no model: every annotator has a role, and the recipe binds roles to models. Its fingerprint covers all
that can change what it answers, and nothing else, so an edit redoes the labels of the edited annotator only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from farm import resources
from farm.annotate import parsing, prompts
from farm.annotate.calibrated import ActNoise, PoolNoise
from farm.annotate.noise import Calibration
from farm.annotate.parsing import Parser
from farm.annotate.prompts import Demo, Message, Shown, Template
from farm.errors import AnnotatorError
from farm.records import problems
from farm.seeds import digest

Role = Literal["strong", "medium", "completion"]
_MAX_BYTES = 1_000_000  # no pool file of people's making is larger


class Annotator(BaseModel):
    """One judge as people edit it. ``batch`` pairs share a prompt; ``max_tokens`` is for the whole prompt's answer.

    ``also_first``/``also_second`` are further labels the parser accepts besides those of the reply format;
    ``logprobs`` > 0 asks for that many alternatives per token, for soft verdicts (single-pair prompts);
    ``response_format`` asks the server for JSON, where it knows how. ``noise`` is what calibration on human votes made
    of its labels; it changes nothing that is asked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=40)
    role: Role
    style: Literal["chat", "completion"]
    template: str
    batch: int = Field(1, ge=1, le=20)
    parser: Literal["label", "json"] = "label"
    also_first: tuple[str, ...] = ()
    also_second: tuple[str, ...] = ()
    temperature: float = Field(1.0, ge=0, le=2)
    max_tokens: int = Field(ge=1)
    logprobs: int = Field(0, ge=0, le=20)
    response_format: Literal["json_object"] | None = None
    noise: ActNoise | None = None
    note: str = ""

    _template: Template = PrivateAttr()
    _parser: Parser = PrivateAttr()
    _static: str = PrivateAttr()

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, data: Any) -> Any:
        """YAML has lists, the record has tuples."""
        if not isinstance(data, dict):
            return data
        lists = {k: tuple(v) for k, v in data.items() if k in ("also_first", "also_second") and isinstance(v, list)}
        return data | lists

    def bind(self, text: str, demos: Mapping[str, Demo]) -> None:
        """Attach the template's text. Raises ValueError listing every mistake in it."""
        template = prompts.parse(text, self.style, demos)
        if template.form.numbered != (self.batch > 1):
            raise ValueError(f"batch is {self.batch}, reply format {template.form.text!r}: <n> is for several pairs")
        if self.parser == "json" and not _is_json(template):
            raise ValueError(f"parser json needs a JSON object with true or false, not {template.form.text!r}")
        if self.logprobs and self.batch > 1:
            raise ValueError("logprobs are read for one pair per prompt: set batch to 1 or logprobs to 0")
        self._template = template
        self._parser = Parser(template.form, self.parser, self.also_first, self.also_second)
        if self.parser == "label" and self._parser.clashes():
            raise ValueError(f"a label of {template.form.text!r} could mean either side")
        used = {name: demos[name].model_dump() for name in template.demos}
        self._static = digest(text, json.dumps(used, sort_keys=True))

    def fingerprint(self, model: str) -> str:
        """Identity of everything that shapes this annotator's answers: template, examples, parser, sampling, model."""
        return "f" + digest(self.asking(model), self.parser, self.also_first, self.also_second, parsing.REVISION)

    def asking(self, model: str) -> str:
        """Identity of what is asked, without how answers are parsed: part of the ledger's key of an answer, so that
        answers can be parsed anew."""
        return "q" + digest(
            self._static, self.style, self.batch, self.temperature, self.max_tokens, self.logprobs,
            self.response_format, model,
        )  # fmt: skip

    def render(self, pairs: list[Shown]) -> list[Message]:
        """The prompt for up to ``batch`` pairs; a completion annotator's is one message of role ``prompt``."""
        return self._template.render(pairs, self.id)

    @property
    def reply_format(self) -> str:
        return self._template.form.text

    @property
    def demonstrations(self) -> tuple[str, ...]:
        """Names of the worked examples in the template."""
        return self._template.demos

    @property
    def reader(self) -> Parser:
        return self._parser


class Pool(BaseModel):
    """Annotators that share a folder, in the file's order. A calibrated pool has ``noise``, and so has each of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    folder: Path
    description: str = ""
    annotators: tuple[Annotator, ...]
    demos: dict[str, Demo] = {}
    noise: PoolNoise | None = None

    @property
    def calibration(self) -> Calibration | None:
        """The fitted noise of the whole pool, where there is one."""
        if self.noise is None:
            return None
        return Calibration({a.id: a.noise for a in self.annotators if a.noise is not None}, self.noise)

    def annotator(self, id: str) -> Annotator:
        """Raises AnnotatorError listing the pool's ids."""
        for a in self.annotators:
            if a.id == id:
                return a
        raise AnnotatorError(f"{self.folder}: no annotator {id!r} (there: {', '.join(a.id for a in self.annotators)})")

    def bound(self, models: Mapping[str, str]) -> dict[str, str]:
        """Model per annotator id; ``{annotator}`` in a model name stands for the id.

        Raises AnnotatorError when a role has no model, or a model is given for a role that the pool does not have.
        """
        roles = {a.role for a in self.annotators}
        wrong = [f"no model for role '{r}'" for r in sorted(roles - set(models))]
        wrong += [f"there is no role '{r}'" for r in sorted(set(models) - set(get_args(Role)))]
        wrong += [f"the model for role '{r}' is empty" for r in sorted(roles & set(models)) if not models[r]]
        if wrong:
            raise AnnotatorError(f"pool {self.name}: {'; '.join(wrong)}. Its roles are {', '.join(sorted(roles))}.")
        return {a.id: models[a.role].replace("{annotator}", a.id) for a in self.annotators}


def load_pool(name_or_path: str | Path) -> Pool:
    """Load a pool by folder, by ``pool.yaml``, or by name among the shipped ones.

    Raises AnnotatorError listing every mistake found in its files, DataError when there is no such pool.
    """
    found = resources.find("annotators", name_or_path)
    folder = found if found.is_dir() else found.parent
    path = found if found.is_file() else folder / "pool.yaml"
    wrong: list[str] = []
    data = _yaml(path, wrong, required=True)
    annotators = [] if wrong else _annotators(path, data.pop("annotators", None), wrong)
    demos = _demos(folder / "demos.yaml", wrong)
    noise = _noise(path, data.pop("noise", None), annotators, wrong)
    for key in sorted(set(data) - {"name", "description"}):
        wrong.append(f"{path.name}: unknown field {key!r} (known: name, description, noise, annotators)")
    seen: set[str] = set()
    for a in annotators:
        if a.id in seen:
            wrong.append(f"{path.name}: annotator id {a.id!r} occurs twice")
        seen.add(a.id)
        try:
            a.bind(_read(folder, a.template), demos)
        except (ValueError, OSError) as e:
            wrong.append(f"{a.template} (annotator {a.id}): {e}")
    if wrong:
        listed = "\n".join(f"- {w}" for w in wrong)
        raise AnnotatorError(f"annotator pool {folder} has {len(wrong)} mistake(s):\n{listed}")
    return Pool(
        name=str(data.get("name", folder.name)),
        folder=folder,
        description=str(data.get("description", "")),
        annotators=tuple(annotators),
        demos=demos,
        noise=noise,
    )


def _noise(path: Path, given: object, annotators: list[Annotator], wrong: list[str]) -> PoolNoise | None:
    """The pool's own noise: of the whole pool and of each annotator, or of none."""
    without = [a.id for a in annotators if a.noise is None]
    if given is None and len(without) == len(annotators):
        return None
    if without:
        wrong.append(
            f"{path.name}: a calibrated pool needs 'noise' for every annotator, missing for {', '.join(without)}"
        )
    try:
        return PoolNoise.model_validate({} if given is None else given)
    except ValidationError as e:
        wrong.append(f"{path.name}, noise: {problems(e)}")
        return None


def _annotators(path: Path, rows: object, wrong: list[str]) -> list[Annotator]:
    if not isinstance(rows, list) or not rows:
        wrong.append(f"{path.name}: 'annotators' must be a non-empty list")
        return []
    out = []
    for number, row in enumerate(rows, 1):
        name = row.get("id", f"number {number}") if isinstance(row, dict) else f"number {number}"
        try:
            out.append(Annotator.model_validate(row))
        except ValidationError as e:
            wrong.append(f"{path.name}, annotator {name}: {problems(e)}")
    return out


def _demos(path: Path, wrong: list[str]) -> dict[str, Demo]:
    demos: dict[str, Demo] = {}
    for name, row in _yaml(path, wrong, required=False).items():
        try:
            demos[str(name)] = Demo.model_validate(row)
        except ValidationError as e:
            wrong.append(f"{path.name}, {name}: {problems(e)}")
    return demos


def _yaml(path: Path, wrong: list[str], required: bool) -> dict[str, Any]:
    if not required and not path.exists():
        return {}
    try:
        data = yaml.safe_load(_read(path.parent, path.name))
    except (OSError, ValueError) as e:
        wrong.append(f"{path.name}: cannot be read ({e})")
        return {}
    except yaml.YAMLError as e:
        wrong.append(f"{path.name}: not YAML ({' '.join(str(e).split())})")
        return {}
    if not isinstance(data, dict):
        wrong.append(f"{path.name}: must be a mapping, got {type(data).__name__}")
        return {}
    return data


def _read(folder: Path, name: str) -> str:
    """Text of a file inside the folder (a pool from elsewhere may not read other files)."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"{name} lies outside the pool's folder")
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{name} is larger than {_MAX_BYTES} bytes")
    return path.read_text(encoding="utf-8")


def _is_json(template: Template) -> bool:
    try:
        row = json.loads(template.form.fill(True, "", 1))
    except ValueError:
        return False
    return isinstance(row, dict) and (template.form.first, template.form.second) == ("true", "false")
