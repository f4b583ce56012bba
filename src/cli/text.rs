//! Answers for people: rows in, the documented text out.
//!
//! Pure functions; every text ends with a line break. Must never: repeat what was typed as a URL.

use std::fmt::Write as _;
use std::time::Duration;

use super::report::{self, Style};
use super::row::Row;
use super::style::Paint;
use super::time::rough_duration;

/// Appends a line.
macro_rules! push_line {
    ($out:expr, $($format:tt)*) => {
        writeln!($out, $($format)*).expect("writing into memory does not fail")
    };
}

pub(super) fn preflight(rows: &[Row], style: Style) -> String {
    let rows: Vec<_> = rows.iter().map(Row::report).collect();
    report::render(&rows, style)
}

/// `CONNECTOR CREATE` and `RETRY SETUP`, once the connector can be branched from.
pub(super) fn connector_ready(row: &Row, done: &str, style: Style) -> String {
    let mut out = String::new();
    let mark = style.paint(Paint::Green, "\u{2713}");
    push_line!(out, "{mark} {done}");
    push_line!(out, "  ID: {}", row.text("id"));
    warnings(&mut out, row, "  ", style);
    let extensions = lacking_extensions(row);
    if !extensions.is_empty() {
        push_line!(out, "  Leave these extensions out of branches for good:");
        let (name, list) = (row.text("name"), extensions.join(","));
        push_line!(out, "  ardent connector update {name} --drop-extensions {list}");
    }
    push_line!(out, "  Ready to branch:");
    push_line!(out, "  ardent branch create <name>");
    out
}

/// Extensions of the source that branches lack, by the words of the warnings.
fn lacking_extensions(row: &Row) -> Vec<&str> {
    let lines = row.text("warnings").lines().filter(|line| line.starts_with("extension "));
    lines.filter_map(|line| line.split(' ').nth(1)).collect()
}

/// `CONNECTOR UPDATE`
pub(super) fn connector_updated(row: &Row, style: Style) -> String {
    let mut out = done("Connector updated", style);
    push_line!(
        out,
        "  Dropped extensions: {}",
        match row.text("drop_extensions") {
            "" => "(none)",
            list => list,
        }
    );
    out
}

/// `--write-replica-plan`
pub(super) fn plan_written(row: &Row, path: &str, style: Style) -> String {
    let mut out = done(&format!("Replica identity plan written to {path}"), style);
    let name = row.text("name");
    push_line!(out, "  Connector '{name}' is {}. Review the file, then run:", row.text("state"));
    push_line!(out, "  ardent connector retry-setup {name} --replica-identity-decisions {path}");
    out
}

/// `SETTINGS LIST`: values under their connector, what a setting does where it is not set.
pub(super) fn settings(rows: &[Row]) -> String {
    let mut out = String::new();
    let Some(first) = rows.first() else { return out };
    push_line!(out, "Connector: {}", first.text("connector"));
    let width = rows.iter().map(|row| label(row).chars().count()).max().unwrap_or_default();
    for row in rows {
        let value = row.optional_text("value");
        let shown = match value {
            // A script is named by its first line.
            Some(value) => value.trim().lines().next().unwrap_or_default().to_owned(),
            None => format!("(not set)   {}", row.text("summary")),
        };
        let mut how = String::new();
        for (name, word) in [("database", "in"), ("run_as", "as")] {
            if let Some(text) = row.optional_text(name) {
                how += &format!(" {word} {text}");
            }
        }
        let how = if how.is_empty() { how } else { format!("   ({})", how.trim()) };
        push_line!(out, "  {:width$}   {shown}{how}", label(row));
    }
    out
}

/// The key, and the hook if it is one.
fn label(row: &Row) -> String {
    match row.optional_text("hook") {
        Some(hook) if hook != row.text("key") => format!("{} {hook}", row.text("key")),
        _ => row.text("key").to_owned(),
    }
}

