"""The recipe section ``laboratory``: rewards, what is optimised against them, and what is asked of the curves."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from farm.recipe import Settings


class Pool(Settings):
    """The sampled pool that every best-of-n curve comes from: ``n`` samples for each of ``instructions`` of ``val``."""

    n: int = Field(1024, ge=16)
    instructions: int = Field(64, ge=8)


HUMANS = "humans"  # in the place of a pool's name: the simulated people of the offline world
GOLD = "gold"  # likewise: gold itself, as Gao et al. (2023) label


class Labels(Settings):
    """A way to label the sampled pairs. What is left out is as in the section ``annotate``, but a calibrated ``pool``
    brings its own noise unless ``flip`` is said here, and the simulated people (``pool: humans``, ``per_pair`` of them
    on every pair, 1 by default) always do. ``pool: gold``: the response with more gold wins, and a share ``flip`` (0 by
    default) of the labels is turned round."""

    pool: str | None = None
    flip: float | None = Field(None, ge=0, le=0.5)
    per_pair: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _own_noise(self) -> Labels:
        if self.pool == HUMANS and self.flip is not None:
            raise ValueError("flip: the simulated people bring their own noise, leave it out")
        if self.pool == GOLD and self.per_pair is not None:
            raise ValueError("per_pair: gold says the same every time, leave it out")
        return self


class Trunk(Settings):
    """Another size (or another model) to train a reward model from; it gets an SFT of its own."""

    model: str | None = None
    hidden: int | None = Field(None, ge=8)
    layers: int | None = Field(None, ge=1)
    heads: int | None = Field(None, ge=1)


class Reward(Settings):
    """A reward to optimise. ``preferences`` labelled pairs after the first ``skip`` train each of ``members`` reward
    models (for ``epochs`` and with ``lr`` instead of those of the section ``reward``), which are then combined
    (farm/reward/ensemble.py); ``weights`` averages their weights instead. Members start from the ``same`` SFT policy,
    or each from that of an ``other`` training seed, which makes them err more independently (Eisenstein et al. 2023).
    ``refresh`` names a reward whose choices among the samples replace the second half of the pairs. ``replicates``: so
    many rewards of this kind, trained alike but for their head and the order of the data; the best-of-n curve is their
    mean, policies and judges use the first. The curve is compared with that of ``against`` (default: the first
    reward)."""

    labels: str = ""
    preferences: int | None = Field(None, ge=20)
    skip: int = Field(0, ge=0)
    trunk: Trunk | None = None
    epochs: float | None = Field(None, gt=0)
    lr: float | None = Field(None, gt=0)
    members: int = Field(1, ge=1, le=32)
    replicates: int = Field(1, ge=1, le=32)
    starts: Literal["same", "other"] = "same"
    combine: Literal["mean", "worst", "variance", "soft", "weights"] = "mean"
    strength: float = Field(0.5, ge=0)
    transform: Literal["none", "bounded", "clip", "quantile"] = "none"
    clip: float = Field(2.0, gt=0)
    length_penalty: float = Field(0.0, ge=0)
    refresh: str | None = None
    against: str | None = None
    question: str = ""


class Row(Settings):
    """A trained policy: what it optimises and with which row it is compared, beside its method's own settings."""

    reward: str | None = None
    against: str | None = None
    question: str = ""


class Cross(Settings):
    """The 2x2 of training and evaluation judges: two rewards, and for RL two policies trained on them. The ``same``
    judge is the pool that labelled (without flips); ``independent`` is another pool, or the simulated humans. Of every
    best-of-n, ``draws`` selections per instruction are judged, with ``votes`` verdicts each."""

    population: str
    single: str
    population_policy: str | None = None
    single_policy: str | None = None
    independent: str = HUMANS
    draws: int = Field(2, ge=1)
    votes: int = Field(3, ge=1)
    instructions: int = Field(64, ge=8)

    @model_validator(mode="after")
    def _both(self) -> Cross:
        if (self.population_policy is None) != (self.single_policy is None):
            raise ValueError("give both population_policy and single_policy, or neither")
        return self


