-- What a connector has in its source beside its key: functions and three event triggers in schema
-- "ardent", nothing else. Another build of Ardent replaces all of it and leaves the key.
--
-- Whatever goes wrong in here is reported as a message and never fails the customer's statement.
-- Every function has an empty search path and is unusable by anyone but the triggers, so that
-- nobody can make it run code of theirs as its owner.

-- Says the body, and then that it was said here: the seal covers the body's place in the log, so
-- that the same words said again by somebody who may read the log are nothing. Signs as the server
-- checks it: the key on both ends of two hashes (RFC 2104).
CREATE FUNCTION ardent.emit(body text) RETURNS void LANGUAGE plpgsql SET search_path = '' AS $emit$
DECLARE
  key bytea := (SELECT k.key FROM ardent.key k);
  place numeric := pg_catalog.pg_logical_emit_message(true, 'ardent.ddl', 'ddl ' || body)
                     - '0/0'::pg_catalog.pg_lsn;
  seal bytea := pg_catalog.sha256(key || pg_catalog.sha256(
                  key || pg_catalog.convert_to(place || ' ' || body, 'UTF8')));
BEGIN
  PERFORM pg_catalog.pg_logical_emit_message(true, 'ardent.ddl',
            'seal ' || pg_catalog.encode(seal, 'hex'));
  -- Decoding takes a message to be where its record ends, which is where the next begins; if that
  -- is a row of the parent transaction, and this is a subtransaction, the row comes first. So the
  -- next record is one that nobody reads.
  PERFORM pg_catalog.pg_logical_emit_message(false, 'ardent.pad', '');
END $emit$;

CREATE FUNCTION ardent.describe(oid[], oid[], oid[], oid[], boolean) RETURNS SETOF jsonb
LANGUAGE plpgsql STABLE SET search_path = '' AS $describe$
BEGIN
  RETURN QUERY
{describe};
END $describe$;

-- Which objects a command touched. What is part of a table is described with it; partitions and
-- children go with their parent, since it passes most changes on to them.
CREATE FUNCTION ardent.touched(tag text) RETURNS jsonb LANGUAGE plpgsql SET search_path = '' AS
$touched$
DECLARE
  relations oid[]; types oid[]; functions oid[]; schemas oid[]; others jsonb; extensions jsonb;
  mine xid := pg_catalog.pg_current_xact_id()::xid;
