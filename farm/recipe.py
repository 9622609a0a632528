"""Recipes: YAML -> strict, typed settings. Every mistake is reported at once, with the nearest valid key.

Sections are named after stages. The sections of training stages (``sft``, ``reward`` and the methods under
``improve``) are checked against the settings classes that the caller passes in, so this layer knows no method.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from farm import resources
from farm.errors import RecipeError


class Settings(BaseModel):
    """Base of all sections: immutable and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Compute(Settings):
    """``jobs`` worker processes with ``threads`` torch threads each. Both can change floating-point sums, so the
    recipe fixes them, not the machine."""

    jobs: int = Field(2, ge=1, le=256)
    threads: int = Field(1, ge=1, le=256)


class Data(Settings):
    """Where instructions come from: the offline world (no ``path``), or a file or Hub dataset with the columns
    ``instruction``, ``input``, ``output``. ``exclude`` lists row ids to keep out of training (CSV, first column);
    ``eval_path`` holds the evaluation instructions; the card of ``eval_set`` says which column is what."""

    world: Literal["offline"] | None = None
    path: str | None = None
    exclude: str | None = None
    eval_path: str | None = None
    eval_set: str = "offline_805"
    seed: int = 0
    max_prompt_chars: int = Field(2000, ge=10)

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        if (self.world is None) == (self.path is None):
            raise ValueError("give either world: offline, or path: FILE (and eval_path: FILE)")
        if self.path is not None and (self.eval_path is None or self.eval_set == "offline_805"):
            raise ValueError(
                "path needs eval_path (a file with evaluation instructions) and eval_set (its card's name)"
            )
        return self


class PolicySection(Settings):
    """The policy: ``tiny`` (a Llama architecture from scratch, with its own tokenizer) or a Hub id / local folder.
    ``lora_rank`` 0 trains all weights."""

    model: str = "tiny"
    hidden: int = Field(64, ge=8)
    layers: int = Field(2, ge=1)
    heads: int = Field(4, ge=1)
    vocabulary: int = Field(4096, ge=300)
    max_prompt_tokens: int = Field(64, ge=4)
    max_tokens: int = Field(40, ge=1)
    lora_rank: int = Field(0, ge=0)


class Sample(Settings):
    """Responses to be compared: ``n`` per instruction of the preference split, one pair of different ones each."""

    n: int = Field(4, ge=2)
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    instructions: int = Field(20_000, ge=1)


class Endpoint(Settings):
    """Where judges answer. ``scripted``: in this process; ``local_server``: the scripted judge over HTTP on loopback;
    ``openai``: any OpenAI-compatible server (``base_url`` or OPENAI_BASE_URL, key from the environment);
    ``transformers``: language models in this process, the roles bound to their folders or Hub ids; ``replay``: what is
    on record in ``path``, a run's folder or a file of judgements or raw answers.

    ``concurrency`` is the most calls at a time; how many there are follows what the server bears. ``rpm`` and ``tpm``
    are the account's requests and tokens per minute, where it does not state them itself. ``batch`` uses the Batch API.
    ``budget``: USD that all calls of the run may cost together. ``prices``: model pattern to USD per million prompt and
    completion tokens, before the rows of ``price_table`` (a file; default: the shipped one)."""

    kind: Literal["scripted", "local_server", "openai", "transformers", "replay"] = "scripted"
    base_url: str | None = None
    path: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    insecure_http: bool = False
    concurrency: int = Field(64, ge=1, le=4096)
    timeout: float = Field(60.0, gt=0)
    rpm: float | None = Field(None, gt=0)
    tpm: float | None = Field(None, gt=0)
    batch: bool = False
    budget: float | None = Field(None, ge=0, allow_inf_nan=False)
    prices: dict[str, tuple[float, float]] = {}
    price_table: str | None = None

    @model_validator(mode="after")
    def _record(self) -> Endpoint:
        if (self.kind == "replay") != (self.path is not None):
            raise ValueError("kind: replay needs path (a run's folder or a file), and no other kind takes one")
        return self


class Annotate(Settings):
    """Labels for training: which pool, which model answers for each role, and the noise put on top.

    ``flip`` is uniform noise; left out it is 0.25, AlpacaFarm's, and for a calibrated pool the pool's own noise.
    ``soft`` has rewards learn the judges' probabilities instead of their verdicts. ``both_orders`` has every act made
    in either order of the two responses, at twice the cost.

    ``human`` is a file of people's labels (``farm label export``, or any format of docs/agreement.md), which then take
    the place of the pool's."""

    pool: str = "farm13"
    models: dict[str, str] = dict.fromkeys(("strong", "medium", "completion"), "scripted/{annotator}")
    endpoint: Endpoint = Endpoint()
    per_pair: int = Field(1, ge=1)
    flip: float | None = Field(None, ge=0, le=0.5)
    skip_noise: bool = False
    soft: bool = False
    both_orders: bool = False
    human: str | None = None


