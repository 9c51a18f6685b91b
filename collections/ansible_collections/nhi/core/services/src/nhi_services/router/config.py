# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""router.yml: providers with their limits and prices, chains of models by task, agents, weights.

Everything is checked before anything of it is used, so a reload with a mistake leaves the old configuration at work.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from datetime import time
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

import yaml
from ansible_collections.nhi.core.plugins.module_utils.api_costs import Budgets, Price, PriceTable, usd
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError, QuotaError
from ansible_collections.nhi.core.plugins.module_utils.files import explain
from ansible_collections.nhi.core.plugins.module_utils.quota import Limits, zone_named
from ansible_collections.nhi.core.plugins.module_utils.quota_book import Scope
from ansible_collections.nhi.core.plugins.module_utils.routing import Model, Weights
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

CAPABILITIES: Final = ("chat", "completions", "embeddings", "tools", "images", "json")
# Aliases of tasks: nhi/code_generation.
ALIAS_PREFIX: Final = "nhi/"
PRIORITIES: Final = ("high", "medium", "low")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class ConfigError(NHIError):
    """The configuration of the router can not be read or is not valid."""


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(f"{value!r} is no name: use lower case letters, digits, '.', '_' and '-'")
    return value


def _zone(value: str) -> str:
    try:
        zone_named(value)
    except QuotaError as error:
        raise ValueError(str(error)) from error
    return value


def _base_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ValueError("must be http(s)://HOST[:PORT]/PATH without user, query or fragment")
    return value.rstrip("/")


def _hook_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise ValueError("must be http(s)://HOST[:PORT]/PATH without a user")
    return value


