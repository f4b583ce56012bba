\set customer random(1, 50000)
\set product random(1, 5000)
\set invoice random(1, 200000)
begin;
insert into shop.orders (customer_id) values (:customer) returning id, placed_at \gset order_
insert into shop.order_lines (order_id, placed_at, line, product_id, quantity, unit_price)
  values (:order_id, ':order_placed_at', 1, :product, 1, 19.99);
update shop.customers set profile = profile || '{"returning": true}' where id = :customer;
insert into billing.payments (invoice_id, method) values (:invoice, 'card');
commit;
