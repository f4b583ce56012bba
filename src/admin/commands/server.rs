//! Statements about the server itself: roles, what it is doing, help.

use proxy::ColumnKind::{Float8, Int8, Text, Timestamptz};

use crate::admin::grammar::{Command, Item, OptionKind, OptionSpec};
use crate::admin::request::Level;
use crate::admin::statement::Statement;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        grammar: &[
            Item::Word("ROLE"),
            Item::Word("CREATE"),
            Item::Identifier("name"),
            Item::Word("PASSWORD"),
            Item::Text("password"),
            Item::Optional(&[
                Item::Word("WITH"),
                Item::Options(&[OptionSpec {
                    name: "level",
                    kind: OptionKind::Choice(&["viewer", "operator", "admin"]),
                    summary: "what it may do; default: operator",
                }]),
            ]),
        ],
        level: Level::Admin,
        columns: &[("name", Text), ("level", Text), ("created_at", Timestamptz)],
        summary: "let an operator log in over TCP",
        build: |arguments| {
            let level = arguments.optional_text("level").unwrap_or("operator");
            Ok(Statement::RoleCreate {
                name: arguments.text("name").to_owned(),
                password: arguments.secret("password"),
                level: level.parse().expect("the option's words are the levels"),
            })
        },
    },
    Command {
        grammar: &[Item::Word("ROLE"), Item::Word("LIST")],
        level: Level::Viewer,
        columns: &[("name", Text), ("level", Text), ("created_at", Timestamptz)],
        summary: "all admin roles",
        build: |_| Ok(Statement::RoleList),
    },
    Command {
        grammar: &[Item::Word("ROLE"), Item::Word("DELETE"), Item::Identifier("name")],
        level: Level::Admin,
        columns: &[("name", Text)],
        summary: "delete an admin role",
        build: |arguments| Ok(Statement::RoleDelete(arguments.text("name").to_owned())),
    },
    Command {
        grammar: &[Item::Word("SHOW"), Item::Word("SESSIONS")],
        level: Level::Viewer,
        columns: &[
            ("endpoint", Text),
            ("role", Text),
            ("client", Text),
            ("connected_at", Timestamptz),
            ("id", Int8),
            ("state", Text),
            ("backend_pid", Int8),
            ("bytes_in", Int8),
            ("bytes_out", Int8),
        ],
        summary: "who is connected",
        build: |_| Ok(Statement::ShowSessions),
    },
    Command {
        grammar: &[Item::Word("SHOW"), Item::Word("COMPUTES")],
        level: Level::Viewer,
        columns: &[
            ("branch", Text),
            ("connector", Text),
            ("state", Text),
            ("pid", Int8),
            ("major", Int8),
            ("started_at", Timestamptz),
            ("sessions", Int8),
        ],
        summary: "the Postgres servers that run",
        build: |_| Ok(Statement::ShowComputes),
    },
    Command {
        grammar: &[Item::Word("SHOW"), Item::Word("CONFIG")],
        level: Level::Admin,
        columns: &[("name", Text), ("value", Text), ("origin", Text)],
        summary: "the configuration in force",
        build: |_| Ok(Statement::ShowConfig),
    },
    Command {
        grammar: &[Item::Word("SHOW"), Item::Word("METRICS")],
        level: Level::Viewer,
        columns: &[
            ("name", Text),
            ("labels", Text),
            ("value", Float8),
            ("kind", Text),
            ("meaning", Text),
        ],
        summary: "counters and gauges",
        build: |_| Ok(Statement::ShowMetrics),
    },
    Command {
        grammar: &[Item::Word("SHOW"), Item::Word("JOBS")],
        level: Level::Viewer,
        columns: &[
            ("job", Text),
            ("object", Text),
            ("phase", Text),
            ("started_at", Timestamptz),
            ("bytes_done", Int8),
            ("bytes_total", Int8),
        ],
        summary: "long operations that are under way",
        build: |_| Ok(Statement::ShowJobs),
    },
    Command {
        grammar: &[Item::Word("HELP"), Item::Words("statement")],
        level: Level::Viewer,
        columns: &[("statement", Text), ("summary", Text), ("syntax", Text), ("options", Text)],
        summary: "what the statements are, or what one of them takes",
        build: |arguments| Ok(Statement::Help(arguments.words("statement"))),
    },
];