/// `SETTINGS SET`
pub(super) fn setting_set(row: &Row, style: Style) -> String {
    let value = row.text("value").trim().lines().next().unwrap_or_default();
    done(&format!("Set {} \u{2192} {value}", label(row)), style)
}

pub(super) fn connector_list(rows: &[Row], style: Style) -> String {
    if rows.is_empty() {
        return "No connectors found.\n\
                Create one with: ardent connector create postgresql '<url>'\n"
            .to_owned();
    }
    let mut out = String::from("Connectors:\n");
    for (index, row) in rows.iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        let count = row.text("warnings").lines().count();
        let mut line = format!(" {}", row.text("name"));
        if count > 0 {
            line += &format!(" \u{26a0} {count}");
        }
        if row.flag("locked") {
            line += " [delete locked]";
        }
        let (paint, icon) = icon(row);
        let mark = format!("{} ", current(row));
        if paint == row_paint(row) {
            push_line!(out, "{}", style.paint(paint, &format!("{mark}{icon}{line}")));
        } else {
            let icon = style.paint(paint, &icon.to_string());
            let (mark, line) = (highlight(row, &mark, style), highlight(row, &line, style));
            push_line!(out, "{mark}{icon}{line}");
        }
        warnings(&mut out, row, "    ", style);
        push_line!(out, "{}", highlight(row, &format!("    {}", row.text("service")), style));
    }
    out
}

/// The current one is green, the others stand back.
fn highlight(row: &Row, text: &str, style: Style) -> String {
    style.paint(row_paint(row), text)
}

fn row_paint(row: &Row) -> Paint {
    if row.flag("current") { Paint::Green } else { Paint::Dim }
}

fn current(row: &Row) -> char {
    if row.flag("current") { '*' } else { ' ' }
}

/// Whether the connector can be branched from.
fn icon(row: &Row) -> (Paint, char) {
    match row.text("state") {
        "ready" => (Paint::Green, '\u{25cf}'),
        "degraded" => (Paint::Yellow, '\u{25cf}'),
        "validating" => (Paint::Cyan, '\u{25d0}'),
        "setup pending" => (Paint::Dim, '\u{25cb}'),
        _ => (Paint::Red, '\u{25cb}'),
    }
}

fn warnings(out: &mut String, row: &Row, indent: &str, style: Style) {
    for warning in row.text("warnings").lines() {
        push_line!(out, "{indent}{} {warning}", style.paint(Paint::Yellow, "\u{26a0}"));
    }
}

pub(super) fn connector_status(rows: &[Row], style: Style) -> String {
    if rows.is_empty() {
        return connector_list(rows, style);
    }
    let mut out = String::new();
    for (index, row) in rows.iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        push_line!(out, "Connector: {}", row.text("name"));
        push_line!(out, "Service:   {}", row.text("service"));
        let state = match row.text("state") {
            "ready" => "Ready",
            other => other,
        };
        push_line!(out, "Status:    {state}");
        if let Some(phase) = row.optional_text("phase") {
            push_line!(out, "Phase:     {phase}");
        }
        if let (Some(done), Some(total)) = (row.integer("bytes_done"), row.integer("bytes_total"))
            && row.text("state") == "validating"
        {
            push_line!(out, "Copied:    {} of {}", bytes(done), bytes(total));
            for line in row.text("copying").lines() {
                push_line!(out, "  {line}");
            }
        }
        if let Some(lag) = row.integer("lag_bytes") {
            push_line!(out, "Lag:       {}", bytes(lag));
        }
        if let Some(retained) = row.integer("retained_wal_bytes") {
            push_line!(out, "WAL held:  {}", bytes(retained));
        }
        if let Some(lsn) = row.optional_text("verified_lsn") {
            let differences = row.integer("differences").unwrap_or_default();
            push_line!(out, "Verified:  at {lsn}, {differences} different");
        }
        if let Some(error) = row.optional_text("error") {
            push_line!(out, "Error:     {error}");
        }
        warnings(&mut out, row, "", style);
    }
    out
}

