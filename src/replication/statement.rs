//! The SQL that applies rows.
//!
//! Every parameter is an array of text with one element per row: one statement serves a batch and
//! a single row alike. Values are cast to the column's own type, so anything with a text form
//! works. Names are quoted; nothing of the source's data is ever part of the SQL.

use proxy::client::quote_identifier;

use super::catalog::{Column, Mapping};

/// What a statement does with its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Insert,
    /// Many rows inserted by COPY, which has no parameters.
    Copy,
    /// Found by the key, which stays as it is.
    Update,
    /// Found by the old key, which changes.
    Rekey,
    /// Found by the whole old row.
    UpdateWhole,
    Delete,
    DeleteWhole,
}

impl Kind {
    /// Statements that find their row one at a time.
    pub(super) fn is_single(self) -> bool {
        matches!(self, Self::Rekey | Self::UpdateWhole | Self::DeleteWhole)
    }
}

/// Builds the statement. Parameters are the values of the new row in the order of its mapped
/// columns, then those of the old row: its key, or all of its mapped columns.
pub(super) fn sql(kind: Kind, new: Option<&Mapping>, old: Option<&Mapping>) -> String {
    let Some(table) = new.or(old).map(|mapping| mapping.table.name.quoted()) else {
        return String::new();
    };
    match (kind, new, old) {
        (Kind::Insert, Some(new), _) => insert(&table, new),
        (Kind::Copy, Some(new), _) => copy(&table, new),
        (Kind::Update, Some(new), _) => update(&table, new),
        (Kind::Rekey, Some(new), Some(old)) if changes_always_identity(new) => {
            replace(&table, new, old)
        }
        (Kind::Rekey, Some(new), Some(old)) => rekey(&table, new, old),
        (Kind::UpdateWhole, Some(new), Some(old)) => update_whole(&table, new, old),
        (Kind::Delete, _, Some(old)) => delete(&table, old),
        (Kind::DeleteWhole, _, Some(old)) => {
            format!("DELETE FROM {table} WHERE ctid = {}", whole_row(&table, old, 0))
        }
        _ => String::new(),
    }
}

/// Positions of a shape whose values are sent, with their columns.
pub(super) fn sent(mapping: &Mapping) -> impl Iterator<Item = (usize, &Column)> {
    mapping
        .columns
        .iter()
        .enumerate()
        .filter_map(|(position, index)| Some((position, mapping.table.columns.get((*index)?)?)))
}

/// Columns an UPDATE sets: all that were sent, less the key and what only INSERT may set.
fn settable(mapping: &Mapping) -> impl Iterator<Item = (usize, &Column)> {
    sent(mapping).filter(|(position, column)| {
        let is_key = mapping.key.as_ref().is_some_and(|key| key.contains(position));
        !is_key && !column.is_always_identity
    })
}

/// True if an UPDATE of this shape would set nothing.
pub(super) fn sets_nothing(mapping: &Mapping) -> bool {
    settable(mapping).next().is_none()
}

fn changes_always_identity(new: &Mapping) -> bool {
    let columns = &new.table.columns;
    let is_always = |index: usize| columns.get(index).is_some_and(|c| c.is_always_identity);
    new.table.key.iter().any(|key| is_always(key.column))
}

/// A value in text form as the column's type.
fn cast(value: &str, column: &Column, mapping: &Mapping) -> String {
    if column.is_bytea && mapping.shape.bare_bytea {
        return format!("pg_catalog.decode({value}, 'hex')");
    }
    format!("{value}::{}", column.type_sql)
}

/// `unnest($1::text[], $2::text[]) AS u(a0, a1)`, one column per value. Not qualified: with several
/// arguments it is syntax rather than a function; the empty search path keeps it unambiguous.
fn unnest(count: usize) -> String {
    let parameters: Vec<String> = (1..=count).map(|number| format!("${number}::text[]")).collect();
    let names: Vec<String> = (0..count).map(|number| format!("a{number}")).collect();
    format!("unnest({}) AS u({})", parameters.join(", "), names.join(", "))
}

fn join(parts: impl Iterator<Item = String>, separator: &str) -> String {
    parts.collect::<Vec<_>>().join(separator)
}

fn insert(table: &str, new: &Mapping) -> String {
    let columns: Vec<&Column> = sent(new).map(|(_, column)| column).collect();
    let names = join(columns.iter().map(|column| quote_identifier(&column.name)), ", ");
    let values = columns.iter().enumerate();
    let values = join(values.map(|(n, column)| cast(&format!("u.a{n}"), column, new)), ", ");
    format!(
        "INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE SELECT {values} FROM {}",
        unnest(columns.len())
    )
}

/// The rows come in text format, made by [`super::copy_text`].
fn copy(table: &str, new: &Mapping) -> String {
    let names = join(sent(new).map(|(_, column)| quote_identifier(&column.name)), ", ");
    format!("COPY {table} ({names}) FROM STDIN")
}

/// `SELECT a0::int AS c0, ... FROM unnest(...)`: the rows, typed, for a join.
fn typed_rows(new: &Mapping) -> String {
    let values = sent(new).enumerate();
    let values = join(
        values.map(|(n, (_, column))| cast(&format!("u.a{n}"), column, new) + &format!(" AS c{n}")),
        ", ",
    );
    format!("(SELECT {values} FROM {}) AS v", unnest(sent(new).count()))
}

