-- Every object of some schemas as (kind, name, line of its definition), to be compared with the
-- same of another server. $1: schemas, none named means all that are not the system's; $2: the
-- characters of a line that are kept. Runs with an empty search path, so that all names that
-- Postgres prints are qualified. Objects of extensions are left to their extension.
WITH space AS (
  SELECT oid, nspname, nspowner, nspacl FROM pg_catalog.pg_namespace
   WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'ardent')
     AND (cardinality($1::text[]) = 0 OR nspname = ANY ($1))
), member AS (
  SELECT classid, objid FROM pg_catalog.pg_depend WHERE deptype = 'e'
), relation AS (
  SELECT c.*, s.nspname, pg_catalog.format('%s.%s', s.nspname, c.relname) AS name,
         CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
              WHEN 'f' THEN 'foreign table' WHEN 'S' THEN 'sequence' WHEN 'c' THEN 'type'
              ELSE 'table' END AS kind
    FROM pg_catalog.pg_class c JOIN space s ON s.oid = c.relnamespace
   WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c') AND c.relpersistence <> 't'
     AND ('pg_catalog.pg_class'::pg_catalog.regclass::oid, c.oid) NOT IN (SELECT * FROM member)
), routine AS (
  SELECT p.*, CASE p.prokind WHEN 'a' THEN 'aggregate' WHEN 'p' THEN 'procedure'
              ELSE 'function' END AS kind,
         pg_catalog.format('%s.%s(%s)', s.nspname, p.proname,
                           pg_catalog.pg_get_function_identity_arguments(p.oid)) AS name
    FROM pg_catalog.pg_proc p JOIN space s ON s.oid = p.pronamespace
   WHERE ('pg_catalog.pg_proc'::pg_catalog.regclass::oid, p.oid) NOT IN (SELECT * FROM member)
), named_type AS (
  SELECT t.*, pg_catalog.format('%s.%s', s.nspname, t.typname) AS name
    FROM pg_catalog.pg_type t JOIN space s ON s.oid = t.typnamespace
   WHERE t.typtype IN ('e', 'd', 'r')
     AND ('pg_catalog.pg_type'::pg_catalog.regclass::oid, t.oid) NOT IN (SELECT * FROM member)
), item (kind, name, line) AS (
  SELECT 'schema', nspname::text, NULL::text FROM space
  UNION ALL
  SELECT 'extension', extname::text, 'version ' || extversion FROM pg_catalog.pg_extension
  UNION ALL
  SELECT kind, name, NULL FROM relation
  UNION ALL
  SELECT kind, name, x.line FROM relation c CROSS JOIN LATERAL (VALUES
      (CASE c.relkind WHEN 'p' THEN 'partitioned by ' || pg_catalog.pg_get_partkeydef(c.oid) END),
      (CASE WHEN c.relispartition
            THEN 'partition ' || pg_catalog.pg_get_expr(c.relpartbound, c.oid) END),
      (CASE WHEN c.relpersistence = 'u' THEN 'unlogged' END),
      (CASE WHEN c.relkind IN ('r', 'p') THEN 'replica identity ' || c.relreplident::text END),
      (CASE WHEN c.relrowsecurity THEN 'row security' END),
      (CASE WHEN c.relforcerowsecurity THEN 'row security forced' END),
      ('options ' || array_to_string(c.reloptions, ', ')),
      (CASE WHEN c.relkind IN ('v', 'm') THEN pg_catalog.pg_get_viewdef(c.oid) END)) AS x(line)
   WHERE x.line IS NOT NULL
  UNION ALL
  SELECT c.kind, c.name, 'inherits ' || i.inhparent::pg_catalog.regclass::text
    FROM relation c JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid
  UNION ALL
  SELECT c.kind, c.name,
         concat_ws(' ', row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum),
           pg_catalog.quote_ident(a.attname), pg_catalog.format_type(a.atttypid, a.atttypmod),
           CASE WHEN a.attcollation <> t.typcollation
                THEN 'collate ' || a.attcollation::pg_catalog.regcollation::text END,
           CASE WHEN a.attnotnull THEN 'not null' END,
           CASE WHEN a.attgenerated = '' THEN 'default' ELSE 'generated' END || ' '
             || pg_catalog.pg_get_expr(d.adbin, d.adrelid),
           CASE a.attidentity WHEN 'a' THEN 'identity always' WHEN 'd' THEN 'identity' END)
    FROM relation c
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
   WHERE c.relkind <> 'S'
  UNION ALL
  SELECT 'sequence', c.name,
         pg_catalog.format('as %s increment %s from %s min %s max %s cache %s cycle %s',
           pg_catalog.format_type(q.seqtypid, NULL), q.seqincrement, q.seqstart, q.seqmin,
           q.seqmax, q.seqcache, q.seqcycle)
    FROM relation c JOIN pg_catalog.pg_sequence q ON q.seqrelid = c.oid
  UNION ALL
  SELECT 'index', pg_catalog.format('%s.%s', c.nspname, x.relname),
         pg_catalog.pg_get_indexdef(i.indexrelid)
           || CASE WHEN i.indisvalid THEN '' ELSE ' (invalid)' END
    FROM relation c JOIN pg_catalog.pg_index i ON i.indrelid = c.oid
    JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
  UNION ALL
  SELECT 'constraint', pg_catalog.format('%s.%s', c.name, k.conname),
         pg_catalog.pg_get_constraintdef(k.oid)
    FROM relation c JOIN pg_catalog.pg_constraint k ON k.conrelid = c.oid
   WHERE k.contype NOT IN ('t', 'n')
  UNION ALL
  -- Named from Postgres 18 on. One that is inherited has its parent's name.
  SELECT 'not null constraint', pg_catalog.format('%s.%s', c.name, k.conname),
         pg_catalog.pg_get_constraintdef(k.oid)
    FROM relation c JOIN pg_catalog.pg_constraint k ON k.conrelid = c.oid
   WHERE k.contype = 'n' AND k.conislocal
  UNION ALL
  SELECT 'trigger', pg_catalog.format('%s.%s', c.name, t.tgname), x.line
    FROM relation c JOIN pg_catalog.pg_trigger t ON t.tgrelid = c.oid AND NOT t.tgisinternal
   CROSS JOIN LATERAL (VALUES (pg_catalog.pg_get_triggerdef(t.oid)),
                              ('enabled ' || t.tgenabled::text)) AS x(line)
  UNION ALL
  SELECT 'rule', pg_catalog.format('%s.%s', c.name, r.rulename),
         pg_catalog.pg_get_ruledef(r.oid)
    FROM relation c JOIN pg_catalog.pg_rewrite r ON r.ev_class = c.oid AND r.rulename <> '_RETURN'
  UNION ALL
  SELECT 'policy', pg_catalog.format('%s.%s', c.name, p.polname),
         concat_ws(' ', p.polcmd::text, CASE WHEN p.polpermissive THEN '' ELSE 'restrictive' END,
           'to ' || (SELECT string_agg(coalesce(r.rolname, 'public'), ', ' ORDER BY r.rolname)
                       FROM unnest(p.polroles) AS u(role)
                       LEFT JOIN pg_catalog.pg_roles r ON r.oid = u.role),
           'using ' || pg_catalog.pg_get_expr(p.polqual, p.polrelid),
           'check ' || pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid))
    FROM relation c JOIN pg_catalog.pg_policy p ON p.polrelid = c.oid
  UNION ALL
  SELECT 'statistics', pg_catalog.format('%s.%s', s.nspname, e.stxname),
         pg_catalog.pg_get_statisticsobjdef(e.oid)
    FROM pg_catalog.pg_statistic_ext e JOIN space s ON s.oid = e.stxnamespace
  UNION ALL
  SELECT kind, name,
         CASE WHEN prokind <> 'a' THEN pg_catalog.pg_get_functiondef(oid) END FROM routine
  UNION ALL
  SELECT 'type', t.name, x.line FROM named_type t CROSS JOIN LATERAL (
      SELECT pg_catalog.format('%s %s', row_number() OVER (ORDER BY e.enumsortorder), e.enumlabel)
        FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid
      UNION ALL
      SELECT concat_ws(' ', 'over', pg_catalog.format_type(t.typbasetype, t.typtypmod),
                       CASE WHEN t.typnotnull THEN 'not null' END, 'default ' || t.typdefault)
       WHERE t.typtype = 'd'
      UNION ALL
      SELECT pg_catalog.format('%s %s', k.conname, pg_catalog.pg_get_constraintdef(k.oid))
        FROM pg_catalog.pg_constraint k WHERE k.contypid = t.oid AND k.contype <> 'n'
      UNION ALL
      SELECT 'range of ' || pg_catalog.format_type(g.rngsubtype, NULL)
        FROM pg_catalog.pg_range g WHERE g.rngtypid = t.oid) AS x(line)
  UNION ALL
  SELECT 'grants on ' || o.kind, o.name, x.line
    FROM (SELECT 'schema' AS kind, nspname::text AS name, nspowner AS owner,
                 coalesce(nspacl, pg_catalog.acldefault('n', nspowner)) AS acl FROM space
          UNION ALL
          SELECT kind, name, relowner, coalesce(relacl, pg_catalog.acldefault(
                   CASE relkind WHEN 'S' THEN 's'::"char" ELSE 'r'::"char" END, relowner))
            FROM relation WHERE relkind <> 'c'
          UNION ALL
          SELECT kind, name, proowner, coalesce(proacl, pg_catalog.acldefault('f', proowner))
            FROM routine
          UNION ALL
          SELECT 'type', name, typowner, coalesce(typacl, pg_catalog.acldefault('T', typowner))
            FROM named_type
          UNION ALL
          SELECT 'column', pg_catalog.format('%s.%s', c.name, a.attname), c.relowner, a.attacl
            FROM relation c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
           WHERE a.attacl IS NOT NULL AND NOT a.attisdropped) AS o
   CROSS JOIN LATERAL (
      SELECT 'owner ' || pg_catalog.pg_get_userbyid(o.owner)
      UNION ALL
      SELECT pg_catalog.format('%s=%s%s', coalesce(r.rolname, 'public'), a.privilege_type,
                               CASE WHEN a.is_grantable THEN ' with grant option' END)
        FROM pg_catalog.aclexplode(o.acl) AS a
        LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee) AS x(line)
  UNION ALL
  SELECT 'event trigger', evtname::text, NULL FROM pg_catalog.pg_event_trigger
   WHERE evtname !~ '^ardent_'
  UNION ALL
  SELECT 'publication', pubname::text, NULL FROM pg_catalog.pg_publication
   WHERE pubname !~ '^ardent_'
  UNION ALL
  SELECT 'subscription', subname::text, NULL FROM pg_catalog.pg_subscription
   WHERE subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
  UNION ALL
  SELECT 'foreign server', srvname::text, NULL FROM pg_catalog.pg_foreign_server
  UNION ALL
  SELECT DISTINCT 'large objects', 'pg_largeobject', NULL FROM pg_catalog.pg_largeobject_metadata
)
SELECT kind, name,
       CASE WHEN char_length(line) > $2::int4
            THEN pg_catalog.left(line, $2::int4) || ' ' || pg_catalog.md5(line) ELSE line END
  FROM item