def _sha256(value: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", value):
        raise ValueError("must be the SHA-256 of the key, 64 hexadecimal digits (nhi-router hash-key makes it)")
    return value


Name = Annotated[str, AfterValidator(_name)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Usd = Annotated[float, Field(ge=0)]
Days = Annotated[int, Field(ge=1, le=3650)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LimitsConfig(_Part):
    """None: no such limit."""

    requests_per_day: Count | None = None
    requests_per_minute: Count | None = None
    tokens_per_day: Count | None = None
    tokens_per_minute: Count | None = None

    def limits(self) -> Limits:
        """For the domain."""
        return Limits(**self.model_dump())


class PriceConfig(_Part):
    """USD per million tokens."""

    input: Usd = 0.0
    output: Usd = 0.0


class ModelConfig(_Part):
    """A model of a provider; upstream is its name there."""

    upstream: str = Field(min_length=1, max_length=200)
    quality: float = Field(ge=0, le=10)
    context: int = Field(gt=0)
    max_output: int = Field(gt=0)
    capabilities: frozenset[Literal["chat", "completions", "embeddings", "tools", "images", "json"]] = frozenset(
        {"chat", "tools", "json"}
    )
    limits: LimitsConfig = LimitsConfig()
    price: PriceConfig = PriceConfig()


class Timeouts(_Part):
    """Seconds: to connect, to the first byte of an answer, between two parts of it, and for all of it."""

    connect: Seconds = 5.0
    first_byte: Seconds = 60.0
    idle: Seconds = 60.0
    total: Seconds = 600.0


class ProviderConfig(_Part):
    """Where models answer, how they are spoken to, and what is allowed there."""

    base_url: Annotated[str, AfterValidator(_base_url)]
    dialect: Literal["openai", "anthropic"] = "openai"
    kind: Literal["cloud", "local"] = "cloud"
    api_key_file: Path | None = None
    ca_file: Path | None = None
    reset_zone: Annotated[str, AfterValidator(_zone)] = "UTC"
    requests_header: Literal["minute", "day"] = "minute"
    # A local GPU is asked only while its semaphore in Redis is GREEN.
    semaphore: bool = True
    # While it is not GREEN, requests that wait are put to its queue in Redis, for its worker.
    queue: bool = False
    # Whether it understands stream_options.include_usage.
    stream_usage: bool = True
    # What it calls the most that an answer may be long, for requests that come in another form.
    output_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    # Whether it counts tokens of prompts without counting that as a request, as Anthropic does.
    counts_tokens: bool = False
    max_concurrent: Annotated[int, Field(ge=1)] | None = None
    limits: LimitsConfig = LimitsConfig()
    timeouts: Timeouts = Timeouts()
    models: Mapping[Name, ModelConfig] = Field(min_length=1)

    @model_validator(mode="after")
    def _can_be_queued(self) -> Self:
        parts: list[ProviderConfig | ModelConfig] = [self, *self.models.values()]
        counted = any(limit is not None for part in parts for limit in part.limits.model_dump().values())
        priced = any(model.price.input or model.price.output for model in self.models.values())
        if self.queue and (self.kind != "local" or self.dialect != "openai" or counted or priced):
            raise ValueError(
                "queue is for kind local and dialect openai, without limits and prices: nobody counts there"
            )
        return self


class AgentConfig(_Part):
    """Who may ask, by the hash of its key."""

    name: Name
    key_sha256: Annotated[str, AfterValidator(_sha256)]
    task: Name | None = None
    priority: Literal["high", "medium", "low"] = "medium"
    daily_budget_usd: Usd | None = None


class TaskConfig(_Part):
    """Models that may answer a task, and what to do when none can."""

    chain: list[str] = Field(min_length=1)
    when_busy: Literal["wait", "deferred", "choice"] = "wait"


class RoutingConfig(_Part):
    """Weights of the score and bounds of waiting."""

    quota: Usd = 0.5
    latency: Usd = 0.3
    quality: Usd = 0.2
    preferred: Usd = 0.1
    threshold: Usd = 0.3
    latency_cutoff_ms: Annotated[float, Field(gt=0)] = 5000.0
    assumed_latency_ms: Annotated[float, Field(gt=0)] = 1000.0
    latency_memory_seconds: Seconds = 600.0
    wait_seconds: Seconds = 300.0
    # To when a request may be postponed by whoever is given the choice.
    postpone_to: time = time(8)
    postpone_zone: Annotated[str, AfterValidator(_zone)] = "UTC"
    cooldown_seconds: Seconds = 5.0
    longest_cooldown_seconds: Seconds = 300.0
    breaker_failures: Annotated[int, Field(ge=1)] = 5
    breaker_seconds: Seconds = 30.0

    def weights(self) -> Weights:
        """For the domain."""
        return Weights(
            self.quota, self.latency, self.quality, self.preferred, self.threshold, self.latency_cutoff_ms,
            self.assumed_latency_ms,
        )  # fmt: skip


class ListenConfig(_Part):
    """Where the router answers."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8400
    max_body_mib: Annotated[int, Field(ge=1, le=512)] = 32
    drain_seconds: Seconds = 30.0


class RedisConfig(_Part):
    """Redis, without its password."""

    url: str = "redis://127.0.0.1:6379/0"
    password_file: Path | None = None

    @model_validator(mode="after")
    def _no_password(self) -> Self:
        parts = urlsplit(self.url)
        if parts.scheme not in ("redis", "rediss", "unix") or parts.password:
            raise ValueError("url must be redis://HOST:PORT/DB without a password: name its file as password_file")
        return self


class PostgresConfig(_Part):
    """PostgreSQL, without its password."""

    dsn: str = Field(min_length=1)
    password_file: Path | None = None

    @model_validator(mode="after")
    def _no_password(self) -> Self:
        if re.search(r"password\s*=|//[^/@]*:[^/@]*@", self.dsn):
            raise ValueError("the password does not belong into dsn: name its file as password_file")
        return self


class SpoolConfig(_Part):
    """Where costs and decisions wait on disk while PostgreSQL is lost; at its bound the oldest are given up."""

    directory: Path
    mib: Annotated[int, Field(ge=1, le=65_536)] = 256


class RetentionConfig(_Part):
    """For how many days rows are kept in PostgreSQL; sums by day are kept for good."""

    requests_days: Days = 90
    decisions_days: Days = 14
    hours_days: Days = 90
    deferred_days: Days = 30


class NotifyConfig(_Part):
    """Who is told that a deferred task has ended: a command gets JSON on its standard input, a URL gets a POST.

    Addresses of web hooks are often secrets of their own: then name their file.
    """

    command: list[str] | None = Field(default=None, min_length=1)
    url: Annotated[str, AfterValidator(_hook_url)] | None = None
    url_file: Path | None = None
    timeout_seconds: Annotated[float, Field(gt=0, le=300)] = 10.0
    attempts: Annotated[int, Field(ge=1, le=100)] = 10

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if sum(way is not None for way in (self.command, self.url, self.url_file)) != 1:
            raise ValueError("name one of command, url and url_file")
        if self.command and not Path(self.command[0]).is_absolute():
            raise ValueError("command begins with the whole path of a program")
        return self


class DeferredConfig(_Part):
    """Requests that are answered later: bounds, how often one is tried, for how long a router may work at one."""

    lease_seconds: Annotated[float, Field(ge=5, le=86_400)] = 120.0
    # How many a router works at side by side, from its start on.
    at_once: Annotated[int, Field(ge=1, le=32)] = 4
    attempts: Annotated[int, Field(ge=1, le=100)] = 5
    most_open: Annotated[int, Field(ge=1)] = 1000
    most_mib: Annotated[int, Field(ge=1)] = 200
    notify: NotifyConfig | None = None


class BudgetConfig(_Part):
    """What all agents together may spend in a day (UTC)."""

    daily_usd: Usd | None = None


class RouterConfig(_Part):
    """The whole of router.yml."""

    listen: ListenConfig = ListenConfig()
    redis: RedisConfig = RedisConfig()
    postgresql: PostgresConfig | None = None
    spool: SpoolConfig | None = None
    retention: RetentionConfig = RetentionConfig()
    deferred: DeferredConfig = DeferredConfig()
    agents: list[AgentConfig] = []
    agents_file: Path | None = None
    providers: Mapping[Name, ProviderConfig] = Field(min_length=1)
    tasks: Mapping[Name, TaskConfig] = Field(min_length=1)
    routing: RoutingConfig = RoutingConfig()
    budget: BudgetConfig = BudgetConfig()
    instances: Annotated[int, Field(ge=1, le=64)] = 1
    prompt_log: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        faults = list(self._faults())
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _faults(self) -> Iterator[str]:
        seen: dict[str, str] = {}
        for provider, config in self.providers.items():
            for model in config.models:
                if model in seen:
                    yield f"model {model} is there twice, at {seen[model]} and {provider}: names are unique"
                seen[model] = provider
        for task, chain in self.tasks.items():
            for model in chain.chain:
                if model not in seen:
                    yield f"tasks.{task}.chain names {model}, which no provider has"
        names = [agent.name for agent in self.agents]
        yield from (f"agent {name} is there twice" for name in sorted({n for n in names if names.count(n) > 1}))
        for agent in self.agents:
            if agent.task and agent.task not in self.tasks:
                yield f"agent {agent.name} has the task {agent.task}, which is not in tasks"

    def models(self) -> dict[str, Model]:
        """All models, for routing."""
        return {
            name: Model(
                name, provider, config.kind, model.quality, model.context, model.max_output,
                frozenset(model.capabilities),
            )
            for provider, config in self.providers.items()
            for name, model in config.models.items()
        }  # fmt: skip

    def scope(self, model: str, learned: Mapping[str, Mapping[str, int]] | None = None) -> Scope:
        """The limits of a model and its provider, as configured or as the provider has said since."""
        provider, config = self.provider_of(model)
        learned = learned or {}
        return Scope(
            provider, model, config.reset_zone, config.limits.limits().overridden(learned.get("", {})),
            config.models[model].limits.limits().overridden(learned.get(model, {})),
        )  # fmt: skip

    def provider_of(self, model: str) -> tuple[str, ProviderConfig]:
        """Whose model it is; KeyError for none."""
        for name, provider in self.providers.items():
            if model in provider.models:
                return name, provider
        raise KeyError(model)

    def budgets(self) -> Budgets:
        """What may be spent in a day, for the domain."""
        total = self.budget.daily_usd
        agents = {one.name: usd(one.daily_budget_usd) for one in self.agents if one.daily_budget_usd is not None}
        return Budgets(None if total is None else usd(total), agents)

    def prices(self) -> PriceTable:
        """The price of each model, for the domain."""
        models = ((name, model) for provider in self.providers.values() for name, model in provider.models.items())
        return PriceTable({name: Price.of(model.price.input, model.price.output) for name, model in models})

    def chain_of(self, task: str) -> tuple[str, ...]:
        """Models that may answer a task."""
        return tuple(self.tasks[task].chain)


def load_config(path: Path) -> RouterConfig:
    """Read and check a configuration with its agents; ConfigError names each fault."""
    raw = _yaml(path)
    if isinstance(raw, dict) and (named := raw.get("agents_file")):
        listed = _yaml(Path(str(named)))
        if not isinstance(listed, list):
            raise ConfigError(f"{named} must be a list of agents.")
        raw = {**raw, "agents": [*(raw.get("agents") or []), *listed]}
    return parse_config(raw, str(path))


def parse_config(raw: Any, origin: str = "router.yml") -> RouterConfig:
    """A checked configuration; ConfigError names each fault, without the values, which may be secrets."""
    if not isinstance(raw, dict):
        raise ConfigError(f"{origin} must be a mapping.")
    try:
        return RouterConfig.model_validate(raw)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'it'}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors(include_input=False, include_url=False)
        ]
        raise ConfigError(f"{origin} is not valid: {'; '.join(faults)}") from error


def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} can not be read: {explain(error)}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" in line {where.line + 1}" if where else ""
        raise ConfigError(f"{path} is not YAML{line}.") from error


def hash_key(key: str) -> str:
    """What of an agent's key is kept."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def read_secret_file(path: Path) -> str:
    """A key from its file, without the end of its line; ConfigError without the content.

    A name without a directory is one of systemd's credentials, where it gives the service any.
    """
    path = Path(os.environ.get("CREDENTIALS_DIRECTORY", "")) / path
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = explain(error) if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"The key in {path} can not be read: {reason}.") from error
    if not secret or any(ord(letter) < 0x21 or ord(letter) > 0x7E for letter in secret):
        raise ConfigError(f"The key in {path} is empty or has letters that no key has.")
    return secret
