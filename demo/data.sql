-- About 1.2 million rows, the same ones every time.
insert into shop.customers (email, name, tags, profile, joined_at)
  select format('customer%s@example.com', g), format('Customer %s', g),
         case when g % 3 = 0 then array['newsletter', 'tier-' || g % 5] else '{}' end,
         jsonb_build_object('language', (array['en', 'de', 'fr'])[1 + g % 3], 'visits', g % 97),
         timestamptz '2023-01-01' + g * interval '10 minutes'
  from generate_series(1, 50000) g;

insert into shop.products (sku, price, attributes)
  select format('SKU-%s', lpad(g::text, 6, '0')), (g % 500) + 0.99,
         jsonb_build_object('colour', (array['red', 'green', 'blue'])[1 + g % 3], 'sizes', array[g % 9, g % 7])
  from generate_series(1, 5000) g;

insert into shop.orders (placed_at, customer_id, status, note)
  select timestamptz '2024-01-01 00:00:00+00' + g * interval '2 minutes', 1 + g % 50000,
         (array['placed', 'paid', 'shipped', 'returned'])[1 + g % 4]::shop.order_status,
         case when g % 50 = 0 then repeat('please ring twice; ', 200) end
  from generate_series(1, 250000) g;

insert into shop.order_lines (order_id, placed_at, line, product_id, quantity, unit_price)
  select id, placed_at, line, 1 + (id * line) % 5000, 1 + id % 4, 9.99 + id % 100
  from shop.orders cross join generate_series(1, 2) line;

insert into billing.invoices (order_id, placed_at, amount, due)
  select id, placed_at, 10 + id % 300, daterange(placed_at::date, placed_at::date + 30)
  from shop.orders where id <= 200000;

insert into billing.payments (invoice_id, paid_at, method)
  select id, placed_at + interval '1 day', (array['card', 'transfer'])[1 + id % 2]
  from billing.invoices where id <= 150000;

insert into audit.events (at, actor, what)
  select timestamptz '2024-01-01' + g * interval '1 minute', 'import', jsonb_build_object('row', g)
  from generate_series(1, 50000) g;
