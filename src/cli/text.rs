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
macro_rules! line {
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
    line!(out, "{mark} {done}");
    line!(out, "  ID: {}", row.text("id"));
    warnings(&mut out, row, "  ", style);
    line!(out, "  Ready to branch:");
    line!(out, "  ardent branch create <name>");
    out
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
        let mut line = format!("{} {} {}", current(row), icon(row), row.text("name"));
        if count > 0 {
            line += &format!(" \u{26a0} {count}");
        }
        if row.flag("locked") {
            line += " [delete locked]";
        }
        line!(out, "{}", highlight(row, &line, style));
        warnings(&mut out, row, "    ", style);
        line!(out, "{}", highlight(row, &format!("    {}", row.text("service")), style));
    }
    out
}

/// The current one is green, one that is not ready is dim.
fn highlight(row: &Row, text: &str, style: Style) -> String {
    match (row.flag("current"), row.text("state")) {
        (true, _) => style.paint(Paint::Green, text),
        (false, "ready" | "degraded") => text.to_owned(),
        (false, "validating") => style.paint(Paint::Cyan, text),
        (false, _) => style.paint(Paint::Dim, text),
    }
}

fn current(row: &Row) -> char {
    if row.flag("current") { '*' } else { ' ' }
}

/// Whether the connector can be branched from.
fn icon(row: &Row) -> char {
    match row.text("state") {
        "ready" | "degraded" => '\u{25cf}',
        "validating" => '\u{25d0}',
        _ => '\u{25cb}',
    }
}

fn warnings(out: &mut String, row: &Row, indent: &str, style: Style) {
    for warning in row.text("warnings").lines() {
        line!(out, "{indent}{} {warning}", style.paint(Paint::Yellow, "\u{26a0}"));
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
        line!(out, "Connector: {}", row.text("name"));
        line!(out, "Service:   {}", row.text("service"));
        line!(out, "Status:    {}", capitalised(row.text("state")));
        if let Some(phase) = row.optional_text("phase") {
            line!(out, "Phase:     {phase}");
        }
        if let (Some(done), Some(total)) = (row.integer("bytes_done"), row.integer("bytes_total"))
            && row.text("state") == "validating"
        {
            line!(out, "Copied:    {} of {}", bytes(done), bytes(total));
        }
        if let Some(lag) = row.integer("lag_bytes") {
            line!(out, "Lag:       {}", bytes(lag));
        }
        if let Some(retained) = row.integer("retained_wal_bytes") {
            line!(out, "WAL held:  {}", bytes(retained));
        }
        if let Some(error) = row.optional_text("error") {
            line!(out, "Error:     {error}");
        }
        warnings(&mut out, row, "", style);
    }
    out
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters
        .next()
        .map(|first| first.to_ascii_uppercase())
        .into_iter()
        .chain(characters)
        .collect()
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

pub(super) fn switched(row: &Row) -> String {
    let name = row.text("name");
    let mut out = match row.optional_text("previous") {
        Some(previous) => format!("Switched from '{previous}' to '{name}'\n"),
        None => format!("Switched to '{name}'\n"),
    };
    if let Some(url) = row.optional_text("url") {
        line!(out, "{url}");
    }
    out
}

pub(super) fn connector_deleted(row: &Row, style: Style) -> String {
    let mut out = done("Connector deleted", style);
    for branch in row.text("deleted_branches").lines() {
        line!(out, "  Deleted branch: {branch}");
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
    line!(out, "\n{}", row.text("url"));
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
        line!(out, "{}", if row.flag("current") { style.paint(Paint::Green, &line) } else { line });
        let ready = if matches!(status, "active" | "suspended") { "ready" } else { status };
        let created = row.time("created_at").map(|time| time.date()).unwrap_or_default();
        let idle = match row.integer("idle_s") {
            Some(seconds) => format!("idle {} ({status})", rough_duration(seconds)),
            None => format!("in use ({status})"),
        };
        line!(out, "      postgres \u{b7} {ready} \u{b7} created {created} \u{b7} {idle}");
        warnings(&mut out, row, "      ", style);
    }
    out
}

pub(super) fn branch_info(row: &Row, style: Style) -> String {
    let mut out = String::new();
    let current = if row.flag("current") { " (current)" } else { "" };
    let status = row.text("status");
    let ready = if matches!(status, "active" | "suspended") { "read + write" } else { "no" };
    line!(out, "Branch: {}{current}", row.text("name"));
    line!(out, "  Type:    postgres");
    line!(out, "  Status:  {status}");
    line!(out, "  Ready:   {ready}");
    let created = row.time("created_at").map(|time| time.american()).unwrap_or_default();
    line!(out, "  Created: {created}");
    let parent = row.optional_text("parent").unwrap_or_else(|| row.text("connector"));
    let at = row.optional_text("lsn").map(|lsn| format!(" at {lsn}")).unwrap_or_default();
    line!(out, "  Source:  {parent}{at}");
    if let (Some(own), Some(shared)) = (row.integer("unique_bytes"), row.integer("shared_bytes")) {
        line!(out, "  Size:    {} own, {} shared", bytes(own), bytes(shared));
    }
    warnings(&mut out, row, "  ", style);
    if let Some(url) = row.optional_text("url") {
        line!(out, "\nDirect URL: {url}");
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
        line!(out, "{}", padded.collect::<Vec<_>>().join("  ").trim_end());
    }
    out
}
