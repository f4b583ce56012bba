-- Keys, foreign keys, indexes and the trigger, made after the data because that is quicker.
alter table shop.customers add primary key (id);
create unique index on shop.customers (email);
alter table shop.products add primary key (id), add unique (sku);
alter table shop.orders add primary key (id, placed_at),
  add foreign key (customer_id) references shop.customers;
create index on shop.orders (customer_id);
alter table shop.order_lines add primary key (order_id, placed_at, line),
  add foreign key (order_id, placed_at) references shop.orders on delete cascade,
  add foreign key (product_id) references shop.products;
alter table billing.invoices add primary key (id),
  add foreign key (order_id, placed_at) references shop.orders;
alter table billing.payments add primary key (id), add foreign key (invoice_id) references billing.invoices;
alter table audit.events add primary key (id);
create index on audit.events using gin (what);
create trigger note_payment after insert on billing.payments
  for each row execute function audit.note_payment();
vacuum analyze;