/// `1.2 MB`, powers of 1024 as Postgres' `pg_size_pretty`.
fn bytes(count: i64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let (mut whole, mut tenths, mut unit) = (count.max(0), 0, 0);
    while whole >= 1024 && unit + 1 < UNITS.len() {
        tenths = whole % 1024 * 10 / 1024;
        whole /= 1024;
        unit += 1;
    }
    let unit = UNITS.get(unit).copied().unwrap_or_default();
    if unit == "B" { format!("{whole} B") } else { format!("{whole}.{tenths} {unit}") }
}

/// `CONNECTOR VERIFY`: the sum, then whatever is not plainly the same.
pub(super) fn verified(rows: &[Row], style: Style) -> String {
    let mut out = String::new();
    for (index, row) in rows.iter().enumerate() {
        let (paint, mark) = match row.text("verdict") {
            "different" => (Paint::Red, "\u{2717}"),
            "carried" | "rebuilt" => (Paint::Green, "\u{2713}"),
            _ => (Paint::Yellow, "\u{26a0}"),
        };
        let mark = style.paint(paint, mark);
        let (kind, object, verdict) = (row.text("kind"), row.text("object"), row.text("verdict"));
        let detail = row.text("detail");
        if index == 0 {
            push_line!(out, "{mark} {object} {detail}");
        } else if paint != Paint::Green {
            let line = format!("{kind} {object} {verdict}: {detail}");
            push_line!(out, "  {mark} {}", line.trim_end_matches(": "));
        }
    }
    out
}

pub(super) fn switched(row: &Row) -> String {
    let name = row.text("name");
    let mut out = match row.optional_text("previous") {
        Some(previous) => format!("Switched from '{previous}' to '{name}'\n"),
        None => format!("Switched to '{name}'\n"),
    };
    if let Some(url) = row.optional_text("url") {
        push_line!(out, "{url}");
    }
    out
}

pub(super) fn connector_deleted(row: &Row, style: Style) -> String {
    let mut out = done("Connector deleted", style);
    for branch in row.text("deleted_branches").lines() {
        push_line!(out, "  Deleted branch: {branch}");
    }
    out
}

/// A green mark and what was done.
pub(super) fn done(what: &str, style: Style) -> String {
    format!("{} {what}\n", style.paint(Paint::Green, "\u{2713}"))
}

/// `took` is what the operator waited.
pub(super) fn branch_created(row: &Row, took: Duration, style: Style) -> String {
    let (name, took) = (row.text("name"), took.as_secs_f64());
    let what = format!("Branch '{name}' created and checked out in {took:.1}s");
    let mut out = done(&what, style);
    warnings(&mut out, row, "  ", style);
    push_line!(out, "\n{}", row.text("url"));
    out
}

pub(super) fn password_rotated(row: &Row, style: Style) -> String {
    let mut out = done(&format!("Password of branch '{}' rotated", row.text("name")), style);
    push_line!(out, "\n{}", row.text("url"));
    out
}

pub(super) fn branch_list(rows: &[Row], style: Style) -> String {
    if rows.is_empty() {
        return "No branches found.\nCreate one with: ardent branch create <name>\n".to_owned();
    }
    let mut out = String::from("Branches:\n");
    for row in rows {
        let status = row.text("status");
        let icon = if status == "active" { '\u{25cf}' } else { '\u{25cb}' };
        let line = format!("{} {icon} {}", current(row), row.text("name"));
        push_line!(
            out,
            "{}",
            if row.flag("current") { style.paint(Paint::Green, &line) } else { line }
        );
        let ready = if matches!(status, "active" | "suspended") { "ready" } else { status };
        let created = row.time("created_at").map(|time| time.date()).unwrap_or_default();
        let idle = match row.integer("idle_s") {
            Some(seconds) => format!("idle {} ({status})", rough_duration(seconds)),
            None => format!("in use ({status})"),
        };
        push_line!(out, "      postgres \u{b7} {ready} \u{b7} created {created} \u{b7} {idle}");
        warnings(&mut out, row, "      ", style);
    }
    out
}

