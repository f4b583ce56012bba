-- Describes objects as facts, the same way on source and trunk. A fact has a key inside its object
-- and the SQL that makes it so (`make`); two objects are equal if their facts are. What is not
-- compared: `first` makes a fact that is missing altogether, `retry` makes it where `make` fails,
-- `drop` removes it, and `body`, `name` and `rename` find and rename a fact that only changed its
-- name. Facts are made in the order of their phases.
--
-- $1 relations, $2 types, $3 functions, $4 schemas (oids), $5 whether default privileges too.
-- Needs an empty search path, so that every name comes out qualified.
--
-- A look from outside of the transaction that changes a schema may find an object in its snapshot
-- that is gone by now: of that, definitions are NULL, and it counts as gone.
WITH relation AS (
  SELECT c.oid, c.relkind AS kind, c.relname AS name, n.nspname AS schema, c.relnamespace,
         c.relowner, c.relacl, c.reltype, c.reloptions, c.relpersistence, c.relispopulated,
         c.relreplident, c.relrowsecurity, c.relforcerowsecurity, c.relispartition, c.relpartbound,
         pg_catalog.format('%I.%I', n.nspname, c.relname) AS q,
         CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW'
              WHEN 'S' THEN 'SEQUENCE' WHEN 'c' THEN 'TYPE' ELSE 'TABLE' END AS word
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
   WHERE c.oid = ANY ($1) AND c.relpersistence <> 't'
     AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'c')
), attribute AS (
  SELECT r.oid, r.kind, r.q, a.attnum, a.attname, a.attnotnull, a.attidentity, a.attgenerated,
         a.attacl, a.attislocal, r.relispartition,
         pg_catalog.format('%I', a.attname) AS i,
         pg_catalog.format_type(a.atttypid, a.atttypmod)
           || CASE WHEN a.attcollation <> 0 AND a.attcollation <> t.typcollation
              THEN pg_catalog.format(' COLLATE %I.%I', cn.nspname, co.collname) ELSE '' END AS type,
         pg_catalog.pg_get_expr(d.adbin, d.adrelid) AS expression,
         CASE WHEN a.attgenerated <> '' THEN pg_catalog.format(' GENERATED ALWAYS AS (%s) %s',
                pg_catalog.pg_get_expr(d.adbin, d.adrelid),
                CASE a.attgenerated WHEN 'v' THEN 'VIRTUAL' ELSE 'STORED' END) ELSE '' END AS generated,
         -- What rows have that are older than the column. A partitioned table has no rows; what its
         -- partitions have is what passing the column on to them has to give.
         CASE WHEN r.kind = 'p' THEN (
                SELECT (b.attmissingval::text::text[])[1]
                  FROM pg_catalog.pg_partition_tree(r.oid) l
                  JOIN pg_catalog.pg_attribute b ON b.attrelid = l.relid AND b.attname = a.attname
                 WHERE b.atthasmissing LIMIT 1)
              WHEN a.atthasmissing THEN (a.attmissingval::text::text[])[1] END AS missing,
         a.attstorage, t.typstorage
    FROM relation r
    JOIN pg_catalog.pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    LEFT JOIN pg_catalog.pg_collation co ON co.oid = a.attcollation
    LEFT JOIN pg_catalog.pg_namespace cn ON cn.oid = co.collnamespace
), parent AS (
  SELECT r.oid, i.inhseqno, pg_catalog.format('%I.%I', n.nspname, c.relname) AS q,
         pg_catalog.pg_get_expr(r.relpartbound, r.oid) AS bound,
         ARRAY(SELECT a.attname FROM pg_catalog.pg_attribute a
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                ORDER BY a.attnum)
         = ARRAY(SELECT a.attname FROM attribute a WHERE a.oid = r.oid ORDER BY a.attnum)
           AS is_alike
    FROM relation r JOIN pg_catalog.pg_inherits i ON i.inhrelid = r.oid
    JOIN pg_catalog.pg_class c ON c.oid = i.inhparent
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
), owned AS (
  SELECT r.oid, d.deptype, pg_catalog.format('%I.%I.%I', n.nspname, c.relname, a.attname) AS by
    FROM relation r
    JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
         AND d.objid = r.oid AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
         AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
    JOIN pg_catalog.pg_class c ON c.oid = d.refobjid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid
   WHERE r.kind = 'S'
), type AS (
  SELECT t.oid, t.typtype AS kind, t.typname AS name, n.nspname AS schema, t.typnamespace,
         t.typowner, t.typacl, t.typnotnull, t.typdefault,
         pg_catalog.format('%I.%I', n.nspname, t.typname) AS q,
         CASE t.typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END AS word,
         pg_catalog.format_type(t.typbasetype, t.typtypmod)
           || CASE WHEN t.typcollation <> 0 AND t.typcollation <> b.typcollation
              THEN pg_catalog.format(' COLLATE %I.%I', cn.nspname, co.collname) ELSE '' END AS base
    FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
    LEFT JOIN pg_catalog.pg_type b ON b.oid = t.typbasetype
    LEFT JOIN pg_catalog.pg_collation co ON co.oid = t.typcollation
    LEFT JOIN pg_catalog.pg_namespace cn ON cn.oid = co.collnamespace
   WHERE t.oid = ANY ($2) AND t.typtype IN ('e', 'd', 'r')
), label AS (
  SELECT t.oid, t.q, e.enumlabel, e.enumsortorder,
         pg_catalog.row_number() OVER w AS ordinal,
         pg_catalog.lag(e.enumlabel) OVER w AS before, pg_catalog.lead(e.enumlabel) OVER w AS after
    FROM type t JOIN pg_catalog.pg_enum e ON e.enumtypid = t.oid
  WINDOW w AS (PARTITION BY t.oid ORDER BY e.enumsortorder)
), function AS (
  SELECT p.oid, p.prokind AS kind, p.proname AS name, n.nspname AS schema, p.pronamespace,
         p.proowner, p.proacl,
         pg_catalog.format('%I.%I(%s)', n.nspname, p.proname,
                           pg_catalog.pg_get_function_identity_arguments(p.oid)) AS q,
         CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END AS word
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
   WHERE p.oid = ANY ($3) AND p.prokind IN ('f', 'p')
), schema AS (
  SELECT n.oid, n.nspname AS name, n.nspowner, n.nspacl, pg_catalog.format('%I', n.nspname) AS q
    FROM pg_catalog.pg_namespace n WHERE n.oid = ANY ($4)
), acl AS (
  SELECT 'relation' AS class, r.oid, '' AS sub, CASE r.kind WHEN 'c' THEN 'TYPE ' || r.q
         WHEN 'S' THEN 'SEQUENCE ' || r.q ELSE 'TABLE ' || r.q END AS target, x.*
    FROM relation r LEFT JOIN pg_catalog.pg_type t ON t.oid = r.reltype
   CROSS JOIN LATERAL pg_catalog.aclexplode(CASE r.kind
      WHEN 'c' THEN coalesce(t.typacl, pg_catalog.acldefault('T', r.relowner))
      WHEN 'S' THEN coalesce(r.relacl, pg_catalog.acldefault('s', r.relowner))
      ELSE coalesce(r.relacl, pg_catalog.acldefault('r', r.relowner)) END) x
  UNION ALL
  SELECT 'relation', a.oid, '(' || a.i || ')', 'TABLE ' || a.q, x.*
    FROM attribute a CROSS JOIN LATERAL pg_catalog.aclexplode(a.attacl) x
  UNION ALL
  SELECT 'type', t.oid, '', t.word || ' ' || t.q, x.*
    FROM type t CROSS JOIN LATERAL pg_catalog.aclexplode(
           coalesce(t.typacl, pg_catalog.acldefault('T', t.typowner))) x
  UNION ALL
  SELECT 'function', f.oid, '', f.word || ' ' || f.q, x.*
    FROM function f CROSS JOIN LATERAL pg_catalog.aclexplode(
           coalesce(f.proacl, pg_catalog.acldefault('f', f.proowner))) x
  UNION ALL
  SELECT 'schema', s.oid, '', 'SCHEMA ' || s.q, x.*
    FROM schema s CROSS JOIN LATERAL pg_catalog.aclexplode(
           coalesce(s.nspacl, pg_catalog.acldefault('n', s.nspowner))) x
), owner AS (
  SELECT 'relation' AS class, r.oid, r.word || ' ' || r.q AS target, r.relowner AS role,
         'SCHEMA ' || pg_catalog.quote_ident(r.schema) AS place
    FROM relation r WHERE NOT EXISTS (SELECT FROM owned o WHERE o.oid = r.oid)
  UNION ALL SELECT 'type', t.oid, t.word || ' ' || t.q, t.typowner,
         'SCHEMA ' || pg_catalog.quote_ident(t.schema) FROM type t
  UNION ALL SELECT 'function', f.oid, f.word || ' ' || f.q, f.proowner,
         'SCHEMA ' || pg_catalog.quote_ident(f.schema) FROM function f
  UNION ALL SELECT 'schema', s.oid, 'SCHEMA ' || s.q, s.nspowner,
         'DATABASE ' || pg_catalog.quote_ident(pg_catalog.current_database()) FROM schema s
), comment AS (
  SELECT 'relation' AS class, r.oid, 'comment' AS key, r.word || ' ' || r.q AS target,
         pg_catalog.obj_description(r.oid, 'pg_class') AS said
    FROM relation r WHERE r.kind <> 'c'
  UNION ALL
  SELECT 'relation', r.oid, 'comment', 'TYPE ' || r.q,
         pg_catalog.obj_description(r.reltype, 'pg_type') FROM relation r WHERE r.kind = 'c'
  UNION ALL
  SELECT 'relation', a.oid, 'column/' || a.attname || '/comment', 'COLUMN ' || a.q || '.' || a.i,
         pg_catalog.col_description(a.oid, a.attnum) FROM attribute a WHERE a.kind <> 'S'
  UNION ALL
  SELECT 'relation', r.oid, 'constraint/' || k.conname || '/comment',
         pg_catalog.format('CONSTRAINT %I ON %s', k.conname, r.q),
         pg_catalog.obj_description(k.oid, 'pg_constraint')
    FROM relation r JOIN pg_catalog.pg_constraint k ON k.conrelid = r.oid
     AND k.contype IN ('c', 'p', 'u', 'x', 'f') AND k.conparentid = 0
  UNION ALL
  SELECT 'relation', r.oid, 'index/' || c.relname || '/comment',
         pg_catalog.format('INDEX %I.%I', r.schema, c.relname),
         pg_catalog.obj_description(c.oid, 'pg_class')
    FROM relation r JOIN pg_catalog.pg_index i ON i.indrelid = r.oid AND i.indisvalid
    JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid AND NOT c.relispartition
  UNION ALL
  SELECT 'relation', r.oid, 'trigger/' || t.tgname || '/comment',
         pg_catalog.format('TRIGGER %I ON %s', t.tgname, r.q),
         pg_catalog.obj_description(t.oid, 'pg_trigger')
    FROM relation r JOIN pg_catalog.pg_trigger t ON t.tgrelid = r.oid
     AND NOT t.tgisinternal AND t.tgparentid = 0
  UNION ALL
  SELECT 'relation', r.oid, 'policy/' || p.polname || '/comment',
         pg_catalog.format('POLICY %I ON %s', p.polname, r.q),
         pg_catalog.obj_description(p.oid, 'pg_policy')
    FROM relation r JOIN pg_catalog.pg_policy p ON p.polrelid = r.oid
  UNION ALL
  SELECT 'type', t.oid, 'comment', t.word || ' ' || t.q,
         pg_catalog.obj_description(t.oid, 'pg_type') FROM type t
  UNION ALL
  SELECT 'function', f.oid, 'comment', f.word || ' ' || f.q,
         pg_catalog.obj_description(f.oid, 'pg_proc') FROM function f
  UNION ALL
  SELECT 'schema', s.oid, 'comment', 'SCHEMA ' || s.q,
         pg_catalog.obj_description(s.oid, 'pg_namespace') FROM schema s
), fact(class, oid, phase, key, make, first, retry, drop, body, name, rename) AS (
  -- Relations: that they exist.
  SELECT 'relation', r.oid, CASE WHEN r.relispartition THEN 11 ELSE 10 END, 'exists',
         r.word || coalesce(' PARTITION BY ' || pg_catalog.pg_get_partkeydef(r.oid), ''),
         CASE WHEN r.kind = 'c' THEN pg_catalog.format('CREATE TYPE %s AS (%s)', r.q, coalesce(l.columns, ''))
              WHEN p.q IS NOT NULL THEN
                pg_catalog.format('CREATE %sTABLE %s PARTITION OF %s %s', u.word, r.q, p.q, p.bound)
                || k.by
              ELSE pg_catalog.format('CREATE %sTABLE %s (%s)', u.word, r.q, coalesce(l.columns, ''))
                || CASE WHEN r.relispartition OR h.parents IS NULL THEN ''
                        ELSE pg_catalog.format(' INHERITS (%s)', h.parents) END || k.by END,
         NULL, pg_catalog.format('DROP %s %s CASCADE', r.word, r.q), NULL, NULL, NULL
    FROM relation r
   CROSS JOIN LATERAL (
     SELECT pg_catalog.string_agg(a.i || ' ' || a.type || a.generated, ', ' ORDER BY a.attnum)
              AS columns
       FROM attribute a WHERE a.oid = r.oid AND (a.attislocal OR r.relispartition)) l
   CROSS JOIN LATERAL (SELECT coalesce(' PARTITION BY ' || pg_catalog.pg_get_partkeydef(r.oid), '')
                           AS by) k
   CROSS JOIN LATERAL (SELECT CASE r.relpersistence WHEN 'u' THEN 'UNLOGGED ' ELSE '' END AS word) u
   CROSS JOIN LATERAL (SELECT pg_catalog.string_agg(h.q, ', ' ORDER BY h.inhseqno) AS parents
                         FROM parent h WHERE h.oid = r.oid) h
    LEFT JOIN parent p ON p.oid = r.oid AND r.relispartition AND p.is_alike
   WHERE r.kind IN ('r', 'p', 'c')
  UNION ALL
  SELECT 'relation', r.oid, 75, 'exists',
         pg_catalog.format('CREATE OR REPLACE VIEW %s AS %s', r.q, pg_catalog.pg_get_viewdef(r.oid)),
         NULL, NULL, pg_catalog.format('DROP VIEW %s CASCADE', r.q), 'replace', NULL, NULL
    FROM relation r WHERE r.kind = 'v'
  UNION ALL
  SELECT 'relation', r.oid, 75, 'exists',
         pg_catalog.format('CREATE MATERIALIZED VIEW %s AS %s WITH NO DATA', r.q,
                           pg_catalog.rtrim(pg_catalog.pg_get_viewdef(r.oid), ';')),
         NULL, NULL, pg_catalog.format('DROP MATERIALIZED VIEW %s CASCADE', r.q), NULL, NULL, NULL
    FROM relation r WHERE r.kind = 'm'
  UNION ALL
  SELECT 'relation', r.oid, 77, 'populated', pg_catalog.format('REFRESH MATERIALIZED VIEW %s%s', r.q,
           CASE WHEN r.relispopulated THEN '' ELSE ' WITH NO DATA' END),
         NULL, NULL, NULL, NULL, NULL, NULL
    FROM relation r WHERE r.kind = 'm'
  UNION ALL
  SELECT 'relation', r.oid, 8, 'exists', 'SEQUENCE',
         pg_catalog.format('CREATE SEQUENCE %s', r.q), NULL,
         pg_catalog.format('DROP SEQUENCE %s CASCADE', r.q), NULL, NULL, NULL
    FROM relation r
   WHERE r.kind = 'S' AND NOT EXISTS (SELECT FROM owned o WHERE o.oid = r.oid AND o.deptype = 'i')
  UNION ALL
  SELECT 'relation', r.oid, 25, 'sequence',
         pg_catalog.format('ALTER SEQUENCE %s AS %s INCREMENT BY %s MINVALUE %s MAXVALUE %s '
           'START WITH %s CACHE %s %sCYCLE', r.q, pg_catalog.format_type(s.seqtypid, NULL),
           s.seqincrement, s.seqmin, s.seqmax, s.seqstart, s.seqcache,
           CASE WHEN s.seqcycle THEN '' ELSE 'NO ' END), NULL, NULL, NULL, NULL, NULL, NULL
    FROM relation r JOIN pg_catalog.pg_sequence s ON s.seqrelid = r.oid
  UNION ALL
  SELECT 'relation', r.oid, 65, 'owned', pg_catalog.format('ALTER SEQUENCE %s OWNED BY %s', r.q,
           coalesce(o.by, 'NONE')), NULL,
         -- It must have its table's owner before it can belong to the table.
         CASE WHEN o.by IS NOT NULL THEN
           pg_catalog.format('GRANT CREATE ON SCHEMA %1$I TO %2$I; ALTER SEQUENCE %3$s OWNER TO %2$I; '
             'REVOKE CREATE ON SCHEMA %1$I FROM %2$I; ALTER SEQUENCE %3$s OWNED BY %4$s', r.schema,
             pg_catalog.pg_get_userbyid(r.relowner), r.q, o.by) END, NULL, NULL, NULL, NULL
    FROM relation r LEFT JOIN owned o ON o.oid = r.oid
   WHERE r.kind = 'S' AND o.deptype IS DISTINCT FROM 'i'
  UNION ALL
  SELECT 'relation', p.oid, 40, 'parent/' || p.q,
         CASE WHEN p.bound IS NULL THEN pg_catalog.format('ALTER TABLE %s INHERIT %s', r.q, p.q)
         ELSE pg_catalog.format('ALTER TABLE %s ATTACH PARTITION %s %s', p.q, r.q, p.bound) END,
         NULL, NULL,
         CASE WHEN p.bound IS NULL THEN pg_catalog.format('ALTER TABLE %s NO INHERIT %s', r.q, p.q)
         ELSE pg_catalog.format('ALTER TABLE %s DETACH PARTITION %s', p.q, r.q) END,
         NULL, NULL, NULL
    FROM relation r JOIN parent p ON p.oid = r.oid
  UNION ALL
  SELECT 'relation', r.oid, 42, 'partition/' || x.q, 'partition',
         pg_catalog.format('ALTER TABLE %s ATTACH PARTITION %s %s', r.q, x.q,
                           pg_catalog.pg_get_expr(c.relpartbound, c.oid)), NULL,
         pg_catalog.format('ALTER TABLE %s DETACH PARTITION %s', r.q, x.q), NULL, NULL, NULL
    FROM relation r JOIN pg_catalog.pg_inherits i ON i.inhparent = r.oid
    JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relispartition
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
   CROSS JOIN LATERAL (SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS q) x
   WHERE r.kind = 'p'
  -- Columns.
  UNION ALL
  SELECT 'relation', a.oid, 20, 'column/' || a.attname,
         'column ' || a.i || a.generated,
         CASE a.kind WHEN 'c' THEN pg_catalog.format('ALTER TYPE %s ADD ATTRIBUTE %s %s CASCADE',
                                                     a.q, a.i, a.type)
         ELSE pg_catalog.format('ALTER TABLE %s ADD COLUMN %s %s', a.q, a.i, a.type)
           || CASE WHEN a.attgenerated <> '' THEN a.generated
                   WHEN a.missing IS NOT NULL THEN pg_catalog.format(' DEFAULT %L::%s', a.missing,
                     pg_catalog.regexp_replace(a.type, ' COLLATE .*', '')) ELSE '' END END,
         NULL,
         CASE a.kind WHEN 'c' THEN pg_catalog.format('ALTER TYPE %s DROP ATTRIBUTE %s CASCADE',
                                                     a.q, a.i)
         ELSE pg_catalog.format('ALTER TABLE %s DROP COLUMN %s CASCADE', a.q, a.i) END,
         NULL, NULL, NULL
    FROM attribute a WHERE a.kind IN ('r', 'p', 'c')
  UNION ALL
  SELECT 'relation', a.oid, 21, 'column/' || a.attname || '/type',
         pg_catalog.format(CASE a.kind WHEN 'c' THEN 'ALTER TYPE %s ALTER ATTRIBUTE %s TYPE %s CASCADE'
                           ELSE 'ALTER TABLE %s ALTER COLUMN %s TYPE %s' END, a.q, a.i, a.type),
         NULL,
         CASE WHEN a.kind <> 'c' THEN
           pg_catalog.format('ALTER TABLE %1$s ALTER COLUMN %2$s DROP DEFAULT, ALTER COLUMN %2$s TYPE %3$s '
             'USING %2$s::text::%4$s', a.q, a.i, a.type,
             pg_catalog.regexp_replace(a.type, ' COLLATE .*', '')) END, NULL, NULL, NULL, NULL
    FROM attribute a WHERE a.kind IN ('r', 'p', 'c')
  UNION ALL
  SELECT 'relation', a.oid, 22, 'column/' || a.attname || '/default',
         pg_catalog.format('ALTER TABLE %s ALTER COLUMN %s SET DEFAULT %s', a.q, a.i, a.expression),
         NULL, NULL, pg_catalog.format('ALTER TABLE %s ALTER COLUMN %s DROP DEFAULT', a.q, a.i),
         'replace', NULL, NULL
    FROM attribute a WHERE a.kind IN ('r', 'p', 'v') AND a.attgenerated = '' AND a.attidentity = ''
     AND a.expression IS NOT NULL
  UNION ALL
  SELECT 'relation', a.oid, 23, 'column/' || a.attname || '/not_null',
         pg_catalog.format('ALTER TABLE %s ALTER COLUMN %s SET NOT NULL', a.q, a.i),
         NULL, NULL, pg_catalog.format('ALTER TABLE %s ALTER COLUMN %s DROP NOT NULL', a.q, a.i),
         NULL, NULL, NULL
    FROM attribute a WHERE a.kind IN ('r', 'p') AND a.attnotnull
  UNION ALL
  SELECT 'relation', a.oid, 24, 'column/' || a.attname || '/identity',
         pg_catalog.format('ALTER TABLE %s ALTER COLUMN %s ADD GENERATED %s AS IDENTITY%s', a.q, a.i,
                           w.word, coalesce(' (SEQUENCE NAME '
                             || pg_catalog.pg_get_serial_sequence(a.q, a.attname) || ')', '')),
         NULL,
         pg_catalog.format('ALTER TABLE %s ALTER COLUMN %s SET GENERATED %s', a.q, a.i, w.word),
         pg_catalog.format('ALTER TABLE %s ALTER COLUMN %s DROP IDENTITY IF EXISTS', a.q, a.i),
         'replace', NULL, NULL
    FROM attribute a
   CROSS JOIN LATERAL (SELECT CASE a.attidentity WHEN 'a' THEN 'ALWAYS' ELSE 'BY DEFAULT' END
                           AS word) w
   WHERE a.kind IN ('r', 'p') AND a.attidentity <> ''
  UNION ALL
  SELECT 'relation', a.oid, 26, 'column/' || a.attname || '/storage',
         pg_catalog.format('ALTER TABLE %s ALTER COLUMN %s SET STORAGE %s', a.q, a.i,
           CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN'
                ELSE 'EXTENDED' END), NULL, NULL, NULL, NULL, NULL, NULL
    FROM attribute a WHERE a.kind IN ('r', 'p') AND a.typstorage <> 'p'
  -- Constraints, indexes, statistics.
  UNION ALL
  SELECT 'relation', r.oid, CASE k.contype WHEN 'c' THEN 30 WHEN 'f' THEN 60 ELSE 50 END,
         'constraint/' || k.conname,
         pg_catalog.format('ALTER TABLE %s ADD CONSTRAINT %I %s', r.q, k.conname, d.body), NULL,
         CASE WHEN k.contype IN ('f', 'c') AND k.convalidated THEN
           pg_catalog.format('ALTER TABLE %s ADD CONSTRAINT %I %s NOT VALID', r.q, k.conname,
                             d.body) END,
         pg_catalog.format('ALTER TABLE %s DROP CONSTRAINT %I CASCADE', r.q, k.conname),
         d.body, pg_catalog.format('%I', k.conname),
         pg_catalog.format('ALTER TABLE %s RENAME CONSTRAINT %I TO ', r.q, k.conname)
    FROM relation r JOIN pg_catalog.pg_constraint k ON k.conrelid = r.oid
     AND k.contype IN ('c', 'p', 'u', 'x', 'f') AND k.conparentid = 0
   CROSS JOIN LATERAL (SELECT pg_catalog.pg_get_constraintdef(k.oid) AS body) d
  UNION ALL
  -- The name of NOT NULL, which is a constraint from Postgres 18 on. What it says is a fact of its
  -- column already, so nothing is dropped for its name: an older source knows of none.
  SELECT 'relation', r.oid, 31, 'constraint/' || k.conname,
         pg_catalog.format('ALTER TABLE %s ADD CONSTRAINT %I %s', r.q, k.conname, d.body), NULL, NULL,
         NULL, d.body, pg_catalog.format('%I', k.conname),
         pg_catalog.format('ALTER TABLE %s RENAME CONSTRAINT %I TO ', r.q, k.conname)
    FROM relation r JOIN pg_catalog.pg_constraint k ON k.conrelid = r.oid
     AND k.contype = 'n' AND k.conislocal
   CROSS JOIN LATERAL (SELECT pg_catalog.pg_get_constraintdef(k.oid) AS body) d
  UNION ALL
  SELECT 'relation', r.oid, CASE r.kind WHEN 'm' THEN 76 ELSE 55 END, 'index/' || c.relname,
         d.definition, NULL, NULL,
         pg_catalog.format('DROP INDEX %I.%I CASCADE', r.schema, c.relname),
         pg_catalog.substr(d.definition, pg_catalog.strpos(d.definition, ' ON ')),
         pg_catalog.format('%I', c.relname),
         pg_catalog.format('ALTER INDEX %I.%I RENAME TO ', r.schema, c.relname)
    FROM relation r JOIN pg_catalog.pg_index i ON i.indrelid = r.oid AND i.indisvalid
    JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid AND NOT c.relispartition
   CROSS JOIN LATERAL (SELECT pg_catalog.regexp_replace(pg_catalog.pg_get_indexdef(c.oid),
                                ' ON ONLY ', ' ON ') AS definition) d
   WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k
                      WHERE k.conindid = c.oid AND k.contype IN ('p', 'u', 'x'))
  UNION ALL
  SELECT 'relation', r.oid, 57, 'statistics/' || n.nspname || '.' || s.stxname,
         pg_catalog.pg_get_statisticsobjdef(s.oid), NULL, NULL,
         pg_catalog.format('DROP STATISTICS %I.%I', n.nspname, s.stxname), NULL, NULL, NULL
    FROM relation r JOIN pg_catalog.pg_statistic_ext s ON s.stxrelid = r.oid
    JOIN pg_catalog.pg_namespace n ON n.oid = s.stxnamespace
  UNION ALL
  SELECT 'relation', r.oid, 90, 'statistics/' || n.nspname || '.' || s.stxname || '/owner',
         pg_catalog.format('ALTER STATISTICS %s OWNER TO %I', x.q, x.role), NULL,
         pg_catalog.format('GRANT CREATE ON SCHEMA %1$I TO %2$I; ALTER STATISTICS %3$s OWNER TO %2$I; '
           'REVOKE CREATE ON SCHEMA %1$I FROM %2$I', n.nspname, x.role, x.q),
         NULL, NULL, NULL, NULL
    FROM relation r JOIN pg_catalog.pg_statistic_ext s ON s.stxrelid = r.oid
    JOIN pg_catalog.pg_namespace n ON n.oid = s.stxnamespace
   CROSS JOIN LATERAL (SELECT pg_catalog.format('%I.%I', n.nspname, s.stxname) AS q,
                              pg_catalog.pg_get_userbyid(s.stxowner) AS role) x
  -- Triggers, rules, policies.
  UNION ALL
  SELECT 'relation', r.oid, 78, 'trigger/' || t.tgname, pg_catalog.pg_get_triggerdef(t.oid), NULL,
         NULL, pg_catalog.format('DROP TRIGGER %I ON %s', t.tgname, r.q), NULL, NULL, NULL
    FROM relation r JOIN pg_catalog.pg_trigger t ON t.tgrelid = r.oid
     AND NOT t.tgisinternal AND t.tgparentid = 0
  UNION ALL
  -- One that fires while replicating would do its work a second time in the trunk.
  SELECT 'relation', r.oid, 79, 'trigger/' || t.tgname || '/enabled',
         pg_catalog.format('ALTER TABLE %s %s TRIGGER %I', r.q,
                           CASE t.tgenabled WHEN 'O' THEN 'ENABLE' ELSE 'DISABLE' END, t.tgname),
         NULL, NULL, NULL, NULL, NULL, NULL
    FROM relation r JOIN pg_catalog.pg_trigger t ON t.tgrelid = r.oid
     AND NOT t.tgisinternal AND t.tgparentid = 0
  UNION ALL
  SELECT 'relation', r.oid, 78, 'rule/' || w.rulename, pg_catalog.pg_get_ruledef(w.oid), NULL, NULL,
         pg_catalog.format('DROP RULE %I ON %s', w.rulename, r.q), NULL, NULL, NULL
    FROM relation r JOIN pg_catalog.pg_rewrite w ON w.ev_class = r.oid AND w.rulename <> '_RETURN'
  UNION ALL
  SELECT 'relation', r.oid, 78, 'policy/' || p.polname,
         pg_catalog.format('CREATE POLICY %I ON %s AS %s FOR %s TO %s', p.polname, r.q,
           CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
           CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
                WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
           (SELECT pg_catalog.string_agg(CASE m WHEN 0 THEN 'PUBLIC'
                     ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(m)) END, ', ' ORDER BY 1)
              FROM pg_catalog.unnest(p.polroles) m))
           || coalesce(' USING (' || pg_catalog.pg_get_expr(p.polqual, p.polrelid) || ')', '')
           || coalesce(' WITH CHECK (' || pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid) || ')',
                       ''),
         NULL, NULL, pg_catalog.format('DROP POLICY %I ON %s', p.polname, r.q), NULL, NULL, NULL
    FROM relation r JOIN pg_catalog.pg_policy p ON p.polrelid = r.oid
  -- Settings of a table or view.
  UNION ALL
  SELECT 'relation', r.oid, 80, 'row_security',
         pg_catalog.format('ALTER TABLE %s %s ROW LEVEL SECURITY, %s ROW LEVEL SECURITY', r.q,
           CASE WHEN r.relrowsecurity THEN 'ENABLE' ELSE 'DISABLE' END,
           CASE WHEN r.relforcerowsecurity THEN 'FORCE' ELSE 'NO FORCE' END),
         NULL, NULL,
         pg_catalog.format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY',
                           r.q), 'replace', NULL, NULL
    FROM relation r WHERE r.kind IN ('r', 'p') AND (r.relrowsecurity OR r.relforcerowsecurity)
  UNION ALL
  SELECT 'relation', r.oid, 81, 'replica_identity',
         pg_catalog.format('ALTER TABLE %s REPLICA IDENTITY ', r.q)
           || CASE r.relreplident WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING'
              WHEN 'i' THEN 'USING INDEX ' || coalesce((
                SELECT pg_catalog.quote_ident(c.relname) FROM pg_catalog.pg_index i
                  JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
                 WHERE i.indrelid = r.oid AND i.indisreplident), 'none') ELSE 'DEFAULT' END,
         NULL, NULL, NULL, NULL, NULL, NULL
    FROM relation r WHERE r.kind IN ('r', 'p')
  UNION ALL
  SELECT 'relation', r.oid, 82, 'persistence', pg_catalog.format('ALTER TABLE %s SET %sLOGGED', r.q,
           CASE r.relpersistence WHEN 'u' THEN 'UN' ELSE '' END), NULL, NULL, NULL, NULL, NULL, NULL
    FROM relation r WHERE r.kind = 'r'
  UNION ALL
  SELECT 'relation', r.oid, 83, 'option/' || o.option_name,
         pg_catalog.format('ALTER %s %s SET (%s = %L)', r.word, r.q, o.option_name, o.option_value),
         NULL, NULL, pg_catalog.format('ALTER %s %s RESET (%s)', r.word, r.q, o.option_name),
         'replace', NULL, NULL
    FROM relation r CROSS JOIN LATERAL pg_catalog.pg_options_to_table(r.reloptions) o
   WHERE r.kind IN ('r', 'v', 'm')
  -- Types.
  UNION ALL
  SELECT 'type', t.oid, 5, 'exists', 'ENUM', pg_catalog.format('CREATE TYPE %s AS ENUM (%s)', t.q,
           (SELECT pg_catalog.string_agg(pg_catalog.quote_literal(l.enumlabel), ', '
                                         ORDER BY l.enumsortorder) FROM label l WHERE l.oid = t.oid)),
         NULL, pg_catalog.format('DROP TYPE %s CASCADE', t.q), NULL, NULL, NULL
    FROM type t WHERE t.kind = 'e'
  UNION ALL
  SELECT 'type', l.oid, 6, 'label/' || l.enumlabel, 'label',
         pg_catalog.format('ALTER TYPE %s ADD VALUE %L', l.q, l.enumlabel)
           || CASE WHEN l.before IS NOT NULL THEN pg_catalog.format(' AFTER %L', l.before)
                   WHEN l.after IS NOT NULL THEN pg_catalog.format(' BEFORE %L', l.after)
                   ELSE '' END, NULL, NULL,
         'label ' || l.ordinal, pg_catalog.quote_literal(l.enumlabel),
         pg_catalog.format('ALTER TYPE %s RENAME VALUE %L TO ', l.q, l.enumlabel)
    FROM label l
  UNION ALL
  SELECT 'type', t.oid, 7, 'exists', 'DOMAIN ' || t.base,
         pg_catalog.format('CREATE DOMAIN %s AS %s', t.q, t.base), NULL,
         pg_catalog.format('DROP DOMAIN %s CASCADE', t.q), NULL, NULL, NULL
    FROM type t WHERE t.kind = 'd'
  UNION ALL
  SELECT 'type', t.oid, 22, 'default', pg_catalog.format('ALTER DOMAIN %s ', t.q)
           || coalesce('SET DEFAULT ' || t.typdefault, 'DROP DEFAULT'),
         NULL, NULL, NULL, NULL, NULL, NULL
    FROM type t WHERE t.kind = 'd'
  UNION ALL
  SELECT 'type', t.oid, 23, 'not_null', pg_catalog.format('ALTER DOMAIN %s %s NOT NULL', t.q,
           CASE WHEN t.typnotnull THEN 'SET' ELSE 'DROP' END), NULL, NULL, NULL, NULL, NULL, NULL
    FROM type t WHERE t.kind = 'd'
  UNION ALL
  SELECT 'type', t.oid, 30, 'constraint/' || k.conname,
         pg_catalog.format('ALTER DOMAIN %s ADD CONSTRAINT %I %s', t.q, k.conname, d.body), NULL,
         CASE WHEN k.convalidated THEN
           pg_catalog.format('ALTER DOMAIN %s ADD CONSTRAINT %I %s NOT VALID', t.q, k.conname,
                             d.body) END,
         pg_catalog.format('ALTER DOMAIN %s DROP CONSTRAINT %I', t.q, k.conname),
         d.body, pg_catalog.format('%I', k.conname),
         pg_catalog.format('ALTER DOMAIN %s RENAME CONSTRAINT %I TO ', t.q, k.conname)
    FROM type t JOIN pg_catalog.pg_constraint k ON k.contypid = t.oid AND k.contype = 'c'
   CROSS JOIN LATERAL (SELECT pg_catalog.pg_get_constraintdef(k.oid) AS body) d
  UNION ALL
  SELECT 'type', t.oid, 7, 'exists', 'RANGE', pg_catalog.format('CREATE TYPE %s AS RANGE (SUBTYPE = %s)',
           t.q, pg_catalog.format_type(g.rngsubtype, NULL)),
         NULL, pg_catalog.format('DROP TYPE %s CASCADE', t.q), NULL, NULL, NULL
    FROM type t JOIN pg_catalog.pg_range g ON g.rngtypid = t.oid
  -- Functions and schemas.
  UNION ALL
  SELECT 'function', f.oid, 74, 'exists', pg_catalog.pg_get_functiondef(f.oid), NULL, NULL,
         pg_catalog.format('DROP %s %s CASCADE', f.word, f.q), 'replace', NULL, NULL
    FROM function f
  UNION ALL
  SELECT 'schema', s.oid, 1, 'exists', 'SCHEMA', pg_catalog.format('CREATE SCHEMA %s', s.q), NULL,
         pg_catalog.format('DROP SCHEMA %s CASCADE', s.q), NULL, NULL, NULL
    FROM schema s
  -- What all of them have.
  UNION ALL
  SELECT c.class, c.oid, 88, c.key,
         pg_catalog.format('COMMENT ON %s IS %L', c.target, c.said), NULL, NULL,
         pg_catalog.format('COMMENT ON %s IS NULL', c.target), 'replace', NULL, NULL
    FROM comment c WHERE c.said IS NOT NULL
  UNION ALL
  SELECT o.class, o.oid, CASE o.class WHEN 'schema' THEN 2 ELSE 90 END, 'owner',
         pg_catalog.format('ALTER %s OWNER TO %I', o.target, n.role), NULL,
         -- An owner must be able to create there, which it may have lost since or never had.
         pg_catalog.format('GRANT CREATE ON %1$s TO %2$I; ALTER %3$s OWNER TO %2$I; '
           'REVOKE CREATE ON %1$s FROM %2$I', o.place, n.role, o.target),
         NULL, NULL, NULL, NULL
    FROM owner o CROSS JOIN LATERAL (SELECT pg_catalog.pg_get_userbyid(o.role) AS role) n
  UNION ALL
  SELECT DISTINCT a.class, a.oid, CASE a.class WHEN 'schema' THEN 3 ELSE 95 END,
         'grant/' || g.role || '/' || a.privilege_type || a.sub,
         pg_catalog.format('GRANT %s%s ON %s TO %s', a.privilege_type, a.sub, a.target, g.role)
           || CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END,
         NULL, NULL,
         pg_catalog.format('REVOKE %s%s ON %s FROM %s CASCADE', a.privilege_type, a.sub, a.target,
                           g.role),
         NULL, NULL, NULL
    FROM acl a
   CROSS JOIN LATERAL (SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE
                         pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END AS role) g
  UNION ALL
  SELECT DISTINCT 'default privileges', 0::oid, 96,
         pg_catalog.concat_ws('/', 'default', x.role, x.place, x.kind, x.grantee, e.privilege_type),
         pg_catalog.format('ALTER DEFAULT PRIVILEGES FOR ROLE %s%s GRANT %s ON %s TO %s', x.role,
           x.place, e.privilege_type, x.kind, x.grantee)
           || CASE WHEN e.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END,
         NULL, NULL,
         pg_catalog.format('ALTER DEFAULT PRIVILEGES FOR ROLE %s%s REVOKE %s ON %s FROM %s', x.role,
           x.place, e.privilege_type, x.kind, x.grantee), NULL, NULL, NULL
    FROM pg_catalog.pg_default_acl d
    LEFT JOIN pg_catalog.pg_namespace n ON n.oid = d.defaclnamespace
   CROSS JOIN LATERAL pg_catalog.aclexplode(d.defaclacl) e
   CROSS JOIN LATERAL (
     SELECT pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(d.defaclrole)) AS role,
            coalesce(' IN SCHEMA ' || pg_catalog.quote_ident(n.nspname), '') AS place,
            CASE d.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES'
                 WHEN 'f' THEN 'FUNCTIONS' WHEN 'T' THEN 'TYPES' ELSE 'SCHEMAS' END AS kind,
            CASE e.grantee WHEN 0 THEN 'PUBLIC' ELSE
              pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(e.grantee)) END AS grantee) x
   WHERE $5
), object(class, oid, kind, namespace, schema, name, target, columns) AS (
  SELECT 'relation', r.oid, r.kind::text, r.relnamespace, r.schema::text, r.name::text, r.q,
         CASE WHEN r.kind <> 'S' THEN coalesce((
           SELECT pg_catalog.jsonb_object_agg(a.attnum, a.attname)
             FROM attribute a WHERE a.oid = r.oid), '{}') ELSE '{}' END
    FROM relation r
  UNION ALL SELECT 'type', t.oid, t.kind::text, t.typnamespace, t.schema::text, t.name::text, t.q, '{}'
    FROM type t
  UNION ALL SELECT 'function', f.oid, f.kind::text, f.pronamespace, f.schema::text, f.name::text,
         f.q, '{}' FROM function f
  UNION ALL SELECT 'schema', s.oid, 'n', 0::oid, '', s.name::text, s.q, '{}' FROM schema s
  UNION ALL SELECT 'default privileges', 0::oid, 'd', 0::oid, '', '', '', '{}' WHERE $5
)
SELECT pg_catalog.jsonb_build_object('class', o.class, 'oid', o.oid::bigint, 'kind', o.kind,
         'namespace', o.namespace::bigint, 'schema', o.schema, 'name', o.name, 'target', o.target,
         'columns', o.columns, 'facts', coalesce((
           SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
                    'phase', f.phase, 'key', f.key, 'make', f.make, 'first', f.first,
                    'retry', f.retry, 'drop', f.drop, 'body', f.body, 'name', f.name,
                    'rename', f.rename)))
             FROM fact f WHERE f.class = o.class AND f.oid = o.oid AND f.make IS NOT NULL), '[]'))
         AS object
  FROM object o
