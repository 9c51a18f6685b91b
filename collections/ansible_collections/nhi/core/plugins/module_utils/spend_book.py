# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is spent today, in Redis: taken before a request is sent, corrected behind it, in one step for all routers.

All sums are whole micro-USD. What a router that was killed had taken stays counted until the day (UTC) ends: nobody
knows whether it is owed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from . import redis_keys
from .quota import Day, day_at
from .quota_book import Call

ALL: Final = "*"
_KEEP_MS: Final = 2 * 86_400_000

# KEYS: day, book. ARGV: id, agent, micro-USD, limit of the agent, limit of all (-1: none), expiry.
# Returns 0 when it is taken, 1 or 2 for the limit that has no room for it; then what both have now.
_TAKE: Final = """
local id, agent, amount = ARGV[1], ARGV[2], tonumber(ARGV[3])
local spent = redis.call('HMGET', KEYS[1], agent, '*')
local mine, all = tonumber(spent[1] or '0'), tonumber(spent[2] or '0')
if redis.call('HEXISTS', KEYS[2], id) == 1 then return {0, mine, all} end
for n, now in ipairs({mine, all}) do
  local limit = tonumber(ARGV[3 + n])
  if limit >= 0 and now + amount > limit then return {n, mine, all} end
end
redis.call('HSET', KEYS[2], id, amount)
mine, all = redis.call('HINCRBY', KEYS[1], agent, amount), redis.call('HINCRBY', KEYS[1], '*', amount)
for n = 1, 2 do redis.call('PEXPIREAT', KEYS[n], ARGV[6]) end
return {0, mine, all}
"""

# KEYS: day, book. ARGV: id, agent, micro-USD that it was. Nothing where it is settled already.
_SETTLE: Final = """
local held = redis.call('HGET', KEYS[2], ARGV[1])
if not held then return 0 end
redis.call('HDEL', KEYS[2], ARGV[1])
local difference = tonumber(ARGV[3]) - tonumber(held)
if difference ~= 0 then
  for _, field in ipairs({ARGV[2], '*'}) do redis.call('HINCRBY', KEYS[1], field, difference) end
end
return 1
"""

# What was spent without having been taken. KEYS: day, mark of this one. ARGV: agent, micro-USD, expiry.
_ADD: Final = """
if not redis.call('SET', KEYS[2], 1, 'NX', 'PX', 3600000) then return 0 end
for _, field in ipairs({ARGV[1], '*'}) do redis.call('HINCRBY', KEYS[1], field, ARGV[2]) end
redis.call('PEXPIREAT', KEYS[1], ARGV[3])
return 1
"""


@dataclass(frozen=True)
class Taken:
    """Money that a request may use: settle it in any case. ``counted``: whether Redis knows of it."""

    id: str
    agent: str
    micro_usd: int
    day: Day
    book: str
    counted: bool = True

    def settle(self, used_micro_usd: int) -> Call:
        """What it was in the end; 0 gives all of it back."""
        key = redis_keys.spend_key(self.day.date)
        if self.counted:
            return Call(_SETTLE, (key, self.book), (self.id, self.agent, max(0, used_micro_usd)))
        mark = redis_keys.spend_mark_key(self.id)
        return Call(_ADD, (key, mark), (self.agent, max(0, used_micro_usd), self.day.end_ms + _KEEP_MS))


def take(taken: Taken, agent_limit: int | None, total_limit: int | None) -> Call:
    """Take it, if both limits (micro-USD) have room."""
    limits = (-1 if limit is None else max(0, limit) for limit in (agent_limit, total_limit))
    expiry = taken.day.end_ms + _KEEP_MS
    keys = (redis_keys.spend_key(taken.day.date), taken.book)
    return Call(_TAKE, keys, (taken.id, taken.agent, taken.micro_usd, *limits, expiry))


def budget_day(now_ms: int) -> Day:
    """The day of all budgets: that of UTC."""
    return day_at("UTC", now_ms)


def spent_by(raw: Mapping[Any, Any]) -> dict[str, int]:
    """Micro-USD by agent, and of all, from the hash of a day."""
    return {name.decode() if isinstance(name, bytes) else str(name): int(value) for name, value in raw.items()}
