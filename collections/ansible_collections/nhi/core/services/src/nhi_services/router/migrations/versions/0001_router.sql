-- What the router keeps: requests with their costs, the decisions behind them, sums by hour and day, deferred tasks.
--
-- The router adds and reads rows. Sums are made by a trigger, old rows are dropped by router.keep, both with the rights
-- of the owner, so that the router itself can change neither.

-- Requests (blueprint 4.2), one row for each attempt. The blueprint's DECIMAL(10, 4) would make nothing of a request of
-- a hundred tokens, and a key over all partitions has to name what they are divided by.
CREATE SEQUENCE router.api_requests_id AS bigint;
CREATE TABLE router.api_requests (
  id bigint NOT NULL DEFAULT nextval('router.api_requests_id'),
  "timestamp" timestamptz NOT NULL,
  request_id uuid NOT NULL,
  input_tokens integer NOT NULL CHECK (input_tokens >= 0),
  output_tokens integer NOT NULL CHECK (output_tokens >= 0),
  latency_ms integer NOT NULL CHECK (latency_ms >= 0),
  first_token_ms integer CHECK (first_token_ms >= 0),
  attempt smallint NOT NULL CHECK (attempt >= 0),
  status smallint NOT NULL,
  success boolean NOT NULL,
  cost_usd numeric(14, 8) NOT NULL CHECK (cost_usd >= 0),
  provider varchar(50) NOT NULL,
  model varchar(100) NOT NULL,
  agent varchar(64) NOT NULL,
  task_type varchar(64) NOT NULL,
  user_agent varchar(200),
  degraded varchar(200),
  PRIMARY KEY (request_id, attempt, "timestamp")
) PARTITION BY RANGE ("timestamp");
CREATE INDEX idx_requests_timestamp ON router.api_requests ("timestamp");
CREATE INDEX idx_requests_provider ON router.api_requests (provider);

-- Which model was chosen, and what was known of every other: candidates as routing explains them.
CREATE TABLE router.routing_log (
  "timestamp" timestamptz NOT NULL,
  request_id uuid NOT NULL,
  prompt_tokens integer,
  queued_ms integer,
  agent varchar(64) NOT NULL,
  task_type varchar(64) NOT NULL,
  asked_for varchar(200),
  chosen varchar(100),
  provider varchar(50),
  reason varchar(500) NOT NULL,
  attempts jsonb NOT NULL,
  candidates jsonb NOT NULL,
  PRIMARY KEY (request_id, "timestamp")
) PARTITION BY RANGE ("timestamp");
CREATE INDEX idx_routing_timestamp ON router.routing_log ("timestamp");

-- Sums. They are updated with every batch, so pages keep room for the next version of a row.
CREATE TABLE router.api_usage_hour (
  hour timestamptz NOT NULL,
  provider varchar(50) NOT NULL,
  model varchar(100) NOT NULL,
  agent varchar(64) NOT NULL,
  task_type varchar(64) NOT NULL,
  requests integer NOT NULL,
  failed integer NOT NULL,
  degraded integer NOT NULL,
  input_tokens bigint NOT NULL,
  output_tokens bigint NOT NULL,
  cost_usd numeric NOT NULL,
  latency_ms bigint NOT NULL,
  first_token_ms bigint NOT NULL,
  first_tokens integer NOT NULL,
  PRIMARY KEY (hour, provider, model, agent, task_type)
) WITH (fillfactor = 70);
CREATE TABLE router.api_usage_day (LIKE router.api_usage_hour) WITH (fillfactor = 70);
ALTER TABLE router.api_usage_day RENAME COLUMN hour TO day;
ALTER TABLE router.api_usage_day ALTER COLUMN day TYPE date USING (day AT TIME ZONE 'UTC')::date;
ALTER TABLE router.api_usage_day ADD PRIMARY KEY (day, provider, model, agent, task_type);
COMMENT ON COLUMN router.api_usage_hour.latency_ms IS 'sum: the mean is latency_ms / requests';
COMMENT ON COLUMN router.api_usage_hour.first_token_ms IS 'sum: the mean is first_token_ms / first_tokens';

-- In one order, so that two routers that update the same sums wait for each other and never in a circle.
CREATE FUNCTION router.add_usage() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
BEGIN
  INSERT INTO router.api_usage_hour AS u
  SELECT date_trunc('hour', "timestamp") AS hour, provider, model, agent, task_type, count(*),
    count(*) FILTER (WHERE NOT success), count(degraded), sum(input_tokens), sum(output_tokens), sum(cost_usd),
    sum(latency_ms), coalesce(sum(first_token_ms), 0), count(first_token_ms)
  FROM added GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
  ON CONFLICT (hour, provider, model, agent, task_type) DO UPDATE SET
    requests = u.requests + excluded.requests, failed = u.failed + excluded.failed,
    degraded = u.degraded + excluded.degraded, input_tokens = u.input_tokens + excluded.input_tokens,
    output_tokens = u.output_tokens + excluded.output_tokens, cost_usd = u.cost_usd + excluded.cost_usd,
    latency_ms = u.latency_ms + excluded.latency_ms, first_token_ms = u.first_token_ms + excluded.first_token_ms,
    first_tokens = u.first_tokens + excluded.first_tokens;
  INSERT INTO router.api_usage_day AS u
  SELECT "timestamp"::date AS day, provider, model, agent, task_type, count(*),
    count(*) FILTER (WHERE NOT success), count(degraded), sum(input_tokens), sum(output_tokens), sum(cost_usd),
    sum(latency_ms), coalesce(sum(first_token_ms), 0), count(first_token_ms)
  FROM added GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
  ON CONFLICT (day, provider, model, agent, task_type) DO UPDATE SET
    requests = u.requests + excluded.requests, failed = u.failed + excluded.failed,
    degraded = u.degraded + excluded.degraded, input_tokens = u.input_tokens + excluded.input_tokens,
    output_tokens = u.output_tokens + excluded.output_tokens, cost_usd = u.cost_usd + excluded.cost_usd,
    latency_ms = u.latency_ms + excluded.latency_ms, first_token_ms = u.first_token_ms + excluded.first_token_ms,
    first_tokens = u.first_tokens + excluded.first_tokens;
  RETURN NULL;