class Gold(Settings):
    """Where gold comes from outside the offline world: a held-out, stronger ``reward_model`` (folder or Hub id), or
    ``pool``, judges that are not those of training (win rate against the reference output)."""

    reward_model: str | None = None
    pool: str | None = None
    draws: int = Field(2, ge=1)
    votes: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _one(self) -> Gold:
        if self.reward_model is not None and self.pool is not None:
            raise ValueError("gold comes from one place: give reward_model or pool")
        return self


class Laboratory(Settings):
    """The laboratory. The first of ``rewards`` is the base that the others are compared with, and the first of
    ``policies`` likewise. ``second`` names the reward trained on other preferences, and ``ensemble`` the one whose
    members' disagreement is watched, for the warning light. ``gains`` are the proxy gains (in standard deviations
    under SFT) at which the KL of best-of-n and of the policies is compared."""

    pool: Pool = Pool()
    curve_instructions: int = Field(256, ge=8)
    labels: dict[str, Labels] = Field(default_factory=dict)
    rewards: dict[str, Reward] = Field(min_length=1)
    policies: dict[str, Any] = Field(default_factory=dict)
    gold: Gold = Gold()
    second: str | None = None
    ensemble: str | None = None
    crossing: Cross | None = None
    gains: list[float] = Field(default_factory=lambda: [0.5, 1.0, 1.5, 2.0])

    @model_validator(mode="after")
    def _names(self) -> Laboratory:
        rewards, policies = set(self.rewards), set(self.policies)
        wanted: list[tuple[str, str | None, set[str]]] = [
            ("second", self.second, rewards),
            ("ensemble", self.ensemble, rewards),
        ]
        for name, r in self.rewards.items():
            wanted += [(f"rewards.{name}.against", r.against, rewards), (f"rewards.{name}.refresh", r.refresh, rewards)]
            wanted.append((f"rewards.{name}.labels", r.labels or None, set(self.labels)))
        if self.crossing:
            c = self.crossing
            wanted += [("crossing.population", c.population, rewards), ("crossing.single", c.single, rewards)]
            wanted += [("crossing.population_policy", c.population_policy, policies)]
            wanted += [("crossing.single_policy", c.single_policy, policies)]
        for where, name_, known in wanted:
            if name_ is not None and name_ not in known:
                raise ValueError(f"{where}: there is no '{name_}'; there are {', '.join(sorted(known)) or 'none'}")
        for reward in (self.crossing.population, self.crossing.single) if self.crossing else ():
            if self.labels.get(self.rewards[reward].labels, Labels()).pool == GOLD:
                raise ValueError(f"crossing: gold labelled '{reward}', and there is no judge with gold's eyes")
        mixed = [n for n, r in self.rewards.items() if r.starts == "other" and (r.combine == "weights" or r.trunk)]
        if mixed:
            raise ValueError(f"rewards.{mixed[0]}: weights of other starts or sizes cannot be averaged or exchanged")
        single = [n for n, r in self.rewards.items() if r.replicates > 1 and (r.combine == "weights" or r.refresh)]
        if single:
            raise ValueError(f"rewards.{single[0]}: averaged weights and refreshed labels have no replicates")
        loops = [n for n, r in self.rewards.items() if r.refresh and self.rewards[r.refresh].refresh]
        if loops:
            raise ValueError(f"rewards.{loops[0]}.refresh: a refreshed reward cannot itself be refreshed from")
        if self.ensemble and self.rewards[self.ensemble].members < 2:
            raise ValueError(f"ensemble: '{self.ensemble}' has one member; disagreement needs two")
        return self

    @property
    def base(self) -> str:
        return next(iter(self.rewards))

    @property
    def selecting(self) -> list[str]:
        """The rewards that best-of-n is measured for. A transform rises with the reward, so best-of-n picks the same
        with it and without: only policies feel it."""
        return [name for name, r in self.rewards.items() if r.transform == "none" or name == self.base]
