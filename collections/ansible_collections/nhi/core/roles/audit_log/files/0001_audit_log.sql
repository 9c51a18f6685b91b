-- The audit log: rows are added and never changed, each follows the one before, old partitions are dropped by one role only.
--
-- owner      owns everything, and can not log in
-- writer     adds and reads rows, nothing else
-- retention  calls audit.keep_days, nothing else

SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database()) \gexec
SELECT format('GRANT CONNECT ON DATABASE %I TO %I, %I', current_database(), :'writer', :'retention') \gexec
SELECT format('ALTER ROLE %I IN DATABASE %I SET search_path = audit', :'writer', current_database()) \gexec
REVOKE ALL ON SCHEMA public FROM PUBLIC;
CREATE SCHEMA audit AUTHORIZATION :"owner";
SET LOCAL ROLE :"owner";

CREATE TABLE audit.migration (
  version integer PRIMARY KEY,
  name text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT now()
);

-- Where each log has come to. What is dropped after its time does not change it.
CREATE TABLE audit.audit_chain (
  chain text PRIMARY KEY,
  seq bigint NOT NULL,
  hash text NOT NULL,
  host text,
  first_at timestamptz NOT NULL,
  last_at timestamptz NOT NULL
);

-- An entry is written as the line that the file has; everything else is read from it. The time is given beside it because
-- PostgreSQL chooses the partition before a trigger can say anything.
CREATE TABLE audit.audit_log (
  "timestamp" timestamptz NOT NULL,
  chain text NOT NULL,
  seq bigint NOT NULL,
  operation text NOT NULL,
  subject text,
  outcome text NOT NULL,
  reason text,
  params jsonb,
  result jsonb,
  actor text,
  unix_user text,
  source_ip inet,
  host text,
  pid integer,
  check_mode boolean,
  plan text,
  attempt text,
  run text,
  duration_seconds double precision,
  previous text NOT NULL,
  hash text NOT NULL,
  follows boolean NOT NULL,
  entry text NOT NULL,
  inserted_at timestamptz NOT NULL,
  PRIMARY KEY (chain, seq, "timestamp")
) PARTITION BY RANGE ("timestamp");
CREATE INDEX audit_log_timestamp ON audit.audit_log ("timestamp");
CREATE INDEX audit_log_subject ON audit.audit_log (subject, "timestamp");
CREATE INDEX audit_log_actor ON audit.audit_log (actor, "timestamp");

CREATE FUNCTION audit.refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RAISE EXCEPTION 'the audit log is kept as it was written: % on % is refused', TG_OP, TG_TABLE_NAME
    USING ERRCODE = 'insufficient_privilege';
END
$$;

-- Called with the rights of the owner: the writer itself can not touch audit_chain.
CREATE FUNCTION audit.accept_entry() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  told jsonb := NEW.entry::jsonb;
  own_hash text := format('"hash":"%s",', told ->> 'hash');
  head audit.audit_chain%ROWTYPE;
BEGIN
  NEW.chain := told ->> 'chain';
  NEW.seq := (told ->> 'seq')::bigint;
  NEW.previous := told ->> 'previous';
  NEW.hash := told ->> 'hash';
  IF NEW."timestamp" IS DISTINCT FROM (told ->> 'timestamp')::timestamptz THEN
    RAISE EXCEPTION 'entry % has another time than the row', NEW.seq USING ERRCODE = 'check_violation';
  END IF;
  IF strpos(NEW.entry, own_hash) = 0
     OR encode(sha256(convert_to(replace(NEW.entry, own_hash, ''), 'UTF8')), 'hex') IS DISTINCT FROM NEW.hash THEN
    RAISE EXCEPTION 'entry % does not match its hash', NEW.seq USING ERRCODE = 'check_violation';
  END IF;
  INSERT INTO audit.audit_chain (chain, seq, hash, host, first_at, last_at)
  VALUES (NEW.chain, 0, repeat('0', 64), told ->> 'host', NEW."timestamp", NEW."timestamp")
  ON CONFLICT (chain) DO NOTHING;
  SELECT * INTO STRICT head FROM audit.audit_chain WHERE chain = NEW.chain FOR UPDATE;
  IF NEW.seq <= head.seq THEN
    RAISE EXCEPTION 'entry % is there already, the log goes on after %', NEW.seq, head.seq USING ERRCODE = 'unique_violation';
  END IF;
  NEW.follows := NEW.seq = head.seq + 1 AND NEW.previous = head.hash;
  UPDATE audit.audit_chain SET seq = NEW.seq, hash = NEW.hash, last_at = NEW."timestamp" WHERE chain = NEW.chain;
  NEW.operation := told ->> 'operation';
  NEW.subject := told ->> 'subject';
  NEW.outcome := told ->> 'outcome';
  NEW.reason := told ->> 'reason';
  NEW.params := told -> 'params';
  NEW.result := told -> 'result';
  NEW.actor := told ->> 'actor';
  NEW.unix_user := told ->> 'user';
  NEW.source_ip := (told ->> 'source_ip')::inet;
  NEW.host := told ->> 'host';
  NEW.pid := (told ->> 'pid')::integer;
  NEW.check_mode := (told ->> 'check_mode')::boolean;
  NEW.plan := told ->> 'plan';
  NEW.attempt := told ->> 'attempt';
  NEW.run := told ->> 'run';
  NEW.duration_seconds := (told ->> 'duration_seconds')::double precision;
  NEW.inserted_at := now();
  RETURN NEW;