/// The number of a position among the values that are sent.
fn number_of(mapping: &Mapping, position: usize) -> usize {
    sent(mapping).take_while(|(other, _)| *other != position).count()
}

fn update(table: &str, new: &Mapping) -> String {
    let set = settable(new).map(|(position, column)| {
        format!("{} = v.c{}", quote_identifier(&column.name), number_of(new, position))
    });
    let found = new.table.key.iter().zip(new.key.iter().flatten()).map(|(key, position)| {
        let name = new.table.columns.get(key.column).map(|c| quote_identifier(&c.name));
        let name = name.unwrap_or_default();
        format!("t.{name} {} v.c{}", key.operator, number_of(new, *position))
    });
    format!(
        "UPDATE ONLY {table} AS t SET {} FROM {} WHERE {}",
        join(set, ", "),
        typed_rows(new),
        join(found, " AND ")
    )
}

/// `t.key = value` for the old key, whose values come as parameters after `skipped` others.
fn old_key(old: &Mapping, skipped: usize) -> String {
    let found = old.table.key.iter().enumerate().filter_map(|(number, key)| {
        let column = old.table.columns.get(key.column)?;
        let value = cast(&format!("(${}::text[])[1]", skipped + number + 1), column, old);
        Some(format!("t.{} {} {value}", quote_identifier(&column.name), key.operator))
    });
    join(found, " AND ")
}

fn rekey(table: &str, new: &Mapping, old: &Mapping) -> String {
    let set = sent(new).enumerate().filter(|(_, (_, column))| !column.is_always_identity);
    let set = set.map(|(number, (_, column))| {
        let value = cast(&format!("(${}::text[])[1]", number + 1), column, new);
        format!("{} = {value}", quote_identifier(&column.name))
    });
    let count = sent(new).count();
    format!("UPDATE ONLY {table} AS t SET {} WHERE {}", join(set, ", "), old_key(old, count))
}

/// An identity that is generated always cannot be updated, so the row is deleted and inserted
/// again; values that were not sent are taken from the deleted one.
fn replace(table: &str, new: &Mapping, old: &Mapping) -> String {
    let columns = || new.table.columns.iter().filter(|column| !column.is_generated);
    let names = join(columns().map(|column| quote_identifier(&column.name)), ", ");
    let values = columns().map(|column| {
        let number = sent(new).position(|(_, other)| other.name == column.name);
        match number {
            Some(number) => cast(&format!("(${}::text[])[1]", number + 1), column, new),
            None => format!("d.{}", quote_identifier(&column.name)),
        }
    });
    format!(
        "WITH d AS (DELETE FROM ONLY {table} AS t WHERE {} RETURNING t.*) \
         INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE SELECT {} FROM d",
        old_key(old, sent(new).count()),
        join(values, ", ")
    )
}

fn delete(table: &str, old: &Mapping) -> String {
    let count = old.table.key.len();
    let keys = || old.table.key.iter().enumerate();
    let column = |key: usize| old.table.columns.get(key);
    let values = keys().filter_map(|(n, key)| {
        Some(cast(&format!("u.a{n}"), column(key.column)?, old) + &format!(" AS c{n}"))
    });
    let found = keys().filter_map(|(n, key)| {
        let name = quote_identifier(&column(key.column)?.name);
        Some(format!("t.{name} {} v.c{n}", key.operator))
    });
    format!(
        "DELETE FROM ONLY {table} AS t USING (SELECT {} FROM {}) AS v WHERE {}",
        join(values, ", "),
        unnest(count),
        join(found, " AND ")
    )
}

fn update_whole(table: &str, new: &Mapping, old: &Mapping) -> String {
    let set = sent(new).enumerate().filter(|(_, (_, column))| !column.is_always_identity);
    let set = set.map(|(number, (_, column))| {
        let value = cast(&format!("(${}::text[])[1]", number + 1), column, new);
        format!("{} = {value}", quote_identifier(&column.name))
    });
    let row = whole_row(table, old, sent(new).count());
    format!("UPDATE ONLY {table} SET {} WHERE ctid = {row}", join(set, ", "))
}

/// One row equal to the old one. Duplicates are legal without a key, so only one is taken. Values
/// are compared in text form: some types have no equality, and the text is exact.
fn whole_row(table: &str, old: &Mapping, skipped: usize) -> String {
    let found = sent(old).enumerate().map(|(number, (_, column))| {
        let name = quote_identifier(&column.name);
        let value = format!("(${}::text[])[1]", skipped + number + 1);
        let digits = if column.is_bytea && old.shape.bare_bytea { "'\\x' || " } else { "" };
        format!(
            "CASE WHEN {value} IS NULL THEN {name} IS NULL \
             ELSE {name} IS NOT NULL AND pg_catalog.format('%s', {name}) = {digits}{value} END"
        )
    });
    format!("(SELECT ctid FROM ONLY {table} WHERE {} LIMIT 1)", join(found, " AND "))
}