class Row(Settings):
    """What a row of ``improve`` says besides its method's settings: the reward it optimises. "model" is the reward
    model; "random" (noise, fixed for every text) and "length" (longer is better) are controls: what any optimisation
    does, and what length alone explains."""

    reward: Literal["model", "random", "length"] = "model"


class Select(Settings):
    """The best checkpoint of every row, chosen on ``val`` only: at most ``candidates`` points of its curve, each judged
    by the evaluation's pool against what the SFT policy answers to the same ``instructions`` prompts. Keeps the
    policy of every point of a curve on disk."""

    instructions: int = Field(200, ge=1)
    candidates: int = Field(6, ge=1)


class Evaluate(Settings):
    """Win rate of every policy against the reference model on ``instructions`` evaluation instructions, by the pool
    without noise; ``human_votes`` simulated people judge each pair too (offline world only). ``canaries`` instructions
    are answered by texts that deserve to lose; a win rate of theirs that may reach ``canary_limit`` is reported."""

    pool: str = "farm13"
    instructions: int = Field(805, ge=1)
    per_pair: int = Field(1, ge=1)
    temperature: float = Field(0.7, ge=0)
    human_votes: int = Field(3, ge=0)
    both_orders: bool = False
    canaries: int = Field(0, ge=0)
    canary_limit: float = Field(0.5, gt=0, le=1)


class BestOfNCurve(Settings):
    """Proxy and gold of best-of-n for n = 1, 2, 4, ... up to ``n``, from one scored pool per instruction of ``val``."""

    n: int = Field(512, ge=2)
    instructions: int = Field(128, ge=2)


class Study(Settings):
    """What is measured across policies. ``curve_instructions`` of ``val`` carry the training curves. The first
    ``agreement_pairs`` pairs are judged by every annotator of the pool, and where there are simulated humans by
    ``agreement_votes`` of them; ``both_orders`` shows them to the annotators in both orders, which tells how much of
    a verdict is the position."""

    best_of_n: BestOfNCurve | None = BestOfNCurve()
    curve_instructions: int = Field(400, ge=2)
    agreement_pairs: int = Field(0, ge=0)
    agreement_votes: int = Field(4, ge=2)
    both_orders: bool = False


class Recipe(Settings):
    """One study. ``improve`` maps a row name to ``{method: NAME, ...its settings, ...those of Row}``; ``laboratory``
    holds what only ``farm overoptimize`` reads (farm/stages/laboratory/settings.py)."""

    name: str = Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    about: str = ""
    seeds: list[int] = Field([0], min_length=1)
    compute: Compute = Compute()
    data: Data
    policy: PolicySection = PolicySection()
    sft: Any = {}
    sample: Sample = Sample()
    annotate: Annotate = Annotate()
    reward: Any = {}
    improve: dict[str, Any] = {}
    select: Select | None = None
    evaluate: Evaluate = Evaluate()
    study: Study = Study()
    laboratory: Any = None

    @model_validator(mode="after")
    def _distinct_seeds(self) -> Recipe:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds must be distinct")
        return self


