-- Brings the database of the audit log up to date. Run by psql as a superuser, in that database:
--
--   psql --dbname=nhi_audit --set=writer=nhi_audit --set=dry_run=off --tuples-only --no-align --file=migrate.sql
--
-- What is to be done is said in lines that begin with APPLY; a dry run does none of it. Each migration is one transaction
-- with its own line in audit.migration: it is applied as a whole and once.
\set ON_ERROR_STOP on
\set QUIET on
SET client_min_messages = warning;

\if :{?owner}
\else
\set owner nhi_audit_owner
\endif
\if :{?retention}
\else
\set retention nhi_audit_retention
\endif

-- Roles belong to the whole server, and may be there from another database.
CREATE TEMPORARY VIEW missing_role AS
SELECT name, login FROM (VALUES (:'owner', 'NOLOGIN'), (:'retention', 'NOLOGIN'), (:'writer', 'LOGIN')) AS wanted (name, login)
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = name);
SELECT 'APPLY role ' || name FROM missing_role;
\if :dry_run
\else
SELECT format('CREATE ROLE %I %s', name, login) FROM missing_role
\gexec
\endif

SELECT to_regclass('audit.migration') IS NULL AS nothing_yet \gset
\if :nothing_yet
\set applied 0
\else
SELECT coalesce(max(version), 0) AS applied FROM audit.migration \gset
\endif

SELECT :applied < 1 AS wanted \gset
\if :wanted
\echo APPLY 0001_audit_log
\if :dry_run
\else
BEGIN;
\ir 0001_audit_log.sql
INSERT INTO audit.migration (version, name) VALUES (1, '0001_audit_log');
COMMIT;
\endif
\endif
