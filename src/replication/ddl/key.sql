CREATE SCHEMA ardent;
COMMENT ON SCHEMA ardent IS 'Ardent: schema changes for the connector that follows this database';

-- The key that messages are signed with. A materialized view, because it is the one relation that
-- keeps a secret, survives a crash, and whose rows neither publications nor plugins ever send:
-- filled by REFRESH, which is not decoded. A table would break subscribers of a customer's own
-- publication FOR ALL TABLES.
CREATE MATERIALIZED VIEW ardent.key AS
  SELECT pg_catalog.sha256(pg_catalog.convert_to(
           pg_catalog.gen_random_uuid()::text || pg_catalog.gen_random_uuid()::text, 'UTF8')) AS key
  WITH NO DATA;
REVOKE ALL ON ardent.key FROM PUBLIC;
REFRESH MATERIALIZED VIEW ardent.key;