class Shapes(BaseModel):
    """Settings classes of the training stages, by section; ``methods`` are those that ``improve`` may name, ``row``
    what a policy of the ``laboratory`` may say besides its method's settings."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    sft: type[BaseModel]
    reward: type[BaseModel]
    methods: dict[str, type[BaseModel]]
    laboratory: type[BaseModel] | None = None
    row: type[BaseModel] | None = None


def load(
    name: str | Path,
    shapes: Shapes,
    overrides: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    full: bool = False,
) -> Recipe:
    """Read a recipe by path or shipped name, apply ``a.b=c`` overrides, and check it whole.

    A recipe made small for a laptop may carry a section ``full`` of such overrides (``a.b: c``), applied when asked.
    Raises RecipeError listing every mistake: file, field, value, nearest valid key.
    """
    path = resources.find("recipes", name)
    raw = _read(path)
    mistakes: list[str] = []
    larger = raw.pop("full", None)
    if full:
        if not isinstance(larger, dict) or not larger:
            raise RecipeError(f"{path}: this recipe has no section 'full', so --full means nothing here")
        for key, value in larger.items():
            _assign(raw, str(key), value, f"full.{key}", mistakes)
    for override in overrides:
        _override(raw, override, mistakes)
    if seeds is not None:
        raw["seeds"] = list(seeds)
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as e:
        mistakes += _explain(e, Recipe, "")
    checked = _stages(raw, shapes, mistakes)
    if mistakes:
        plural = "mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        raise RecipeError(f"{path}: {plural} in the recipe\n" + "\n".join(f"  - {m}" for m in mistakes))
    assert recipe is not None
    return recipe.model_copy(update=checked)


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML: every default spelled out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, which YAML would silently let win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = _Loader(path.read_text(encoding="utf-8")).get_single_data()
    except (OSError, UnicodeDecodeError) as e:
        raise RecipeError(f"{path}: the recipe cannot be read ({e})") from e
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise RecipeError(f"{path}{where}: not valid YAML ({getattr(e, 'problem', None) or e})") from None
    if not isinstance(raw, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of sections, got {type(raw).__name__}")
    return raw


def _override(raw: dict[str, Any], text: str, mistakes: list[str]) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        mistakes.append(f"--set {text}: write it as section.key=value")
        return
    try:
        _assign(raw, key.strip(), yaml.safe_load(value), f"--set {text}", mistakes)
    except yaml.YAMLError:
        mistakes.append(f"--set {text}: '{value}' is not a YAML value")


def _assign(raw: dict[str, Any], key: str, value: Any, where: str, mistakes: list[str]) -> None:
    *parents, last = key.split(".")
    node: Any = raw
    for parent in parents:
        node = node.setdefault(parent, {}) if isinstance(node, dict) else None
    if isinstance(node, dict):
        node[last] = value
    else:
        mistakes.append(f"{where}: '{'.'.join(parents)}' is not a section")


def _stages(raw: Mapping[str, Any], shapes: Shapes, mistakes: list[str]) -> dict[str, Any]:
    """Check the training sections; returns them as settings objects (``improve`` by row name)."""
    checked: dict[str, Any] = {}
    for section, shape in (("sft", shapes.sft), ("reward", shapes.reward)):
        checked[section] = _check(raw.get(section) or {}, shape, section, mistakes)
    checked["improve"] = _rows(raw.get("improve"), shapes, "improve", Row, mistakes)
    given = raw.get("laboratory")
    if given is not None and shapes.laboratory is not None:
        laboratory = _check(given, shapes.laboratory, "laboratory", mistakes)
        policies = given.get("policies") if isinstance(given, dict) else None
        rows = _rows(policies, shapes, "laboratory.policies", shapes.row, mistakes)
        checked["laboratory"] = laboratory and laboratory.model_copy(update={"policies": rows})
    return checked


def _rows(
    given: Any, shapes: Shapes, section: str, more: type[BaseModel] | None, mistakes: list[str]
) -> dict[str, tuple[Any, ...]]:
    """Rows of methods as (method, its settings, those of ``more``), the last only where ``more`` is given."""
    rows: dict[str, tuple[Any, ...]] = {}
    for row, settings in given.items() if isinstance(given, dict) else []:
        where = f"{section}.{row}"
        method = settings.get("method") if isinstance(settings, dict) else None
        if not isinstance(settings, dict) or method is None:
            mistakes.append(f"{where}: give 'method:' and its settings (methods: {', '.join(shapes.methods)})")
        elif method not in shapes.methods:
            mistakes.append(f"{where}.method: unknown method {method!r}{_nearest(str(method), shapes.methods)}")
        else:
            extra = set(more.model_fields) if more else set()
            rest = {k: v for k, v in settings.items() if k != "method" and k not in extra}
            parts: list[Any] = [method, _check(rest, shapes.methods[method], where, mistakes)]
            if more:
                parts.append(_check({k: v for k, v in settings.items() if k in extra}, more, where, mistakes))
            rows[str(row)] = tuple(parts)
    return rows


def _check(raw: Any, shape: type[BaseModel], where: str, mistakes: list[str]) -> BaseModel | None:
    if not isinstance(raw, dict):
        mistakes.append(f"{where}: must be a mapping, got {type(raw).__name__}")
        return None
    try:
        return shape.model_validate(raw)
    except ValidationError as e:
        mistakes += _explain(e, shape, where)
        return None


def _explain(error: ValidationError, shape: type[BaseModel], where: str) -> list[str]:
    out = []
    for item in error.errors(include_url=False, include_context=False):
        field = ".".join([where, *map(str, item["loc"])] if where else map(str, item["loc"]))
        if item["type"] == "extra_forbidden":
            valid = _fields(shape, item["loc"][:-1])
            out.append(f"{field}: unknown key{_nearest(str(item['loc'][-1]), valid)}")
        elif item["type"] == "missing":
            out.append(f"{field}: required, but missing")
        else:
            message = item["msg"].removeprefix("Value error, ")
            shown = "" if isinstance(item["input"], dict) else f" (got {item['input']!r})"
            out.append(f"{field or 'recipe'}: {message}{shown}")
    return out


def _fields(shape: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """Valid keys of the section at ``location`` inside ``shape``."""
    current: Any = shape
    for part in location:
        if part not in current.model_fields:
            continue  # a name that the recipe's author chose, inside a mapping
        annotation = current.model_fields[part].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        current = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
        if current is None:
            return []
    return list(current.model_fields)


def _nearest(key: str, valid: Any) -> str:
    close = difflib.get_close_matches(key, list(valid), n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; valid: {', '.join(valid)}" if valid else ""