BEGIN
  WITH command AS (
    SELECT c.classid, c.objid, c.object_type, c.object_identity, c.in_extension
      FROM pg_catalog.pg_event_trigger_ddl_commands() c
     WHERE coalesce(c.schema_name, '') NOT IN ('ardent', 'pg_temp')
       AND NOT coalesce(c.object_type = 'schema' AND c.object_identity IN ('ardent'), false)
  ), relation AS (
    SELECT coalesce(i.indrelid, c.objid) AS oid FROM command c
      LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.objid
     WHERE c.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND NOT c.in_extension
    UNION SELECT t.tgrelid FROM command c JOIN pg_catalog.pg_trigger t ON t.oid = c.objid
     WHERE c.classid = 'pg_catalog.pg_trigger'::pg_catalog.regclass
    UNION SELECT p.polrelid FROM command c JOIN pg_catalog.pg_policy p ON p.oid = c.objid
     WHERE c.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass
    UNION SELECT w.ev_class FROM command c JOIN pg_catalog.pg_rewrite w ON w.oid = c.objid
     WHERE c.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
    UNION SELECT k.conrelid FROM command c JOIN pg_catalog.pg_constraint k ON k.oid = c.objid
     WHERE c.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND k.conrelid <> 0
    UNION SELECT s.stxrelid FROM command c JOIN pg_catalog.pg_statistic_ext s ON s.oid = c.objid
     WHERE c.classid = 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass
    UNION SELECT d.adrelid FROM command c JOIN pg_catalog.pg_attrdef d ON d.oid = c.objid
     WHERE c.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
    UNION SELECT t.typrelid FROM command c JOIN pg_catalog.pg_type t ON t.oid = c.objid
     WHERE c.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND t.typrelid <> 0
    -- These name no object. A row of the catalog that this transaction or a later one wrote is
    -- one of theirs; too many do no harm.
    UNION SELECT c.oid FROM pg_catalog.pg_class c
     WHERE tag IN ('GRANT', 'REVOKE', 'DROP OWNED')
       AND pg_catalog.age(c.xmin) <= pg_catalog.age(mine)
    UNION SELECT a.attrelid FROM pg_catalog.pg_attribute a
     WHERE tag IN ('GRANT', 'REVOKE') AND a.attrelid >= 16384
       AND pg_catalog.age(a.xmin) <= pg_catalog.age(mine)
  ), family AS (
    WITH RECURSIVE child AS (
      SELECT r.oid, 0 AS depth FROM relation r
      UNION SELECT i.inhrelid, child.depth + 1 FROM child
              JOIN pg_catalog.pg_inherits i ON i.inhparent = child.oid
             WHERE child.depth < 4)
    SELECT c.oid FROM child c GROUP BY c.oid ORDER BY min(c.depth) LIMIT 200
  )
  SELECT (SELECT pg_catalog.array_agg(f.oid) FROM family f),
         (SELECT pg_catalog.array_agg(x.oid) FROM (
            SELECT c.objid AS oid FROM command c
             WHERE c.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND NOT c.in_extension
            UNION SELECT k.contypid FROM command c
              JOIN pg_catalog.pg_constraint k ON k.oid = c.objid
             WHERE c.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND k.contypid <> 0
            UNION SELECT t.oid FROM pg_catalog.pg_type t
             WHERE tag IN ('GRANT', 'REVOKE', 'DROP OWNED')
               AND pg_catalog.age(t.xmin) <= pg_catalog.age(mine)) x),
         (SELECT pg_catalog.array_agg(x.oid) FROM (
            SELECT c.objid AS oid FROM command c
             WHERE c.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND NOT c.in_extension
            UNION SELECT p.oid FROM pg_catalog.pg_proc p
             WHERE tag IN ('GRANT', 'REVOKE', 'DROP OWNED')
               AND pg_catalog.age(p.xmin) <= pg_catalog.age(mine)) x),
         (SELECT pg_catalog.array_agg(x.oid) FROM (
            SELECT c.objid AS oid FROM command c
             WHERE c.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
               AND NOT c.in_extension
            UNION SELECT n.oid FROM pg_catalog.pg_namespace n
             WHERE tag IN ('GRANT', 'REVOKE', 'DROP OWNED')
               AND pg_catalog.age(n.xmin) <= pg_catalog.age(mine)
               AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'ardent')) x),
         (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
                   'name', e.extname, 'schema', n.nspname))
            FROM command c JOIN pg_catalog.pg_extension e ON e.oid = c.objid
            JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
           WHERE c.classid = 'pg_catalog.pg_extension'::pg_catalog.regclass),
         (SELECT pg_catalog.jsonb_agg(c.object_type || ' ' || c.object_identity)
            FROM command c
           WHERE NOT c.in_extension AND c.object_identity IS NOT NULL
             AND (c.object_type = 'aggregate' OR c.classid NOT IN (SELECT pg_catalog.unnest(ARRAY[
               'pg_catalog.pg_class', 'pg_catalog.pg_trigger', 'pg_catalog.pg_policy',
               'pg_catalog.pg_rewrite', 'pg_catalog.pg_constraint', 'pg_catalog.pg_attrdef',
               'pg_catalog.pg_statistic_ext', 'pg_catalog.pg_type', 'pg_catalog.pg_proc',
               'pg_catalog.pg_namespace', 'pg_catalog.pg_extension', 'pg_catalog.pg_publication',
               'pg_catalog.pg_publication_rel', 'pg_catalog.pg_subscription',
               'pg_catalog.pg_event_trigger', 'pg_catalog.pg_default_acl'
             ]::pg_catalog.regclass[]))))
    INTO relations, types, functions, schemas, extensions, others;
  RETURN pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
    'extensions', extensions, 'others', others, 'objects', (
      SELECT pg_catalog.jsonb_agg(o) FROM ardent.describe(
        coalesce(relations, '{}'), coalesce(types, '{}'), coalesce(functions, '{}'),
        coalesce(schemas, '{}'), tag = 'ALTER DEFAULT PRIVILEGES') o)));
