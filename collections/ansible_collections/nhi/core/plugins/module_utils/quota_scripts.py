# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Lua scripts that keep quotas exact: each call is one step for all routers, workers and modules on a Redis.

All times are Unix time in milliseconds by the clock of Redis, unless a caller that simulates a day names another.
"""

from __future__ import annotations

from typing import Final

# An entry of a window is a reservation; its score is when the provider surely has counted it. Until that is known
# the score lies in the future, so that it stays; a router that was killed leaves it until its lease ends.
_COMMON: Final = """
local function clock(override)
  if override ~= '0' then return tonumber(override) end
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local function purge(window, now)
  local gone = redis.call('ZRANGEBYSCORE', window, '-inf', '(' .. (now - 60000 + 1))
  if #gone == 0 then return end
  local tokens, sum = window .. ':tokens', 0
  for first = 1, #gone, 1000 do
    local part = {unpack(gone, first, math.min(first + 999, #gone))}
    for _, n in ipairs(redis.call('HMGET', tokens, unpack(part))) do sum = sum + (tonumber(n) or 0) end
    redis.call('ZREM', window, unpack(part))
    redis.call('HDEL', tokens, unpack(part))
  end
  if sum > 0 then redis.call('HINCRBY', tokens, 'sum', -sum) end
end
local function enter(window, id, score, tokens, expiry)
  redis.call('ZADD', window, score, id)
  redis.call('PEXPIREAT', window, expiry)
  if tokens > 0 then
    redis.call('HSET', window .. ':tokens', id, tokens)
    redis.call('HINCRBY', window .. ':tokens', 'sum', tokens)
    redis.call('PEXPIREAT', window .. ':tokens', expiry)
  end
end
local function used_of(key, model)
  local names = {'requests_made', 'tokens_used'}
  return redis.call('HMGET', key, names[1], names[2], names[1] .. '|' .. model, names[2] .. '|' .. model)
end
local function count(key, requests, tokens, model, now, reset)
  redis.call('HINCRBY', key, 'requests_made', requests)
  redis.call('HINCRBY', key, 'requests_made|' .. model, requests)
  if tokens ~= 0 then
    redis.call('HINCRBY', key, 'tokens_used', tokens)
    redis.call('HINCRBY', key, 'tokens_used|' .. model, tokens)
  end
  redis.call('HSET', key, 'last_request_timestamp', math.floor(now / 1000), 'reset_at', math.floor(reset / 1000))
  redis.call('PEXPIREAT', key, reset + 172800000)
end
"""

# KEYS: pending, then for each candidate: day, next day, window of the provider, window of the model, cooldown of the
# provider, cooldown of the model. ARGV: now or 0, id, lease, guard, then for each candidate: model, start and end of
# the day, end of the next day, tokens, four limits of the provider, four of the model (-1: none), whether it is forced.
# Returns now, the number of the candidate (0: none), and for each that was looked at: reason, ms until it could be.
RESERVE: Final = (
    _COMMON
    + """
local now, id, lease, guard = clock(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local answers = {}
local function wait_of(window, needed_requests, needed_tokens, tokens_limit)
  -- Until so many entries have left that there is room; one in flight leaves a minute from now at the earliest.
  local wait, sum = 60000, tonumber(redis.call('HGET', window .. ':tokens', 'sum') or '0')
  local entries = redis.call('ZRANGE', window, 0, 199, 'WITHSCORES')
  local left = 0
  for n = 1, #entries, 2 do
    left = left + 1
    if tokens_limit >= 0 then sum = sum - tonumber(redis.call('HGET', window .. ':tokens', entries[n]) or '0') end
    if left >= needed_requests and (tokens_limit < 0 or sum + needed_tokens <= tokens_limit) then
      wait = math.min(tonumber(entries[n + 1]), now) + 60000 - now
      break
    end
  end
  return math.max(1, math.floor(wait))
end
local function day_refusal(key, model, tokens, a, until_end)
  local used = used_of(key, model)
  local limits = {tonumber(ARGV[a + 5]), tonumber(ARGV[a + 7]), tonumber(ARGV[a + 9]), tonumber(ARGV[a + 11])}
  local adds = {1, tokens, 1, tokens}
  local names = {'requests_per_day', 'tokens_per_day', 'model_requests_per_day', 'model_tokens_per_day'}
  for n = 1, 4 do
    if limits[n] >= 0 and tonumber(used[n] or '0') + adds[n] > limits[n] then return names[n], until_end end
  end
end
local function window_refusal(window, requests_limit, tokens_limit, tokens, prefix)
  if requests_limit < 0 and tokens_limit < 0 then return end
  purge(window, now)
  if requests_limit >= 0 then
    local there = redis.call('ZCARD', window)
    if there + 1 > requests_limit then
      local wait = requests_limit == 0 and 60000 or wait_of(window, there + 1 - requests_limit, 0, -1)
      return prefix .. 'requests_per_minute', wait
    end
  end
  if tokens_limit >= 0 then
    local sum = tonumber(redis.call('HGET', window .. ':tokens', 'sum') or '0')
    if sum + tokens > tokens_limit then
      return prefix .. 'tokens_per_minute', wait_of(window, 0, tokens, tokens_limit)
    end
  end
end
local function refusal(k, a)
  local model, start, finish, tokens = ARGV[a], tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2]), tonumber(ARGV[a + 4])
  if now < start or now >= finish then return 'other_day', 0 end
  for n = 4, 5 do
    local rest = redis.call('PTTL', KEYS[k + n])
    if rest > 0 then return 'cooldown', rest end
    if rest == -1 then return 'cooldown', 60000 end
  end
  local reason, wait = day_refusal(KEYS[k], model, tokens, a, finish - now)
  if not reason and finish - now < guard then
    reason, wait = day_refusal(KEYS[k + 1], model, tokens, a, tonumber(ARGV[a + 3]) - now)
  end
  if not reason then
    reason, wait = window_refusal(KEYS[k + 2], tonumber(ARGV[a + 6]), tonumber(ARGV[a + 8]), tokens, '')
  end
  if not reason then
    reason, wait = window_refusal(KEYS[k + 3], tonumber(ARGV[a + 10]), tonumber(ARGV[a + 12]), tokens, 'model_')
  end
  return reason, wait
end
for c = 1, (#KEYS - 1) / 6 do
  local k, a = 2 + (c - 1) * 6, 5 + (c - 1) * 14
  local forced = ARGV[a + 13] == '1'
  local reason, wait
  if not forced then reason, wait = refusal(k, a) end
  if not reason then
    local model, tokens, finish = ARGV[a], tonumber(ARGV[a + 4]), tonumber(ARGV[a + 2])
    count(KEYS[k], 1, tokens, model, now, finish)
    local both = finish - now < guard
    if both then count(KEYS[k + 1], 1, tokens, model, now, tonumber(ARGV[a + 3])) end
    local expiry = now + lease + 61000
    for n = 0, 1 do
      local limited = tonumber(ARGV[a + 6 + 4 * n]) >= 0 or tonumber(ARGV[a + 8 + 4 * n]) >= 0
      if limited then enter(KEYS[k + 2 + n], id, now + lease, tokens, expiry) end
    end
    redis.call('HSET', KEYS[1], id, c .. ':' .. now .. ':' .. (both and 1 or 0))
    redis.call('PEXPIREAT', KEYS[1], now + 172800000)
    return {now, c, both and 1 or 0, answers, used_of(KEYS[k], model)}
  end
  answers[#answers + 1] = reason
  answers[#answers + 1] = math.floor(wait)
end
return {now, 0, 0, answers, {}}
"""
)

# The provider has answered with headers: from now on the entry is as old as it gets. KEYS: windows. ARGV: now or 0, id.
STARTED: Final = (
    _COMMON
    + """
local now = clock(ARGV[1])
for _, window in ipairs(KEYS) do redis.call('ZADD', window, 'XX', now, ARGV[2]) end
return now
"""
)

# How a reservation ended. KEYS: pending, day, next day, window of the provider, window of the model. ARGV: now or 0,
# id, model, tokens reserved, tokens used (-1: the provider never got it, all is given back), end of the day, end of
# the next day, the candidate that it must be (0: any), ms since the provider answered with headers.
# Returns 1, or 0 where there is no such reservation, or it was settled before.
SETTLE: Final = (
    _COMMON
    + """
local now, id, model = clock(ARGV[1]), ARGV[2], ARGV[3]
local reserved, used = tonumber(ARGV[4]), tonumber(ARGV[5])
local finish, next_finish = tonumber(ARGV[6]), tonumber(ARGV[7])
local candidate, mark = string.match(redis.call('HGET', KEYS[1], id) or '', '^(%d+):%d+:([01])$')
if not candidate or (ARGV[8] ~= '0' and ARGV[8] ~= candidate) then return 0 end
redis.call('HDEL', KEYS[1], id)
local both = mark == '1'
local heard = now - tonumber(ARGV[9])
local function correct(key, requests, tokens, reset)
  if redis.call('EXISTS', key) == 1 then count(key, requests, tokens, model, now, reset) end
end
if used < 0 then
  correct(KEYS[2], -1, -reserved, finish)
  if both then correct(KEYS[3], -1, -reserved, next_finish) end
else
  local more = used - reserved
  if more ~= 0 then correct(KEYS[2], 0, more, finish) end
  if both and heard < finish then
    correct(KEYS[3], -1, -reserved, next_finish)
  elseif both then
    if more ~= 0 then correct(KEYS[3], 0, more, next_finish) end
  elseif heard >= finish then
    count(KEYS[3], 1, used, model, now, next_finish)
  end
end
for n = 4, 5 do
  local window = KEYS[n]
  local there = redis.call('ZSCORE', window, id)
  if there then
    local tokens = window .. ':tokens'
    local was = tonumber(redis.call('HGET', tokens, id) or '0')
    if used < 0 then
      redis.call('ZREM', window, id)
      redis.call('HDEL', tokens, id)
      if was > 0 then redis.call('HINCRBY', tokens, 'sum', -was) end
    else
      redis.call('ZADD', window, 'XX', math.min(tonumber(there), heard), id)
      if used ~= was then
        redis.call('HSET', tokens, id, used)
        redis.call('HINCRBY', tokens, 'sum', used - was)
      end
    end
  end
end
return 1
"""
)

# A provider said how much is left, or others use the same account: what was used is at least that. KEYS: day.
# ARGV: now or 0, model or empty, requests used at least, tokens used at least (-1: not said), end of the day.
AT_LEAST: Final = (
    _COMMON
    + """
local now, suffix, changed = clock(ARGV[1]), ARGV[2] ~= '' and ('|' .. ARGV[2]) or '', 0
for n, name in ipairs({'requests_made', 'tokens_used'}) do
  local wanted = tonumber(ARGV[2 + n])
  local there = tonumber(redis.call('HGET', KEYS[1], name .. suffix) or '0')
  if wanted > there then
    redis.call('HSET', KEYS[1], name .. suffix, wanted)
    changed = 1
  end
end
redis.call('HSET', KEYS[1], 'reset_at', math.floor(tonumber(ARGV[5]) / 1000))
redis.call('PEXPIREAT', KEYS[1], tonumber(ARGV[5]) + 172800000)
return changed
"""
)

# What was used. KEYS: day, window of the provider, then windows of models. ARGV: now or 0, models.
# Returns now, the day's hash, and requests and tokens of each window.
USAGE: Final = (
    _COMMON
    + """
local now, windows = clock(ARGV[1]), {}
for n = 2, #KEYS do
  purge(KEYS[n], now)
  windows[#windows + 1] = redis.call('ZCARD', KEYS[n])
  windows[#windows + 1] = tonumber(redis.call('HGET', KEYS[n] .. ':tokens', 'sum') or '0')
end
return {now, redis.call('HGETALL', KEYS[1]), windows}
"""
)