END
$$;

CREATE TRIGGER accept BEFORE INSERT ON audit.audit_log FOR EACH ROW EXECUTE FUNCTION audit.accept_entry();
CREATE TRIGGER keep_rows BEFORE UPDATE OR DELETE ON audit.audit_log FOR EACH ROW EXECUTE FUNCTION audit.refuse_change();
CREATE TRIGGER keep BEFORE UPDATE OR DELETE OR TRUNCATE ON audit.audit_log
FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_change();
CREATE TRIGGER keep BEFORE DELETE OR TRUNCATE ON audit.audit_chain
FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_change();

-- One partition. Triggers of rows come with it, those of statements do not.
CREATE FUNCTION audit.add_partition(name text, bounds text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  EXECUTE format('CREATE TABLE audit.%I PARTITION OF audit.audit_log %s', name, bounds);
  EXECUTE format('CREATE TRIGGER keep BEFORE UPDATE OR DELETE OR TRUNCATE ON audit.%I '
                 'FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_change()', name);
END
$$;

-- Makes the partitions of the days to come and drops those whose days are older. A row whose day has no partition, as
-- after a long outage, goes to audit_log_other, which is dropped when all in it is old.
CREATE FUNCTION audit.keep_days(days integer, ahead integer DEFAULT 14) RETURNS TABLE (action text, partition text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
  today date := (now() AT TIME ZONE 'UTC')::date;
  newest timestamptz;
  day date;
BEGIN
  IF days IS NULL OR days < 1 OR ahead IS NULL OR ahead < 1 OR ahead > 400 THEN
    RAISE EXCEPTION 'days is at least 1 and ahead is 1 to 400' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  PERFORM pg_advisory_xact_lock(hashtext('audit.keep_days'));
  SELECT max("timestamp") INTO newest FROM audit.audit_log_other;
  IF newest < today - days THEN
    DROP TABLE audit.audit_log_other;
    PERFORM audit.add_partition('audit_log_other', 'DEFAULT');
    action := 'dropped';
    partition := 'audit_log_other';
    RETURN NEXT;
  END IF;
  -- What is left is always the end of the log: nothing is dropped while something older stays.
  FOR partition IN
    SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'audit.audit_log'::regclass AND c.relname ~ '^audit_log_[0-9]{8}$' ORDER BY c.relname
  LOOP
    day := to_date(right(partition, 8), 'YYYYMMDD');
    IF day < today - days AND NOT EXISTS (SELECT FROM audit.audit_log_other o WHERE o."timestamp" < day) THEN
      EXECUTE format('DROP TABLE audit.%I', partition);
      action := 'dropped';
      RETURN NEXT;
    END IF;
  END LOOP;
  FOR day IN SELECT generate_series(today - 1, today + ahead, interval '1 day')::date LOOP
    partition := format('audit_log_%s', to_char(day, 'YYYYMMDD'));
    CONTINUE WHEN to_regclass(format('audit.%I', partition)) IS NOT NULL
      OR EXISTS (SELECT FROM audit.audit_log_other o WHERE o."timestamp" >= day AND o."timestamp" < day + 1);
    PERFORM audit.add_partition(partition, format('FOR VALUES FROM (%L) TO (%L)', day, day + 1));
    action := 'made';
    RETURN NEXT;
  END LOOP;
END
$$;

SELECT audit.add_partition('audit_log_other', 'DEFAULT');
SELECT count(*) FROM audit.keep_days(30);

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA audit FROM PUBLIC;
GRANT USAGE ON SCHEMA audit TO :"writer", :"retention";
GRANT SELECT, INSERT ("timestamp", entry) ON audit.audit_log TO :"writer";
GRANT SELECT ON audit.audit_chain TO :"writer";
GRANT EXECUTE ON FUNCTION audit.keep_days TO :"retention";
RESET ROLE;