END
$$;
CREATE TRIGGER add_usage AFTER INSERT ON router.api_requests REFERENCING NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION router.add_usage();

-- Requests that wait for resources. Bodies are json, not jsonb: they go out as they came in, and may hold \u0000.
CREATE TABLE router.deferred_tasks (
  id uuid PRIMARY KEY,
  agent varchar(64) NOT NULL,
  task_type varchar(64) NOT NULL,
  priority smallint NOT NULL,
  payload json NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  due_at timestamptz NOT NULL DEFAULT now(),
  status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'running', 'done', 'failed', 'cancelled')),
  attempts integer NOT NULL DEFAULT 0,
  lease_owner text,
  lease_until timestamptz,
  result json,
  error varchar(500),
  finished_at timestamptz,
  notice_at timestamptz,
  notice_attempts integer NOT NULL DEFAULT 0,
  notified_at timestamptz,
  bytes bigint NOT NULL,
  CHECK ((status IN ('done', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
  CHECK ((status = 'running') = (lease_until IS NOT NULL))
);
CREATE INDEX deferred_open ON router.deferred_tasks (priority, created_at) WHERE finished_at IS NULL;
CREATE INDEX deferred_of_agent ON router.deferred_tasks (agent, created_at);
CREATE INDEX deferred_notices ON router.deferred_tasks (notice_at) WHERE notice_at IS NOT NULL;
CREATE INDEX deferred_finished ON router.deferred_tasks (finished_at) WHERE finished_at IS NOT NULL;

-- Makes the partitions of the days to come, and drops what is older than so many whole days. A row whose day has no
-- partition goes to that of all other days. Called by several routers at once, one of them does it.
CREATE FUNCTION router.keep(
  requests_days integer, decisions_days integer, hours_days integer, deferred_days integer, ahead integer DEFAULT 7
) RETURNS TABLE (action text, what text, number bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET lock_timeout = '3s' AS $$
DECLARE
  today date := now()::date;
  kept record;
  name text;
  day date;
  taken boolean;
BEGIN
  IF least(requests_days, decisions_days, hours_days, deferred_days, ahead) < 1 OR ahead > 100
     OR num_nulls(requests_days, decisions_days, hours_days, deferred_days, ahead) > 0 THEN
    RAISE EXCEPTION 'each number of days is at least 1, and ahead at most 100' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF NOT pg_try_advisory_xact_lock(hashtext('router.keep')) THEN
    RETURN;
  END IF;
  FOR kept IN SELECT * FROM (VALUES ('api_requests', requests_days), ('routing_log', decisions_days)) AS t (log, days) LOOP
    FOR name IN
      SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
      WHERE i.inhparent = format('router.%I', kept.log)::regclass AND c.relname ~ '_[0-9]{8}$' ORDER BY c.relname
    LOOP
      IF to_date(right(name, 8), 'YYYYMMDD') < today - kept.days THEN
        EXECUTE format('DROP TABLE router.%I', name);
        RETURN QUERY SELECT 'dropped', name, NULL::bigint;
      END IF;
    END LOOP;
    EXECUTE format('DELETE FROM router.%I WHERE "timestamp" < $1', kept.log || '_other') USING (today - kept.days)::timestamptz;
    GET DIAGNOSTICS number = ROW_COUNT;
    IF number > 0 THEN
      RETURN QUERY SELECT 'deleted', kept.log || '_other', number;
    END IF;
    FOR day IN SELECT generate_series(today - 1, today + ahead, interval '1 day')::date LOOP
      name := format('%s_%s', kept.log, to_char(day, 'YYYYMMDD'));
      CONTINUE WHEN to_regclass(format('router.%I', name)) IS NOT NULL;
      EXECUTE format('SELECT EXISTS (SELECT FROM router.%I WHERE "timestamp" >= $1 AND "timestamp" < $2)', kept.log || '_other')
        INTO taken USING day::timestamptz, (day + 1)::timestamptz;
      CONTINUE WHEN taken;
      EXECUTE format('CREATE TABLE router.%I PARTITION OF router.%I FOR VALUES FROM (%L) TO (%L)',
        name, kept.log, day::timestamptz, (day + 1)::timestamptz);
      RETURN QUERY SELECT 'made', name, NULL::bigint;
    END LOOP;
  END LOOP;
  DELETE FROM router.api_usage_hour WHERE hour < (today - hours_days)::timestamptz;
  GET DIAGNOSTICS number = ROW_COUNT;
  IF number > 0 THEN
    RETURN QUERY SELECT 'deleted', 'api_usage_hour', number;
  END IF;
  DELETE FROM router.deferred_tasks WHERE finished_at < (today - deferred_days)::timestamptz;
  GET DIAGNOSTICS number = ROW_COUNT;
  IF number > 0 THEN
    RETURN QUERY SELECT 'deleted', 'deferred_tasks', number;
  END IF;
END
$$;

CREATE TABLE router.api_requests_other PARTITION OF router.api_requests DEFAULT;
CREATE TABLE router.routing_log_other PARTITION OF router.routing_log DEFAULT;
SELECT count(*) FROM router.keep(90, 14, 90, 30);

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA router FROM PUBLIC;