END $touched$;

CREATE FUNCTION ardent.capture() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = '' SET timezone = 'UTC' SET datestyle = 'ISO, MDY' SET intervalstyle = 'postgres'
SET extra_float_digits = 3 SET bytea_output = 'hex' SET quote_all_identifiers = off
SET row_security = off AS $capture$
DECLARE
  body jsonb;
BEGIN
  IF TG_EVENT = 'ddl_command_end' THEN
    body := ardent.touched(TG_TAG);
  ELSIF TG_EVENT = 'sql_drop' THEN
    SELECT pg_catalog.jsonb_build_object('dropped', pg_catalog.jsonb_agg(
             pg_catalog.jsonb_build_object('kind', d.object_type, 'oid', d.objid::bigint,
               'schema', d.schema_name, 'name', d.object_name, 'identity', d.object_identity,
               'original', d.original)))
      INTO body FROM pg_catalog.pg_event_trigger_dropped_objects() d
     WHERE NOT d.is_temporary AND coalesce(d.schema_name, '') NOT IN ('ardent', 'pg_toast')
       AND (d.original OR d.object_type IN ('table', 'view', 'materialized view', 'sequence',
            'type', 'function', 'procedure', 'schema'))
       AND d.object_type NOT IN ('table column', 'default value', 'event trigger', 'publication',
            'publication relation', 'subscription');
    IF body -> 'dropped' = 'null' THEN body := '{}'; END IF;
  ELSE
    SELECT pg_catalog.jsonb_build_object('rewritten', pg_catalog.jsonb_build_object(
             'schema', n.nspname, 'name', c.relname, 'oid', c.oid::bigint, 'kind', c.relkind,
             'reason', pg_catalog.pg_event_trigger_table_rewrite_reason()))
      INTO body FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.oid = pg_catalog.pg_event_trigger_table_rewrite_oid() AND c.relpersistence <> 't';
  END IF;
  IF body IS NOT NULL AND body <> '{}' THEN
    PERFORM ardent.emit((body || pg_catalog.jsonb_build_object('tag', TG_TAG))::text);
  END IF;
EXCEPTION WHEN OTHERS THEN
  BEGIN
    PERFORM ardent.emit(pg_catalog.jsonb_build_object(
      'tag', TG_TAG, 'failed', SQLSTATE || ' ' || SQLERRM)::text);
  EXCEPTION WHEN OTHERS THEN
    -- Unsigned, so it says nothing but that something is wrong.
    PERFORM pg_catalog.pg_logical_emit_message(true, 'ardent.ddl', 'failed');
  END;
END $capture$;

REVOKE ALL ON FUNCTION ardent.emit(text), ardent.describe(oid[], oid[], oid[], oid[], boolean),
  ardent.touched(text), ardent.capture() FROM PUBLIC;
CREATE EVENT TRIGGER ardent_ddl ON ddl_command_end EXECUTE FUNCTION ardent.capture();
CREATE EVENT TRIGGER ardent_drop ON sql_drop EXECUTE FUNCTION ardent.capture();
CREATE EVENT TRIGGER ardent_rewrite ON table_rewrite EXECUTE FUNCTION ardent.capture();
-- Sessions that replicate skip triggers that are not.
ALTER EVENT TRIGGER ardent_ddl ENABLE ALWAYS;
ALTER EVENT TRIGGER ardent_drop ENABLE ALWAYS;
ALTER EVENT TRIGGER ardent_rewrite ENABLE ALWAYS;