pub(super) fn branch_info(row: &Row, style: Style) -> String {
    let mut out = String::new();
    let current = if row.flag("current") { " (current)" } else { "" };
    let status = row.text("status");
    let ready = if matches!(status, "active" | "suspended") { "read + write" } else { "no" };
    push_line!(out, "Branch: {}{current}", row.text("name"));
    push_line!(out, "  Type:    postgres");
    push_line!(out, "  Status:  {status}");
    push_line!(out, "  Ready:   {ready}");
    let created = row.time("created_at").map(|time| time.american()).unwrap_or_default();
    push_line!(out, "  Created: {created}");
    let parent = row.optional_text("parent").unwrap_or_else(|| row.text("connector"));
    let at = row.optional_text("lsn").map(|lsn| format!(" at {lsn}")).unwrap_or_default();
    push_line!(out, "  Source:  {parent}{at}");
    if let (Some(own), Some(shared)) = (row.integer("unique_bytes"), row.integer("shared_bytes")) {
        push_line!(out, "  Size:    {} own, {} shared", bytes(own), bytes(shared));
    }
    warnings(&mut out, row, "  ", style);
    if let Some(url) = row.optional_text("url") {
        push_line!(out, "\nDirect URL: {url}");
    }
    out
}

/// Any rows: columns aligned under their names.
pub(super) fn table(rows: &[Row]) -> String {
    let Some(first) = rows.first() else { return String::from("(none)\n") };
    let mut grid: Vec<Vec<String>> =
        vec![first.cells().iter().map(|(name, _)| name.to_uppercase()).collect()];
    for row in rows {
        // One line a row; the lines of a cell are joined.
        let cells = row.cells().iter().map(|(_, cell)| cell.to_string().replace('\n', "; "));
        grid.push(cells.collect());
    }
    let widths: Vec<usize> = (0..first.cells().len())
        .map(|column| {
            let cells = grid.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        })
        .collect();
    let mut out = String::new();
    for row in grid {
        let padded = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        push_line!(out, "{}", padded.collect::<Vec<_>>().join("  ").trim_end());
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use expect_test::expect;

    use super::super::row::Cell;
    use super::*;

    fn text(value: &str) -> Cell {
        Cell::Text(value.to_owned())
    }

    fn noon() -> Cell {
        Cell::Time(UNIX_EPOCH + Duration::from_secs(1_780_315_200))
    }

    fn connector(name: &str, state: &str, is_current: bool) -> Row {
        Row::of(&[
            ("name", text(name)),
            ("id", text("c1")),
            ("service", text("postgresql")),
            ("state", text(state)),
            ("warnings", Cell::Null),
            ("current", Cell::Bool(is_current)),
        ])
    }

    #[test]
    fn connectors_read_as_documented() {
        let rows =
            [connector("prod-db", "ready", true), connector("staging-db", "setup pending", false)];
        expect![[r"
            Connectors:
            * ● prod-db
                postgresql

              ○ staging-db
                postgresql
        "]]
        .assert_eq(&connector_list(&rows, Style::Plain));
        expect![[r"
            ✓ Connector created and ready
              ID: c1
              Ready to branch:
              ardent branch create <name>
        "]]
        .assert_eq(&connector_ready(&rows[0], "Connector created and ready", Style::Plain));
        expect![[r"
            Connector: prod-db
            Service:   postgresql
            Status:    Ready
        "]]
        .assert_eq(&connector_status(&rows[..1], Style::Plain));
        expect![["✓ Connector deleted\n"]]
            .assert_eq(&connector_deleted(&Row::of(&[("name", text("a"))]), Style::Plain));
        let coloured = connector_list(&rows[..1], Style::Coloured);
        assert!(coloured.contains("\x1b[32m* \u{25cf} prod-db\x1b[0m\n"), "{coloured:?}");
    }

    #[test]
    fn warnings_and_locks_stand_with_their_connector() {
        let row = Row::of(&[
            ("name", text("prod-db")),
            ("service", text("postgresql")),
            ("state", text("degraded")),
            ("warnings", text("table public.audit is excluded")),
            ("locked", Cell::Bool(true)),
        ]);
        expect![[r"
            Connectors:
              ● prod-db ⚠ 1 [delete locked]
                ⚠ table public.audit is excluded
                postgresql
        "]]
        .assert_eq(&connector_list(&[row], Style::Plain));
    }

    #[test]
    fn a_comparison_shows_what_is_not_the_same() {
        let row = |object, kind, verdict, detail| {
            Row::of(&[
                ("object", text(object)),
                ("kind", text(kind)),
                ("verdict", text(verdict)),
                ("detail", text(detail)),
            ])
        };
        let rows = [
            row("app", "database", "different", "at 0/10: 1 different, 1 not carried, 1 carried"),
            row("public.a", "table", "different", "3 rows, source 4"),
            row("theirs", "publication", "not carried", ""),
            row("public.b", "table", "carried", "4 rows"),
        ];
        expect![[r"
            ✗ app at 0/10: 1 different, 1 not carried, 1 carried
              ✗ table public.a different: 3 rows, source 4
              ⚠ publication theirs not carried
        "]]
        .assert_eq(&verified(&rows, Style::Plain));
    }

    #[test]
    fn switches_name_both_ends() {
        let row = Row::of(&[("previous", text("prod-db")), ("name", text("staging-db"))]);
        expect![["Switched from 'prod-db' to 'staging-db'\n"]].assert_eq(&switched(&row));
        let row = Row::of(&[("previous", Cell::Null), ("name", text("b")), ("url", text("u"))]);
        expect![["Switched to 'b'\nu\n"]].assert_eq(&switched(&row));
    }

    #[test]
    fn branches_read_as_documented() {
        let row = Row::of(&[
            ("name", text("my-feature")),
            ("connector", text("prod-db")),
            ("status", text("active")),
            ("url", text("postgresql://branch_owner.my-feature:x@127.0.0.1:6432/app")),
            ("lsn", text("0/155BE40")),
            ("unique_bytes", Cell::Integer(1_258_291)),
            ("shared_bytes", Cell::Integer(104_857_600)),
            ("created_at", noon()),
            ("idle_s", Cell::Integer(150)),
            ("current", Cell::Bool(true)),
        ]);
        expect![[r"
            ✓ Branch 'my-feature' created and checked out in 4.2s

            postgresql://branch_owner.my-feature:x@127.0.0.1:6432/app
        "]]
        .assert_eq(&branch_created(&row, Duration::from_millis(4210), Style::Plain));
        expect![[r"
            Branches:
            * ● my-feature
                  postgres · ready · created 2026-06-01 · idle 2m (active)
        "]]
        .assert_eq(&branch_list(std::slice::from_ref(&row), Style::Plain));
        expect![[r"
            Branch: my-feature (current)
              Type:    postgres
              Status:  active
              Ready:   read + write
              Created: 6/1/2026, 12:00:00 PM
              Source:  prod-db at 0/155BE40
              Size:    1.1 MB own, 100.0 MB shared

            Direct URL: postgresql://branch_owner.my-feature:x@127.0.0.1:6432/app
        "]]
        .assert_eq(&branch_info(&row, Style::Plain));
    }

    #[test]
    fn other_rows_are_a_table() {
        let row = |name: &str| Row::of(&[("name", text(name)), ("pid", Cell::Integer(7))]);
        expect![[r"
            NAME   PID
            a      7
            trunk  7
        "]]
        .assert_eq(&table(&[row("a"), row("trunk")]));
    }
}
