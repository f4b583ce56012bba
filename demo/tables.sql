-- One line per table: name, rows and a hash over all of them that does not depend on their order.
select format('select %L, count(*), sum(hashtextextended(t::text, 0)) from %s t', c.oid::regclass, c.oid::regclass)
from pg_class c
where relkind = 'r' and relnamespace::regnamespace::text in ('shop', 'billing', 'audit')
order by c.oid::regclass::text
\gexec
